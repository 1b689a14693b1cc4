"""Evidence about two versions: it may be looked at after every row, and it is what the formulas say."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom

from detectors.anytime import MINIMUM_ROWS, Paired, excess
from detectors.evidence import (
    CONCENTRATION,
    allocation_evidence,
    binomial_evidence,
    clumped,
    divergence,
    divergence_evidence,
    rate_bound,
    rate_evidence,
)


@pytest.mark.parametrize("limit", [0.05, 0.3, 2 / 3])
@pytest.mark.parametrize("share", [0.2, 1.0])  # of the limit: the true rate
def test_an_event_more_or_less_never_raises_the_expectation(limit: float, share: float) -> None:
    # Supermartingale, exactly: from every state that ten trials can reach, the expected next e-value is at most the present one.
    for trials in range(10):
        for events in range(trials + 1):
            now = math.exp(binomial_evidence(events, trials, limit))
            more = math.exp(binomial_evidence(events + 1, trials + 1, limit))
            less = math.exp(binomial_evidence(events, trials + 1, limit))
            rate = share * limit
            assert rate * more + (1 - rate) * less <= now * (1 + 1e-9)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_the_allocation_is_a_martingale_exactly(share: float) -> None:
    for total in range(10):
        for canary in range(total + 1):
            now = math.exp(allocation_evidence(canary, total, share))
            more = math.exp(allocation_evidence(canary + 1, total + 1, share))
            less = math.exp(allocation_evidence(canary, total + 1, share))
            assert share * more + (1 - share) * less == pytest.approx(now)


def test_divergence_has_an_expectation_of_at_most_one_at_every_size() -> None:
    # All ways in which up to five rows can fall into two bins and two samples, also where these are of different sizes.
    for rows, true, rate in product((2, 5), (0.5, 0.3), (0.1, 0.5)):
        total = 0.0
        for cells in product(range(4), repeat=rows):
            counts = np.bincount(cells, minlength=4)  # bin and sample
            chance = np.prod([rate**c * (1 - rate) ** (1 - c) for c in (cell // 2 for cell in cells)])
            chance *= np.prod([true**c * (1 - true) ** (1 - c) for c in (1 - cell % 2 for cell in cells)])
            total += float(chance) * math.exp(divergence_evidence(counts[[0, 2]], counts[[1, 3]]))
        assert total <= 1


@pytest.mark.parametrize(
    ("events", "trials", "limit"), [(3, 3, 0.1), (0, 40, 0.1), (7, 900, 0.002), (30, 40, 0.6)]
)
def test_binomial_evidence_agrees_with_numerical_integration(events: int, trials: int, limit: float) -> None:
    def ratio(p: float) -> float:
        return float(
            math.exp(events * math.log(p / limit) + (trials - events) * (math.log1p(-p) - math.log1p(-limit)))
        )

    peak = min(max(events / trials, limit + 1e-9), 1 - 1e-9)
    found = sum(
        quad(ratio, low, high, epsrel=1e-10, limit=200)[0]
        for low, high in ((limit, peak), (peak, min(peak * 3, 0.999)), (min(peak * 3, 0.999), 1 - 1e-12))
    )
    assert binomial_evidence(events, trials, limit) == pytest.approx(math.log(found / (1 - limit)), abs=1e-4)


def test_allocation_evidence_agrees_with_numerical_integration() -> None:
    share, canary, total = 0.1, 30, 200
    prior = beta(CONCENTRATION * share, CONCENTRATION * (1 - share))
    found = quad(lambda p: prior.pdf(p) * binom.pmf(canary, total, p), 0, 1, epsrel=1e-10)[0]
    assert allocation_evidence(canary, total, share) == pytest.approx(
        math.log(found / binom.pmf(canary, total, share)), rel=1e-6
    )


def test_far_below_the_limit_the_evidence_stays_finite_and_falls() -> None:
    series = [binomial_evidence(0, trials, 0.5) for trials in (10, 100, 1000, 10_000, 100_000)]
    assert all(np.isfinite(series))
    assert series == sorted(series, reverse=True)


def test_evidence_grows_with_the_canary_s_events_and_falls_with_the_champion_s() -> None:
    more = [rate_evidence(events, 2, 50, 950, 2.0) for events in range(2, 20)]
    other = [rate_evidence(5, events, 50, 950, 2.0) for events in range(20)]
    assert more == sorted(more)
    assert other == sorted(other, reverse=True)
    assert rate_evidence(5, 2, 50, 950, 4.0) < rate_evidence(5, 2, 50, 950, 2.0)


def test_a_few_errors_of_a_small_canary_are_evidence_even_beside_a_flawless_champion() -> None:
    assert rate_evidence(2, 0, 50, 950, 2.0) > math.log(20)
    assert rate_evidence(3, 0, 50, 950, 2.0) > math.log(200)
    assert rate_evidence(0, 0, 0, 0, 2.0) == 0
    assert rate_evidence(5, 0, 0, 1000, 2.0) > math.log(1000)  # never answered a row, only failed
    assert rate_evidence(5, 0, 100, 0, 2.0) == 0  # nobody beside it


def ever(evidence: list[float], alpha: float) -> bool:
    return max(evidence) >= -math.log(alpha)


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_false_alarms_about_rates_looking_after_every_event(ratio: float) -> None:
    # At the edge of the null hypothesis: the canary fails `ratio` times as often. Most rows are the champion's.
    rng, alpha, share = np.random.default_rng(1), 0.1, 0.1
    edge = ratio * share / (ratio * share + 1 - share)
    alarms = 0
    for _ in range(500):
        canary = np.cumsum(rng.random(200) < edge).tolist()
        looks = [rate_evidence(k, i + 1 - k, 10, 90, ratio) for i, k in enumerate(canary)]
        alarms += ever(looks, alpha)
    assert alarms / 500 <= alpha


def test_false_alarms_about_rates_when_only_the_rows_that_came_are_known() -> None:
    # The share is the one realised so far, as in `cls serve`: approximate, yet no worse here.
    rng, alpha = np.random.default_rng(2), 0.1
    alarms = 0
    for _ in range(400):
        mine, event = rng.random(2000) < 0.1, rng.random(2000) < 0.02
        rows, own, all_events = np.cumsum(mine), np.cumsum(mine & event), np.cumsum(event)
        looks = [
            rate_evidence(int(own[i]), int(all_events[i] - own[i]), int(rows[i]), int(i + 1 - rows[i]), 1.0)
            for i in np.flatnonzero(event)
        ]
        alarms += ever(looks, alpha)
    assert alarms / 400 <= alpha


def test_false_alarms_about_the_allocation_and_its_power() -> None:
    rng, alpha = np.random.default_rng(3), 0.05

    def alarms(true: float) -> float:
        keys = np.cumsum(rng.random((300, 2000)) < true, axis=1)
        return float(
            np.mean(
                [
                    ever([allocation_evidence(int(path[i]), i + 1, 0.05) for i in range(0, 2000, 5)], alpha)
                    for path in keys
                ]
            )
        )

    assert alarms(0.05) <= alpha
    assert alarms(0.08) > 0.95


@pytest.mark.parametrize("same_rows", [False, True])
def test_false_alarms_about_predictions(same_rows: bool) -> None:
    # Same distribution, other predictions; on the same rows (a shadow) they go together, and fewer alarms come of it.
    rng, alpha, rows = np.random.default_rng(4), 0.1, 600
    alarms = 0
    for _ in range(150):
        world = rng.normal(size=(2, rows))
        world[1] = world[0] if same_rows else world[1]
        value = 0.8 * world + 0.6 * rng.normal(size=(2, rows))
        index = np.clip(np.floor(value * 2 + 4), 0, 7).astype(int)
        seen = np.cumsum(np.eye(8)[index], axis=1)
        alarms += ever([divergence_evidence(seen[0, i], seen[1, i]) for i in range(0, rows, 5)], alpha)
    assert alarms / 150 <= (alpha / 3 if same_rows else alpha)


def test_a_moved_distribution_is_evident_and_far_but_a_barely_moved_one_is_only_evident() -> None:
    rng = np.random.default_rng(5)

    def counts(shift: float, rows: int) -> np.ndarray:
        return np.bincount(
            np.clip(np.floor(rng.normal(shift, 1, rows) * 4 + 16), 0, 31).astype(int), minlength=32
        )

    far = counts(0, 2000), counts(1, 200)
    assert divergence_evidence(*far) > math.log(1000)
    assert divergence(*far) == pytest.approx(1.0, abs=0.35)  # d squared
    near = counts(0, 50_000), counts(0.2, 50_000)
    assert divergence_evidence(*near) > math.log(1000)
    assert divergence(*near) == pytest.approx(0.04, abs=0.01)


def test_the_bias_of_a_divergence_is_taken_off() -> None:
    rng = np.random.default_rng(6)
    found = [
        divergence(rng.multinomial(300, [1 / 16] * 16), rng.multinomial(300, [1 / 16] * 16))
        for _ in range(300)
    ]
    assert np.mean(found) < 0.03  # uncorrected: 0.1


def test_a_new_class_counts_and_an_empty_arm_says_nothing() -> None:
    assert divergence([50, 50], [20, 20, 60]) > 0.5
    assert divergence_evidence([50, 50], [20, 20, 60]) > math.log(1000)
    assert divergence([], [5, 5]) == divergence_evidence([0, 0], [5, 5]) == 0


@pytest.mark.parametrize("trials", [20, 400])
def test_an_upper_end_of_a_rate_is_exact(trials: int) -> None:
    alpha = 0.05
    for rate in (0.02, 0.2):
        low = sum(
            binom.pmf(k, trials, rate) for k in range(trials + 1) if rate_bound(k, trials, alpha) < rate
        )
        assert low <= alpha
    assert rate_bound(0, trials, alpha) == pytest.approx(1 - alpha ** (1 / trials))
    assert rate_bound(0, 0, alpha) == 1.0


def test_clumps_of_equal_events_do_not_raise_false_alarms() -> None:
    rng, alpha, size = np.random.default_rng(7), 0.1, 4
    plain = rooted = 0
    for _ in range(150):
        slow = np.cumsum(np.repeat(rng.random(400) < 0.05, size))
        looks = [binomial_evidence(int(slow[i]), i + 1, 0.05) for i in range(len(slow))]
        plain += ever(looks, alpha)
        rooted += ever([clumped(one, size) for one in looks], alpha)
    assert rooted / 150 <= alpha < plain / 150


def crossings(draws: np.ndarray, alpha: float, tuning_n: int) -> float:
    total, squares = np.cumsum(draws, axis=1), np.cumsum(draws**2, axis=1)
    looks = [*range(MINIMUM_ROWS, 200, 2), *range(200, draws.shape[1], 20)]
    return float(
        np.mean(
            [
                any(excess(Paired(n, total[i, n - 1], squares[i, n - 1]), alpha, tuning_n) > 0 for n in looks)
                for i in range(len(draws))
            ]
        )
    )


@pytest.mark.parametrize(
    "kind", ["normal", "cauchy", "heavy errors", "rare disagreement", "frequent disagreement"]
)
def test_a_version_whose_losses_could_change_places_is_seldom_called_worse(kind: str) -> None:
    rng, size, alpha = np.random.default_rng(8), (800, 1500), 0.05
    error, mine, theirs = rng.standard_t(2, size), rng.normal(size=size), rng.normal(size=size)
    draws = {
        "normal": rng.normal(size=size),
        "cauchy": rng.standard_cauchy(size),
        "heavy errors": np.abs(error + 0.3 * mine) - np.abs(error + 0.3 * theirs),
        "rare disagreement": (rng.random(size) < 0.01) * rng.choice([-1.0, 1.0], size),
        "frequent disagreement": (rng.random(size) < 0.4) * rng.choice([-1.0, 1.0], size),
    }[kind]
    assert crossings(draws, alpha, 500) <= alpha


def test_the_bound_is_a_supermartingale_for_zero_one_losses_exactly() -> None:
    # E exp(l D - l^2 D^2 / 2) <= 1 for every l > 0 if a difference is 1 no more often than -1.
    for rate, other in ((0.1, 0.1), (0.1, 0.3), (0.5, 0.5)):
        for slope in np.linspace(0.01, 5, 50):
            mean = (rate * math.exp(slope) + other * math.exp(-slope)) * math.exp(-(slope**2) / 2)
            assert mean + 1 - rate - other <= 1 + 1e-12


def test_a_version_that_always_fails_where_the_other_never_does_is_found_soon() -> None:
    assert excess(Paired().add(np.ones(60)), 0.001, 500) > 0
    assert excess(Paired().add(np.ones(20)), 0.001, 500) == -math.inf
    assert excess(Paired().add(np.zeros(1000)), 0.001, 500) == -math.inf


def test_the_bound_rises_with_alpha_and_with_rows() -> None:
    paired = Paired(500, 50.0, 500.0)
    assert excess(paired, 0.01, 500) > excess(paired, 0.001, 500)
    assert excess(Paired(5000, 500.0, 5000.0), 0.001, 500) > excess(paired, 0.001, 500)
    for bad in (0.0, 0.5):
        with pytest.raises(ValueError, match="alpha"):
            excess(paired, bad, 500)
    with pytest.raises(ValueError, match="tuning_n"):
        excess(paired, 0.1, 0)
