"""Windows: counts of events do not depend on how the events come, and no event is in two windows or in none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cls.config import DetectConfig
from cls.domain import Panes, Window
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


def sized(size: int, slide: int | None = None) -> DetectConfig:
    """Windows smaller than a configuration would take: what is proven does not depend on their size."""
    return DetectConfig.model_construct(window_rows=size, slide_rows=slide)


def left(panes: Panes | None) -> tuple[object, ...] | None:
    if panes is None:
        return None
    arrays = (panes.counts.tolist(), panes.baseline_counts.tolist(), panes.times_us.tolist())
    return (panes.start, panes.stop, panes.pane_rows, *arrays)


def fed(
    rows: Events, sizes: list[int], settings: DetectConfig, reference: Profile = REFERENCE
) -> tuple[list[Window], Panes | None]:
    closed: list[Window] = []
    window: Panes | None = None
    start = 0
    for part in [*sizes, len(rows)]:
        done, window = fill(window, rows.take(slice(start, start + part)), reference, BASELINE, settings)
        closed += done
        start += part
    return closed, window


SLIDES = st.integers(1, 6)
SIZES = st.builds(lambda panes, slide: sized(panes * slide, slide), st.integers(1, 5), SLIDES)
PLAIN = st.builds(sized, st.integers(1, 25))


@given(Rows, st.lists(st.integers(0, 20), max_size=8), SIZES | PLAIN, st.integers(0, 1000))
def test_how_events_are_cut_into_batches_changes_no_window(
    rows: list[tuple[float, str | None, int]], sizes: list[int], settings: DetectConfig, start: int
) -> None:
    whole, rest = fed(events(rows, start), [], settings)
    parts, open_ = fed(events(rows, start), sizes, settings)
    assert [flat(window) for window in parts] == [flat(window) for window in whole]
    assert left(open_) == left(rest)


def counted(window: Window, rows: list[tuple[float, str | None, int]], start: int) -> bool:
    mine = rows[window.start - start : window.stop - start]
    columns = events(mine).columns
    return (
        window.time_from == from_us(min(t for _, _, t in mine))
        and window.time_to == from_us(max(t for _, _, t in mine))
        and np.array_equal(window.counts, REFERENCE.count(columns))
        and np.array_equal(window.baseline_counts, BASELINE.count(columns))
    )


@given(Rows, st.integers(1, 25), st.integers(0, 1000))
def test_windows_partition_the_positions_and_count_every_event_once(
    rows: list[tuple[float, str | None, int]], size: int, start: int
) -> None:
    closed, open_ = fed(events(rows, start), [7, 1, 3], sized(size))
    assert all(window.stop - window.start == size for window in closed)
    assert all(one.stop == other.start for one, other in pairwise(closed))
    assert all(counted(window, rows, start) for window in closed)
    rest = len(rows) % size
    assert (open_ is None) == (rest == 0)
    if open_ is not None:
        assert (open_.start, open_.stop) == (start + len(rows) - rest, start + len(rows))
        assert open_.counts.sum() == rest * len(REFERENCE.features)


@given(Rows, st.integers(1, 5), SLIDES, st.integers(0, 1000))
def test_sliding_windows_close_at_every_pane_and_hold_the_last_rows(
    rows: list[tuple[float, str | None, int]], panes: int, slide: int, start: int
) -> None:
    size = panes * slide
    closed, open_ = fed(events(rows, start), [7, 1, 3], sized(size, slide))
    stops = [start + stop for stop in range(size, len(rows) + 1, slide)]
    assert [window.stop for window in closed] == stops
    assert all(window.stop - window.start == size for window in closed)
    assert all(counted(window, rows, start) for window in closed)
    assert open_ is None or len(open_.counts) <= panes  # memory is bounded by the window


@given(Rows, st.integers(1, 59))
def test_a_recount_on_a_new_reference_equals_counting_from_scratch(
    rows: list[tuple[float, str | None, int]], cut: int
) -> None:
    """A promotion in the middle of a window: what was counted is counted anew, what follows goes on from there."""
    settings, whole = sized(ROWS + 1), events(rows)
    recounted = fill(None, whole.take(slice(0, cut)), OTHER, BASELINE, settings)[1]
    _, open_ = fill(recounted, whole.take(slice(cut, None)), OTHER, BASELINE, settings)
    assert left(open_) == left(fill(None, whole, OTHER, BASELINE, settings)[1])
    assert open_ is not None
    assert np.array_equal(open_.counts[0], OTHER.count(whole.columns))


def test_no_events_change_nothing() -> None:
    window = fill(None, events([(0.0, "a", 5)]), REFERENCE, BASELINE, sized(10))[1]
    assert fill(window, events([]), REFERENCE, BASELINE, sized(10)) == ([], window)
    assert fill(None, events([]), REFERENCE, BASELINE, sized(10)) == ([], None)
