"""Loss by bin: intervals cover, parts add up, what says nothing weighs nothing, what was never seen is unknown."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, take
from detectors.loss import MINIMUM_ROWS, LossEstimate, LossModel, fit_losses
from detectors.profile import Profile, build_profile

Floats = NDArray[np.float64]
Table = dict[str, Column]
Law = Callable[[Floats, Floats, NDArray[np.int32]], Floats]
LETTERS = ("a", "b", "c", "d")


def additive(x: Floats, y: Floats, c: NDArray[np.int32]) -> Floats:
    """Steps at quantiles of the standard normal that are edges of sixteen bins: the additive model is right."""
    steps = np.searchsorted([-1.15, -0.67, 0.0, 0.67, 1.15], x)
    expected: Floats = 0.5 + 0.15 * steps + 0.3 * (np.abs(y) < 0.67) + np.array([0.0, 0.1, 0.4, 0.2])[c]
    return expected


def interacting(x: Floats, y: Floats, c: NDArray[np.int32]) -> Floats:
    """A product that no sum can follow, beside a slope that one can."""
    return 1.0 + 0.5 * np.tanh(x * y) + 0.3 * np.tanh(x) + 0.1 * c


def rows(rng: np.random.Generator, n: int, shift: float = 0.0) -> Table:
    shares = np.array([0.4, 0.3, 0.2, 0.1]) if not shift else np.array([0.1, 0.2, 0.3, 0.4])
    return {
        "x": rng.normal(shift, 1, n),
        "y": rng.normal(0, 1 + 0.5 * bool(shift), n),
        "z": rng.normal(size=n),
        "c": Categorical(rng.choice(4, n, p=shares).astype(np.int32), LETTERS),
    }


def losses(rng: np.random.Generator, table: Table, law: Law) -> Floats:
    """Skewed losses whose spread grows with their mean."""
    x, y, c = table["x"], table["y"], table["c"]
    assert isinstance(c, Categorical)
    assert not isinstance(x, Categorical)
    assert not isinstance(y, Categorical)
    return law(x, y, c.codes) * rng.gamma(2.0, 0.5, len(c))


def fitted(rng: np.random.Generator, law: Law, *, share: float = 0.2) -> tuple[Profile, LossModel]:
    table = rows(rng, 10_000)
    profile = build_profile(table)
    held = rng.random(10_000) < share
    return profile, fit_losses(profile, take(table, held), losses(rng, table, law)[held], seed=0)


def coverage(law: Law, shift: float, seed: int, references: int = 80, windows: int = 4) -> float:
    rng = np.random.default_rng(seed)
    hits = []
    for _ in range(references):
        profile, model = fitted(rng, law)
        for _ in range(windows):
            window = rows(rng, 1000, shift)
            estimate = model.estimate(profile, profile.count(window))
            hits.append(estimate.low <= losses(rng, window, law).mean() <= estimate.high)
    return float(np.mean(hits))


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_interval_covers_the_realised_loss_as_often_as_it_says(shift: float) -> None:
    assert 0.91 <= coverage(additive, shift, seed=1) <= 0.985  # 0.950 and 0.943 over 1,500 windows


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_an_interaction_costs_little_coverage(shift: float) -> None:
    assert 0.86 <= coverage(interacting, shift, seed=2) <= 0.985  # 0.957 and 0.921 over 1,500 windows


def test_the_estimate_follows_a_shift_that_the_reference_level_misses() -> None:
    rng = np.random.default_rng(3)
    profile, model = fitted(rng, additive, share=1.0)
    window = rows(rng, 50_000, 0.7)
    truth = losses(rng, window, additive).mean()
    estimate = model.estimate(profile, profile.count(window))
    assert estimate.base == pytest.approx(losses(rng, rows(rng, 100_000), additive).mean(), rel=0.05)
    assert abs(estimate.mean - truth) < 0.25 * abs(estimate.base - truth)


def test_effects_are_each_features_part_and_sum_to_the_change() -> None:
    rng = np.random.default_rng(4)
    profile, model = fitted(rng, additive, share=1.0)
    window = rows(rng, 50_000)
    c = window["c"]
    assert isinstance(c, Categorical)
    moved = Categorical(rng.choice(4, 50_000, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int32), LETTERS)
    estimate = model.estimate(profile, profile.count(window | {"c": moved}))
    assert sum(effect[1] for effect in estimate.effects) == pytest.approx(estimate.mean - estimate.base)
    name, change, low, high = estimate.effects[0]
    assert name == "c"
    assert low < 0.22 - 0.13 < high
    assert change == pytest.approx(0.09, abs=0.03)
    for name, change, low, high in estimate.effects[1:]:
        assert abs(change) < 0.01, name
        assert low <= 0.002
        assert high >= -0.002


def test_an_estimate_of_parts_adds_up_to_that_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    profile, model = fitted(rng, additive)
    parts = [profile.count(rows(rng, n, shift)) for n, shift in ((300, 0.0), (700, 0.7))]
    whole = model.estimate(profile, parts[0] + parts[1])
    first, second = (model.estimate(profile, part) for part in parts)
    assert whole.mean == pytest.approx(0.3 * first.mean + 0.7 * second.mean)
    assert whole.base == pytest.approx(first.base)


def test_features_that_say_nothing_weigh_nothing_though_they_are_more_than_the_rows() -> None:
    rng = np.random.default_rng(6)
    table: Table = {f"x{i}": rng.normal(size=1000) for i in range(60)}  # 1,020 bins
    profile = build_profile(table)
    model = fit_losses(profile, table, rng.exponential(size=1000), seed=0)
    window = profile.count({name: rng.normal(0.5, 1, 1000) for name in table})
    estimate = model.estimate(profile, window)
    assert estimate.mean == pytest.approx(1.0, abs=0.3)
    assert estimate.low < 1.0 < estimate.high


def test_confidence_estimates_the_error_of_a_calibrated_classifier() -> None:
    """CBPE: where the class probabilities are right, the mean uncertainty is the error rate, whatever moves."""
    rng = np.random.default_rng(7)
    uncertainty = rng.beta(1, 5, 20_000)
    wrong = (rng.random(20_000) < uncertainty).astype(np.float64)
    profile = build_profile({"uncertainty": uncertainty}, bins=32)
    model = fit_losses(profile, {"uncertainty": uncertainty}, wrong, seed=0)
    for a, b in ((1, 5), (1, 3), (1, 8)):
        moved = rng.beta(a, b, 50_000)
        estimate = model.estimate(profile, profile.count({"uncertainty": moved}))
        assert estimate.mean == pytest.approx(moved.mean(), abs=0.012)
    hits = []
    for _ in range(200):
        moved = rng.beta(1, 3, 1000)
        estimate = model.estimate(profile, profile.count({"uncertainty": moved}))
        hits.append(estimate.low <= (rng.random(1000) < moved).mean() <= estimate.high)
    assert np.mean(hits) >= 0.9


def test_an_overconfident_classifier_is_corrected_by_its_labels() -> None:
    rng = np.random.default_rng(8)
    said = rng.beta(1, 5, 20_000)
    wrong = (rng.random(20_000) < np.minimum(2 * said, 1)).astype(np.float64)
    profile = build_profile({"uncertainty": said})
    model = fit_losses(profile, {"uncertainty": said}, wrong, seed=0)
    moved = rng.beta(1, 4, 20_000)
    estimate = model.estimate(profile, profile.count({"uncertainty": moved}))
    assert estimate.mean == pytest.approx(np.minimum(2 * moved, 1).mean(), abs=0.015)


def autocorrelated(rng: np.random.Generator, n: int, rho: float) -> Floats:
    """A stationary series with an exponentially forgotten past."""
    noise = rng.normal(size=n) * (1 - rho**2) ** 0.5
    series = np.empty(n)
    last = rng.normal()
    for i, innovation in enumerate(noise.tolist()):
        last = rho * last + innovation
        series[i] = last
    return series


def test_dependent_rows_widen_the_interval() -> None:
    rng = np.random.default_rng(9)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(30):
        x = rng.normal(size=8000)
        loss = np.exp(0.3 * autocorrelated(rng, 8000, 0.9))
        held = np.flatnonzero(rng.random(8000) < 0.25)
        windows = [np.exp(0.3 * autocorrelated(rng, 1000, 0.9)).mean() for _ in range(5)]
        profile = build_profile({"x": x})
        for ordered, wide in hits.items():
            index = held if ordered else rng.permutation(held)
            model = fit_losses(profile, {"x": x[index]}, loss[index], seed=0, share=0.25)
            estimate = model.estimate(profile, profile.count({"x": rng.normal(size=1000)}))
            wide += [estimate.low <= mean <= estimate.high for mean in windows]
    assert np.mean(hits[True]) > 0.87
    assert np.mean(hits[False]) < 0.6


def test_the_share_of_the_rows_counts_and_not_the_size_of_the_profile() -> None:
    """A classifier's confidence: bins, too, are of the rows held out alone."""
    rng = np.random.default_rng(18)

    def world(n: int) -> tuple[Floats, Floats]:
        said = rng.random(n) * 0.5
        wrong = rng.random(n) < np.clip(said * np.exp(0.8 * autocorrelated(rng, n, 0.95) - 0.32), 0, 1)
        return said, wrong.astype(np.float64)

    hits = []
    for _ in range(25):
        said, wrong = world(10_000)
        held = np.flatnonzero(rng.random(10_000) < 0.2)
        profile = build_profile({"said": said[held]})
        model = fit_losses(profile, {"said": said[held]}, wrong[held], seed=0, share=0.2)
        later, truth = world(10_000)
        for rows_ in np.arange(10_000).reshape(10, -1):
            estimate = model.estimate(profile, profile.count({"said": later[rows_]}))
            hits.append(estimate.low <= truth[rows_].mean() <= estimate.high)
    assert np.mean(hits) > 0.88  # 0.92 over many; 0.78 as if all rows had been there


