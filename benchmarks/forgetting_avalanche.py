"""Avalanche's strategies on one scenario. Runs in an environment of its own, see benchmarks/requirements-continual.txt.

    AVALANCHE/bin/python -m benchmarks.forgetting_avalanche SCENARIO.safetensors '{"memory_rows": 200}' [SETTING ...]

Replay and EWC are Avalanche's own plugins, at their defaults but for what the scenario fixes: network, Adam, rate, batch and
epochs. A setting without either is fine-tuning; with both, both. One line of JSON each tells the accuracies and the CPU-seconds
of training; nothing is evaluated meanwhile, and no logger listens.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import benchmarks.torchvision_operators  # noqa: F401  # before avalanche imports torchvision
from benchmarks.forgetting_plain import BATCH_ROWS, RATE, Run, accuracies, network
from benchmarks.scenarios import Scenario, load
from benchmarks.shifting import shifted


def learn(scenario: Scenario, setting: dict[str, Any]) -> Run:
    """Learn the tasks one after the other."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import (
        _make_taskaware_tensor_classification_dataset,
    )
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive

    torch.manual_seed(scenario.seed)
    model = network(scenario.classes)
    plugins: list[Any] = []
    if "memory_rows" in setting:
        plugins.append(ReplayPlugin(mem_size=setting["memory_rows"]))
    if "ewc_lambda" in setting:
        plugins.append(EWCPlugin(ewc_lambda=setting["ewc_lambda"]))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=BATCH_ROWS,
        train_epochs=scenario.epochs,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )
    move = _moved(setting["shift"]) if "shift" in setting else None
    tasks = benchmark_from_datasets(
        train=[
            _make_taskaware_tensor_classification_dataset(
                torch.from_numpy(task.image), torch.from_numpy(task.target), transform=move, task_labels=0
            )
            for task in scenario.train
        ]
    )
    accuracy, cpu_seconds, steps = list[list[float]](), 0.0, 0
    for task in tasks.train_stream:
        began = time.process_time()
        strategy.train(task, num_workers=0)
        cpu_seconds += time.process_time() - began
        accuracy.append(accuracies(model, scenario.test))
        steps = strategy.clock.train_iterations
    return Run(accuracy, cpu_seconds, steps)


def _moved(pixels: int) -> Callable[[Tensor], Tensor]:
    """Return what Avalanche does with each image when it is read."""
    return lambda image_I: shifted(image_I[None], pixels)[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of their dependencies
    for line in sys.argv[2:]:
        print(json.dumps(asdict(learn(load(Path(sys.argv[1])), json.loads(line)))), flush=True)
