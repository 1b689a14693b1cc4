"""The harness: what an alarm counts as, what is undefined, and the two detectors that bound all others."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.columns import Columns, rows_of
from detectors.evaluation import (
    Evaluation,
    KnownChange,
    blocks_of,
    combine,
    evaluate,
    judge,
    spans_of,
)
from detectors.monitors import Always, Never
from detectors.streams import Recipe, stream_of

QUIET = stream_of(Recipe(numeric=1), 1000, 0, onset=None)


class At:
    """Alarm at given rows of the stream."""

    def __init__(self, *rows: int) -> None:
        self.rows = rows
        self.seen = 0

    def update(self, columns: Columns) -> Sequence[int]:
        first, self.seen = self.seen, self.seen + rows_of(columns)
        return [row - first for row in self.rows if first <= row < self.seen]


def test_an_alarm_is_a_detection_a_repeat_or_false() -> None:
    found = evaluate(lambda _: At(100, 499, 500, 510, 799, 800), {}, QUIET, [KnownChange(500, 800)])
    assert (found.alarms, found.false_alarms, found.repeats, found.delays) == (6, 3, 2, (1,))
    assert found.quiet_rows == 700
    assert found.rows_between_false_alarms == pytest.approx(700 / 3)
    assert found.alarms_per_10000 == 60


def test_a_change_without_an_end_lasts_until_the_next_or_the_end_of_the_stream() -> None:
    assert spans_of([KnownChange(600), KnownChange(200)], 1000) == [(200, 600), (600, 1000)]
    found = judge([700], 1000, [KnownChange(200), KnownChange(600)])
    assert found.delays == (None, 101)
    assert found.missed == 1
    assert found.mean_delay_rows == found.median_delay_rows == 101


def test_what_was_not_observed_is_none_and_never_a_number() -> None:
    unknown = judge([5], 100, None)
    assert unknown == Evaluation(100, 1)
    assert unknown.alarms_per_10000 == 100
    assert {unknown.missed, unknown.mean_delay_rows, unknown.rows_between_false_alarms_low} == {None}
    silent = judge([], 100, [KnownChange(50)])
    assert (silent.missed, silent.missed_share) == (1, 1.0)
    assert {silent.mean_delay_rows, silent.rows_between_false_alarms, silent.mean_time_ratio} == {None}
    nothing = judge([], 100, [])
    assert {nothing.missed_share, nothing.mean_delay_rows} == {None}
    assert judge([], 0, []).alarms_per_10000 is None
    assert judge([30], 100, [KnownChange(0)]).rows_between_false_alarms_low is None


def test_without_a_false_alarm_the_lower_bound_is_the_rule_of_three() -> None:
    bound = judge([], 3000, []).rows_between_false_alarms_low
    assert bound == pytest.approx(3000 / -np.log(0.05))


def test_the_lower_bound_holds_as_often_as_it_says() -> None:
    """False alarms of a Poisson process with a known mean time between them."""
    rng = np.random.default_rng(0)
    rows, between = 10_000, 2500
    bounds = [
        Evaluation(rows, alarms, rows, alarms, 0).rows_between_false_alarms_low
        for alarms in rng.poisson(rows / between, 2000).tolist()
    ]
    held = np.mean([bound is not None and bound <= between for bound in bounds])
    assert 0.95 <= held < 0.99  # counts are discrete: never less than asked, sometimes more


def test_who_alarms_at_every_row_has_no_delay_no_time_between_and_a_ratio_of_one() -> None:
    found = evaluate(Always, {}, QUIET, [KnownChange(300, 400), KnownChange(600)])
    assert found.delays == (1, 1)
    assert found.rows_between_false_alarms == 1
    assert found.mean_time_ratio == 1
    assert found.alarms_per_10000 == 10_000


def test_who_never_alarms_misses_every_change_and_has_no_ratio() -> None:
    found = evaluate(Never, {}, QUIET, [KnownChange(300, 400), KnownChange(600)])
    assert (found.alarms, found.missed, found.missed_share) == (0, 2, 1.0)
    assert found.mean_time_ratio is None
    assert found.rows_between_false_alarms_low is not None


def test_evaluations_of_parts_combine_to_that_of_the_whole() -> None:
    first = judge([10, 60], 100, [KnownChange(50, 80)])
    second = judge([], 100, [KnownChange(20, 80)])
    whole = judge([10, 60], 200, [KnownChange(50, 80), KnownChange(120, 180)])
    assert combine([first, second]) == whole
    with pytest.raises(ValueError, match="know their changes"):
        combine([first, judge([], 10, None)])


@pytest.mark.parametrize(
    "changes", [[KnownChange(1000)], [KnownChange(0, 1001)], [KnownChange(0, 20), KnownChange(19)]]
)
def test_changes_that_overlap_or_lie_outside_are_refused(changes: list[KnownChange]) -> None:
    with pytest.raises(ValueError, match=r"outside|overlap"):
        judge([], 1000, changes)


@given(
    alarms=st.sets(st.integers(0, 999)),
    onset=st.integers(0, 900),
    length=st.integers(1, 99),
    later=st.integers(0, 30),
)
def test_every_alarm_counts_once(alarms: set[int], onset: int, length: int, later: int) -> None:
    first = KnownChange(onset, onset + length)
    changes = [first] if onset + length + later >= 1000 else [first, KnownChange(onset + length + later)]
    found = judge(sorted(alarms), 1000, changes)
    assert found.false_alarms is not None
    assert found.repeats is not None
    assert found.false_alarms + found.repeats + len(found.detected) == len(alarms)
    assert all(delay >= 1 for delay in found.detected)


def test_a_stream_in_blocks_is_the_whole_stream() -> None:
    whole = evaluate(lambda _: At(3, 700), {}, QUIET, [])
    parts = evaluate(lambda _: At(3, 700), {}, blocks_of(QUIET, 7), [])
    assert whole == parts
