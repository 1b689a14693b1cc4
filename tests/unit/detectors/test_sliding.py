"""A window that slides row by row: the divergence of just these rows, the alarms of the definitions, and the budget that was asked for."""

import tracemalloc

import numpy as np
import pytest

from detectors.columns import Categorical, Column, Columns, concat, take
from detectors.detector import KLDetector
from detectors.judgement import features_worth, judge, sidak
from detectors.kl import kl
from detectors.overlap import looks_of
from detectors.profile import Profile
from detectors.rows import Value
from detectors.sliding import SlidingAlarm, SlidingDetector

VOCABULARY = ("a", "b", "c", "new")


def table(rng: np.random.Generator, rows: int, shift: float = 0.0, gaps: float = 0.05) -> dict[str, Column]:
    holed = rng.normal(size=rows)
    holed[rng.random(rows) < gaps] = np.nan
    letters = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=rows).astype(np.int32) - 1
    return {
        "normal": rng.normal(shift, size=rows),
        "holed": holed,
        "count": rng.poisson(3, size=rows).astype(np.float64),
        "constant": np.full(rows, 4.0),
        "letter": Categorical(letters, VOCABULARY),
    }


def drifting(rng: np.random.Generator) -> Columns:
    """Rows of which each five hundred have another fault."""
    parts: list[Columns] = [
        table(rng, 500),
        table(rng, 500, shift=0.5),
        table(rng, 500, gaps=0.3),
        table(rng, 500) | {"letter": Categorical(rng.integers(4, size=500, dtype=np.int32), VOCABULARY)},
        table(rng, 500) | {"constant": np.full(500, 5.0)},
        table(rng, 500) | {"normal": np.full(500, np.nan)},
    ]
    return concat(parts)


def same(mine: list[SlidingAlarm], other: list[SlidingAlarm]) -> bool:
    return [a.row for a in mine] == [b.row for b in other] and all(
        np.array_equal(a.counts_K, b.counts_K) for a, b in zip(mine, other, strict=True)
    )


def rows_of_values(columns: Columns) -> list[list[Value]]:
    lists = [
        [None if code < 0 else column.vocabulary[code] for code in column.codes]
        if isinstance(column, Categorical)
        else column.tolist()
        for column in columns.values()
    ]
    return [list(row) for row in zip(*lists, strict=True)]


def test_its_divergence_is_that_of_the_last_rows() -> None:
    rng = np.random.default_rng(0)
    detector = SlidingDetector(KLDetector(false_alarm_windows=1e9), window_rows=700)
    profile = detector.detector.profile(table(rng, 3000))
    runner, columns = detector.start(profile), table(rng, 20_000)
    at = 0
    while at < 20_000:
        step = int(rng.integers(1, 900))
        assert not runner.update(take(columns, slice(at, at + step)))
        at = min(at + step, 20_000)
        counts = profile.count(take(columns, slice(max(at - 700, 0), at)))
        assert np.array_equal(runner.counts_K, counts)
        pairs = zip(profile.split(counts), profile.split(profile.counts), strict=True)
        nats = [float(kl(window[:-1], reference[:-1])) for window, reference in pairs]
        assert np.allclose(runner.nats_F, nats, rtol=0, atol=1e-12)


def twin(detector: SlidingDetector, profile: Profile, columns: Columns) -> list[int]:
    """Alarms by the definitions: every window judged as `KLDetector` does, as many looks as they are worth."""
    kl_detector, size = detector.detector, detector.window_rows
    rate = 1 / kl_detector.false_alarm_windows
    one_by_one = profile.count_windows(columns, 1)
    summed = np.concatenate((np.zeros_like(one_by_one[:1]), np.cumsum(one_by_one, axis=0)))
    number = features_worth(profile, rate) * looks_of(profile, size, 1, rate)
    reference_K, worth = profile.expected(summed[-1])
    judged = judge(
        profile, summed[size:] - summed[:-size], reference_K, worth, kl_detector.tolerance, rate / number
    )
    alarm_W = sidak(judged.p_value_WF.min(axis=1), number) <= rate
    alarms, begins = [], 0  # the first row of a window
    while (found := np.flatnonzero(alarm_W[begins:])).size:
        alarms.append(begins + int(found[0]) + size - 1)
        begins = alarms[-1] + 1
    return alarms


