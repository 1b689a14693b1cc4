"""Contenders whose steps are timed: each learns a first task, and then, round by round, epochs of a second.

Shapes: N rows of a task, I pixels, B rows of a batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.forgetting_peers import ROOT
from benchmarks.forgetting_plain import BATCH_ROWS, RATE, network
from benchmarks.forgetting_recipes import ALONE, PERMUTED, PERMUTED_REMEMBERING, REMEMBERING
from benchmarks.scenarios import Digits, Scenario
from learners.learn import Learner, Training, start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema

STEPS = 40  # of a round: one epoch
PIXELS = tuple(f"pixel_{number}" for number in range(784))
SCHEMA = Schema(PIXELS, (), "classification", tuple(map(str, range(10))))
NETWORK: Mapping[str, Any] = {"hidden": (400, 400), "scale": "none"}

Round = Callable[[], float]  # takes one round's steps and returns their CPU-seconds

OURS: Mapping[str, Recipe] = {
    "ours plain": ALONE,
    "ours EWC": PERMUTED,
    "ours SI": replace(ALONE, si_lambda=1000.0),
    "ours LwF": replace(ALONE, lwf_lambda=1.0),
    "ours ER": replace(REMEMBERING, rehearsal="er"),
    "ours DER": replace(REMEMBERING, rehearsal="der"),
    "ours DER++": REMEMBERING,
    "ours A-GEM": replace(REMEMBERING, rehearsal="a-gem"),
    "ours EWC + DER++": PERMUTED_REMEMBERING,
}
HALF = {
    f"{name}, 64 replayed": replace(
        OURS[name], batch_rows=BATCH_ROWS + 64, replay_share=64 / (BATCH_ROWS + 64)
    )
    for name in ("ours ER", "ours DER++")
}
PEERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Avalanche fine-tuning": ("avalanche", {}),
    "Avalanche EWC": ("avalanche", {"ewc_lambda": 1000.0}),
    "Avalanche replay": ("avalanche", {"memory_rows": REMEMBERING.memory_rows}),
    "CapyMOA ER": ("capymoa", {"strategy": "er", "memory_rows": REMEMBERING.memory_rows}),
    "CapyMOA EWC": ("capymoa", {"strategy": "ewc", "ewc_lambda": 1000.0}),
}


def two_tasks(digits: Digits, seed: int) -> Scenario:
    """Return two permutations of as many rows as fill a round's batches."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(digits))[: STEPS * BATCH_ROWS]
    orders = [random.permutation(784) for _ in range(2)]
    tasks = (
        Digits(np.ascontiguousarray(digits.image[rows][:, order]), digits.target[rows]) for order in orders
    )
    return Scenario("permuted", seed, 10, 1, tuple(tasks), ())


def rows_of_digits(digits: Digits, position: int) -> Rows:
    """Return a table with a column for each pixel."""
    image_IN = np.ascontiguousarray(digits.image.T, dtype=np.float64)
    columns = dict(zip(PIXELS, image_IN, strict=True))
    return Rows(columns, digits.target.astype(np.float64), np.arange(position, position + len(digits)))


def bare(scenario: Scenario, batch_rows: int = BATCH_ROWS, fused: bool = False) -> Round:
    """Return a loop of torch alone."""
    task = scenario.train[1]
    image_NI, target_N = torch.from_numpy(task.image), torch.from_numpy(task.target)
    model = network(scenario.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)

    def learn() -> float:
        began = time.process_time()
        order_N = torch.cat([torch.randperm(len(task)) for _ in range(batch_rows // BATCH_ROWS)])
        for index_B in order_N.split(batch_rows):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(image_NI[index_B]), target_N[index_B])
            torch.autograd.backward(loss)
            optimizer.step()
        return time.process_time() - began

    return learn


def second_task(scenario: Scenario, recipe: Recipe) -> Training:
    """Return our training of the second task, after the first has been learned."""
    first, second = scenario.train
    alone = replace(recipe, batch_rows=BATCH_ROWS, epochs=1.0)
    learner = concluded(
        start(
            None,
            rows_of_digits(first, 0),
            alone,
            schema=SCHEMA,
            model="mlp",
            config=NETWORK,
            seed=scenario.seed,
        )
    )
    rows, endless = rows_of_digits(second, len(first)), replace(recipe, epochs=1000.0)
    return start(learner, rows, endless, new_regime=True, seed=scenario.seed)


def concluded(training: Training) -> Learner:
    """Take all steps."""
    while not training.done:
        training.step()
    return training.conclude()


def ours(scenario: Scenario, recipe: Recipe) -> Round:
    """Return our loop."""
    training = second_task(scenario, recipe)
    assert training.batches.steps_per_epoch == STEPS, "a round is an epoch"

    def learn() -> float:
        began = time.process_time()
        for _ in range(STEPS):
            training.step()
        return time.process_time() - began

    return learn


@contextmanager
def peer(python: str, kind: str, path: Path, setting: Mapping[str, Any]) -> Iterator[Round]:
    """Run a library in an interpreter of its own, which waits between rounds."""
    command = [python, "-m", "benchmarks.cost_peer", kind, str(path), json.dumps(dict(setting))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given, told = process.stdin, process.stdout

        def learn() -> float:
            given.write("on\n")
            given.flush()
            for line in told:
                try:
                    return float(json.loads(line))
                except ValueError:  # something else that the library says
                    continue
            raise RuntimeError(f"{kind} ended early: {setting}")

        try:
            yield learn
        finally:
            given.close()
