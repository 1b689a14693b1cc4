"""A stream as the report job and the command line see it: windows judged by the real detector, with a change that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from cls.config import DetectConfig
from cls.detect import input_detector, judge_window
from cls.diagnose import diagnosed
from cls.domain import Job, JobInput, JobKind, Labelled, Verdict, Window
from cls.layout import to_json
from cls.ports import Events, Predictions
from detectors.columns import Categorical, Columns, concat, take
from detectors.profile import Profile
from detectors.reference import Reference
from storage.artifacts import MemoryArtifacts

AT = datetime(2013, 1, 1, tzinfo=UTC)
WINDOW = 500
Make = Callable[[int, np.random.Generator], Columns]


@dataclass
class VerdictRow:
    """A row of the table of verdicts."""

    start: int
    stop: int
    time_from: datetime
    time_to: datetime
    detector: str
    promotion: int | None
    alarm: bool
    p_value: float | None
    nats: float | None
    onset: int
    summary: str
    drift: dict[str, Any] | None
    diagnosis: dict[str, Any] | None


@dataclass
class PromotionRow:
    """A row of the table of promotions."""

    id: int
    version: int
    since: int
    reference: str
    reason: str = ""


class SceneLog:
    """A stream's events; remembers which were asked for."""

    def __init__(self, columns: Columns, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.asked: list[tuple[int, int]] = []

    def events(self, stream: str, start: int, stop: int) -> Events:
        self.asked.append((start, stop))
        stop = min(stop, self.rows)
        rows = max(stop - start, 0)
        zeros = np.zeros(rows, np.int64)
        columns = take(self.columns, slice(start, start + rows))
        position = np.arange(start, start + rows)
        return Events(columns, position, zeros, zeros.astype(np.int8), np.full(rows, np.nan), zeros)

    def predictions(self, stream: str, start: int, stop: int) -> Predictions:
        raise NotImplementedError

    def labels(self, stream: str, start: int, stop: int) -> Any:
        raise NotImplementedError

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        raise NotImplementedError


@dataclass
class Scene:
    """Everything that a report is made of."""

    job: Job
    log: SceneLog
    artifacts: MemoryArtifacts
    profile: Profile
    verdicts: list[VerdictRow]
    promotions: list[PromotionRow]
    found: list[Verdict]  # what the rows were written from


def flights(rows: int, rng: np.random.Generator) -> Columns:
    return {
        "wind": rng.normal(0, 1, rows),
        "carrier": Categorical(rng.integers(-1, 3, rows).astype(np.int32), ("UA", "AA", "DL")),
        "empty": np.full(rows, np.nan),
    }


def changed_flights(rows: int, rng: np.random.Generator) -> Columns:
    columns = flights(rows, rng)
    wind, carrier = columns["wind"], columns["carrier"]
    assert isinstance(carrier, Categorical)
    assert not isinstance(wind, Categorical)
    return {
        **columns,
        "wind": np.where(rng.random(rows) < 0.2, np.nan, wind + 0.5),
        "carrier": Categorical(carrier.codes, ("UA", "American", "DL")),
    }


def make_scene(
    before: Make = flights,
    after: Make = changed_flights,
    *,
    windows: int = 12,
    change: int = 8,
    settings: DetectConfig | None = None,
) -> Scene:
    """Return a stream whose windows are drawn by `after` from one on; its first reference has 3,000 rows."""
    rng = np.random.default_rng(0)
    settings = settings or DetectConfig(watch_outputs=False, tolerance=0)
    reference = Reference(input_detector(settings).profile(before(3000, rng)))
    parts = [before(change * WINDOW, rng), after((windows - change) * WINDOW, rng)]
    columns = concat([part for part, rows in zip(parts, (change, windows - change), strict=True) if rows])
    artifacts = MemoryArtifacts()
    history: list[tuple[int, float]] = []
    found = []
    for k in range(windows):
        verdict = judge(columns, k, reference, settings, history)
        history.append((verdict.start, verdict.nats or 0.0))
        found.append(verdict)
    rows = [verdict_row(verdict) for verdict in found]
    onset = next((row.onset for row in reversed(rows) if row.alarm), change * WINDOW)
    job_input = JobInput(
        "report", 0, 0, windows * WINDOW, None, 0, 1, AT, AT, light=False, reason="alarm", onset=onset
    )
    job = Job(1, "flights", JobKind.REPORT, job_input, 1, "token")
    sha256 = artifacts.put(to_json(reference.to_json()))
    log = SceneLog(columns, windows * WINDOW)
    return Scene(job, log, artifacts, reference.inputs, rows, [PromotionRow(1, 1, 0, sha256)], found)


def judge(
    columns: Columns, k: int, reference: Reference, settings: DetectConfig, history: list[tuple[int, float]]
) -> Verdict:
    part = take(columns, slice(k * WINDOW, (k + 1) * WINDOW))
    counts = reference.inputs.count(part)
    begin = AT + timedelta(days=k)
    window = Window(k * WINDOW, (k + 1) * WINDOW, begin, begin + timedelta(hours=23), counts, counts)
    verdict = judge_window(window, reference.inputs, reference.inputs, settings, history)
    return diagnosed(verdict, window, reference, lambda: part)


def verdict_row(verdict: Verdict, promotion: int = 1) -> VerdictRow:
    return VerdictRow(
        verdict.start,
        verdict.stop,
        verdict.time_from,
        verdict.time_to,
        verdict.detector,
        promotion,
        verdict.alarm,
        verdict.p_value,
        verdict.nats,
        verdict.onset,
        verdict.summary,
        None if verdict.drift is None else verdict.drift.to_json(),
        None if verdict.diagnosis is None else verdict.diagnosis.to_json(),
    )
