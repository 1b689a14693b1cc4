"""Our learner on one scenario: the library's own loop, as the daemon calls it, with rows that stay in memory.

Shapes: B rows of a batch, F pixels, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from benchmarks.forgetting_plain import Run, accuracies
from benchmarks.scenarios import Digits, Scenario
from benchmarks.shifting import shifted
from learners.learn import Learner, start
from learners.models.mlp import Mlp
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema

PIXELS = tuple(f"pixel_{number}" for number in range(784))
MODELS: Mapping[str, str] = MappingProxyType({"digits": "benchmarks.forgetting_ours:Shifting"})


class Shifting(Mlp):
    """The perceptron, whose inputs are images: moved by a pixel they mean the same."""

    def augment(self, x_BF: Tensor, generator: torch.Generator) -> Tensor:
        """Return each image moved by up to a pixel each way."""
        return shifted(x_BF, 1, generator)


def learn(scenario: Scenario, recipe: Recipe) -> Run:
    """Learn the tasks one after the other, each as a regime of its own; a step has as many new rows with a memory as without."""
    learner: Learner | None = None
    alone = replace(recipe, batch_rows=round(recipe.batch_rows * (1 - recipe.replay_share)))
    accuracy, cpu_seconds, steps, position = list[list[float]](), 0.0, 0, 0
    for task in scenario.train:
        began = time.process_time()
        training = start(
            learner,
            _rows(task, position),
            recipe if learner is not None else alone,
            schema=Schema(PIXELS, (), "classification", tuple(map(str, range(scenario.classes)))),
            model="digits",
            config={"hidden": (400, 400), "scale": "none"},
            new_regime=learner is not None,
            seed=scenario.seed * 1000 + len(accuracy),
            models=MODELS,
        )
        while not training.done:
            training.step()
        learner = training.conclude()
        cpu_seconds += time.process_time() - began
        steps += training.progress.step
        position += len(task)
        accuracy.append(accuracies(learner.model, scenario.test))
    return Run(accuracy, cpu_seconds, steps)


def _rows(task: Digits, position: int) -> Rows:
    columns = {name: task.image[:, number].astype(np.float64) for number, name in enumerate(PIXELS)}
    return Rows(columns, task.target.astype(np.float64), np.arange(position, position + len(task)))
