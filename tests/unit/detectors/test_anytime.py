"""The anytime-valid interval: its error holds for whoever looks after every row."""

import math

import numpy as np
import pytest

from detectors.anytime import MINIMUM_ROWS, Paired, excess, interval


def test_statistics_do_not_depend_on_the_batches() -> None:
    differences = np.random.default_rng(0).normal(size=100)
    whole, parts = Paired().add(differences), Paired().add(differences[:37]).add(differences[37:])
    assert parts.n == whole.n
    assert parts.mean == pytest.approx(differences.mean())
    assert parts.variance == pytest.approx(differences.var(ddof=1))


@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
def test_coverage_under_optional_stopping(kind: str) -> None:
    rng = np.random.default_rng(0)
    paths, rows, alpha = 300, 1500, 0.1
    draws, mean = {
        "normal": (rng.normal(0.3, 1, size=(paths, rows)), 0.3),
        "heavy": (rng.standard_t(4, size=(paths, rows)), 0.0),
        "skewed": (rng.exponential(size=(paths, rows)), 1.0),
    }[kind]
    total, squares = np.cumsum(draws, axis=1), np.cumsum(draws**2, axis=1)
    looks = [*range(MINIMUM_ROWS, 200), *range(200, rows, 10)]

    def misses(path: int) -> bool:
        ends = (interval(Paired(n, total[path, n - 1], squares[path, n - 1]), alpha) for n in looks)
        return any(not low <= mean <= high for low, high in ends)

    assert np.mean([misses(path) for path in range(paths)]) <= alpha


def test_a_fixed_horizon_interval_would_not_cover() -> None:
    # The reason for all this: looking after every row with 1.96 standard errors misses far more than 5%.
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(500, 1500))
    n = np.arange(1, 1501)
    z = np.abs(np.cumsum(draws, axis=1)) / np.sqrt(n)
    assert (z[:, MINIMUM_ROWS:] > 1.96).any(axis=1).mean() > 0.2


def test_interval_shrinks_around_the_mean_and_is_tightest_near_its_tuning() -> None:
    def width(n: int, tuning_n: int) -> float:
        low, high = interval(Paired(n, 0.2 * n, 1.04 * n), tuning_n=tuning_n)
        assert (low + high) / 2 == pytest.approx(0.2)
        return high - low

    assert width(10_000, 500) < width(1000, 500) < width(100, 500)
    assert width(500, 500) < min(width(500, 30), width(500, 20_000))


def test_says_nothing_without_evidence() -> None:
    assert interval(Paired()) == (-math.inf, math.inf)
    assert interval(Paired().add(np.arange(MINIMUM_ROWS - 1))) == (-math.inf, math.inf)
    assert interval(Paired().add(np.zeros(1000))) == (-math.inf, math.inf)
    assert interval(Paired().add(np.full(1000, 0.1))) == (-math.inf, math.inf)


def test_faults() -> None:
    with pytest.raises(ValueError, match="finite"):
        Paired().add([1.0, math.nan])
    with pytest.raises(ValueError, match="alpha"):
        interval(Paired(), alpha=1.5)
    with pytest.raises(ValueError, match="tuning_n"):
        interval(Paired(), tuning_n=0)


def test_dependence_counts_like_fewer_rows_but_not_against_a_mean_that_is_sure() -> None:
    one, four = Paired(1000, 100.0, 1000.0), Paired(1000, 100.0, 1000.0, dependence=4.0)
    low, high = interval(one)
    wide = interval(four)
    assert wide[1] - wide[0] == pytest.approx(2 * (high - low))
    assert excess(four, 0.01) < excess(one, 0.01)
    assert excess(Paired(1000, 1000.0, 1000.0, dependence=4.0), 0.01) == excess(
        Paired(1000, 1000.0, 1000.0), 0.01
    )
