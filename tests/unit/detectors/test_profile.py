"""Profiles: bins partition whatever a column can hold, and counts add."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from detectors.bins import RARE, CategoricalBins, NumericBins
from detectors.columns import Categorical, Columns, take
from detectors.profile import Profile, build_profile, recount

anything = st_numpy.arrays(
    np.float64, st.integers(0, 60), elements=st.floats(allow_nan=True, allow_infinity=True)
)


@settings(max_examples=150, deadline=None)
@given(reference=anything, window=anything, bins=st.integers(2, 20))
def test_numeric_bins_partition_every_float(reference: np.ndarray, window: np.ndarray, bins: int) -> None:
    feature = NumericBins.of("x", reference, bins)
    assert all(low < high for low, high in zip(feature.edges[:-1], feature.edges[1:], strict=True))
    assert len(feature.labels()) == len(set(feature.labels())) == feature.size <= bins + 3
    counts = feature.count(window)
    assert counts.shape == (feature.size,)
    assert counts.sum() == window.size
    assert counts[-1] == np.count_nonzero(~np.isfinite(window))


def test_quantile_bins_of_a_continuous_column_hold_equal_counts() -> None:
    column = np.random.default_rng(0).normal(size=1600)
    counts = NumericBins.of("x", column, 16).count(column)
    assert counts.tolist() == [100] * 16 + [0]


def test_interval_is_closed_below() -> None:
    feature = NumericBins("x", (1.5, 2.0))
    assert feature.count(np.array([1.4, 1.5, 1.9, 2.0, np.nan])).tolist() == [1, 2, 1, 1]
    assert feature.labels() == ("< 1.5", "[1.5, 2)", ">= 2", "missing")


def test_a_constant_has_somewhere_to_go_on_either_side() -> None:
    feature = NumericBins.of("x", np.full(50, 7.0), 16)
    assert feature.labels() == ("< 7", "= 7", "> 7", "missing")
    assert feature.count(np.array([6.9, 7.0, 7.1, np.inf])).tolist() == [1, 1, 1, 1]


def test_integers_and_heavy_ties_keep_distinct_bins() -> None:
    column = np.repeat([0.0, 1.0, 2.0], [900, 60, 40])
    feature = NumericBins.of("x", column, 16)
    assert feature.count(column).sum() == 1000
    assert feature.count(np.array([0.0, -1.0, 99.0])).max() == 1


def test_categories_keep_the_frequent_ones_and_name_the_rest_honestly() -> None:
    reference = Categorical.of(["b"] * 9 + ["a"] * 9 + ["c"] * 6 + ["rare"] * (RARE - 1) + [None])
    feature = CategoricalBins.of("x", reference, 32)
    assert feature.labels() == ("a", "b", "c", "other", "missing")
    assert feature.count(reference).tolist() == [9, 9, 6, RARE - 1, 1]
    known = CategoricalBins.of("x", Categorical.of(["b"] * 9 + ["a"] * 9), 32)
    assert known.labels() == ("a", "b", "unseen", "missing")
    assert known.count(Categorical.of(["new", "a", None])).tolist() == [1, 0, 1, 1]
    top = CategoricalBins.of("x", reference, 2)
    assert (top.categories, top.other, top.entry) == (("a", "b"), True, 6)


def test_prior_expects_others_as_often_as_one_row_less_would_have_made() -> None:
    reference = Categorical.of(["a"] * 20 + ["b"] * RARE + ["c"] * RARE + ["d"])
    feature = CategoricalBins.of("x", reference, 32)
    counts = feature.count(reference)
    assert feature.prior(counts).tolist() == [1, 1, 1, 1 + 2 * RARE, 1 / feature.size]


def test_prior_of_order_statistics_is_one_count_in_all() -> None:
    column = np.random.default_rng(0).normal(size=500)
    feature = NumericBins.of("x", column, 16)
    assert math.isclose(feature.prior(feature.count(column)).sum(), 1.0)


def mixed(rng: np.random.Generator, rows: int) -> Columns:
    numbers = rng.normal(size=rows)
    numbers[rng.random(rows) < 0.1] = np.nan
    return {"n": numbers, "s": Categorical(rng.integers(-1, 3, size=rows, dtype=np.int32), ("a", "b", "c"))}


def test_merge_of_partitions_is_the_whole() -> None:
    columns = mixed(np.random.default_rng(1), 900)
    whole = build_profile(columns)
    parts = [
        replace(whole, counts=whole.count(take(columns, part)), rows=300)
        for part in (slice(0, 300), slice(300, 600), slice(600, 900))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.rows == whole.rows
    with pytest.raises(ValueError, match="same bins"):
        whole.merge(build_profile(mixed(np.random.default_rng(2), 900)))


def test_json_round_trips_exactly_and_refuses_another_format() -> None:
    profile = build_profile(mixed(np.random.default_rng(1), 777))
    document = json.loads(json.dumps(profile.to_json()))
    restored = Profile.from_json(document)
    assert restored.to_json() == profile.to_json()
    assert restored.features == profile.features
    with pytest.raises(ValueError, match="format 99"):
        Profile.from_json(document | {"format": 99})
    with pytest.raises(ValueError, match="do not sum"):
        Profile.from_json(document | {"rows": 1})


def test_pairs_are_counted_merged_recounted_and_restored_with_the_features() -> None:
    columns = mixed(np.random.default_rng(1), 900)
    whole = build_profile(columns, pairs=True)
    assert whole.pairs is not None
    assert whole.size == whole.offsets[-1] + whole.pairs.counts_PSS.size
    parts = [take(columns, slice(start, start + 300)) for start in (0, 300, 600)]
    added = np.sum([whole.count(part) for part in parts], axis=0)
    assert (added == whole.count(columns)).all()
    assert (whole.pair_counts(added) == whole.pairs.counts_PSS).all()
    assert (whole.count_windows(columns, 300) == [whole.count(part) for part in parts]).all()
    first, second, third = (recount(whole, part) for part in parts)
    merged = first.merge(second).merge(third)
    assert merged.pairs is not None
    assert merged.pairs.plan == whole.pairs.plan
    assert (merged.pairs.counts_PSS == whole.pairs.counts_PSS).all()
    restored = Profile.from_json(json.loads(json.dumps(whole.to_json())))
    assert restored.to_json() == whole.to_json()
    with pytest.raises(ValueError, match="same bins"):
        whole.merge(build_profile(columns))
    with pytest.raises(ValueError, match="of a pair do not sum"):
        replace(whole, pairs=first.pairs)


def test_a_document_without_pairs_still_reads() -> None:
    profile = build_profile(mixed(np.random.default_rng(1), 100))
    document = profile.to_json()
    del document["pairs"]
    assert Profile.from_json(document).to_json() == profile.to_json()


def test_absent_column_is_missing_and_a_wrong_kind_is_refused() -> None:
    columns = mixed(np.random.default_rng(1), 100)
    profile = build_profile(columns)
    _, strings = profile.split(profile.count({"n": columns["n"], "new": np.zeros(100)}))
    assert strings.tolist() == [0] * (strings.size - 1) + [100]
    with pytest.raises(TypeError, match="categorical in the reference"):
        profile.count({"n": columns["n"], "s": np.zeros(100)})


def test_views_add_up_to_the_flat_counts() -> None:
    profile = build_profile(mixed(np.random.default_rng(1), 100))
    views = profile.split(profile.counts)
    assert [view.size for view in views] == np.diff(profile.offsets).tolist()
    assert np.concatenate(views).tolist() == profile.counts.tolist()
    with pytest.raises(ValueError, match="expected"):
        profile.split(profile.counts[:-1])


@pytest.mark.parametrize("window_rows", [1, 7, 250])
def test_windows_counted_at_once_are_the_windows_counted_one_by_one(window_rows: int) -> None:
    row = np.arange(1000)
    values = np.where(row % 17 == 0, np.inf, np.random.default_rng(2).normal(size=1000))
    columns = {**mixed(np.random.default_rng(1), 1000), "v": np.where(row % 13 == 0, 0.25, values)}
    profile = build_profile({**columns, "absent": np.arange(1000.0)}, bins=200)
    counts = profile.count_windows(columns, window_rows)
    one_by_one = [
        profile.count(take(columns, slice(start, start + window_rows)))
        for start in range(0, 1000 - window_rows + 1, window_rows)
    ]
    assert (counts == one_by_one).all()
    with pytest.raises(ValueError, match="window_rows"):
        profile.count_windows(columns, 0)


def hours(values: np.ndarray) -> Categorical:
    return Categorical.of([str(value) for value in values])


def test_a_window_is_expected_to_look_like_its_seasons() -> None:
    hour = np.arange(2400) % 24
    profile = build_profile({"x": np.where(hour < 12, 1.0, 0.0), "hour": hours(hour)}, bins=2, season="hour")
    assert [feature.name for feature in profile.features] == ["x"]
    night = profile.count({"x": np.ones(30), "hour": hours(np.arange(30) % 12)})
    reference, worth = profile.expected(night)
    assert reference / worth == pytest.approx(profile.split(night)[0] / 30)
    assert worth == pytest.approx(1 / np.sum((np.bincount(np.arange(30) % 12) / 30) ** 2 / 100))
    whole, rows = profile.expected(profile.count({"x": np.ones(5), "hour": hours(np.full(5, 99))}))
    assert whole / rows == pytest.approx(profile.counts / 2400)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))).to_json() == profile.to_json()
    assert profile.merge(profile).expected(night)[1] == pytest.approx(2 * worth)


def test_the_season_must_be_a_categorical_column() -> None:
    with pytest.raises(ValueError, match="'hour' is no categorical column"):
        build_profile({"hour": np.zeros(10)}, season="hour")


def test_further_rows_in_the_bins_of_a_profile_merge_to_the_counts_of_the_whole() -> None:
    rng = np.random.default_rng(12)
    columns: Columns = {
        "x": rng.normal(size=2000),
        "hour": Categorical.of(rng.choice(["00", "12"], 2000).tolist()),
    }
    whole = build_profile(columns, season="hour")
    first, second = (recount(whole, take(columns, part)) for part in (slice(700), slice(700, None)))
    merged = first.merge(second)
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.seasons is not None
    assert whole.seasons is not None
    assert merged.seasons.counts_SK.tolist() == whole.seasons.counts_SK.tolist()
    assert recount(whole, columns).to_json() == whole.to_json()
    assert recount(whole, {"hour": columns["hour"]}).counts[:-1].sum() == 0  # what is not there is missing
