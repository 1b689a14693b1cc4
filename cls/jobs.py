"""What a worker does with a job, and how its result becomes true: computed first, then published in one fenced transaction.

Worker processes and backtests run jobs through here; they differ in the `Control` they pass.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from sqlalchemy import Connection, Engine

from cls.checkpoints import pack, restore, unpack
from cls.columns.outputs import Floats
from cls.config import StreamConfig
from cls.domain import Job, JobKind, Json, ModelVersion, Role
from cls.errors import BadData, Permanent, Refused
from cls.evaluate import assess, gate, likeness
from cls.golden import make_golden
from cls.layout import GOLDEN, LEARNER, MODEL, PROFILE, SPEC
from cls.ports import ArtifactStore, SampleLog
from cls.rebase import Predict, Rows, recent_reference
from cls.score import summarise
from cls.times import EPOCH
from cls.train import train
from detectors.columns import Columns, take
from detectors.profile import Profile
from detectors.reference import Reference
from learners.auto import effort
from learners.checkpoint import Checkpoint
from learners.models.base import Model
from learners.training import StepReport, Training
from storage import drift as drift_store
from storage import outbox, queue
from storage import versions as version_store
from storage.artifacts import manifest_digest
from storage.db import reading

GOLDEN_EVENTS = 500  # newest events that golden rows take values from


class Control(Protocol):
    """How a job hears that it must stop, and where it leaves its snapshots."""

    def snapshot(self) -> Checkpoint | None:
        """Return where an interrupted run of this job had come to."""
        ...

    def after_step(self, training: Training, report: StepReport) -> None:
        """Report progress, keep a snapshot now and then; raises to stop the job at this step."""
        ...


class NoControl:
    """A control for runs that nobody interrupts."""

    def snapshot(self) -> Checkpoint | None:
        """Return None."""
        return None

    def after_step(self, training: Training, report: StepReport) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a job came to, not yet published."""

    result: Json
    passes: float = 0.0
    seconds: float = 0.0  # measured
    version: ModelVersion | None = None  # a new version, not yet numbered
    price: float | None = None  # device-seconds per 1,000 passes, None for the measured time

    @property
    def charged_seconds(self) -> float:
        """Device-seconds that the budget is charged."""
        return self.seconds if self.price is None else self.passes / 1000 * self.price


@dataclass(frozen=True)
class Bench:
    """What a worker has at hand."""

    engine: Engine
    log: SampleLog
    artifacts: ArtifactStore
    models: Mapping[str, str]  # the operator's own models
    scratch: Path | None = None  # where a job may keep large files while it runs; None: where the system does


def run(job: Job, bench: Bench, control: Control) -> Outcome:
    """Do a job. Raises `Permanent` for what no retry can mend."""
    stream = StreamConfig.model_validate_json(json.dumps(job.input.settings), by_alias=True, by_name=False)
    started = time.perf_counter()
    if job.kind == JobKind.ASSESS:
        outcome = _assess(job, bench, stream)
    elif job.kind == JobKind.REPORT:
        outcome = _report(job, bench, stream)
    elif job.input.redeploy is not None:
        outcome = _redeploy(job, bench, stream)
    else:
        outcome = _update(job, bench, stream, control)
    measured = time.perf_counter() - started
    return Outcome(
        outcome.result, outcome.passes, measured, outcome.version, stream.update.device_seconds_per_1k_passes
    )


def publish(connection: Connection, job: Job, outcome: Outcome) -> int | None:
    """Make a job's result true, together with its end; returns the version that it ends in, if it does.

    Raises
    ------
    LeaseLost
        If the job is another worker's by now; nothing has happened then.
    """
    result = outcome.result
    if outcome.version is not None:
        number = version_store.add_version(connection, outcome.version)
        result = result | {"version": number}
    queue.succeed(connection, job, result, charged_seconds=outcome.charged_seconds, passes=outcome.passes)
    outbox.post(connection, job.stream, "job", {"job_id": job.id})
    if outcome.version is not None:
        outbox.post(connection, job.stream, "version", {"number": result["version"]})
    version: int | None = result.get("version")
    return version


