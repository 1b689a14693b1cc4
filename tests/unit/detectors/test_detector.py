"""Verdicts: who moved, how far, and what the budget says."""

import numpy as np
import pytest

from detectors.columns import Categorical, Columns
from detectors.detector import KLDetector


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


@pytest.mark.parametrize("pairs", [False, True])
def test_a_scan_says_of_each_window_what_compare_says(pairs: bool) -> None:
    rng = np.random.default_rng(0)

    def draw(rows: int) -> Columns:
        return {
            "x": rng.normal(size=rows) + np.where(np.arange(rows) < 6000, 0.0, 0.4),
            "c": Categorical(rng.integers(3, size=rows, dtype=np.int32), ("a", "b", "c")),
        }

    reference, stream = draw(5000), draw(12_300)
    detector = KLDetector(false_alarm_windows=100, pairs=pairs)
    profile = detector.profile(reference)
    scan = detector.scan(profile, stream, 500)
    assert scan.counts_WK.shape == (24, profile.size)
    for window in range(24):
        drift = detector.compare(profile, scan.counts_WK[window])
        assert scan.alarm_W[window] == drift.alarm
        # A null that another window of the block made finer differs by the noise of its simulation.
        assert scan.p_value_W[window] == pytest.approx(drift.p_value, rel=0.3)
    sliding = detector.scan(profile, stream, 500, 100)
    assert (sliding.counts_WK[::5] == scan.counts_WK).all()
    assert sliding.counts_WK.shape[0] == 119
    with pytest.raises(ValueError, match="divide"):
        detector.scan(profile, stream, 500, 300)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_fixed_threshold_tells_the_alarm_rate_that_it_implies(pairs: bool) -> None:
    rng = np.random.default_rng(0)
    detector = KLDetector(nats=0.01, pairs=pairs)
    profile = detector.profile({name: rng.normal(size=20_000) for name in "ab"})
    stream = {name: rng.normal(size=2000 * 500) for name in "ab"}
    scan = detector.scan(profile, stream, 500)
    told = detector.compare(profile, scan.counts_WK[0]).false_alarm_rate
    assert scan.alarm_W.mean() == pytest.approx(told, rel=0.25)


def test_pairs_and_features_have_half_of_the_budget_each() -> None:
    rng = np.random.default_rng(0)
    x, y, window_x, window_y = (rng.normal(size=rows) for rows in (5000, 5000, 500, 500))
    plain, paired = KLDetector(), KLDetector(pairs=True)
    moved = {"x": window_x + 0.3, "y": window_y}
    reference = {"x": x, "y": y}
    alone = plain.compare(plain.profile(reference), plain.profile(reference).count(moved))
    both = paired.compare(paired.profile(reference), paired.profile(reference).count(moved))
    assert both.p_value == pytest.approx(2 * alone.p_value, rel=0.1)
    assert both.pairs == ()
    single = paired.profile({"x": x})  # nothing to pair with: the whole budget is the feature's
    said = paired.compare(single, single.count(moved)).p_value
    assert said == plain.compare(plain.profile({"x": x}), plain.profile({"x": x}).count(moved)).p_value


def test_pairs_and_season_are_refused_together() -> None:
    with pytest.raises(ValueError, match="pairs and season"):
        KLDetector(pairs=True, season="hour")


def test_features_that_say_the_same_share_one_correction() -> None:
    rng = np.random.default_rng(0)
    detector = KLDetector()
    x = rng.normal(size=10_000)
    once, often = detector.profile({"x": x}), detector.profile({f"x{i}": x for i in range(20)})
    shifted = rng.normal(0.25, size=500)
    alone = detector.compare(once, once.count({"x": shifted})).p_value
    together = detector.compare(often, often.count({f"x{i}": shifted for i in range(20)})).p_value
    assert alone <= together < 2 * alone


def test_seasons_are_compared_like_with_like() -> None:
    rng = np.random.default_rng(0)

    def rows(hour: np.ndarray, shift: float = 0.0) -> Columns:
        day = Categorical(hour.astype(np.int32), tuple(f"{h:02}" for h in range(24)))
        return {"x": 3 * np.sin(hour / 24 * 2 * np.pi) + rng.normal(shift, 1, hour.size), "hour": day}

    plain, seasonal = KLDetector(), KLDetector(season="hour")
    reference = rows(np.arange(24_000) // 10 % 24)
    night = rows(np.arange(1000) % 6)
    profile = seasonal.profile(reference)
    assert plain.compare(plain.profile(reference), plain.profile(reference).count(night)).alarm
    alarms = [
        seasonal.compare(profile, profile.count(rows(start + np.arange(1000) % 6))).alarm
        for start in range(18)
    ]
    assert not any(alarms)
    moved = seasonal.compare(profile, profile.count(rows(np.arange(1000) % 6, shift=0.5)))
    assert moved.alarm
    scan = seasonal.scan(profile, night, 500)
    assert not scan.alarm_W.any()


def test_counts_of_no_window_are_refused() -> None:
    detector = KLDetector()
    profile = detector.profile({"x": np.arange(100.0), "y": np.arange(100.0)})
    uneven = profile.counts.copy()
    uneven[0] += 1
    with pytest.raises(ValueError, match="same rows"):
        detector.compare(profile, uneven)


@pytest.mark.parametrize(
    "options", [{"false_alarm_windows": 1}, {"nats": 0.0}, {"bins": 1}, {"top": 0}, {"tolerance": -1.0}]
)
def test_options_are_checked_at_construction(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        KLDetector(**options)  # type: ignore[arg-type]  # the faults are the point
