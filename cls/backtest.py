"""Backtest: a recorded stream through the same turns as live, in simulated time.

Events come at their event time, labels at their label time and never before; each update is charged its latency in stream time, during
which the old champion serves. Given the same data, configuration and seed, the result is the same.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cls.config import Config, StreamConfig
from cls.domain import JobKind, Json, RolloutState
from cls.errors import BadData, CLSError, Permanent
from cls.jobs import Bench, NoControl, publish, run
from cls.ports import RawBatch
from cls.recording import Recording, next_edge, read_recording
from cls.scorer import Scorer
from cls.serving.models import ModelCache
from cls.stream import Ports, StreamLoop
from cls.times import from_us
from storage import drift as drift_store
from storage import job_rows, queue, streams, versions
from storage import log as log_store
from storage.artifacts import MemoryArtifacts
from storage.db import open_database, reading, transaction
from storage.log import Log
from storage.segments import MemorySegments
from storage.tables import metadata

LEASE = timedelta(days=1)
TURNS = 1000  # more in one slice means that the loop does not come to rest


@dataclass(frozen=True, eq=False)
class Prequential:
    """Every labelled row, scored by the champion of its time before it was learned."""

    time_us: NDArray[np.int64]
    loss: NDArray[np.float64]  # absolute error, or 0/1
    version: NDArray[np.int64]
    position: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """What a backtest showed."""

    rows: int
    labels: int
    mean_loss: float  # over all rows that were served by a champion
    by_month: dict[str, float]
    updates: list[Json]  # each job of kind update: when, why, verdict, version, passes
    alarms: int
    promotions: list[Json]
    passes: float  # sample passes of all jobs but the first model's
    charged_seconds: float
    bootstrap_passes: float
    cpu_seconds: float  # measured, of the jobs
    seconds: float  # measured, of everything
    prequential: Prequential

    def to_json(self) -> Json:
        """Return everything but the rows."""
        return {name: value for name, value in self.__dict__.items() if name != "prequential"}


class Replay:
    """A source that is fed slice by slice."""

    def __init__(self) -> None:
        self._batches: list[RawBatch] = []

    def push(self, kind: str, table: pa.Table) -> None:
        """Add a batch, unless it is empty."""
        if table.num_rows:
            number = len(self._batches) + 1
            self._batches.append(RawBatch(kind, table, str(number), f"replay#{number}"))

    def read(self, token: str) -> RawBatch | None:
        """Return the batch after a token; earlier ones are forgotten."""
        at = int(token or 0)
        if at >= len(self._batches):
            return None
        if at:
            self._batches[at - 1] = replace(self._batches[at - 1], table=None)
        return self._batches[at]


def run_backtest(
    config: Config,
    stream: str,
    data: Path | pa.Table,
    *,
    step: timedelta = timedelta(hours=6),
    bootstrap_at: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> BacktestResult:
    """Run a recorded stream through CLS.

    Parameters
    ----------
    config
        With the stream.
    stream
        Its name.
    data
        A Parquet, CSV or NDJSON file, or a table; with targets, and with label times if they lag.
    step
        Stream time between two looks: the resolution of all delays.
    bootstrap_at
        Train the first model at this time, on all that is there, instead of after `bootstrap_rows` labels.
    progress
        Called with a line of text now and then.

    Raises
    ------
    BadData
        If the recording cannot be read.
    Permanent
        If the first model cannot be trained as the stream is configured.
    """
    settings = config.streams[stream]
    table = read_recording(data) if isinstance(data, Path) else data
    with tempfile.TemporaryDirectory(prefix="cls-backtest-") as directory:
        engine = open_database(f"sqlite:///{directory}/state.db", durable=False)
        try:
            metadata.create_all(engine)
            simulation = _Simulation(config, stream, settings, engine)
            return simulation.run(table, step, bootstrap_at, progress)
        finally:
            engine.dispose()


class _Simulation:
    def __init__(self, config: Config, stream: str, settings: StreamConfig, engine: Any) -> None:
        settings = settings.model_copy(
            update={"detect": settings.detect.model_copy(update={"report": False})}
        )
        self.name, self.settings, self.engine = stream, settings, engine
        self.source = Replay()
        segments, artifacts = MemorySegments(), MemoryArtifacts()
        self.log = Log(engine, segments, {stream: settings.columns.features}, cache_rows=10**9)
        self.bench = Bench(engine, self.log, artifacts, config.models)
        self.now = from_us(0)
        ports = Ports(engine, self.log, segments, artifacts, {"source": self.source}, lambda: self.now)
        self.loop = StreamLoop(stream, settings, ports)
        self.scorer = Scorer(
            stream, engine, self.log, segments, ModelCache(engine, artifacts, config.models, 4)
        )
        self.cpu_seconds = 0.0

    def run(
        self,
        table: pa.Table,
        step: timedelta,
        bootstrap_at: datetime | None,
        progress: Callable[[str], None] | None,
    ) -> BacktestResult:
        began = time.perf_counter()
        month = ""
        recording = Recording(table, self.settings)
        now = recording.start
        while now < recording.end:
            now = next_edge(now, step, self.waiting())
            events, labels = recording.until(now)
            self.now = now
            self.source.push("events", events)
            self.source.push("labels", labels)
            self.settle()
            if bootstrap_at is not None and now >= bootstrap_at:
                with transaction(self.engine) as connection:
                    streams.add_trigger(
                        connection, self.name, "manual", "bootstrap", {"full": True}, "backtest"
                    )
                bootstrap_at = None
                self.settle()
            if progress is not None and f"{now:%Y-%m}" != month:
                month = f"{now:%Y-%m}"
                progress(f"{month}: {self.summary()}")
        return self.result(time.perf_counter() - began)

    def settle(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(TURNS):
            moved = self.loop.turn()
            moved |= self.scorer.step() > 0
            if not (self.work() or moved):
                return
        raise Permanent(f"stream {self.name} does not come to rest at {self.now}")

    def work(self) -> bool:
        """Do one job, if there is one."""
        with reading(self.engine) as connection:
            if not queue.waiting(connection):
                return False
        with transaction(self.engine) as connection:
            job = queue.claim(connection, "backtest", LEASE)
        if job is None:
            return False
        cpu = time.process_time()
        try:
            outcome = run(job, self.bench, NoControl())
        except CLSError as error:
            if job.input.parent is None and not isinstance(error, BadData):
                raise  # no first model, now or later
            with transaction(self.engine) as connection:
                queue.fail(connection, job, str(error), queue.Limits(), permanent=True)
        else:
            with transaction(self.engine) as connection:
                publish(connection, job, outcome)
        if job.input.parent is not None:
            self.cpu_seconds += time.process_time() - cpu
        return True

    def waiting(self) -> list[datetime]:
        """Return when the rollouts that wait for their stream time take effect."""
        with reading(self.engine) as connection:
            rollouts = versions.rollouts_in(connection, self.name, RolloutState.WAITING)
        return [rollout.effective_at for rollout in rollouts]

    def summary(self) -> str:
        """Return where the stream is, in a line."""
        with reading(self.engine) as connection:
            champion = versions.champion(connection, self.name)
            events = log_store.next_position(connection, self.name, "events")
        return f"{events} events, champion {champion.version if champion else '-'}"

    def result(self, seconds: float) -> BacktestResult:
        """Gather what happened."""
        with reading(self.engine) as connection:
            rows = log_store.next_position(connection, self.name, "events")
            labels = log_store.next_position(connection, self.name, "labels")
            jobs = job_rows.listing(connection, self.name, limit=10**6)[::-1]
            alarms = len(drift_store.list_episodes(connection, self.name, limit=10**6))
            promotions = versions.list_promotions(connection, self.name)
        first = [job for job in jobs if job.input["parent"] is None]
        later = [job for job in jobs if job.input["parent"] is not None]
        scored = self.prequential(labels)
        return BacktestResult(
            rows=rows,
            labels=labels,
            mean_loss=float(scored.loss.mean()) if len(scored.loss) else float("nan"),
            by_month=by_month(scored),
            updates=[_update(job) for job in jobs if job.kind == JobKind.UPDATE],
            alarms=alarms,
            promotions=[
                {"at": row.at.isoformat(), "version": row.version, "since": row.since, "reason": row.reason}
                for row in promotions
            ],
            passes=sum(job.passes or 0.0 for job in later),
            charged_seconds=sum(job.charged_seconds or 0.0 for job in later),
            bootstrap_passes=sum(job.passes or 0.0 for job in first),
            cpu_seconds=self.cpu_seconds,
            seconds=seconds,
            prequential=scored,
        )

    def prequential(self, labels: int) -> Prequential:
        """Return the loss of every labelled row that a champion served."""
        labelled = self.log.labelled(self.name, 0, labels)
        if len(labelled) == 0:
            none = np.empty(0, np.int64)
            return Prequential(none, np.empty(0), none, none)
        low, high = int(labelled.position.min()), int(labelled.position.max()) + 1
        with reading(self.engine) as connection:
            high = min(high, int(streams.position(connection, self.name, "score") or 0))
        predictions = self.log.predictions(self.name, low, high)
        known = labelled.position < high
        position = labelled.position[known]
        prediction = predictions.prediction[position - low]
        target = labelled.target[known]
        if self.settings.task == "regression":
            loss = np.abs(prediction - target)
        else:
            loss = np.where(np.isfinite(prediction), (prediction != target).astype(float), np.nan)
        served = np.isfinite(loss)
        order = np.argsort(position[served], kind="stable")
        return Prequential(
            labelled.time_us[known][served][order],
            loss[served][order],
            predictions.version[position - low][served][order],
            position[served][order],
        )


def by_month(scored: Prequential) -> dict[str, float]:
    """Return the mean loss by calendar month (UTC)."""
    months = (scored.time_us.astype("datetime64[us]")).astype("datetime64[M]")
    return {str(month): float(scored.loss[months == month].mean()) for month in np.unique(months)}


def _update(job: Any) -> Json:
    result = job.result or {}
    return {
        "job": job.id,
        "at": job.decided_at.isoformat(),
        "strategy": job.input["strategy"],
        "reason": job.input["reason"],
        "state": job.state,
        "gate": (result.get("gate") or {}).get("verdict"),
        "version": result.get("version"),
        "train_rows": result.get("train_rows"),
        "passes": job.passes,
        "charged_seconds": job.charged_seconds,
        "error": job.error,
    }