def _update(job: Job, bench: Bench, stream: StreamConfig, control: Control) -> Outcome:
    parent = None if job.input.parent is None else load_checkpoint(bench, job.stream, job.input.parent)
    base, missed_from = parent, None
    if job.input.base is not None:
        base = load_checkpoint(bench, job.stream, job.input.base)
        with reading(bench.engine) as connection:
            version = version_store.read_version(connection, job.stream, job.input.base)
        missed_from = version.learned_up_to
    with _scratch(job, bench) as scratch:
        trained = train(
            job.input,
            job.stream,
            stream,
            bench.log,
            base,
            control.snapshot(),
            control.after_step,
            bench.models,
            scratch,
            missed_from,
        )
    candidate = restore(trained.checkpoint, bench.models)
    champion = None if parent is None else restore(parent, bench.models)
    evaluated = gate(job.input, job.stream, stream, bench.log, candidate, champion)
    passes = trained.passes + evaluated.passes
    result: Json = {
        "strategy": job.input.strategy,
        "train_rows": trained.train_rows,
        "curve": [[point["step"], point["loss"]] for point in trained.curve],
        "gate": asdict(evaluated.report),
        "metrics": {"loss": evaluated.loss, "train_rows": trained.train_rows, "passes": passes},
        "effort": trained.effort,
        "similarity": trained.checkpoint.meta["similarity"],
        "overhead": (trained.overhead + evaluated.passes) / passes,
        "version": None,
        "light": job.input.light and evaluated.tells(),
    }
    if evaluated.blocks(stream.gate.margin):
        return Outcome(result, passes)
    low = max(job.input.event_to - stream.detect.reference_rows, 0)
    reference = recent_reference(
        bench.log,
        job.stream,
        stream,
        low,
        job.input.event_to,
        label_stop=job.input.label_to,
        labels_since=0,
        predict=_held_out(candidate),
        seed=job.input.seed,
    )
    golden = make_golden(candidate, _held_columns(bench, job, low), job.input.seed)
    packed = pack(trained.checkpoint, reference) | {GOLDEN: golden.to_json()}
    files = {name: bench.artifacts.put(data) for name, data in packed.items()}
    version = ModelVersion(
        stream=job.stream,
        number=0,
        digest=manifest_digest(files),
        parent=job.input.parent if job.input.base is None else job.input.base,
        job_id=job.id,
        strategy=job.input.strategy,
        learned_up_to=job.input.label_to,
        reference_from=low,
        reference_to=job.input.event_to,
        gate=asdict(evaluated.report),
        metrics={"loss": evaluated.loss, "train_rows": trained.train_rows},
        created_at=EPOCH,
        files=files,
    )
    return Outcome(result, passes, version=version)


def _held_columns(bench: Bench, job: Job, low: int) -> Columns:
    """Return the newest events from `low` on that no version learns from."""
    start = max(job.input.event_to - GOLDEN_EVENTS, low)
    events = bench.log.events(job.stream, start, job.input.event_to)
    return take(events.columns, np.flatnonzero(events.role != Role.TRAIN))


def _held_out(model: Model) -> Predict:
    """Predict tune and gate rows only: on what it has learned a model is surer, and better, than on what will come."""

    def predict(rows: Rows) -> tuple[Floats, Floats]:
        prediction, uncertainty = np.full((2, len(rows.position)), np.nan)
        held = np.flatnonzero(rows.role != Role.TRAIN)
        if len(held):
            prediction[held], uncertainty[held] = summarise(model.predict(take(rows.columns, held)))
        return prediction, uncertainty

    return predict


