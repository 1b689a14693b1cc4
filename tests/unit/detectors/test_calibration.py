"""The null: right on average over references, for small samples, many bins and dependent rows."""

import math

import numpy as np
import pytest
from scipy import signal

from detectors.bins import NumericBins
from detectors.calibration import FINE_DRAWS, Evidence, Null, null_of
from detectors.columns import Categorical
from detectors.detector import KLDetector
from detectors.dispersion import Dispersion
from detectors.kl import bias, kl

EVEN = Evidence((500,) * 16, (1 / 16,) * 16)


def ar1(rng: np.random.Generator, rows: int, rho: float) -> np.ndarray:
    """Stationary AR(1) with unit variance."""
    noise = rng.normal(size=rows + 100) * np.sqrt(1 - rho**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], noise))[100:]


def test_large_samples_give_bias_and_chi_square() -> None:
    null = null_of(EVEN, 2000)
    assert np.isclose(null.mean, bias(16, 2000, 8000), rtol=0.02)
    assert np.isclose(null.deviation / null.mean, np.sqrt(2 / 15), rtol=0.04)
    chi2_quantiles = {0.05: 24.996, 0.01: 30.578, 0.001: 37.697}  # 15 degrees of freedom
    for level, quantile in chi2_quantiles.items():
        assert null.p_value(quantile / (2 * 2000 * 8000 / 10000)) == pytest.approx(level, rel=0.25)


def test_equal_evidence_in_any_order_is_one_simulation() -> None:
    ab, ba = np.array([10, 30, 0]), np.array([0, 30, 10])
    assert Evidence.of(ab, np.array([1, 2, 3.0])) == Evidence.of(ba, np.array([3.0, 2, 1]))


def test_window_sizes_between_the_simulated_ones_are_smooth() -> None:
    means = np.array([null_of(EVEN, rows).mean * rows for rows in range(900, 1100, 7)])
    assert np.abs(np.diff(means) / means[:-1]).max() < 0.03


def test_p_values_fall_from_one_towards_zero() -> None:
    null = null_of(EVEN, 500)
    p_values = [null.p_value(nats) for nats in np.linspace(0, 10, 200)]
    assert p_values[0] == pytest.approx(1.0, abs=1e-3)
    assert p_values[-1] < 1e-100
    assert (np.diff(p_values) <= 0).all()


def test_dispersed_null_has_the_moments_of_the_weighted_chi_square() -> None:
    # One large effect and equal others is the spectrum that the third moment assumes, so it is exact here.
    rng = np.random.default_rng(0)
    effects = np.array([9.0] + [1.0] * 14)
    unevenness = float((effects**2).mean() / effects.mean() ** 2)
    chi2 = Null(15.0, np.sqrt(30.0), np.sqrt(8 / 15))
    null = chi2.dispersed(Dispersion(float(effects.mean()), unevenness, memory=2, rows=2 * 10**9), 15)
    draws = rng.chisquare(1, size=(200_000, 15)) @ effects
    assert null.mean == pytest.approx(draws.mean(), rel=0.01)
    assert null.deviation == pytest.approx(draws.std(), rel=0.02)
    assert null.skewness == pytest.approx(((draws - draws.mean()) ** 3).mean() / draws.std() ** 3, rel=0.05)
    assert null.p_value(float(np.quantile(draws, 0.999))) == pytest.approx(0.001, rel=0.3)


def test_autocorrelated_stream_alarms_at_most_twice_as_often_as_asked() -> None:
    rng = np.random.default_rng(3)
    detector = KLDetector(false_alarm_windows=100)
    alarms = []
    for _ in range(100):
        profile = detector.profile({"x": ar1(rng, 15_000, 0.9)})
        windows = (ar1(rng, 500, 0.9) for _ in range(20))
        alarms += [detector.compare(profile, profile.count({"x": window})).alarm for window in windows]
    assert np.mean(alarms) < 0.02


def test_critical_nats_have_the_p_value() -> None:
    for doubt in (math.inf, 30.0):
        null = Null(
            np.array([0.02, 0.3]), np.array([0.01, 0.1]), np.array([0.7, 0.2]), np.array([doubt, doubt])
        )
        assert null.p_value(null.critical(1e-4)) == pytest.approx([1e-4, 1e-4], rel=1e-6)


def test_a_finer_null_is_the_same_distribution() -> None:
    coarse, fine = null_of(EVEN, 500), null_of(EVEN, 500, draws=FINE_DRAWS)
    assert coarse.mean == pytest.approx(fine.mean, rel=0.01)
    assert coarse.critical(1e-3) == pytest.approx(fine.critical(1e-3), rel=0.03)


@pytest.mark.parametrize("rows", [1000, 20_000])
def test_drift_within_the_tolerance_alarms_at_most_as_often_as_asked_and_beyond_it_more_often(
    rows: int,
) -> None:
    rng = np.random.default_rng(6)
    alpha = 0.02
    direction = np.array([1, -1] * 4) / 8
    tolerance = 0.02
    null = null_of(Evidence((2500,) * 8, (0.0,) * 8), rows)
    null = null.tolerant(tolerance, 1 / rows + 1 / 20_000)

    def alarms(truth: float) -> float:
        masses = (
            1 / 8 + math.sqrt(2 * truth) * direction
        )  # KL of half the squared relative change, to second order
        references = rng.multinomial(20_000, np.full(8, 1 / 8), size=3000)
        windows = rng.multinomial(rows, masses, size=3000)
        return float((null.p_value(kl(windows, references)) <= alpha).mean())

    assert alarms(tolerance) <= 1.3 * alpha
    assert alarms(tolerance) >= alpha / 3
    assert alarms(tolerance / 2) <= alpha / 2
    assert alarms(3 * tolerance) > 10 * alpha


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