def test_a_bin_without_labelled_rows_leaves_the_loss_open() -> None:
    rng = np.random.default_rng(10)
    profile, model = fitted(rng, additive)
    window = rows(rng, 1000)
    known = model.estimate(profile, profile.count(window))
    unseen = Categorical(np.zeros(1000, dtype=np.int32), ("new",))
    for strange in (window | {"c": unseen}, {name: window[name] for name in ("x", "y", "z")}):
        lost = model.estimate(profile, profile.count(strange))
        assert lost.high - lost.low > 5 * (known.high - known.low)


def test_a_gap_between_intervals_borrows_from_its_neighbours() -> None:
    x = np.linspace(0, 16, 1600, endpoint=False)
    profile = build_profile({"x": x})
    kept = (x < 7) | (x >= 8)
    model = fit_losses(profile, {"x": x[kept]}, 1 + np.floor(x[kept]), seed=0)
    estimate = model.estimate(profile, profile.count({"x": np.full(100, 7.5)}))
    assert 6.5 < estimate.mean < 9.5


def test_a_constant_loss_is_estimated_as_itself() -> None:
    rng = np.random.default_rng(11)
    table = rows(rng, 500)
    profile = build_profile(table)
    estimate = fit_losses(profile, table, np.full(500, 0.25), seed=0).estimate(profile, profile.counts)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_loss_is_never_estimated_below_zero() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=3000)
    profile = build_profile({"x": x, "y": x + 0.5 * rng.normal(size=3000)})
    table = {"x": x, "y": x + 0.5 * rng.normal(size=3000)}
    model = fit_losses(profile, table, np.maximum(x, 0), seed=0)
    estimate = model.estimate(profile, profile.count({"x": np.full(50, -3.0), "y": np.full(50, -3.0)}))
    assert 0 <= estimate.low <= estimate.mean <= estimate.high


