"""Joint: what dependent features are worth, against closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats

from detectors.joint import dependence_of, effective_number


def quantised(values: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(np.quantile(values, np.arange(1, bins) / bins), values)


def test_independent_features_count_whole_and_identical_ones_once() -> None:
    assert effective_number(np.eye(20), 1e-4) == 20
    assert effective_number(np.ones((20, 20)), 1e-4) == 1
    assert effective_number(np.eye(1), 1e-4) == 1
    assert effective_number(np.eye(0), 1e-4) == 0


def test_two_features_are_worth_what_the_bivariate_normal_says() -> None:
    level, r = 1e-3, 0.7
    both = stats.multivariate_normal(cov=[[1, r], [r, 1]]).cdf([stats.norm.ppf(level)] * 2)
    expected = np.log1p(-(2 * level - both)) / np.log1p(-level)
    assert effective_number(np.array([[1, r], [r, 1]]), level) == pytest.approx(expected, rel=0.01)


def test_dependence_is_the_correlation_of_the_divergences_under_no_drift() -> None:
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(12)).reshape(3, 4)  # of two features with 3 and 4 categories
    cells = rng.choice(12, p=joint.ravel(), size=(4000, 2000))
    a, b = cells // 4, cells % 4
    statistics = [
        [((np.bincount(row, minlength=p.size) - 2000 * p) ** 2 / (2000 * p)).sum() for row in feature]
        for feature, p in ((a, joint.sum(axis=1)), (b, joint.sum(axis=0)))
    ]
    told = dependence_of([a.ravel()[:100_000], b.ravel()[:100_000]], [3, 4])[0, 1]
    assert told == pytest.approx(np.corrcoef(statistics)[0, 1], abs=0.04)


def test_dependence_of_independent_and_equal_features() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=5000)
    bins = [quantised(x, 16), quantised(x, 8), quantised(rng.normal(size=5000), 16)]
    told = dependence_of(bins, [17, 9, 17])
    assert told[0, 1] == pytest.approx(np.sqrt(7 / 15), abs=0.01)  # the coarser says less, but nothing else
    assert told[0, 2] < 0.002
    assert (told == told.T).all()
    assert (np.diag(told) == 1).all()


def test_few_rows_say_nothing() -> None:
    x = np.arange(100) % 4
    assert (dependence_of([x, x], [4, 4]) == np.eye(2)).all()


def test_dependence_is_tschuprow_s_squared_t_of_the_contingency_table() -> None:
    rng = np.random.default_rng(2)
    bins = [rng.integers(3, size=3000), rng.integers(4, size=3000)]
    bins.append((bins[0] + bins[1] + (rng.random(3000) < 0.3)) % 5)
    told = dependence_of(bins, [3, 6, 5])  # two bins are empty
    for a, b, degrees in ((0, 2, 2 * 4), (1, 2, 3 * 4)):
        table = stats.contingency.crosstab(bins[a], bins[b]).count
        phi2 = stats.chi2_contingency(table, correction=False).statistic / 3000
        assert told[a, b] == pytest.approx((phi2 - degrees / 3000) / np.sqrt(degrees), abs=5e-5)
