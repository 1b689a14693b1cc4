"""Row watch: an abrupt change is told by event position, however events are cut into batches; a short reference is not trusted."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from scipy import signal

from cls.config import DetectConfig
from cls.detect import input_detector, kl_detector
from cls.domain import RowWatch, Verdict
from cls.ports import Events
from cls.row_watch import follow, sequential_detector
from cls.season import COLUMNS
from cls.settings.rules import LONGEST_RUN
from detectors.detector import KLDetector
from detectors.profile import Profile
from detectors.sequential import SequentialDetector

SETTINGS = DetectConfig(window_rows=100, false_alarm_windows=50, sequential=True)
FIRST = 7000  # event position at which watching begins


def events(x: np.ndarray) -> Events:
    rows = len(x)
    position = np.arange(FIRST, FIRST + rows)
    nothing = np.full(rows, np.nan)
    return Events(
        {"x": x}, position, position * 10**6, np.zeros(rows, np.int8), nothing, np.zeros(rows, np.int64)
    )


def followed(batch: Events, cuts: list[int], reference: Profile) -> tuple[list[Verdict], RowWatch]:
    detector, verdicts = sequential_detector(SETTINGS), []
    watch: RowWatch | None = None
    for start, stop in zip([0, *cuts], [*cuts, len(batch)], strict=True):
        found, watch = follow(watch, batch.take(slice(start, stop)), reference, detector)
        verdicts += found
    assert watch is not None
    return verdicts, watch


def test_a_change_is_told_at_its_position_and_batches_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    reference = KLDetector().profile({"x": rng.normal(size=5000)})
    batch = events(np.concatenate((rng.normal(size=900), rng.normal(1.5, size=100))))
    whole, end = followed(batch, [], reference)
    parts, other = followed(batch, [1, 300, 907, 950], reference)
    assert parts == whole
    assert other.state.to_json() == end.state.to_json()
    verdict = next(v for v in whole if v.start >= FIRST + 900)
    assert verdict.alarm
    assert verdict.start < FIRST + 940
    assert abs(verdict.onset - (FIRST + 900)) < 15
    assert verdict.summary.startswith("x changed at event ")
    assert int(verdict.time_to.timestamp()) == verdict.start


def test_a_reference_that_cannot_keep_the_budget_is_not_watched() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=1000) * np.sqrt(1 - 0.98**2)
    reference = KLDetector().profile({"x": np.asarray(signal.lfilter([1.0], [1.0, -0.98], noise))})
    assert reference.rows_needed
    verdicts, watch = followed(events(rng.normal(9, 1, size=500)), [200], reference)
    assert verdicts == []
    assert watch.position == FIRST + 500


def test_all_that_watches_a_stream_shares_one_budget() -> None:
    assert DetectConfig(watch_outputs=False).watches == 1
    assert DetectConfig(sequential=True).watches == 4
    assert kl_detector(SETTINGS).false_alarm_windows == 4 * 50
    assert sequential_detector(SETTINGS).run_length == 4 * 50 * 100


def test_the_longest_run_that_a_configuration_may_ask_for_can_be_kept() -> None:
    assert SequentialDetector(float(LONGEST_RUN)).run_length == LONGEST_RUN
    with pytest.raises(ValueError, match="run_length"):
        SequentialDetector(LONGEST_RUN * 1.01)


def test_a_budget_of_time_lets_each_window_spend_its_part_of_the_month() -> None:
    settings = DetectConfig(false_alarms_per_month=2, watch_outputs=False)
    hourly = kl_detector(settings, timedelta(hours=1)).false_alarm_windows
    assert hourly == pytest.approx(30 * 24 / 2, rel=0.1)
    assert kl_detector(settings, timedelta(hours=8)).false_alarm_windows == pytest.approx(hourly / 8)
    assert kl_detector(settings, timedelta(days=400)).false_alarm_windows == 2


def test_windows_that_overlap_share_the_level_of_one() -> None:
    reference = KLDetector().profile({"x": np.random.default_rng(0).normal(size=5000)})
    plain = DetectConfig(watch_outputs=False)
    often = DetectConfig(watch_outputs=False, slide_rows=100)
    ratio = (
        input_detector(often, None, reference).false_alarm_windows
        / input_detector(plain, None, reference).false_alarm_windows
    )
    assert 3 < ratio < 10  # ten looks, nearly the same each time


@pytest.mark.parametrize(("season", "column"), [("none", None), ("weekday", COLUMNS["weekday"])])
def test_only_inputs_have_seasons(season: str, column: str | None) -> None:
    settings = DetectConfig.model_validate({"season": season})
    assert input_detector(settings).season == column
    assert kl_detector(settings).season is None
