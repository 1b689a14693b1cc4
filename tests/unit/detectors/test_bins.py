"""Bins of columns with few values: each value is seen, however rare, at the price of no more false alarms."""

from collections.abc import Callable

import numpy as np
import pytest

from detectors.bins import RARE, NumericBins, bins_from_json
from detectors.detector import KLDetector

BUDGET = 0.02

Draw = Callable[[np.random.Generator, int], np.ndarray]

DISCRETE: dict[str, Draw] = {
    "flag, 0.3% ones": lambda rng, rows: (rng.random(rows) < 0.003).astype(np.float64),
    "flag, 2% ones": lambda rng, rows: (rng.random(rows) < 0.02).astype(np.float64),
    "Poisson(0.1)": lambda rng, rows: rng.poisson(0.1, rows).astype(np.float64),
    "Poisson(1)": lambda rng, rows: rng.poisson(1.0, rows).astype(np.float64),
    "grades": lambda rng, rows: rng.choice(5, size=rows, p=[0.6, 0.25, 0.1, 0.04, 0.01]).astype(np.float64),
    "97% zeros": lambda rng, rows: np.where(rng.random(rows) < 0.97, 0.0, rng.exponential(size=rows)),
}


@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in DISCRETE.items()])
def test_false_alarms_of_a_discrete_column_stay_within_the_budget(draw: Draw) -> None:
    rng = np.random.default_rng(3)
    detector = KLDetector(false_alarm_windows=1 / BUDGET)
    rates = []
    for _ in range(80):
        profile = detector.profile({"x": draw(rng, 1000)})
        rates.append(detector.scan(profile, {"x": draw(rng, 20_000)}, 1000).alarm_W.mean())
    error = float(np.std(rates)) / np.sqrt(len(rates))
    assert np.mean(rates) <= BUDGET + 3 * error


@pytest.mark.parametrize("rest", ["ones", "numbers"])
def test_a_rare_share_that_grows_from_two_to_five_percent_is_seen(rest: str) -> None:
    rng = np.random.default_rng(0)

    def draw(rows: int, share: float) -> dict[str, np.ndarray]:
        other = np.ones(rows) if rest == "ones" else rng.exponential(size=rows)
        return {"x": np.where(rng.random(rows) < share, other, 0.0)}

    detector = KLDetector()
    profile = detector.profile(draw(10_000, 0.02))
    assert not detector.compare(profile, profile.count(draw(1000, 0.02))).alarm
    assert detector.compare(profile, profile.count(draw(1000, 0.05))).alarm


def test_few_values_are_cut_at_each_and_rare_ones_share_a_bin() -> None:
    def cut(values: list[float], rows: list[int]) -> tuple[float, ...]:
        feature = NumericBins.of("x", np.repeat(values, rows), 16)
        assert feature.discrete
        assert bins_from_json(feature.to_json()) == feature
        return feature.edges

    assert cut([0, 1], [980, 20]) == (0, 1)
    assert cut([0, 1], [20, 980]) == (1, np.nextafter(1, 2))  # below lies a zero, or what else is small
    assert cut([0, 1, 2, 3], [900, RARE, RARE - 1, 1]) == (0, 1, 2)
    assert cut([0, 1, 2], [900, RARE, RARE - 1]) == (0, 1)
    assert cut([0, 1, 2], [1, 500, 500]) == (1, 2, np.nextafter(2, 3))
    assert cut([0, 7, 9], [1, 998, 1]) == (7, 9)  # common values hide nothing beside them
    assert cut(list(range(16)), [100] * 16) == (*range(16), np.nextafter(15, 16))
    assert not NumericBins.of("x", np.repeat(np.arange(17.0), 100), 16).discrete
    assert not NumericBins.of("x", np.arange(16.0), 16).discrete  # too few rows to call any value frequent


def test_a_value_that_holds_several_quantiles_has_a_bin_to_itself() -> None:
    rng = np.random.default_rng(1)
    column = np.concatenate([np.zeros(500), rng.exponential(size=500)])
    feature = NumericBins.of("x", column, 16)
    assert feature.count(np.zeros(10)).max() == 10
    assert feature.count(column)[feature.assign(np.zeros(1))[0]] == 500


def test_prior_of_single_values_is_one_count_each() -> None:
    column = np.repeat([0.0, 1.0, 2.0], [500, 300, 200])
    feature = NumericBins.of("x", column, 16)
    empty = 1 / feature.size
    assert feature.prior(feature.count(column)).tolist() == [empty, 1, 1, 1, empty, empty]
