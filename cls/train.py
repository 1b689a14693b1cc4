"""Train: a frozen job input to a candidate. All rows have the train role; tune rows only stop early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cls.config import StreamConfig
from cls.domain import JobInput, Labelled, Role
from cls.errors import BadData
from cls.ports import SampleLog
from learners.checkpoint import Checkpoint
from learners.errors import NoUsableRowsError
from learners.learn import resume, start
from learners.models.registry import CONFIGS
from learners.recipe import Recipe
from learners.recipes import known
from learners.rows import Rows
from learners.schema import Schema
from learners.training import StepReport, Training

AfterStep = Callable[[Training, StepReport], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training comes to."""

    checkpoint: Checkpoint
    passes: float  # sample passes: forward and backward of one row = 1
    overhead: float  # of these, what did not depend on epochs: Fisher
    curve: list[dict[str, float]]
    train_rows: int


def recipe_of(job: JobInput, stream: StreamConfig) -> Recipe:
    """Return the recipe of a job: by name, with the stream's overrides; a first model starts fresh."""
    recipe = replace(known()[job.strategy], **stream.update.overrides)
    if job.parent is None:
        recipe = replace(recipe, **stream.update.bootstrap_overrides)
    recipe = replace(recipe, epochs=recipe.epochs * job.effort)
    return replace(recipe, fresh=True) if job.label_from == 0 else recipe


def train(
    job: JobInput,
    stream_name: str,
    stream: StreamConfig,
    log: SampleLog,
    parent: Checkpoint | None,
    snapshot: Checkpoint | None,
    after_step: AfterStep,
    models: Mapping[str, str],
) -> Trained:
    """Train on the labels [label_from, label_to) of a stream.

    Parameters
    ----------
    parent
        The champion's checkpoint, None for the first model.
    snapshot
        Where an interrupted run of this very job had come to, or None.
    after_step
        Called after each step: reports progress, keeps snapshots, and raises to stop.

    Raises
    ------
    BadData
        If there is no usable train row.
    """
    labelled = log.labelled(stream_name, job.label_from, job.label_to)
    rows, tune = of_role(labelled, Role.TRAIN), of_role(labelled, Role.TUNE)
    recipe = recipe_of(job, stream)
    try:
        if snapshot is not None:
            training = resume(snapshot, rows, recipe, tune=tune, models=models)
        else:
            training = start(
                parent,
                rows,
                recipe,
                schema=schema_of(stream),
                model=stream.model.name,
                config=model_config(stream),
                tune=tune,
                seed=job.seed,
                models=models,
            )
    except NoUsableRowsError as error:
        raise BadData(f"labels {job.label_from} to {job.label_to}: {error}") from error
    while not training.done:
        after_step(training, training.step())
    stepped = training.progress.passes
    checkpoint = training.finish()
    passes = training.progress.passes
    return Trained(checkpoint, passes, passes - stepped, training.curve, len(rows))


def schema_of(stream: StreamConfig) -> Schema:
    """Return what the model reads and predicts."""
    columns = stream.columns
    return Schema(columns.numeric_features, columns.categorical_features, stream.task, columns.classes)


def model_config(stream: StreamConfig) -> object:
    """Return the model's own configuration: a built-in's frozen value; any other model gets its arguments as they are."""
    arguments: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in stream.model.arguments.items()
    }
    config = CONFIGS.get(stream.model.name)
    return arguments if config is None else config(**arguments)


def of_role(labelled: Labelled, role: Role) -> Rows:
    """Return the rows of one role as the learner takes them."""
    chosen = np.flatnonzero(labelled.role == role)
    return as_rows(labelled).take(chosen)


def as_rows(labelled: Labelled) -> Rows:
    """Return labelled rows as the learner takes them."""
    return Rows(labelled.columns, labelled.target, labelled.position)
