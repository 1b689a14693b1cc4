"""Begin a training, or go on with one that was interrupted.

training = start(parent, rows, recipe, seed=7)
while not training.done:
report = training.step()
checkpoint = training.finish()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from learners.checkpoint import (
    Checkpoint,
    restore_consolidation,
    restore_memory,
    restore_model,
    restore_optimizer,
    under,
)
from learners.errors import NoUsableRowsError, ResumeMismatchError
from learners.ewc import Consolidation
from learners.memory import Memory
from learners.models.registry import NO_EXTRA, load
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from learners.seeds import INITIAL, seeded
from learners.training import Progress, StepReport, Training, identity

__all__ = ["Checkpoint", "StepReport", "Training", "resume", "start"]


def start(
    parent: Checkpoint | None,
    train: Rows,
    recipe: Recipe,
    *,
    schema: Schema | None = None,
    model: str = "tabular",
    config: Any = None,
    tune: Rows | None = None,
    seed: int = 0,
    models: Mapping[str, str] = NO_EXTRA,
) -> Training:
    """Begin a training.

    Parameters
    ----------
    parent
        The learner to continue, or None for a new one.
    train
        New rows. Unlabelled ones are left out.
    recipe
        How to learn. A `fresh` one takes nothing from the parent but, by default, its schema.
    schema, model, config
        What a new network reads, its registered name and its configuration; not used when the parent goes on.
    tune
        Rows for early stopping. Without labelled ones there is none.
    seed
        Decides initial weights, order of rows, replay and dropout.
    models
        The operator's own models, "module:Class" by name.

    Raises
    ------
    NoUsableRowsError
        If no train row has a finite target.
    UnsuitableRowsError
        If the columns or targets do not fit the model.
    """
    train = _usable(train)
    if parent is not None and not recipe.fresh:
        network = restore_model(parent, models)
        network.grow(train.columns)
        consolidation = restore_consolidation(parent) if recipe.ewc_lambda else Consolidation()
        memory = restore_memory(parent).resized(recipe.memory_rows)
        learned_up_to = parent.meta["learned_up_to"]
    else:
        if schema is None:
            raise ValueError("a new network needs a schema")
        with seeded(seed, INITIAL):
            network = load(model, models).fit_preprocessing(config, schema, train)
        consolidation, memory, learned_up_to = Consolidation(), Memory.empty(recipe.memory_rows, seed), None
    return Training(network, consolidation, memory, train, _labelled(tune), recipe, seed, learned_up_to)


def resume(
    snapshot: Checkpoint,
    train: Rows,
    recipe: Recipe,
    *,
    tune: Rows | None = None,
    models: Mapping[str, str] = NO_EXTRA,
) -> Training:
    """Go on from a snapshot, with the rows and the recipe that the training was started with.

    Raises
    ------
    ResumeMismatchError
        If rows or recipe are others, or the checkpoint is a finished one.
    """
    train, meta = _usable(train), snapshot.meta
    if meta["state"] != "training":
        raise ResumeMismatchError("a finished training cannot be resumed: start a new one from it")
    if meta["recipe"] != asdict(recipe):
        raise ResumeMismatchError("the snapshot was trained by another recipe")
    if meta["train"] != identity(train):
        raise ResumeMismatchError("the snapshot was trained on other rows")
    network, memory = restore_model(snapshot, models), restore_memory(snapshot)
    consolidation = restore_consolidation(snapshot)
    training = Training(
        network, consolidation, memory, train, _labelled(tune), recipe, meta["seed"], meta["learned_up_to"]
    )
    restore_optimizer(training.optimizer, network, snapshot)
    training.progress = Progress(meta["step"], meta["passes"], meta["epoch_loss"])
    training.curve = [dict(point) for point in meta["curve"]]
    training.selection.restore(meta, under("best", snapshot.tensors), under("average", snapshot.tensors))
    return training


def _usable(rows: Rows) -> Rows:
    labelled = rows.labelled()
    if not len(labelled):
        raise NoUsableRowsError(f"none of the {len(rows)} train rows has a finite target")
    return labelled


def _labelled(rows: Rows | None) -> Rows | None:
    return None if rows is None else rows.labelled()
