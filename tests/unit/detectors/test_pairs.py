"""Pairs: changes that no single feature shows are found, those that one shows are left to it."""

import json

import numpy as np
import pytest

from detectors.bins import bins_of
from detectors.columns import Categorical, Column, Columns, concat, take
from detectors.detector import KLDetector
from detectors.pairs import Pairs, build_pairs
from detectors.slabs import LIMIT, plan_pairs, slabs_of

FEATURES = 20
VOCABULARY = ("red", "blue", "green", "grey")


def pairs_of(columns: Columns, *, ordered: bool = False) -> Pairs:
    features = [bins_of(name, column, bins=16, top=32) for name, column in columns.items()]
    return build_pairs(
        features, [bins.count(columns[bins.name]) for bins in features], columns, ordered=ordered
    )


def numbers(rng: np.random.Generator, rows: int, rho: float) -> dict[str, np.ndarray]:
    x = rng.normal(size=(FEATURES, rows))
    x[7] = rho * x[3] + np.sqrt(1 - rho**2) * x[7]
    return {f"x{i}": x[i] for i in range(FEATURES)}


def rotated(rng: np.random.Generator, rows: int, rho: float) -> dict[str, Column]:
    return dict(numbers(rng, rows, rho))


def clusters(rng: np.random.Generator, rows: int, swapped: bool) -> dict[str, Column]:
    columns = rotated(rng, rows, 0.0)
    right = rng.random(rows) < 0.5
    columns["x3"] = rng.normal(np.where(right, 1.5, -1.5))
    columns["x7"] = Categorical((right ^ swapped).astype(np.int32), VOCABULARY)
    return columns


