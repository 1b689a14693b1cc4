"""Looks of overlapping windows: one for windows that follow each other, and as many as keep the budget for those that overlap."""

import numpy as np
import pytest
from scipy import stats

from detectors.overlap import looks, looks_of
from detectors.profile import build_profile


def alarms_per_window(panes: int, bins: int, critical: float, windows: int) -> float:
    """Simulate windows of Poisson counts, which begin anew after each alarm, in 500 streams at once."""
    rng, streams, mean = np.random.default_rng(panes * bins), 500, 100
    ring_PSK = np.zeros((panes, streams, bins))
    held_S = np.zeros(streams, dtype=np.intp)
    alarms = 0
    for pane in range(windows * panes):
        ring_PSK[pane % panes] = rng.poisson(mean, size=(streams, bins)) - mean
        held_S += 1
        distance_S = (ring_PSK.sum(axis=0) ** 2).sum(axis=1) / (mean * panes)
        alarm_S = (held_S >= panes) & (distance_S > critical)
        alarms += int(alarm_S.sum())
        held_S[alarm_S] = 0  # the next window holds none of these panes when it is full
    return alarms / windows / streams


@pytest.mark.parametrize("panes", [1, 2, 4, 10])
@pytest.mark.parametrize("degrees", [1, 7, 15])
def test_a_level_divided_by_the_looks_keeps_the_budget(panes: int, degrees: int) -> None:
    level, windows = 1 / 50, 200  # 2,000 alarms expected
    per_look = level / looks(1000, 1000 // panes, level, degrees)
    critical = float(stats.chi2.isf(per_look, degrees))
    assert alarms_per_window(panes, degrees, critical, windows) == pytest.approx(level, rel=0.2)


def test_windows_that_follow_each_other_are_one_look_and_no_overlap_is_worth_more_than_its_panes() -> None:
    for level in (0.5, 0.05, 1e-3, 1e-9):
        for degrees in (1, 2, 15, 300):
            assert looks(1000, 1000, level, degrees) == 1
            many = [looks(1000, slide, level, degrees) for slide in (1000, 500, 100, 10, 1)]
            assert many == sorted(many)
            assert all(
                1 <= number <= 1000 / slide
                for number, slide in zip(many, (1000, 500, 100, 10, 1), strict=True)
            )


def test_at_every_row_one_degree_has_the_rate_of_a_gaussian_process() -> None:
    # Pickands: excursions of |z| above u begin at the rate 2 u phi(u) where the correlation is 1 - |tau|.
    level = 1e-6
    number = looks(10**12, 1, level, 1)
    u = stats.norm.isf(level / number / 2)
    assert 2 * u * stats.norm.pdf(u) == pytest.approx(level, rel=0.01)


def test_the_part_of_the_noise_that_is_the_references_is_not_looked_at_anew() -> None:
    plain, small = looks(1000, 1, 0.01, 15), looks(1000, 1, 0.01, 15, reference_rows=1000)
    assert small == pytest.approx(plain / 2, rel=0.1)  # at another level per look
    assert looks(1000, 1, 0.01, 15, reference_rows=1e12) == pytest.approx(plain)


def test_a_profile_has_the_looks_of_its_largest_feature() -> None:
    rng = np.random.default_rng(0)
    profile = build_profile(
        {"x": rng.normal(size=3200), "flag": rng.integers(2, size=3200).astype(np.float64)}
    )
    assert looks_of(profile, 500, 100, 0.01) == looks(500, 100, 0.005, 15, 3200)
    assert looks_of(build_profile({}), 500, 100, 0.01) >= 1


@pytest.mark.parametrize(
    "arguments",
    [(100, 0, 0.1, 1), (100, 200, 0.1, 1), (100, 10, 0.0, 1), (100, 10, 1.0, 1), (100, 10, 0.1, 0)],
)
def test_arguments_out_of_range_are_refused(arguments: tuple[int, int, float, float]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        looks(*arguments)
