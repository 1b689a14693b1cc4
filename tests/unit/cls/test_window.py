"""Windows: counts of events do not depend on how the events come, and no event is in two windows or in none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cls.domain import Window
from cls.ports import Events
from cls.times import from_us
from cls.window import fill
from detectors.columns import Categorical
from detectors.profile import Profile, build_profile

ROWS = 60
rng = np.random.default_rng(5)
REFERENCE = build_profile(
    {"x": rng.normal(size=400), "c": Categorical.of(rng.choice(["a", "b"], 400).tolist())}, bins=4
)
BASELINE = build_profile({"x": rng.normal(2, 1, 400)}, bins=3)
OTHER = build_profile({"x": rng.normal(1, 2, 300), "c": Categorical.of(["b", "d"] * 150)}, bins=7)

Rows = st.lists(
    st.tuples(
        st.floats(-4, 4) | st.just(float("nan")),
        st.sampled_from(["a", "b", "unseen", None]),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=ROWS,
)


def events(rows: list[tuple[float, str | None, int]], start: int = 0) -> Events:
    n = len(rows)
    return Events(
        {"x": np.array([x for x, _, _ in rows]), "c": Categorical.of([c for _, c, _ in rows])},
        np.arange(start, start + n),
        np.array([t for _, _, t in rows], np.int64),
        np.zeros(n, np.int8),
        np.full(n, np.nan),
        np.zeros(n, np.int64),
    )


def flat(window: Window) -> tuple[object, ...]:
    return (
        window.start,
        window.stop,
        window.time_from,
        window.time_to,
        window.counts.tolist(),
        window.baseline_counts.tolist(),
    )


def fed(
    rows: Events, sizes: list[int], size: int, reference: Profile = REFERENCE
) -> tuple[list[Window], Window | None]:
    closed: list[Window] = []
    window: Window | None = None
    start = 0
    for part in [*sizes, len(rows)]:
        done, window = fill(window, rows.take(slice(start, start + part)), reference, BASELINE, size)
        closed += done
        start += part
    return closed, window


@given(Rows, st.lists(st.integers(0, 20), max_size=8), st.integers(1, 25), st.integers(0, 1000))
def test_how_events_are_cut_into_batches_changes_no_window(
    rows: list[tuple[float, str | None, int]], sizes: list[int], size: int, start: int
) -> None:
    whole, rest = fed(events(rows, start), [], size)
    parts, open_ = fed(events(rows, start), sizes, size)
    assert [flat(window) for window in parts] == [flat(window) for window in whole]
    assert (open_ is None) == (rest is None)
    if open_ is not None and rest is not None:
        assert flat(open_) == flat(rest)


@given(Rows, st.integers(1, 25), st.integers(0, 1000))
def test_windows_partition_the_positions_and_count_every_event_once(
    rows: list[tuple[float, str | None, int]], size: int, start: int
) -> None:
    closed, open_ = fed(events(rows, start), [7, 1, 3], size)
    windows = closed + ([open_] if open_ else [])
    assert (windows[0].start, windows[-1].stop) == (start, start + len(rows))
    assert all(one.stop == other.start for one, other in pairwise(windows))
    assert all(window.stop - window.start == size for window in closed)
    assert open_ is None or open_.stop - open_.start < size
    for window in windows:
        mine = rows[window.start - start : window.stop - start]
        assert window.time_from == from_us(min(t for _, _, t in mine))
        assert window.time_to == from_us(max(t for _, _, t in mine))
        for profile, counts in ((REFERENCE, window.counts), (BASELINE, window.baseline_counts)):
            assert np.array_equal(counts, profile.count(events(mine).columns))
            assert all(part.sum() == len(mine) for part in profile.split(counts))


@given(Rows, st.integers(1, 59))
def test_a_recount_on_a_new_reference_equals_counting_from_scratch(
    rows: list[tuple[float, str | None, int]], cut: int
) -> None:
    """A promotion in the middle of a window: what was counted is counted anew, what follows goes on from there."""
    size, whole = ROWS + 1, events(rows)
    first = whole.take(slice(0, cut))
    recounted = fill(None, first, OTHER, BASELINE, size + 1)[1]
    _, open_ = fill(recounted, whole.take(slice(cut, None)), OTHER, BASELINE, size)
    scratch = fill(None, whole, OTHER, BASELINE, size)[1]
    assert open_ is not None
    assert scratch is not None
    assert flat(open_) == flat(scratch)
    assert np.array_equal(open_.counts, OTHER.count(whole.columns))


def test_no_events_change_nothing() -> None:
    window = fill(None, events([(0.0, "a", 5)]), REFERENCE, BASELINE, 10)[1]
    assert fill(window, events([]), REFERENCE, BASELINE, 10) == ([], window)
    assert fill(None, events([]), REFERENCE, BASELINE, 10) == ([], None)


def test_a_window_that_was_begun_larger_closes_when_windows_become_smaller() -> None:
    rows: list[tuple[float, str | None, int]] = [(0.1 * i, "a", i) for i in range(50)]
    _, begun = fill(None, events(rows[:40]), REFERENCE, BASELINE, 100)
    closed, left = fill(begun, events(rows[40:], 40), REFERENCE, BASELINE, 30)
    assert [(window.start, window.stop) for window in closed] == [(0, 40)]
    assert left is not None
    assert (left.start, left.stop) == (40, 50)
