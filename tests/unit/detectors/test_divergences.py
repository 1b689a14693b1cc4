"""Divergences: closed forms, the inequalities between them, and parts that add up."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from detectors.bins import NumericBins
from detectors.columns import Categorical, Columns
from detectors.divergences import DIVERGENCES, divergences
from detectors.kl import kl, shares
from detectors.profile import Profile, build_profile

ROWS = 10**9  # smoothing is then beyond the tolerances
SYMMETRIC = ("jeffreys", "psi", "jensen_shannon", "hellinger", "total_variation", "wasserstein", "ks")

Pair = tuple[list[int], list[int]]
count = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 10**12))
pairs = st.integers(2, 40).flatmap(
    lambda bins: st.tuples(*(st.lists(count, min_size=bins, max_size=bins) for _ in range(2)))
)


def value(name: str, current: object, reference: object) -> float:
    return float(DIVERGENCES[name](np.asarray(current), np.asarray(reference)))


def gaussian(mean: float, scale: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected counts between edges, then missing."""
    return np.append(np.diff(stats.norm(mean, scale).cdf(edges), prepend=0, append=1), 0.0) * ROWS


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pair=pairs)
def test_parts_are_finite_and_never_negative_and_equal_counts_have_none(name: str, pair: Pair) -> None:
    parts = DIVERGENCES[name].by_bin(*pair)
    assert parts.shape == (len(pair[0]),)
    assert np.isfinite(parts).all()
    assert (parts >= 0).all()
    assert value(name, *pair) == pytest.approx(parts.sum())
    assert value(name, pair[0], pair[0]) == 0


@given(pair=pairs)
def test_the_classical_inequalities_hold_between_them(pair: Pair) -> None:
    d = {name: value(name, *pair) for name in DIVERGENCES}
    slack = 1e-9
    assert 2 * d["total_variation"] ** 2 <= d["kl"] + slack  # Pinsker
    assert d["jensen_shannon"] <= min(math.log(2), d["total_variation"] * math.log(2)) + slack  # Lin 1991
    assert d["hellinger"] ** 2 <= d["total_variation"] + slack  # Le Cam
    assert d["total_variation"] <= math.sqrt(2) * d["hellinger"] + slack
    assert 2 * d["hellinger"] ** 2 <= d["kl"] + slack
    assert d["kl"] <= math.log1p(d["chi_square"]) + slack  # Jensen
    assert d["kl"] + d["reverse_kl"] == pytest.approx(d["jeffreys"], rel=1e-6, abs=slack)
    assert d["ks"] <= d["total_variation"] + slack
    assert d["ks"] <= d["wasserstein"] + slack


@given(pair=pairs)
def test_symmetric_ones_are_and_the_two_directions_of_kl_mirror_each_other(pair: Pair) -> None:
    for name in SYMMETRIC:
        assert value(name, *pair) == pytest.approx(value(name, *reversed(pair)), rel=1e-9, abs=1e-12)
    assert value("reverse_kl", *pair) == value("kl", *reversed(pair)) == float(kl(*reversed(pair)))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.3), (0.9, 0.05)])
def test_bernoulli_against_the_closed_forms(a: float, b: float) -> None:
    current, reference = np.array([a, 1 - a]) * ROWS, np.array([b, 1 - b]) * ROWS

    def nats(a: float, b: float) -> float:
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    m = (a + b) / 2
    expected = {
        "kl": nats(a, b),
        "reverse_kl": nats(b, a),
        "psi": nats(a, b) + nats(b, a),
        "jensen_shannon": (nats(a, m) + nats(b, m)) / 2,
        "hellinger": math.sqrt(1 - math.sqrt(a * b) - math.sqrt((1 - a) * (1 - b))),
        "total_variation": abs(a - b),
        "chi_square": (a - b) ** 2 / (b * (1 - b)),
    }
    for name, exact in expected.items():
        assert value(name, current, reference) == pytest.approx(exact, rel=1e-6), name


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 1.0), (0.0, 1.3), (-0.4, 0.8)])
def test_fine_bins_of_gaussians_against_the_closed_forms(mean: float, scale: float) -> None:
    edges = np.linspace(-6, 6, 601)
    current, reference = gaussian(mean, scale, edges), gaussian(0, 1, edges)
    forward = -math.log(scale) + (scale**2 + mean**2) / 2 - 0.5
    backward = math.log(scale) + (1 + mean**2) / (2 * scale**2) - 0.5
    affinity = math.sqrt(2 * scale / (1 + scale**2)) * math.exp(-(mean**2) / (4 * (1 + scale**2)))
    assert value("kl", current, reference) == pytest.approx(forward, rel=1e-3)
    assert value("reverse_kl", current, reference) == pytest.approx(backward, rel=1e-3)
    assert value("jeffreys", current, reference) == pytest.approx(forward + backward, rel=1e-3)
    assert value("hellinger", current, reference) == pytest.approx(math.sqrt(1 - affinity), rel=1e-3)
    if scale == 1:
        distance = 2 * stats.norm.cdf(abs(mean) / 2) - 1
        assert value("total_variation", current, reference) == pytest.approx(distance, rel=1e-3)
        assert value("ks", current, reference) == pytest.approx(distance, rel=1e-3)
        assert value("chi_square", current, reference) == pytest.approx(math.expm1(mean**2), rel=1e-3)
        width = edges[1] - edges[0]
        assert value("wasserstein", current, reference) * width == pytest.approx(abs(mean), rel=1e-3)


