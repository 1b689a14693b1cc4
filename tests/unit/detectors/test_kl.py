"""The divergence: closed forms, asymptotics, bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detectors.kl import bias, kl, kl_by_bin, shares

counts = st.lists(st.integers(0, 10**9), min_size=2, max_size=40)


@given(pair=counts.flatmap(lambda c: st.tuples(st.just(c), st.permutations(c))))
def test_finite_and_never_negative_for_all_counts(pair: tuple[list[int], list[int]]) -> None:
    parts = kl_by_bin(*pair)
    assert np.isfinite(parts).all()
    assert (parts >= 0).all()
    assert kl(pair[0], pair[0]) == 0


def test_parts_sum_to_the_textbook_formula() -> None:
    current, reference = [3, 0, 40, 7], [10, 20, 0, 5]
    q, p = shares(current), shares(reference)
    assert np.isclose(kl(current, reference), (q * np.log(q / p)).sum())


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 1.0), (0.0, 1.3), (-0.4, 0.8)])
def test_gaussians_against_the_closed_form(mean: float, scale: float) -> None:
    edges = np.linspace(-6, 6, 600)
    rows = 10**9  # expected counts of a huge sample in fine bins
    masses = [np.diff(d.cdf(edges), prepend=0, append=1) for d in (stats.norm(mean, scale), stats.norm())]
    exact = np.log(1 / scale) + (scale**2 + mean**2) / 2 - 0.5
    assert np.isclose(kl(masses[0] * rows, masses[1] * rows), exact, rtol=1e-3)


def test_scaled_divergence_is_chi_square_and_its_mean_is_the_bias() -> None:
    rng = np.random.default_rng(0)
    bins, n, m = 16, 20_000, 80_000
    masses = rng.dirichlet(np.full(bins, 20))
    nats = kl(rng.multinomial(n, masses, size=4000), rng.multinomial(m, masses, size=4000))
    assert stats.kstest(2 * n * m / (n + m) * nats, stats.chi2(bins - 1).cdf).pvalue > 0.01
    assert np.isclose(nats.mean(), bias(bins, n, m), rtol=0.03)
