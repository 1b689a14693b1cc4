"""Judgement: values and gaps apart, each by its own null, at most as many false alarms as asked."""

import math

import numpy as np
import pytest

from detectors.columns import Columns
from detectors.detector import KLDetector
from detectors.judgement import sidak


def test_sidak() -> None:
    assert sidak(np.array([1.0, 0.1, 1e-20]), 2) == pytest.approx([1.0, 1 - 0.9**2, 2e-20])
    assert sidak(np.array([0.2]), 1) == pytest.approx(0.2)


def holed(rng: np.random.Generator, rows: int, share: float) -> Columns:
    return {"x": np.where(rng.random(rows) < share, np.nan, rng.normal(size=rows))}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_false_alarms_with_gaps_are_as_asked(share: float) -> None:
    rng = np.random.default_rng(0)
    detector = KLDetector(false_alarm_windows=50)
    rates = []
    for _ in range(40):
        profile = detector.profile(holed(rng, 3000, share))
        rates.append(detector.scan(profile, holed(rng, 40_000, share), 500).alarm_W.mean())
    error = np.std(rates) / math.sqrt(40)
    assert 0.6 * 0.02 - 2 * error < np.mean(rates) < 1.2 * 0.02 + 2 * error


def test_a_missing_share_of_one_to_five_percent_does_not_drown_in_the_values() -> None:
    rng = np.random.default_rng(1)
    detector = KLDetector()
    profile = detector.profile(holed(rng, 10_000, 0.01))
    scan = detector.scan(profile, holed(rng, 50 * 300, 0.05), 300)
    assert scan.alarm_W.mean() > 0.7


def test_a_burst_of_gaps_in_the_reference_does_not_blind_to_values() -> None:
    rng = np.random.default_rng(2)
    detector = KLDetector()
    x = rng.normal(size=5000)
    x[1000:1050] = np.nan
    profile = detector.profile({"x": x})
    assert profile.missing_dispersion[0].mean > 5
    assert detector.compare(profile, profile.count({"x": rng.normal(0.4, size=500)})).alarm
    gaps = rng.normal(size=500)
    gaps[:20] = np.nan
    assert not detector.compare(profile, profile.count({"x": gaps})).alarm


def test_a_feature_that_the_reference_never_saw_alarms_when_it_comes() -> None:
    rng = np.random.default_rng(3)
    detector = KLDetector()
    profile = detector.profile({"x": np.full(1000, np.nan), "y": rng.normal(size=1000)})
    assert not detector.compare(
        profile, profile.count({"x": np.full(100, np.nan), "y": rng.normal(size=100)})
    ).alarm
    assert detector.compare(profile, profile.count({"x": np.zeros(100), "y": rng.normal(size=100)})).alarm


def test_the_tolerance_is_one_for_gaps_as_for_values() -> None:
    rng = np.random.default_rng(4)
    strict, tolerant = KLDetector(), KLDetector(tolerance=0.005)
    profile = strict.profile(holed(rng, 10_000, 0.01))
    little, much = (profile.count(holed(rng, 100_000, share)) for share in (0.018, 0.06))
    assert strict.compare(profile, little).alarm  # 0.0026 nats
    assert not tolerant.compare(profile, little).alarm
    assert tolerant.compare(profile, much).alarm
