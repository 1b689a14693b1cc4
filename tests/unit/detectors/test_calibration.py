"""The null: right on average over references, for small samples, many bins and dependent rows."""

import numpy as np
import pytest
from scipy import signal

from detectors.bins import CategoricalBins, NumericBins
from detectors.calibration import Evidence, Null, null_of
from detectors.columns import Categorical
from detectors.detector import KLDetector
from detectors.dispersion import Dispersion, dispersion_of
from detectors.kl import bias

EVEN = Evidence((500,) * 16, (1 / 16,) * 16)


def ar1(rng: np.random.Generator, rows: int, rho: float) -> np.ndarray:
    """Stationary AR(1) with unit variance."""
    noise = rng.normal(size=rows + 100) * np.sqrt(1 - rho**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], noise))[100:]


def test_large_samples_give_bias_and_chi_square() -> None:
    null = null_of(EVEN, 8000, 2000)
    assert np.isclose(null.mean, bias(16, 2000, 8000), rtol=0.02)
    assert np.isclose(null.deviation / null.mean, np.sqrt(2 / 15), rtol=0.04)
    chi2_quantiles = {0.05: 24.996, 0.01: 30.578, 0.001: 37.697}  # 15 degrees of freedom
    for level, quantile in chi2_quantiles.items():
        assert null.p_value(quantile / (2 * 2000 * 8000 / 10000)) == pytest.approx(level, rel=0.25)


def test_equal_evidence_in_any_order_is_one_simulation() -> None:
    feature = CategoricalBins("x", ("a", "b"), other=False)
    assert Evidence.of(feature, np.array([10, 30, 0, 0])) == Evidence.of(feature, np.array([30, 10, 0, 0]))


def test_window_sizes_between_the_simulated_ones_are_smooth() -> None:
    means = np.array([null_of(EVEN, 8000, rows).mean * rows for rows in range(900, 1100, 7)])
    assert np.abs(np.diff(means) / means[:-1]).max() < 0.03


def test_p_values_fall_from_one_towards_zero() -> None:
    null = null_of(EVEN, 8000, 500)
    p_values = [null.p_value(nats) for nats in np.linspace(0, 10, 200)]
    assert p_values[0] == pytest.approx(1.0, abs=1e-3)
    assert p_values[-1] < 1e-100
    assert (np.diff(p_values) <= 0).all()


def test_exchangeable_rows_have_dispersion_one() -> None:
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(200):
        labels = rng.permutation(np.repeat(np.arange(8), 250)).reshape(20, 100)
        blocks = np.stack([np.bincount(block, minlength=8) for block in labels])
        expected = blocks.mean(axis=0)
        estimates.append(((blocks - expected) ** 2 / expected).sum() / (19 * 7) * 1999 / 2000)
        assert dispersion_of(blocks).mean == pytest.approx(max(estimates[-1], 1.0))
    assert np.isclose(np.mean(estimates), 1.0, atol=0.03)


def test_design_effects_of_a_markov_chain() -> None:
    # A two-state chain with lag-one correlation r has design effect (1 + r) / (1 - r) in the limit.
    rng = np.random.default_rng(0)
    r, rows = 0.6, 200_000
    flips = rng.random(rows) < (1 - r) / 2
    state = np.cumsum(flips) % 2
    blocks = np.stack([np.bincount(block, minlength=2) for block in state.reshape(400, -1)])
    assert dispersion_of(blocks).mean == pytest.approx((1 + r) / (1 - r), rel=0.15)
    assert dispersion_of(blocks).unevenness == 1.0


def test_dispersed_null_has_the_moments_of_the_weighted_chi_square() -> None:
    # One large effect and equal others is the spectrum that the third moment assumes, so it is exact here.
    rng = np.random.default_rng(0)
    effects = np.array([9.0] + [1.0] * 14)
    unevenness = float((effects**2).mean() / effects.mean() ** 2)
    chi2 = Null(15.0, np.sqrt(30.0), np.sqrt(8 / 15))
    null = chi2.dispersed(Dispersion(float(effects.mean()), unevenness), 15, 10**9)
    draws = rng.chisquare(1, size=(200_000, 15)) @ effects
    assert null.mean == pytest.approx(draws.mean(), rel=0.01)
    assert null.deviation == pytest.approx(draws.std(), rel=0.02)
    assert null.skewness == pytest.approx(((draws - draws.mean()) ** 3).mean() / draws.std() ** 3, rel=0.05)
    assert null.p_value(float(np.quantile(draws, 0.999))) == pytest.approx(0.001, rel=0.3)


@pytest.mark.parametrize("block_rows", [200, 500])
def test_autocorrelated_stream_alarms_at_most_twice_as_often_as_asked(block_rows: int) -> None:
    rng = np.random.default_rng(3)
    detector = KLDetector(false_alarm_windows=100)
    alarms = []
    for _ in range(100):
        profile = detector.profile({"x": ar1(rng, 15_000, 0.9)}, block_rows=block_rows)
        windows = (ar1(rng, 500, 0.9) for _ in range(20))
        alarms += [detector.compare(profile, profile.count({"x": window})).alarm for window in windows]
    assert np.mean(alarms) < 0.02


def test_rare_categories_do_not_break_the_budget() -> None:
    rng = np.random.default_rng(4)
    masses = 1 / np.arange(1, 1001) ** 1.2
    masses /= masses.sum()
    vocabulary = tuple(f"c{i}" for i in range(1000))

    def draw(rows: int) -> Categorical:
        return Categorical(rng.choice(1000, size=rows, p=masses).astype(np.int32), vocabulary)

    detector = KLDetector(top=8, false_alarm_windows=100)
    rates = []
    for _ in range(100):
        profile = detector.profile({"x": draw(1000)})
        windows = [profile.count({"x": draw(1000)}) for _ in range(15)]
        rates.append(np.mean([detector.compare(profile, window).alarm for window in windows]))
    assert np.mean(rates) <= 0.01 + 3 * np.std(rates) / 10


def test_masses_between_order_statistics_follow_the_evidence() -> None:
    rng = np.random.default_rng(5)
    samples = rng.random((2000, 63))
    masses = [np.diff(NumericBins.of("x", sample, 4).edges, prepend=0, append=1) for sample in samples]
    counts = NumericBins.of("x", samples[0], 4).count(samples[0])[:-1]
    assert np.allclose(np.mean(masses, axis=0), counts / 64, atol=1.5 / 64)
    assert np.allclose(np.var(masses, axis=0), 0.25 * 0.75 / 65, rtol=0.2)
