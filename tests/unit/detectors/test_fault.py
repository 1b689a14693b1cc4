"""What a profile says about values that it no longer has, and where in a window a feature moved."""

import numpy as np
import pytest

from detectors.bins import NumericBins
from detectors.fault import Case, Reference, step_of
from detectors.profile import build_profile
from detectors.segment import moved_rows
from detectors.units import AFFINE, SCALES


def reference_of(values: np.ndarray) -> Reference:
    profile = build_profile({"x": values})
    (bins,) = profile.features
    assert isinstance(bins, NumericBins)
    return Reference.of(bins, profile.counts)


def test_edges_tell_how_often_values_repeat_at_most() -> None:
    rng = np.random.default_rng(0)
    once = rng.normal(size=20_000)
    assert reference_of(once).repeats == pytest.approx(1 - 0.001 ** (1 / 15))
    covered = sum(reference_of(np.repeat(rng.normal(size=5000), 4)).repeats >= 0.75 for _ in range(100))
    assert covered >= 98  # a bound of 99.9% credibility
    assert reference_of(np.round(once)).repeats == 1.0


def test_levels_are_the_exact_shares_below_the_edges() -> None:
    values = np.random.default_rng(1).lognormal(size=5000)
    reference = reference_of(values)
    np.testing.assert_array_equal(reference.levels, [(values < edge).mean() for edge in reference.edges])
    assert reference.one_sign() == 1
    assert reference_of(-values).one_sign() == -1
    assert reference_of(values - 1).one_sign() == 0


def test_the_step_is_the_coarsest_that_all_values_fit() -> None:
    rng = np.random.default_rng(2)
    for step in (0.01, 0.25, 1.0, 50.0):
        assert step_of((rng.integers(-900, 900, 500) * step).astype(np.float64)) == step
    assert step_of(np.float32(0.1) * rng.integers(1, 99, 500).astype(np.float64)) == 0.1  # single precision
    assert step_of(rng.normal(size=500)) == 0.0


def test_a_bound_of_a_bin_is_exceeded_once_in_a_thousand() -> None:
    rng = np.random.default_rng(3)
    exceeded = 0
    for _ in range(4000):
        counts = rng.multinomial(2000, [0.9, 0.06, 0.04, 0.0])
        case = Case(NumericBins("x", (0.0, 1.0)), counts, np.zeros(0))
        exceeded += case.at_most(1) < 0.06
    assert exceeded <= 14  # 4 expected


def test_chances_are_binomial_and_count_independent_rows() -> None:
    case = Case(NumericBins("x", (0.0,)), np.array([50, 50, 0]), np.zeros(20))
    assert case.more_than(15, 0.5) == pytest.approx(0.0206947327)
    assert case.fewer_than(5, 0.5) == pytest.approx(0.0206947327)
    dependent = Case(case.bins, case.reference, np.zeros(40), effect=2.0)
    assert dependent.more_than(30, 0.5) == pytest.approx(case.more_than(15, 0.5))


def test_rows_that_moved_are_found_and_a_window_that_moved_as_a_whole_is_kept_whole() -> None:
    rng = np.random.default_rng(4)
    bins = NumericBins.of("x", rng.normal(size=20_000), 16)
    reference_K = bins.count(rng.normal(size=20_000))
    whole, late = 0, []
    for _ in range(100):
        x = rng.normal(size=1000)
        whole += moved_rows(bins.assign(x + 0.7), reference_K) == slice(0, 1000)
        x[600:] += 1.5
        late.append(moved_rows(bins.assign(x), reference_K).start)
    assert whole >= 97
    assert np.median(np.abs(np.array(late) - 600)) <= 16


def test_every_change_of_units_has_its_way_back() -> None:
    for factor, offset in ((c.factor, c.offset) for c in (*SCALES, *AFFINE)):
        assert any(
            b.factor == pytest.approx(1 / factor) and b.offset == pytest.approx(-offset / factor)
            for b in (*SCALES, *AFFINE)
        )


def test_missing_rows_take_no_part_in_a_move() -> None:
    counts = np.array([10, 10, 80])
    assert Case(NumericBins("x", (0.0,)), np.array([50, 50, 0]), np.zeros(0)).excess(counts) == 0.0
