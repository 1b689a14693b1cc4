"""Recipes composed at random, over every kind of network: three updates, with new classes and categories, then a new regime.

A learner that stays in memory ends like one that is stored after each update, and a training that was interrupted
within an epoch ends like one that was not, to the bit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from detectors.columns import Categorical
from learners.checkpoint import Checkpoint, pack
from learners.learn import resume, start
from learners.learner import Learner
from learners.mapped import mapped
from learners.models.backbone_config import BackboneConfig
from learners.models.cnn_config import CnnConfig
from learners.models.lora_config import LoraConfig
from learners.models.mlp_config import MlpConfig
from learners.models.tabular_config import TabularConfig
from learners.models.transformer_config import TransformerConfig
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema, Task
from learners.slots import Allocate, in_ram
from learners.training import Training

NUMERIC = tuple(f"x{f}" for f in range(16))
TINY = {"channels": 4, "heads": 2, "head_width": 4, "depth": 1}
MODELS: dict[str, Any] = {
    "mlp": MlpConfig(hidden=(12, 12)),
    "cnn": CnnConfig(shape=(1, 4, 4), channels=(4,), hidden=8, shift=1),
    "transformer": TransformerConfig(channels=4, heads=2, head_width=4, depth=1),
    "tabular": TabularConfig(hidden=(12,), dropout=0.2, embedding_max=4),
    "backbone": BackboneConfig(model="mlp", arguments={"hidden": (12, 12)}, trainable=("head", "net.body.2")),
    "lora": LoraConfig(
        model="transformer", arguments=TINY, trainable=("head",), targets=("query", "value"), rank=2
    ),
}
CATEGORIES = (("a", "b"), ("a", "b", "new"), ("b", "other"))  # of each update
CLASSES = (3, 4, 5)
CHOICES: dict[str, tuple[Any, ...]] = {
    "rehearsal": ("er", "der", "der++", "a-gem"),
    "replay_share": (0.0, 0.3, 0.5),
    "replay_weight": ("batch", "seen"),
    "recency_rows": (None, 50.0),
    "class_mask": ("none", "ace"),
    "memory_rows": (0, 30, 80),
    "memory_bytes": (None, None, 4000),
    "memory_balance": ("none", "class", "regime"),
    "memory_order": ("random", "herding"),
    "memory_disk": (False, False, True),
    "ewc_lambda": (0.0, 0.01, 1.0),
    "fisher": ("exact", "sampled", "empirical"),
    "fisher_rows": (20, 512),
    "consolidate_every": (0, 1, 2),
    "si_lambda": (0.0, 0.1),
    "lwf_lambda": (0.0, 1.0),
    "freeze": (0.0, 1.0),
    "plasticity": ("none", "shrink-perturb", "continual-backprop"),
    "adapt": (False, False, True),
    "keep_optimizer": (False, True),
    "layerwise": (0.0, 1.0),
    "precision": ("fp32", "fp32", "bf16"),
    "checkpoint_activations": (False, False, True),
    "accumulate": (1, 3),
    "epochs": (1.0, 2.5),
    "max_steps": (None, None, 7),
    "schedule": ("constant", "cosine", "plateau"),
    "weight_decay": (0.0, 0.01),
    "patience": (0, 1, 2),
    "average_share": (0.0, 0.5, 1.0),
    "balance_classes": (0.0, 0.5),
    "augment": (False, False, True),
    "mixup": (0.0, 0.0, 0.3),
}


def composed(choice: random.Random, task: Task) -> Recipe:
    """Return the first recipe of those drawn that does not contradict itself."""
    while True:
        drawn = {field: choice.choice(values) for field, values in CHOICES.items()}
        if task == "regression":
            drawn["class_mask"] = "none"
            drawn["memory_balance"] = "none" if drawn["memory_balance"] == "class" else "regime"
        try:
            return Recipe(batch_rows=16, learning_rate=0.01, **drawn)
        except ValueError:
            continue


def table(first: int, rows: int, schema: Schema, categories: tuple[str, ...]) -> Rows:
    rng = np.random.default_rng(first)
    x = rng.normal(size=(16, rows))
    target, classes = x[:4].sum(0) / 2, len(schema.classes)
    if classes:
        target = np.clip(np.floor((target + 1.5) / 3 * classes), 0, classes - 1)
    columns: dict[str, Any] = dict(zip(NUMERIC, x, strict=True))
    if schema.categorical:
        columns["c"] = Categorical(rng.integers(-1, len(categories), rows).astype(np.int32), categories)
    return Rows(columns, target, np.arange(first, first + rows))


def schema_of(kind: str, task: Task, update: int) -> Schema:
    classes = tuple(map(str, range(CLASSES[update]))) if task == "classification" else ()
    return Schema(NUMERIC, ("c",) if kind == "tabular" else (), task, classes)


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """Return it as another process finds it."""
    spec, meta = (json.loads(json.dumps(part)) for part in (checkpoint.spec, checkpoint.meta))
    return Checkpoint(spec, load(save(checkpoint.tensors)), meta)


def steps(training: Training, most: int | None = None) -> Training:
    while not training.done and (most is None or training.progress.step < most):
        training.step()
    return training


def places(directory: Path, recipe: Recipe) -> Callable[[], Allocate]:
    """Return what gives each learner a place of its own for its memory."""
    number = count()

    def place() -> Allocate:
        own = directory / str(next(number))
        own.mkdir(parents=True)
        return mapped(own) if recipe.memory_disk else in_ram

    return place


def different(left: dict[str, Tensor], right: dict[str, Tensor]) -> set[str]:
    return (left.keys() ^ right.keys()) | {
        name
        for name in left.keys() & right.keys()
        if not torch.equal(left[name].nan_to_num(), right[name].nan_to_num())
    }


@pytest.mark.filterwarnings("ignore::learners.errors.CannotWorkWarning")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_live_equals_stored_and_resumed_equals_uninterrupted(kind: str, task: Task, tmp_path: Path) -> None:
    choice = random.Random(f"{kind} {task}")  # the same compositions every time
    live: Learner | None = None
    parent: Checkpoint | None = None
    recipes = (
        [composed(choice, task) for _ in range(3)] if choice.random() < 0.5 else [composed(choice, task)] * 3
    )
    retained = table(2000, 20, schema_of(kind, task, 0), CATEGORIES[0])
    for update, recipe in enumerate(recipes):
        schema = schema_of(kind, task, update)
        rows, held_out = (
            table(first, size, schema, CATEGORIES[update]) for first, size in ((100 * update, 60), (1000, 20))
        )
        tuned: dict[str, Any] = {"tune": held_out, "retained": retained if update else None}
        given = {"schema": schema, "model": kind, "config": MODELS[kind], "seed": update, **tuned}
        given["new_regime"] = update == 2
        place = places(tmp_path / str(update), recipe)

        live = steps(start(live, rows, recipe, allocate=place(), **given)).conclude()
        training = start(parent, rows, recipe, allocate=place(), **given)
        kill = choice.randrange(1, training.batches.steps_per_epoch)
        snapshot = stored(steps(training, kill).snapshot())
        parent = stored(steps(training).finish())
        resumed = resume(snapshot, rows, recipe, allocate=place(), **tuned)
        again = stored(steps(resumed).finish())

        assert again.meta == parent.meta, recipe
        assert not different(again.tensors, parent.tensors), recipe
        tensors, meta = pack(live)
        assert meta == {name: parent.meta[name] for name in meta}, recipe
        assert not different(tensors, parent.tensors), recipe
    assert live is not None
    assert live.model.schema.outputs == (5 if task == "classification" else 1)
