"""Train: a frozen job input to a candidate. All rows have the train role; tune rows only stop early."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cls.config import StreamConfig
from cls.domain import JobInput, Labelled, Role
from cls.errors import BadData, Permanent
from cls.logging import get_logger
from cls.ports import SampleLog
from learners.checkpoint import Checkpoint
from learners.errors import CannotWorkWarning, LearnerError, NoUsableRowsError
from learners.learn import resume, start
from learners.mapped import mapped
from learners.models.registry import CONFIGS
from learners.recipe import Recipe
from learners.recipes import known
from learners.rows import Rows, concat_rows
from learners.schema import Schema
from learners.similarity import Similarity
from learners.slots import in_ram
from learners.training import StepReport, Training

MISSED_ROWS = 50_000  # labels that are read at a time of those that a version of a recurring regime missed

AfterStep = Callable[[Training, StepReport], None]

_log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training comes to."""

    checkpoint: Checkpoint
    passes: float  # sample passes: forward and backward of one row = 1
    overhead: float  # of these, what did not depend on epochs: Fisher
    curve: list[dict[str, float]]
    train_rows: int
    effort: float  # epochs, as a multiple of the recipe's: those of the job, and of a recipe that adapts


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
    scratch: Path,
    missed_from: int | None = None,
) -> Trained:
    """Train on the labels [label_from, label_to) of a stream.

    Parameters
    ----------
    parent
        The checkpoint to start from, the champion's or that of a version whose regime recurs; None for the first model.
    snapshot
        Where an interrupted run of this very job had come to, or None.
    after_step
        Called after each step: reports progress, keeps snapshots, and raises to stop.
    scratch
        An empty directory for a memory that is kept on disk.
    missed_from
        For a version whose regime recurs, the first label position that it has not learned: it learns the rows since the onset,
        and those before, of the regimes in between, are replayed from its memory. They are read once, `MISSED_ROWS` at a time, and a
        resumed run has them in its snapshot.

    Raises
    ------
    BadData
        If there is no usable train row.
    Permanent
        If recipe or model do not fit the stream, or the training diverges; in the words of the learner.
    """
    labelled = log.labelled(stream_name, job.label_from, job.label_to)
    rows, tune = of_role(labelled, Role.TRAIN), of_role(labelled, Role.TUNE)
    missed: Iterator[Rows] = iter(())
    if missed_from is not None:
        onset = job.onset or 0
        rows, tune = (part.take(part.position >= onset) for part in (rows, tune))
        missed = missed_rows(log, stream_name, missed_from, job.label_to, onset)
    with _permanent(job):
        recipe = recipe_of(job, stream)
    allocate = mapped(scratch) if recipe.memory_disk else in_ram
    judged = recipe.patience or recipe.schedule == "plateau"
    retained = _retained(job, stream_name, log) if judged else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    similarity = None if job.similarity is None else Similarity.from_json(job.similarity)
    with _permanent(job), _warnings_logged():
        if snapshot is not None:
            training = resume(
                snapshot,
                rows,
                recipe,
                tune=tune,
                retained=retained,
                models=models,
                allocate=allocate,
                device=device,
            )
        else:
            training = start(
                parent,
                rows,
                recipe,
                schema=schema_of(stream),
                model=stream.model.name,
                config=model_config(stream),
                tune=tune,
                retained=retained,
                new_regime=job.onset is not None and job.base is None,
                missed=missed,
                similarity=similarity,
                seed=job.seed,
                models=models,
                allocate=allocate,
                device=device,
            )
    while not training.done:
        with _permanent(job):
            report = training.step()
        after_step(training, report)
    stepped = training.progress.passes
    with _permanent(job):
        checkpoint = training.finish()
    passes = training.progress.passes
    overhead = passes - stepped + _measured(training)
    effort = job.effort * training.recipe.epochs / recipe.epochs
    return Trained(checkpoint, passes, overhead, training.curve, len(rows), effort)


@contextmanager
def _permanent(job: JobInput) -> Iterator[None]:
    """Say what no retry can mend in the words of the learner, which name the field and the fix."""
    try:
        yield
    except NoUsableRowsError as error:
        raise BadData(f"labels {job.label_from} to {job.label_to}: {error}") from error
    except (LearnerError, ValueError) as error:
        raise Permanent(str(error)) from error


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Log what the recipe cannot do with these rows; other warnings go on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CannotWorkWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, CannotWorkWarning):
            _log.warning("cannot work", reason=str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def missed_rows(log: SampleLog, stream_name: str, first: int, stop: int, onset: int) -> Iterator[Rows]:
    """Yield the train rows before `onset` whose labels are [first, stop), in blocks and in order."""
    for low in range(first, stop, MISSED_ROWS):
        rows = of_role(log.labelled(stream_name, low, min(low + MISSED_ROWS, stop)), Role.TRAIN)
        yield rows.take(rows.position < onset)


def _retained(job: JobInput, stream_name: str, log: SampleLog) -> Rows | None:
    """Return the tune rows of earlier regimes, None if there are none."""
    parts = [of_role(log.labelled(stream_name, low, high), Role.TUNE) for low, high in job.retained]
    return concat_rows(parts) if parts else None


def _measured(training: Training) -> int:
    """Return the rows that were passed to compare gradients."""
    alignment = None if training.similarity is None else training.similarity.alignment
    return 0 if alignment is None else alignment.rows


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