def test_rows_without_a_finite_loss_are_left_out() -> None:
    rng = np.random.default_rng(13)
    table = rows(rng, 1000)
    loss = losses(rng, table, additive)
    profile = build_profile(table)
    holed = loss.copy()
    holed[::3] = np.nan
    kept = np.isfinite(holed)
    model, same = (
        fit_losses(profile, columns, values, seed=4).to_json()
        for columns, values in ((table, holed), (take(table, kept), loss[kept]))
    )
    assert model == same


def test_json_reads_back_exactly() -> None:
    rng = np.random.default_rng(14)
    profile, model = fitted(rng, additive)
    again = LossModel.from_json(json.loads(json.dumps(model.to_json())))
    window = profile.count(rows(rng, 500, 0.7))
    estimate = model.estimate(profile, window)
    assert again.estimate(profile, window) == estimate
    assert again.to_json() == model.to_json()
    assert LossEstimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate
    with pytest.raises(ValueError, match="format"):
        LossModel.from_json(model.to_json() | {"format": 0})


def test_other_bins_and_empty_windows_are_refused_and_other_counts_are_not() -> None:
    rng = np.random.default_rng(15)
    profile, model = fitted(rng, additive)
    other = build_profile(rows(rng, 3000))
    with pytest.raises(ValueError, match="other bins"):
        model.estimate(other, other.counts)
    with pytest.raises(ValueError, match="without rows"):
        model.estimate(profile, np.zeros_like(profile.counts))
    doubled = profile.merge(profile)
    assert model.estimate(doubled, profile.counts).base == pytest.approx(
        model.estimate(profile, profile.counts).base
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(16)
    table = rows(rng, 1000)
    loss = losses(rng, table, additive)
    profile = build_profile(table)
    assert (
        fit_losses(profile, table, loss, seed=1).to_json()
        == fit_losses(profile, table, loss, seed=1).to_json()
    )


@pytest.mark.parametrize(
    ("n", "loss", "said"),
    [
        (MINIMUM_ROWS - 1, np.ones(MINIMUM_ROWS - 1), "are needed"),
        (100, np.full(100, np.nan), "are needed"),
        (100, -np.ones(100), "negative"),
        (100, np.ones(99), "expected 100 losses"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n: int, loss: Any, said: str) -> None:
    table = rows(np.random.default_rng(17), n)
    with pytest.raises(ValueError, match=said):
        fit_losses(build_profile(table), table, loss, seed=0)


def test_a_share_that_is_none_is_refused() -> None:
    table = rows(np.random.default_rng(17), 100)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            fit_losses(build_profile(table), table, np.ones(100), seed=0, share=share)
