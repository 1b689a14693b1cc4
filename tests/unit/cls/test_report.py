"""Reports: the right ranges, a plot whatever happens, and a page that needs nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import cls.report
from cls.domain import Job, JobInput, JobKind, Labelled, Verdict
from cls.drift_plot import Mark, Point, drift_plot
from cls.ports import Events, Predictions
from cls.report import evidently_report, run_report, to_frame
from detectors.columns import Categorical
from detectors.detector import KLDetector
from storage.artifacts import MemoryArtifacts

AT = datetime(2013, 1, 1, tzinfo=UTC)
PNG = b"\x89PNG\r\n\x1a\n"


def make_events(start: int, stop: int, shift: float = 0.0) -> Events:
    rng = np.random.default_rng(start)
    rows = stop - start
    codes = rng.integers(-1, 2, rows).astype(np.int32)
    return Events(
        {
            "wind": rng.normal(shift, 1, rows),
            "carrier": Categorical(codes, ("UA", "AA")),
            "empty": np.full(rows, np.nan),
        },
        np.arange(start, stop),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int8),
        np.full(rows, np.nan),
        np.zeros(rows, np.int64),
    )


class FakeLog:
    """Events that can be asked for; remembers what was."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def events(self, stream: str, start: int, stop: int) -> Events:
        self.asked.append((start, stop))
        return make_events(start, stop)

    def predictions(self, stream: str, start: int, stop: int) -> Predictions:
        raise NotImplementedError

    def labels(self, stream: str, start: int, stop: int) -> Any:
        raise NotImplementedError

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        raise NotImplementedError


@dataclass
class Promotion:
    version: int
    since: int
    reason: str = ""


def verdicts() -> list[Verdict]:
    detector = KLDetector()
    reference = detector.profile({"wind": make_events(0, 3000).columns["wind"]})
    found = []
    for window in range(12):
        events = make_events(window * 500, (window + 1) * 500, shift=0.0 if window < 8 else 0.5)
        drift = detector.compare(reference, reference.count({"wind": events.columns["wind"]}))
        at = AT + timedelta(days=window)
        found.append(
            Verdict(
                "kl",
                window * 500,
                (window + 1) * 500,
                at,
                at,
                drift.alarm,
                drift.p_value,
                drift.nats,
                None,
                4000,
                drift,
                "",
            )
        )
    return found


JOB = Job(
    1,
    "flights",
    JobKind.REPORT,
    JobInput("report", 0, 0, 6000, None, 0, 1, AT, AT, light=False, reason="alarm", onset=4000),
    1,
    "token",
)


@pytest.fixture
def without_evidently(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise ImportError("No module named 'evidently'")

    monkeypatch.setattr(cls.report, "evidently_report", fail)


@pytest.mark.usefixtures("without_evidently")
def test_the_plot_outlives_evidently() -> None:
    artifacts, log = MemoryArtifacts(), FakeLog()
    result = run_report(
        JOB, log, artifacts, verdicts(), [Promotion(1, 0), Promotion(2, 5000)], reference_rows=3000
    )
    assert set(result["files"]) == {"drift.png"}
    assert artifacts.get(result["files"]["drift.png"]).startswith(PNG)
    assert "evidently" in result["error"]
    assert log.asked == [(1000, 4000), (4000, 6000)]  # reference before the onset, current from it on
    assert result["metrics"]["windows"] == 12
    assert result["metrics"]["alarms"] >= 3
    assert result["metrics"]["reference_rows"] == 3000


@pytest.mark.usefixtures("without_evidently")
def test_nothing_after_the_as_of_is_seen() -> None:
    job = replace(JOB, input=replace(JOB.input, event_to=4000, onset=3000))
    log = FakeLog()
    result = run_report(job, log, MemoryArtifacts(), verdicts(), [], reference_rows=500)
    assert log.asked == [(2500, 3000), (3500, 4000)]
    assert result["metrics"]["windows"] == 8


@pytest.mark.usefixtures("without_evidently")
def test_a_report_without_an_onset_halves_what_there_is() -> None:
    job = replace(JOB, input=replace(JOB.input, event_to=1000, onset=None))
    log = FakeLog()
    run_report(job, log, MemoryArtifacts(), [], [])
    assert log.asked == [(0, 500), (500, 1000)]


def test_plots_of_nothing_and_of_every_kind_of_verdict() -> None:
    score = Point(0, 500, AT, "score", alarm=True, nats=None, p_value=None, drift=None)
    for points in ([], [score], [Point.of(verdicts()[-1]), score]):
        assert drift_plot(points, [Mark(0, "v1")], title="s", onset=0, threshold_nats=0.1).startswith(PNG)


def test_a_verdict_reads_the_same_from_its_row_in_sql() -> None:
    @dataclass
    class Row:
        start: int
        stop: int
        time_to: datetime
        detector: str
        alarm: bool
        p_value: float | None
        nats: float | None
        drift: Any

    verdict = verdicts()[-1]
    assert verdict.drift is not None
    row = Row(
        verdict.start,
        verdict.stop,
        verdict.time_to,
        "kl",
        verdict.alarm,
        verdict.p_value,
        verdict.nats,
        verdict.drift.to_json(),
    )
    assert Point.of(row) == Point.of(verdict)


def test_a_frame_keeps_values_and_what_is_missing() -> None:
    events = make_events(0, 50)
    frame = to_frame(events)
    column = events.columns["carrier"]
    assert isinstance(column, Categorical)
    assert frame["carrier"].isna().tolist() == (column.codes < 0).tolist()
    assert set(frame["carrier"].dropna()) == {"UA", "AA"}
    assert frame["wind"].tolist() == np.asarray(events.columns["wind"]).tolist()


def test_evidently_is_not_asked_about_nothing() -> None:
    frame = to_frame(make_events(0, 10))
    with pytest.raises(ValueError, match="nothing to compare"):
        evidently_report(frame.iloc[:0], frame)
    with pytest.raises(ValueError, match="no column"):
        evidently_report(frame[["empty"]], frame[["empty"]])


@pytest.mark.slow
def test_evidently_makes_one_self_contained_page() -> None:
    page = evidently_report(to_frame(make_events(0, 4000)), to_frame(make_events(4000, 6000, shift=1.0)))
    assert b"wind" in page
    assert b"carrier" in page
    assert len(page) < 20_000_000
    loaded = re.findall(
        rb"<(?:script|link|img|iframe)[^>]{0,300}?(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+", page
    )
    assert loaded == []
