"""Interaction: silent for whatever two features do alone, as often wrong as asked, equal with and without numba."""

import numpy as np
import pytest
from scipy import signal, special

from detectors.interaction import (
    _measure,
    deviances_numpy,
    dispersion_of_pair,
    fit_numpy,
    homogeneity,
    interaction,
)

EVEN = np.full(4, 0.25)
SKEWED = np.array([0.5, 0.25, 0.15, 0.06, 0.04])
RARE = np.array([0.9, 0.05, 0.03, 0.02])
GAPPED = np.array([0.2475, 0.2475, 0.2475, 0.2475, 0.01])


def correlated(rho: float) -> np.ndarray:
    """Masses of two correlated normal features in quarters."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 400_000))
    edges = special.ndtri([0.25, 0.5, 0.75])
    cell = 4 * np.searchsorted(edges, x) + np.searchsorted(edges, rho * x + np.sqrt(1 - rho**2) * noise)
    return np.asarray(np.bincount(cell, minlength=16).reshape(4, 4) / x.size)


def tables(rng: np.random.Generator, masses: np.ndarray, rows: int, size: int) -> np.ndarray:
    return rng.multinomial(rows, masses.ravel() / masses.sum(), size=size).reshape(size, *masses.shape)


def p_values(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    measured = interaction(window, reference)
    return np.asarray(measured.null().p_value(measured.nats_P))


def test_kernel_equals_numpy_with_empty_cells_slabs_and_samples() -> None:
    rng = np.random.default_rng(0)
    window, reference = rng.poisson(3, size=(2, 200, 5, 6))
    window[:20, 2], reference[10:40, :, 1], window[50:60] = 0, 0, 0
    reference[60:90] *= rng.integers(0, 2, size=(30, 5, 6))
    compiled, plain = interaction(window, reference), _measure(window, reference, fit_numpy, deviances_numpy)
    assert np.array_equal(compiled.degrees_P, plain.degrees_P)
    assert np.allclose(compiled.nats_P, plain.nats_P, rtol=1e-5, atol=1e-9)
    assert np.allclose(compiled.mean_P, plain.mean_P, rtol=1e-4)
    assert np.isfinite(compiled.nats_P).all()
    assert not compiled.nats_P[50:60].any()


def test_reweighting_rows_by_either_feature_is_no_interaction() -> None:
    rng = np.random.default_rng(1)
    reference = rng.integers(1, 50, size=(100, 4, 5))
    window = reference * rng.integers(1, 9, size=(100, 4, 1)) * rng.integers(1, 9, size=(100, 1, 5))
    assert interaction(window, reference).nats_P.max() < 1e-7
    assert homogeneity(window, reference).min() > 0.01


def test_a_large_reference_gives_the_divergence_from_its_i_projection() -> None:
    # [[a, b], [c, d]] raked to even marginals keeps its odds ratio, so that its corner is root / (2 (1 + root)).
    reference = np.array([[[6, 2], [1, 1]]]) * 10**9
    window = np.array([[[250, 250], [250, 250]]])
    root = np.sqrt(6 * 1 / (2 * 1))
    raked = np.array([root, 1, 1, root]) / (2 * (1 + root))
    expected = float(special.kl_div(np.full(4, 0.25), raked).sum())
    assert interaction(window, reference).nats_P[0] == pytest.approx(expected, rel=1e-5)


def test_a_pair_of_which_nothing_can_be_compared_is_silent() -> None:
    window = np.array([[[5, 0], [9, 0]], [[0, 0], [0, 0]], [[0, 4], [0, 0]]])
    reference = np.array([[[50, 10], [20, 30]]] * 3)
    measured = interaction(window, reference)
    assert measured.degrees_P.tolist() == [0, 0, 0]
    assert np.allclose(measured.null().p_value(measured.nats_P), 1.0, atol=1e-3)


@pytest.mark.parametrize(("reference_rows", "rows"), [(1000, 200), (1000, 1000), (10_000, 1000)])
@pytest.mark.parametrize(
    ("masses", "exact"),
    [
        (np.outer(EVEN, EVEN), True),
        (correlated(0.6), True),
        (np.outer(EVEN, GAPPED), True),
        (np.outer(SKEWED, SKEWED), True),
        (correlated(0.9), False),  # corners are nearly empty: errs quietly
        (np.outer(RARE, RARE), False),
    ],
)
def test_false_alarms_are_as_asked(masses: np.ndarray, exact: bool, reference_rows: int, rows: int) -> None:
    rng = np.random.default_rng(2)
    size = 20_000
    p_value_P = p_values(tables(rng, masses, rows, size), tables(rng, masses, reference_rows, size))
    for level in (0.01, 0.001):
        rate, error = np.mean(p_value_P <= level), 4 * np.sqrt(level / size)
        assert rate <= 1.1 * level + error
        assert not exact or rate >= 0.75 * level - error


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_false_alarms_stay_as_asked_however_the_marginals_move(rho: float) -> None:
    rng = np.random.default_rng(3)
    size, masses = 20_000, correlated(rho)
    moved = masses * np.exp(np.arange(4))[:, None] * np.exp(-0.5 * np.arange(4))
    p_value_P = p_values(tables(rng, moved, 1000, size), tables(rng, masses, 10_000, size))
    assert np.mean(p_value_P <= 0.01) <= 0.0125
    assert np.mean(p_value_P <= 0.001) <= 0.002


def test_autocorrelated_features_alarm_at_most_twice_as_often_as_asked() -> None:
    rng = np.random.default_rng(4)

    def slabs(rows: int) -> np.ndarray:
        noise = rng.normal(size=(2, rows + 100)) * np.sqrt(1 - 0.9**2)
        values = signal.lfilter([1.0], [1.0, -0.9], noise)[:, 100:]
        return np.asarray(np.searchsorted(special.ndtri([0.25, 0.5, 0.75]), values))

    alarms = []
    for _ in range(40):
        a_N, b_N = slabs(10_000)
        reference = np.bincount(4 * a_N + b_N, minlength=16).reshape(1, 4, 4)
        dispersion = (dispersion_of_pair(a_N, b_N, 4),)
        for _ in range(25):
            a_N, b_N = slabs(500)
            measured = interaction(np.bincount(4 * a_N + b_N, minlength=16).reshape(1, 4, 4), reference)
            alarms.append(measured.null(dispersion).p_value(measured.nats_P)[0] <= 0.02)
    assert np.mean(alarms) <= 0.04


def test_design_effect_of_the_interaction_leaves_out_that_of_the_marginals() -> None:
    # One feature sticks to its value, the other does not: their interaction is as good as independent rows.
    rng = np.random.default_rng(5)
    sticky = np.repeat(rng.integers(4, size=400), 50)
    loose = rng.integers(4, size=sticky.size)
    assert dispersion_of_pair(sticky, loose, 4).mean < 1.5
    assert dispersion_of_pair(sticky, np.repeat(rng.integers(4, size=400), 50), 4).mean > 20
