"""Points of reference in plain torch, written out, without anything of the library: what each method is as published.

naive      fine-tuning from task to task
joint      all tasks' rows at once: the ceiling
er         a reservoir (Vitter 1985, each row offered once), of which each step replays a batch with the new one
ewc        elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796) with the exact Fisher information of
           1,000 rows a task, one penalty at the latest optimum, the informations added up

Shapes: B rows of a batch, N rows, K classes, M rows in memory, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.scenarios import Digits, Scenario
from benchmarks.shifting import shifted

RATE = 1e-3  # of Adam
BATCH_ROWS = 128  # new rows; a memory's batch comes on top, and is as large
FISHER_ROWS = 1000


@dataclass(frozen=True)
class Run:
    """What came of learning one scenario with one method."""

    accuracy: list[list[float]]  # after each task, on each test set, percent
    cpu_seconds: float  # of training alone
    steps: int


@dataclass(frozen=True)
class Plain:
    """One of the methods above."""

    method: Literal["naive", "joint", "er", "ewc"]
    memory_rows: int = 0
    ewc_lambda: float = 0.0
    shift: int = 0  # pixels that images are moved by, at most


def network(classes: int) -> nn.Sequential:
    """Return the network that everyone trains: two hidden layers of 400."""
    return nn.Sequential(
        nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, classes)
    )


def accuracies(model: nn.Module, test: Sequence[Digits]) -> list[float]:
    """Return the accuracy on each test set, percent."""
    model.eval()
    with torch.no_grad():
        found = [
            100 * float(np.mean(model(torch.from_numpy(part.image)).argmax(1).numpy() == part.target))
            for part in test
        ]
    model.train()
    return found


def learn(scenario: Scenario, plain: Plain) -> Run:
    """Learn the tasks one after the other."""
    torch.manual_seed(scenario.seed)
    generator = torch.Generator().manual_seed(scenario.seed)
    model = network(scenario.classes)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)
    reservoir = Reservoir(plain.memory_rows, generator)
    fisher, anchor = [torch.zeros_like(p) for p in parameters], [p.detach().clone() for p in parameters]
    accuracy, cpu_seconds, steps = list[list[float]](), 0.0, 0
    for task in (scenario.together,) if plain.method == "joint" else scenario.train:
        began = time.process_time()
        image_NI, target_N = torch.from_numpy(task.image), torch.from_numpy(task.target)
        remembered = reservoir.rows() if len(reservoir) else None
        for epoch in range(scenario.epochs):
            for index_B in torch.randperm(len(task), generator=generator).split(BATCH_ROWS):
                image, target = image_NI[index_B], target_N[index_B]
                if epoch == 0 and plain.memory_rows:
                    reservoir.offer(image, target)
                if plain.shift:
                    image = shifted(image, plain.shift, generator)
                if remembered:
                    drawn = torch.randint(len(remembered[1]), (BATCH_ROWS,), generator=generator)
                    image = torch.cat([image, remembered[0][drawn]])
                    target = torch.cat([target, remembered[1][drawn]])
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(image), target)
                if plain.ewc_lambda and accuracy:
                    loss = loss + plain.ewc_lambda / 2 * sum(
                        (f * (p - a).square()).sum()
                        for f, p, a in zip(fisher, parameters, anchor, strict=True)
                    )
                torch.autograd.backward(loss)
                optimizer.step()
                steps += 1
        if plain.ewc_lambda:
            chosen = torch.randperm(len(task), generator=generator)[:FISHER_ROWS]
            fisher = [f + g for f, g in zip(fisher, exact_fisher(model, image_NI[chosen]), strict=True)]
            anchor = [p.detach().clone() for p in parameters]
        cpu_seconds += time.process_time() - began
        accuracy.append(accuracies(model, scenario.test))
    return Run(accuracy, cpu_seconds, steps)


class Reservoir:
    """A uniform sample of all rows offered."""

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        self.capacity, self.generator, self.seen = capacity, generator, 0
        self.image, self.target = torch.zeros(capacity, 784), torch.zeros(capacity, dtype=torch.long)

    def __len__(self) -> int:
        """Return the number of rows held."""
        return min(self.seen, self.capacity)

    def offer(self, image_BI: Tensor, target_B: Tensor) -> None:
        """Offer rows, each once."""
        for image, target in zip(image_BI, target_B, strict=True):
            self.seen += 1
            slot = self.seen - 1
            if slot >= self.capacity:
                slot = int(torch.randint(self.seen, (), generator=self.generator))
            if slot < self.capacity:
                self.image[slot], self.target[slot] = image, target

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return a copy of the rows held."""
        return self.image[: len(self)].clone(), self.target[: len(self)].clone()


def exact_fisher(model: nn.Sequential, image_NI: Tensor) -> list[Tensor]:
    """Return the mean over rows of E_y (d log p(y | x) / d theta)^2, y distributed as the model says."""
    inputs, outputs, layers, value = list[Tensor](), list[Tensor](), list[nn.Linear](), image_NI
    for layer in model:
        if isinstance(layer, nn.Linear):
            inputs.append(value.detach())
            layers.append(layer)
        value = layer(value)
        if isinstance(layer, nn.Linear):
            outputs.append(value)
    score_NK = value.softmax(1).sqrt().detach() * value.log_softmax(1)
    squares = {layer: [torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)] for layer in layers}
    for score_N in score_NK.unbind(1):
        deltas = torch.autograd.grad(score_N.sum(), outputs, retain_graph=True)
        for layer, delta_NO, input_NI in zip(layers, deltas, inputs, strict=True):
            squares[layer][0] += delta_NO.square().T @ input_NI.square() / len(image_NI)
            squares[layer][1] += delta_NO.square().sum(0) / len(image_NI)
    return [square for layer in layers for square in squares[layer]]


def tested_on(scenario: Scenario, accuracy: Sequence[float]) -> float:
    """Return the accuracy over all test sets together, percent."""
    rows: NDArray[np.float64] = np.array([len(part) for part in scenario.test], dtype=np.float64)
    return float(np.average(accuracy, weights=rows))
