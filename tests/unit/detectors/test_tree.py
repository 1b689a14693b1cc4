"""Cells of a kdq-tree: a partition of equal masses, calibrated as any feature's bins, for what no pair shows."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import signal

from detectors.bins import bins_of
from detectors.columns import Categorical, Column, Columns, concat, take
from detectors.detector import KLDetector
from detectors.pairs import build_pairs
from detectors.tree import TreeBins, count_trees, judge_tree
from detectors.tree_growth import Split

VOCABULARY = ("AA", "UA", "DL", "WN")

anything = st_numpy.arrays(
    np.float64, st.integers(0, 80), elements=st.floats(allow_nan=True, allow_infinity=True)
)


def mixed(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    level = rng.normal(size=rows)
    distance = np.exp(level + rng.normal(size=rows))
    distance[rng.random(rows) < 0.05] = np.nan
    carrier = np.minimum(np.abs(level + rng.normal(size=rows)).astype(np.int32), 3)
    return {
        "distance": distance,
        "stops": rng.poisson(np.exp(0.3 * level)).astype(np.float64),
        "carrier": Categorical(np.where(rng.random(rows) < 0.02, -1, carrier).astype(np.int32), VOCABULARY),
    }


@settings(max_examples=100, deadline=None)
@given(reference=anything, window=anything, cells=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_row_falls_into_one_cell(
    reference: np.ndarray, window: np.ndarray, cells: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tree = TreeBins.of(("a", "b"), {"a": reference, "b": rng.permutation(reference)}, cells)
    columns = {"a": window, "b": rng.permutation(window)}
    counts = tree.count(columns)
    assert counts.sum() == window.size
    assert np.array_equal(counts, np.bincount(tree.assign(columns), minlength=tree.size))
    assert len(set(tree.labels())) == tree.size <= cells + 2
    assert counts[-2] == np.count_nonzero(~np.isfinite(window))
    assert counts[-1] == np.count_nonzero(np.isfinite(columns["a"]) & ~np.isfinite(columns["b"]))
    assert np.array_equal(count_trees([tree], columns, max(window.size, 1)).sum(axis=0), counts)


def test_cells_of_a_continuous_reference_hold_equal_counts() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=3 * 1600)
    columns = {"a": x[:1600], "b": x[:1600] + x[1600:3200], "c": x[3200:]}
    assert TreeBins.of(("a", "b"), columns, 16).count(columns).tolist() == [100] * 16 + [0, 0]
    assert TreeBins.of(("a", "b", "c"), columns, 64).count(columns).tolist() == [25] * 64 + [0, 0, 0]
    assert np.ptp(TreeBins.of(("a", "c"), columns, 10).count(columns)[:10]) <= 1


def test_labels_say_the_conditions_and_unseen_categories_go_with_the_rare_ones() -> None:
    tree = TreeBins(
        ("distance", "carrier"),
        (None, ("AA", "UA", "DL")),
        (Split(0, 512.0, 1, -3), Split(1, 2.0, -1, -2)),
    )
    assert tree.labels() == (
        "distance < 512, carrier in {AA, UA}",
        "distance < 512, carrier not in {AA, UA}",
        "distance >= 512",
        "distance missing",
        "carrier missing",
    )
    columns: Columns = {
        "distance": np.array([1.0, 1.0, 1.0, 512.0, np.nan, np.inf, 2.0]),
        "carrier": Categorical.of(["UA", "DL", "Concorde", "AA", "AA", None, None]),
    }
    assert tree.assign(columns).tolist() == [0, 1, 1, 2, 3, 3, 4]
    assert tree.count({"distance": columns["distance"]}).tolist() == [0, 0, 0, 2, 5]
    with pytest.raises(TypeError, match="carrier"):
        tree.count({**columns, "carrier": np.zeros(7)})


def test_masses_of_cells_are_dirichlet_whatever_the_dependence() -> None:
    # Uniform on the triangle y <= x: the mass of {x < a, y < b} is known, here for two levels of splits.
    rng = np.random.default_rng(1)

    def below(a: float, b: float) -> float:
        return a * a if b >= a else 2 * a * b - b * b

    masses = []
    for _ in range(3000):
        u = np.sort(rng.random((2, 63)), axis=0)
        tree = TreeBins.of(("x", "y"), {"x": u[1], "y": u[0]}, 4)
        root, left, right = tree.splits
        low, under = below(root.cut, left.cut), below(1.0, right.cut) - below(root.cut, right.cut)
        whole = root.cut**2
        masses.append([low, whole - low, under, 1 - whole - under])
    assert np.allclose(np.mean(masses, axis=0), 0.25, atol=1 / 64)
    assert np.allclose(np.var(masses, axis=0), 0.25 * 0.75 / 65, rtol=0.15)


@pytest.mark.parametrize("reference_rows", [1000, 10_000])
@pytest.mark.parametrize(
    "names", [("distance", "stops"), ("stops", "carrier"), ("distance", "stops", "carrier")]
)
def test_false_alarms_are_as_asked(names: tuple[str, ...], reference_rows: int) -> None:
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(40):
        reference = mixed(rng, reference_rows)
        tree = TreeBins.of(names, reference, 16)
        counts = tree.count(reference)
        windows = (tree.count(mixed(rng, 800)) for _ in range(8))
        alarms += [judge_tree(tree, counts, window)[2] <= 0.05 for window in windows]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.03)


def test_counts_merge_and_many_trees_at_once_equal_each_alone() -> None:
    rng = np.random.default_rng(3)
    reference = mixed(rng, 3000)
    trees = [TreeBins.of(names, reference, 16) for names in itertools.combinations(reference, 2)]
    trees += [TreeBins.of(tuple(reference), reference, 100), TreeBins.of(("stops",), reference, 1)]
    window = mixed(rng, 1500)
    parts = [take(window, slice(0, 500)), take(window, slice(500, 1500))]
    for tree in trees:
        assert np.array_equal(sum(tree.count(part) for part in parts), tree.count(concat(parts)))
    together = count_trees(trees, window, 500)
    assert together.shape == (3, sum(tree.size for tree in trees))
    apart = np.concatenate([tree.count(take(window, slice(500, 1000))) for tree in trees])
    assert np.array_equal(together[1], apart)


def test_json_is_exact() -> None:
    tree = TreeBins.of(("distance", "stops", "carrier"), mixed(np.random.default_rng(4), 5000), 64)
    assert TreeBins.from_json(json.loads(json.dumps(tree.to_json()))) == tree


def test_gaps_unseen_categories_and_no_rows_stay_finite() -> None:
    rng = np.random.default_rng(5)
    reference, window = mixed(rng, 2000), mixed(rng, 500)
    tree = TreeBins.of(tuple(reference), reference, 32)
    strange: list[Columns] = [
        {**window, "distance": np.full(500, np.nan)},
        {**window, "stops": np.tile([np.inf, -np.inf, np.nan, 1e308, -1e308], 100)},
        {**window, "carrier": Categorical.of(["Concorde"] * 500)},
        take(window, slice(0, 0)),
        take(window, slice(0, 1)),
    ]
    for columns in strange:
        nats, excess, p_value = judge_tree(tree, tree.count(reference), tree.count(columns))
        assert np.isfinite([nats, excess]).all()
        assert 0 <= p_value <= 1


def test_parity_of_three_features_is_found_where_no_feature_and_no_pair_shows_it() -> None:
    rng = np.random.default_rng(6)

    def draw(rows: int, parity: int) -> dict[str, Column]:
        x = rng.normal(size=(3, rows))
        x[2] = np.abs(x[2]) * np.sign(x[0] * x[1]) * parity
        return dict(zip("abc", x, strict=True))

    reference, window = draw(10_000, 1), draw(1000, -1)
    detector = KLDetector(false_alarm_windows=1000)
    profile = detector.profile(reference)
    assert not detector.compare(profile, profile.count(window)).alarm
    features = [bins_of(name, column, bins=16, top=32) for name, column in reference.items()]
    pairs = build_pairs(features, [bins.count(reference[bins.name]) for bins in features], reference)
    assert pairs.judge(pairs.count(window)).p_value_P.min() > 0.001
    tree = TreeBins.of(("a", "b", "c"), reference, 64)
    assert judge_tree(tree, tree.count(reference), tree.count(window))[2] < 1e-6


def test_a_group_is_watched_as_a_further_feature() -> None:
    rng = np.random.default_rng(7)

    def draw(rows: int, parity: int) -> dict[str, Column]:
        x = rng.normal(size=(3, rows))
        x[2] = np.abs(x[2]) * np.sign(x[0] * x[1]) * parity
        return dict(zip("abc", x, strict=True))

    detector, alarms = KLDetector(false_alarm_windows=50), []
    for _ in range(20):
        reference = draw(1000, 1)
        tree = TreeBins.of(("a", "b", "c"), reference, 28)
        profile = detector.profile({tree.name: tree.column(reference)})
        stream = draw(30_000, 1)
        alarms.append(detector.scan(profile, {tree.name: tree.column(stream)}, 1000).alarm_W.mean())
    assert np.mean(alarms) <= 0.02 + 3 * np.std(alarms) / np.sqrt(20)
    reference, window = draw(1000, 1), draw(1000, -1)
    tree = TreeBins.of(("a", "b", "c"), reference, 28)
    profile = detector.profile({**reference, tree.name: tree.column(reference)})
    drift = detector.compare(profile, profile.count({**window, tree.name: tree.column(window)}))
    assert drift.alarm
    assert drift.features[0].name == "a × b × c"


def test_autocorrelated_rows_alarm_at_most_twice_as_often_as_asked() -> None:
    rng = np.random.default_rng(8)

    def draw(rows: int) -> dict[str, Column]:
        x = signal.lfilter([np.sqrt(1 - 0.6**2)], [1, -0.6], rng.normal(size=(2, rows + 100)), axis=1)
        return dict(zip("ab", x[:, 100:], strict=True))

    aware, naive = [], []
    for _ in range(12):
        reference, stream = draw(10_000), draw(20_000)
        tree = TreeBins.of(("a", "b"), reference, 16)
        counts, effects = tree.count(reference), tree.dispersion(reference)
        for window in count_trees([tree], stream, 1000):
            aware.append(judge_tree(tree, counts, window, effects)[2] <= 0.05)
            naive.append(judge_tree(tree, counts, window)[2] <= 0.05)
    assert np.mean(aware) <= 0.1
    assert np.mean(naive) >= 0.15
