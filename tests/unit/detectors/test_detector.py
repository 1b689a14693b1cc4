"""Verdicts: who moved, how far, and what the budget says."""

import numpy as np
import pytest

from detectors.detector import KLDetector, sidak


def test_verdict_names_the_feature_and_the_bins_that_moved() -> None:
    rng = np.random.default_rng(0)
    detector = KLDetector()
    profile = detector.profile({name: rng.normal(size=5000) for name in "abc"})
    window = {name: rng.normal(size=1000) for name in "ac"} | {
        "b": np.where(rng.random(1000) < 0.3, np.nan, 1.0)
    }
    drift = detector.compare(profile, profile.count(window))
    assert drift.alarm
    assert drift.features[0].name == "b"
    assert drift.features[0].share > 0.9
    labels = [label for label, _, _ in drift.features[0].top_bins]
    assert "missing" in labels
    assert sum(feature.share for feature in drift.features) == pytest.approx(1.0)
    for label, before, now in drift.features[0].top_bins:
        assert 0 <= before <= 1, label
        assert 0 <= now <= 1, label


def test_fixed_threshold_alarms_by_distance_alone() -> None:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=20_000)}
    strict, lax = KLDetector(nats=0.001), KLDetector(nats=0.2)
    profile = strict.profile(columns)
    moved = profile.count({"x": rng.normal(0.3, size=2000)})
    assert strict.compare(profile, moved).alarm
    assert not lax.compare(profile, moved).alarm
    assert lax.compare(profile, moved).threshold == 0.2
    assert lax.compare(profile, moved).p_value < 1e-6


def test_excess_is_near_the_true_divergence_and_near_zero_without_one() -> None:
    rng = np.random.default_rng(0)
    detector = KLDetector()
    profile = detector.profile({"x": rng.normal(size=50_000)})
    moved, same = (
        np.mean(
            [
                detector.compare(profile, profile.count({"x": rng.normal(mean, size=300)})).nats
                for _ in range(200)
            ]
        )
        for mean in (0.5, 0.0)
    )
    assert moved == pytest.approx(0.125, rel=0.1)  # mean^2 / 2, less what 16 bins cannot see
    assert same < 0.012


def test_sidak() -> None:
    assert sidak([]) == 1.0
    assert sidak([1.0, 1.0]) == 1.0
    assert sidak([0.2]) == pytest.approx(0.2)
    assert sidak([0.1, 0.5]) == pytest.approx(1 - 0.9**2)
    assert sidak([1e-20, 1.0]) == pytest.approx(2e-20)


def test_counts_of_no_window_are_refused() -> None:
    detector = KLDetector()
    profile = detector.profile({"x": np.arange(100.0), "y": np.arange(100.0)})
    uneven = profile.counts.copy()
    uneven[0] += 1
    with pytest.raises(ValueError, match="same rows"):
        detector.compare(profile, uneven)


@pytest.mark.parametrize("options", [{"false_alarm_windows": 1}, {"nats": 0.0}, {"bins": 1}, {"top": 0}])
def test_options_are_checked_at_construction(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        KLDetector(**options)  # type: ignore[arg-type]  # the faults are the point