def test_coarse_bins_never_show_more_than_the_analytic_value() -> None:
    """Data processing: what a histogram forgets cannot add to a divergence."""
    previous = 0.0
    for bins in (2, 4, 8, 16, 64, 256):
        edges = stats.norm.ppf(np.arange(1, bins) / bins)
        found = value("kl", gaussian(0.5, 1, edges), gaussian(0, 1, edges))
        assert previous < found <= 0.125 + 1e-6
        previous = found
    assert previous == pytest.approx(0.125, rel=0.01)


@given(bins=st.integers(3, 30), steps=st.integers(1, 29), seed=st.integers(0, 99))
def test_wasserstein_of_a_shift_is_the_number_of_bins_shifted(bins: int, steps: int, seed: int) -> None:
    steps = min(steps, bins - 1)
    masses = np.random.default_rng(seed).dirichlet(np.ones(bins)) * ROWS
    before = np.concatenate((masses, np.zeros(steps + 1)))
    after = np.concatenate((np.zeros(steps), masses, [0.0]))
    assert value("wasserstein", after, before) == pytest.approx(steps, rel=1e-5)


def test_wasserstein_and_ks_agree_with_scipy_on_the_present_rows() -> None:
    rng = np.random.default_rng(1)
    current, reference = rng.integers(1, 500, 12), rng.integers(1, 500, 12)
    q, p = shares(np.append(current, 10**9))[:-1], shares(np.append(reference, 10**9))[:-1]
    weight = min(q.sum(), p.sum())
    exact = stats.wasserstein_distance(np.arange(12), np.arange(12), q, p)
    missing = abs(q.sum() - p.sum())
    found = value("wasserstein", np.append(current, 10**9), np.append(reference, 10**9))
    assert found == pytest.approx(weight * exact + missing)
    largest = np.abs(np.cumsum(q / q.sum()) - np.cumsum(p / p.sum())).max()
    assert value("ks", np.append(current, 0), np.append(reference, 0)) == pytest.approx(largest, rel=1e-2)


def test_missing_is_a_component_of_its_own_in_ordered_divergences() -> None:
    before, after = np.array([0.4, 0.4, 0.2, 0.0]) * ROWS, np.array([0.3, 0.3, 0.15, 0.25]) * ROWS
    for name in ("wasserstein", "ks"):
        parts = DIVERGENCES[name].by_bin(after, before)
        assert parts == pytest.approx([0, 0, 0, 0.25], abs=1e-6)  # the order of what is there has not changed


def test_ks_lies_below_the_edge_where_it_is_largest() -> None:
    before, after = np.array([10, 10, 10, 10, 0]) * 10**6, np.array([15, 15, 5, 5, 0]) * 10**6
    assert DIVERGENCES["ks"].by_bin(after, before) == pytest.approx([0, 0.25, 0, 0, 0], abs=1e-6)


def test_chi_square_times_the_rows_is_pearsons_statistic() -> None:
    rng = np.random.default_rng(2)
    masses = rng.dirichlet(np.full(10, 20))
    windows = rng.multinomial(20_000, masses, size=4000)
    statistic = 20_000 * DIVERGENCES["chi_square"](windows, masses * ROWS)
    assert stats.kstest(statistic, stats.chi2(9).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", DIVERGENCES)
def test_leading_axes_broadcast(name: str) -> None:
    rng = np.random.default_rng(3)
    windows, reference = rng.integers(0, 50, (3, 4, 7)), rng.integers(0, 500, 7)
    parts = DIVERGENCES[name].by_bin(windows, reference)
    assert parts.shape == (3, 4, 7)
    assert np.array_equal(parts[2, 1], DIVERGENCES[name].by_bin(windows[2, 1], reference))
    assert DIVERGENCES[name](windows, reference).shape == (3, 4)


def reference() -> tuple[Profile, Columns]:
    rng = np.random.default_rng(4)
    columns: Columns = {
        "x": rng.normal(size=4000),
        "c": Categorical.of(rng.choice(["a", "b", "d"], 4000).tolist()),
    }
    return build_profile(columns), columns


def test_a_table_has_every_divergence_of_every_feature_where_it_is_defined() -> None:
    profile, _ = reference()
    window: Columns = {
        "x": np.random.default_rng(5).normal(1.0, size=500),
        "c": Categorical.of(["a"] * 250 + ["e"] * 250),
    }
    x, c = divergences(profile, profile.count(window))
    for name, divergence in DIVERGENCES.items():
        found = x.value(name)
        assert found is not None
        assert found > 0
        assert (c.value(name) is None) == divergence.ordered
    assert c.top_bins("ks", 3) == []
    assert x.labels == profile.features[0].labels()
    (label, before, now, part), *_ = x.top_bins("kl", 3)
    assert label == x.labels[-2]  # a rise: the highest interval gains most
    assert part == pytest.approx(special.kl_div(now, before))
    assert json.loads(json.dumps(c.to_json()))["values"]["wasserstein"] is None


def test_a_window_like_the_reference_has_no_divergence_and_one_of_no_rows_a_finite_one() -> None:
    profile, columns = reference()
    for feature in divergences(profile, profile.count(columns)):
        assert {feature.value(name) for name in DIVERGENCES} <= {0.0, None}
    for feature in divergences(profile, np.zeros_like(profile.counts)):
        values = [feature.value(name) for name in DIVERGENCES]
        assert all(math.isfinite(value) for value in values if value is not None)


def test_only_what_is_asked_for_is_measured_and_counts_must_fit() -> None:
    profile, _ = reference()
    (x, _) = divergences(profile, profile.counts, ("psi",))
    assert list(x.parts) == ["psi"]
    with pytest.raises(KeyError):
        divergences(profile, profile.counts, ("kl2",))
    with pytest.raises(ValueError, match="counts"):
        divergences(profile, profile.counts[:-1])
    assert isinstance(profile.features[0], NumericBins)
