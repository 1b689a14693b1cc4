"""Detect: a window of the reference's own kind is quiet, a moved one names its feature and onset."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from cls.config import DetectConfig
from cls.detect import judge_scores, judge_window, kl_detector
from cls.domain import Champion, Verdict, Window
from detectors.columns import Categorical, Columns
from detectors.profile import Profile

AT = datetime(2013, 1, 1, tzinfo=UTC)
SETTINGS = DetectConfig(window_rows=500, false_alarm_windows=200, bins=8)
DETECTOR = kl_detector(SETTINGS)
CHAMPION = Champion("s", 3, 2, since=1000, promotion=5, reference="0" * 64)


def columns(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Columns:
    x: NDArray[np.float64] = rng.normal(shift, 1, rows)
    return {
        "x": x,
        "z": rng.normal(size=rows),
        "c": Categorical.of(rng.choice(["a", "b", "c"], rows).tolist()),
    }


RNG = np.random.default_rng(11)
REFERENCE = DETECTOR.profile(columns(RNG, 10_000))
BASELINE = DETECTOR.profile(columns(RNG, 10_000, shift=1.0))


def window(rows: Columns, start: int, reference: Profile = REFERENCE) -> Window:
    counts = reference.count(rows)
    return Window(start, start + 500, AT, AT + timedelta(hours=1), counts, BASELINE.count(rows))


def judge(rows: Columns, start: int = 0, history: tuple[tuple[int, float], ...] = ()) -> Verdict:
    return judge_window(window(rows, start), REFERENCE, BASELINE, SETTINGS, history)


def test_a_false_alarm_is_as_rare_as_asked_for() -> None:
    alarms = sum(judge(columns(RNG, 500)).alarm for _ in range(600))
    assert alarms <= 11  # 3 expected; P(more than 11) < 1e-4


def test_a_moved_feature_is_named_with_nats_from_both_references() -> None:
    verdict = judge(columns(RNG, 500, shift=1.0), start=4000)
    assert verdict.alarm
    assert verdict.drift is not None
    assert verdict.drift.features[0].name == "x"
    assert verdict.drift.features[0].share > 0.9
    assert verdict.summary.startswith("x (")
    assert (verdict.start, verdict.stop, verdict.detector) == (4000, 4500, "kl")
    assert verdict.nats is not None
    assert verdict.baseline_nats is not None
    assert verdict.nats > 0.3
    assert verdict.baseline_nats < 0.05  # it has come back to where the stream began
    assert judge(columns(RNG, 500)).summary == "no drift beyond chance"


def test_the_onset_is_the_window_where_the_series_rose() -> None:
    quiet = [(start, 0.002 * (start % 1000 == 0)) for start in range(0, 5000, 500)]
    raised = [(start, 0.35) for start in range(5000, 6500, 500)]
    verdict = judge(columns(RNG, 500, shift=1.0), start=6500, history=(*quiet, *raised))
    assert abs(verdict.onset - 5000) <= 500
    quiet_verdict = judge(columns(RNG, 500), start=6500, history=(*quiet, *raised))
    assert quiet_verdict.onset == 6500  # without an alarm nothing has begun


def test_the_onset_looks_back_over_fifty_windows_only() -> None:
    long_ago = [(start, 0.4) for start in range(0, 50_000, 500)]
    assert judge(columns(RNG, 500, shift=1.0), 50_000, tuple(long_ago)).onset >= 25_000


def panes(*levels: tuple[int, float]) -> list[tuple[int, float]]:
    rng = np.random.default_rng(3)
    series = [max(rng.normal(level, 0.3), 0.0) for count, level in levels for _ in range(count)]
    return list(enumerate(series))


@pytest.mark.parametrize("method", ["adwin", "page_hinkley", "kswin"])
def test_a_risen_error_is_a_verdict_with_positions_counted_from_the_promotion(method: str) -> None:
    settings = DetectConfig.model_validate({"score_method": method, "score_pane_rows": 50})
    series = panes((80, 5.0), (40, 9.0))
    stops = range(1, len(series) + 1)
    found = [v for stop in stops if (v := judge_scores(series[:stop], CHAMPION, settings, AT)) is not None]
    assert found
    first = found[0]
    assert (first.detector, first.alarm, first.p_value, first.drift) == ("score", True, None, None)
    assert (first.start - CHAMPION.since) % 50 == 0
    assert first.stop - first.start == 50
    assert CHAMPION.since + 80 * 50 <= first.start < CHAMPION.since + 120 * 50  # not before it rose
    assert first.onset <= first.start
    assert abs(first.onset - (CHAMPION.since + 80 * 50)) <= 25 * 50
    assert "rose from" in first.summary


def test_steady_and_falling_errors_and_none_at_all_say_nothing() -> None:
    settings = DetectConfig(score_pane_rows=50)
    for series in (panes((100, 5.0)), panes((60, 9.0), (60, 5.0)), []):
        assert all(
            judge_scores(series[:stop], CHAMPION, settings, AT) is None for stop in range(len(series) + 1)
        )
    off = DetectConfig(score_method="none")
    assert judge_scores(panes((80, 5.0), (40, 9.0)), CHAMPION, off, AT) is None