@pytest.mark.parametrize(("window_rows", "tolerance"), [(100, 0.0), (100, 0.02), (333, 0.0)])
def test_the_kernel_alarms_where_the_definitions_do(window_rows: int, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    kl_detector = KLDetector(false_alarm_windows=20, tolerance=tolerance)
    detector = SlidingDetector(kl_detector, window_rows)
    profile = kl_detector.profile(table(rng, 2000))
    columns = drifting(rng)
    alarms = detector.start(profile).update(columns)
    assert len(alarms) >= 4
    assert [alarm.row for alarm in alarms] == twin(detector, profile, columns)
    for alarm in alarms:
        window = take(columns, slice(alarm.row + 1 - window_rows, alarm.row + 1))
        assert np.array_equal(alarm.counts_K, profile.count(window))
        assert kl_detector.compare(profile, alarm.counts_K).alarm


def test_any_cut_into_blocks_and_rows_one_by_one_give_the_same_alarms() -> None:
    rng = np.random.default_rng(2)
    detector = SlidingDetector(KLDetector(false_alarm_windows=20), window_rows=120)
    profile = detector.detector.profile(table(rng, 2000))
    columns = drifting(rng)
    whole = detector.start(profile).update(columns)
    assert len(whole) > 3
    for step in (1, 7, 120, 999):
        runner = detector.start(profile)
        cut = [a for at in range(0, 3000, step) for a in runner.update(take(columns, slice(at, at + step)))]
        assert same(cut, whole)
    runner = detector.start(profile)
    rowwise = [alarm for row in rows_of_values(columns) if (alarm := runner.update_row(row)) is not None]
    assert same(rowwise, whole)


def test_a_window_rebuilt_from_its_rows_goes_on_like_the_first_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    detector = SlidingDetector(KLDetector(false_alarm_windows=100), window_rows=300)
    profile = detector.detector.profile(table(rng, 5000))
    first, second = detector.start(profile), detector.start(profile)
    before, after = table(rng, 50_000), drifting(rng)
    quiet = [alarm.row for alarm in first.update(before)]
    since = max(50_000 - 300, quiet[-1] + 1 if quiet else 0)
    second.update(take(before, slice(since, None)))
    assert np.array_equal(first.nats_F, second.nats_F)  # a sum that had gathered rounding would differ
    assert [a.row - 50_000 for a in first.update(after)] == [
        a.row - (50_000 - since) for a in second.update(after)
    ]
    assert np.array_equal(first.nats_F, second.nats_F)


def test_false_alarms_are_as_asked_though_every_row_is_a_look() -> None:
    rng = np.random.default_rng(4)
    detector = SlidingDetector(KLDetector(false_alarm_windows=50), window_rows=200)
    alarms = 0
    for _ in range(40):
        profile = detector.detector.profile({"x": rng.normal(size=20_000)})
        alarms += len(detector.start(profile).update({"x": rng.normal(size=250_000)}))
    assert alarms == pytest.approx(40 * 250_000 / 200 / 50, rel=0.25)  # 1,000


def test_false_alarms_are_as_asked_for_windows_of_four_panes() -> None:
    rng = np.random.default_rng(5)
    kl_detector, size, panes = KLDetector(false_alarm_windows=20), 400, 4
    alarms = windows = 0
    for _ in range(30):
        profile = kl_detector.profile({name: rng.normal(size=20_000) for name in "ab"})
        scan = kl_detector.scan(
            profile, {name: rng.normal(size=200_000) for name in "ab"}, size, size // panes
        )
        number = features_worth(profile, 1 / 20) * looks_of(profile, size, size // panes, 1 / 20)
        alarm_W = sidak(scan.p_value_WF.min(axis=1), number) <= 1 / 20
        at = 0
        while (found := np.flatnonzero(alarm_W[at:])).size:
            alarms += 1
            at += int(found[0]) + panes  # the next window that shares no pane
        windows += 200_000 // size
    assert alarms == pytest.approx(windows / 20, rel=0.25)  # 750


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e300])
def test_bad_values_cannot_blind_it(poison: float) -> None:
    rng = np.random.default_rng(6)
    detector = SlidingDetector(window_rows=500)
    reference, stream = rng.normal(size=5000), rng.normal(size=4000)
    reference[::100] = poison
    stream[::100] = poison
    runner = detector.start(detector.detector.profile({"x": reference}))
    assert not runner.update({"x": stream})
    alarms = runner.update({"x": np.where(np.arange(500) % 100 == 0, poison, rng.normal(1.0, size=500))})
    assert alarms
    assert alarms[0].row < 4300


@pytest.mark.parametrize("fault", ["missing", "gone", "unseen"])
def test_a_column_that_is_missing_gone_or_unseen_is_found_within_few_rows(fault: str) -> None:
    rng = np.random.default_rng(7)
    detector = SlidingDetector(window_rows=500)
    profile = detector.detector.profile(table(rng, 5000))
    runner = detector.start(profile)
    assert not runner.update(table(rng, 3000))
    columns = table(rng, 200)
    if fault == "gone":
        del columns["normal"]
    elif fault == "missing":
        columns["normal"] = np.full(200, np.nan)
    else:
        columns["letter"] = Categorical.of(["sea"] * 200)
    alarms = runner.update(columns)
    assert alarms
    assert alarms[0].row < 3040


def test_references_and_windows_without_rows_or_values_never_alarm_and_never_fail() -> None:
    values = np.resize([1.0, np.nan, np.inf, 3.0], 500)
    for reference in ({}, {"x": np.zeros(0)}, {"x": np.full(100, np.nan)}):
        profile = KLDetector().profile(reference)
        runner = SlidingDetector(window_rows=50).start(profile)
        nothing: Columns = {}
        assert runner.update(nothing) == []
        runner.update({"x": values})
        if profile.rows == 0:
            assert runner.update_row([1.0] * len(reference)) is None
        assert np.isfinite(runner.nats_F).all()


def test_memory_does_not_grow_with_the_stream() -> None:
    rng = np.random.default_rng(8)
    runner = (detector := SlidingDetector(window_rows=300)).start(detector.detector.profile(table(rng, 2000)))
    block = table(rng, 5000)
    runner.update(block)
    tracemalloc.start()
    try:
        runner.update(block)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            runner.update(block)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000


def test_what_has_no_constant_critical_divergence_is_refused() -> None:
    rng = np.random.default_rng(9)
    for detector in (KLDetector(nats=0.1), KLDetector(season="letter")):
        with pytest.raises(ValueError, match="know neither"):
            SlidingDetector(detector)
    with pytest.raises(ValueError, match="know neither"):
        SlidingDetector().start(KLDetector(season="letter").profile(table(rng, 500)))
    with pytest.raises(ValueError, match="positive"):
        SlidingDetector(window_rows=0)


def test_rows_that_do_not_fit_the_reference_are_refused() -> None:
    rng = np.random.default_rng(10)
    detector = SlidingDetector()
    runner = detector.start(detector.detector.profile({"x": rng.normal(size=500)}))
    with pytest.raises(TypeError, match="categorical here"):
        runner.update({"x": Categorical.of(["a"])})
    with pytest.raises(ValueError, match="argument"):
        runner.update_row([1.0, 2.0])