def _redeploy(job: Job, bench: Bench, stream: StreamConfig) -> Outcome:
    """Put a stored version through the gate instead of training one."""
    if job.input.redeploy is None or job.input.parent is None:
        raise Refused(f"job {job.id} names no version to redeploy, or there is no champion")
    candidate = load_model(bench, job.stream, job.input.redeploy)
    champion = load_model(bench, job.stream, job.input.parent)
    evaluated = gate(job.input, job.stream, stream, bench.log, candidate, champion)
    result: Json = {
        "strategy": "redeploy",
        "gate": asdict(evaluated.report),
        "metrics": {"loss": evaluated.loss},
        "version": None if evaluated.blocks(stream.gate.margin) else job.input.redeploy,
        "light": job.input.light and evaluated.tells(),
    }
    return Outcome(result, evaluated.passes)


def _assess(job: Job, bench: Bench, stream: StreamConfig) -> Outcome:
    models: dict[int, Model] = {}
    for number in job.input.versions:
        try:
            models[number] = load_model(bench, job.stream, number)
        except Permanent:
            if number == job.input.parent:
                raise  # an old version that cannot be loaded is no candidate; the champion must be there
    if job.input.label_to <= job.input.label_from:
        raise BadData(f"job {job.id}: there are no labels to assess versions on")
    assessed = assess(job.input, job.stream, stream, bench.log, models)
    accepted, references = _accepted(job, bench, models)
    similarity = likeness(assessed, accepted, references, job.input.parent, stream.update.redeploy_margin)
    result: Json = {
        "losses": {str(number): loss for number, loss in assessed.losses.items()},
        "accepted": {str(number): loss for number, loss in accepted.items()},
        "constant": assessed.constant,
        "rows": assessed.rows,
        "similarity": None if similarity is None else similarity.to_json(),
        "effort": effort(similarity),
        "metrics": {f"loss_v{number}": loss for number, loss in assessed.losses.items()},
    }
    return Outcome(result, assessed.passes)


def _accepted(
    job: Job, bench: Bench, numbers: Iterable[int]
) -> tuple[dict[int, float | None], dict[int, Profile]]:
    """Return what versions lost when they were accepted, and the profiles of the inputs that they were fitted to."""
    with reading(bench.engine) as connection:
        versions = [version_store.read_version(connection, job.stream, number) for number in numbers]
    references = {}
    for version in versions:
        try:
            document = json.loads(bench.artifacts.get(version.files[PROFILE]))
            references[version.number] = Reference.from_json(document).inputs
        except (Permanent, KeyError, ValueError):
            continue  # one that is gone, or of another release, says nothing
    return {version.number: version.metrics.get("loss") for version in versions}, references


def _report(job: Job, bench: Bench, stream: StreamConfig) -> Outcome:
    from cls.report import run_report  # Evidently takes seconds to import, and only this kind of job needs it

    with reading(bench.engine) as connection:
        verdicts = drift_store.list_verdicts(connection, job.stream, limit=500)
        promotions = version_store.list_promotions(connection, job.stream, newest=100)
    rows = stream.detect.reference_rows
    return Outcome(run_report(job, bench.log, bench.artifacts, verdicts, promotions, reference_rows=rows))


@contextmanager
def _scratch(job: Job, bench: Bench) -> Iterator[Path]:
    """Give a job a directory of its own, which is gone afterwards; what a killed worker left there, too."""
    if bench.scratch is None:
        with TemporaryDirectory(prefix="cls-") as name:
            yield Path(name)
        return
    directory = bench.scratch / f"{job.id}" / "scratch"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def load_checkpoint(bench: Bench, stream: str, number: int) -> Checkpoint:
    """Return a stored version's whole checkpoint, verified by hash."""
    files = _files(bench, stream, number)
    return unpack({name: bench.artifacts.get(files[name]) for name in (MODEL, SPEC, LEARNER)})


def load_model(bench: Bench, stream: str, number: int) -> Model:
    """Return a stored version's model, verified by hash."""
    files = _files(bench, stream, number)
    return restore(unpack({name: bench.artifacts.get(files[name]) for name in (MODEL, SPEC)}), bench.models)


def _files(bench: Bench, stream: str, number: int) -> dict[str, str]:
    with reading(bench.engine) as connection:
        return version_store.read_version(connection, stream, number).files