def mixed(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    level = rng.normal(size=rows)
    numbers = level + rng.normal(size=rows)
    numbers[rng.random(rows) < 0.03] = np.nan
    shade = np.minimum(np.abs(level + rng.normal(size=rows)).astype(np.int32), 3)
    return {
        "level": level,
        "numbers": numbers,
        "tied": rng.poisson(np.exp(0.3 * level)).astype(np.float64),
        "shade": Categorical(np.where(rng.random(rows) < 0.02, -1, shade).astype(np.int32), VOCABULARY),
    }


def alarms(pairs: Pairs, counts_PSS: np.ndarray, budget: float) -> bool:
    measured = pairs.compare(counts_PSS)
    return bool(measured.null().p_value(measured.nats_P).min() <= budget / len(pairs.plan))


@pytest.mark.parametrize("change", ["correlation rotated", "labels of two clusters swapped"])
def test_a_change_that_no_feature_shows_is_found_among_twenty(change: str) -> None:
    rng = np.random.default_rng(0)
    if change == "correlation rotated":
        reference, window = rotated(rng, 10_000, 0.6), rotated(rng, 1000, -0.6)
    else:
        reference, window = clusters(rng, 10_000, swapped=False), clusters(rng, 1000, swapped=True)
    detector = KLDetector(false_alarm_windows=1000)
    profile = detector.profile(reference)
    assert not detector.compare(profile, profile.count(window)).alarm
    pairs = pairs_of(reference)
    assert len(pairs.plan) == FEATURES * (FEATURES - 1) // 2
    judgement = pairs.judge(pairs.count(window))
    moved = judgement.p_value_P <= 0.001 / pairs.comparable
    alarming = pairs.tell(pairs.count(window), judgement, moved)
    assert [drift.name for drift in alarming] == ["x3 × x7"]
    assert pairs.tell(pairs.count(window), judgement, ~moved)[0].p_value > alarming[0].p_value
    label, expected, share = alarming[0].top_cells[0]
    assert label.startswith("x3 ")
    assert abs(share - expected) > 0.05


@pytest.mark.parametrize("reference_rows", [1000, 10_000])
def test_false_alarms_of_numeric_tied_and_mixed_pairs_are_as_asked(reference_rows: int) -> None:
    rng = np.random.default_rng(1)
    below = []
    for _ in range(250):
        pairs = pairs_of(mixed(rng, reference_rows))
        for _ in range(2):
            measured = pairs.compare(pairs.count(mixed(rng, 1000)))
            below.append(measured.null().p_value(measured.nats_P) <= 0.02)
    rate_P = np.mean(below, axis=0)
    assert rate_P.mean() == pytest.approx(0.02, abs=0.009)
    assert rate_P.max() <= 0.04


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_features_that_shift_alone_are_not_reported_by_their_pairs(rho: float) -> None:
    rng = np.random.default_rng(2)
    pairs = pairs_of(rotated(rng, 10_000, rho))
    found = []
    for _ in range(100):
        drawn = enumerate(numbers(rng, 1000, rho).items())
        window: dict[str, Column] = {name: column + 0.5 * (i < 10) for i, (name, column) in drawn}
        found.append(alarms(pairs, pairs.count(window), 0.02))
    assert np.mean(found) <= 0.06


def test_a_few_features_pair_all_and_many_at_random_but_each() -> None:
    assert plan_pairs(1) == ()
    assert plan_pairs(3) == ((0, 1), (0, 2), (1, 2))
    for features in (24, 101, 400, 1000):
        plan = plan_pairs(features, seed=3)
        taking_part = np.bincount(np.ravel(plan), minlength=features)
        assert len(set(plan)) == len(plan) == max(LIMIT, features // 2)
        assert all(a < b for a, b in plan)
        assert taking_part.min() >= 1
        assert taking_part.max() - taking_part.min() <= 2
        assert plan == plan_pairs(features, seed=3) != plan_pairs(features, seed=4)


def test_slabs_are_quarters_or_what_ties_and_categories_leave() -> None:
    def slabs(column: Column) -> tuple[str, ...]:
        bins = bins_of("x", column, bins=16, top=32)
        return slabs_of(bins, bins.count(column)).labels()

    even = np.arange(1600.0)
    bins = bins_of("x", even, bins=16, top=32)
    assert slabs_of(bins, bins.count(even)).count(even).tolist() == [400, 400, 400, 400, 0]
    assert slabs(np.repeat([0.0, 1.0], [900, 100])) == ("< 1", ">= 1", "missing")
    assert slabs(np.full(1000, 7.0)) == ("any", "missing")
    assert slabs(Categorical.of(["b"] * 60 + ["a"] * 40)) == ("b", "a", "unseen", "missing")
    assert slabs(Categorical.of(list("abcdefgh") * 10)) == ("a", "b", "c", "d", "e", "other", "missing")


def test_counts_partition_merge_and_equal_the_plain_ones() -> None:
    rng = np.random.default_rng(3)
    reference = mixed(rng, 3000)
    pairs = pairs_of(reference, ordered=True)
    parts = [take(reference, slice(0, 1100)), take(reference, slice(1100, 3000))]
    assert np.array_equal(sum(pairs.count(part) for part in parts), pairs.counts_PSS)
    assert (pairs.counts_PSS.sum(axis=(1, 2)) == 3000).all()
    windows = pairs.count_windows(reference, 700)
    assert windows.shape == (4, *pairs.shape)
    assert np.array_equal(windows[2], pairs.count(take(reference, slice(1400, 2100))))
    for (a, b), table in zip(pairs.plan, pairs.counts_PSS, strict=True):
        first, second = pairs.slabs[a], pairs.slabs[b]
        plain = np.zeros_like(table)
        np.add.at(plain, (first.assign(reference[first.name]), second.assign(reference[second.name])), 1)
        assert np.array_equal(plain, table)
    merged = pairs.merge(Pairs(pairs.slabs, pairs.plan, pairs.count(parts[0]), pairs.dispersion))
    assert np.array_equal(merged.counts_PSS, pairs.count(concat([reference, parts[0]])))
    other = pairs_of(mixed(rng, 3000))
    with pytest.raises(ValueError, match="same slabs"):
        pairs.merge(other)


def test_json_is_exact() -> None:
    pairs = pairs_of(mixed(np.random.default_rng(4), 2000), ordered=True)
    read = Pairs.from_json(json.loads(json.dumps(pairs.to_json())))
    assert (read.slabs, read.plan, read.dispersion) == (pairs.slabs, pairs.plan, pairs.dispersion)
    assert np.array_equal(read.counts_PSS, pairs.counts_PSS)


def test_gaps_unseen_categories_absent_columns_and_no_rows_stay_finite() -> None:
    rng = np.random.default_rng(5)
    pairs = pairs_of(mixed(rng, 2000))
    window = mixed(rng, 500)
    strange: list[Columns] = [
        {**window, "level": np.full(500, np.nan)},
        {**window, "numbers": np.tile([np.inf, -np.inf, np.nan, 1e308, -1e308], 100)},
        {**window, "shade": Categorical.of(["mauve"] * 500)},
        {"level": window["level"]},
        take(window, slice(0, 0)),
        take(window, slice(0, 1)),
    ]
    for columns in strange:
        counts = pairs.count(columns)
        judgement = pairs.judge(counts, tolerance=0.01)
        assert np.isfinite([judgement.nats_P, judgement.excess_P]).all()
        assert ((judgement.p_value_P >= 0) & (judgement.p_value_P <= 1)).all()
        pairs.tell(counts, judgement, np.ones(len(pairs.plan), dtype=np.bool_))


def gaussian(rng: np.random.Generator, rows: int, rho: float) -> dict[str, np.ndarray]:
    x = rng.normal(size=rows)
    return {"x": x, "y": rho * x + np.sqrt(1 - rho**2) * rng.normal(size=rows)}


def test_pairs_that_moved_by_no_more_than_the_tolerance_alarm_as_often_as_asked() -> None:
    rng = np.random.default_rng(6)
    pairs = pairs_of(gaussian(rng, 200_000, 0.0))
    tolerance = float(pairs.compare(pairs.count(gaussian(rng, 2_000_000, 0.15))).nats_P[0])
    windows = pairs.count_windows(gaussian(rng, 2_000_000, 0.15), 1000)
    p_value = np.array([pairs.judge(window, tolerance=tolerance).p_value_P[0] for window in windows])
    assert (p_value <= 0.05).mean() == pytest.approx(0.05, abs=0.015)
    strict = np.array([pairs.judge(window).p_value_P[0] for window in windows])
    assert (strict <= 0.05).mean() > 0.4


def test_a_pair_without_two_slabs_counts_for_nothing() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=1000)
    assert pairs_of({"x": x, "y": x[::-1].copy(), "one": np.full(1000, 7.0)}).comparable == 1
    assert pairs_of({"x": x}).comparable == 0
