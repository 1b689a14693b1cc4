"""What the three witnesses say, by cases; gradients against their closed form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from detectors.profile import build_profile
from learners.alignment import constant_loss, measure
from learners.auto import adapted, effort
from learners.encoded import Encoded
from learners.losses import row_loss
from learners.memory import Memory
from learners.models.base import Model
from learners.recipe import RECIPES, Recipe
from learners.similarity import (
    MOST_LOST,
    Alignment,
    Similarity,
    Stored,
    divergence,
    judge,
    lost_skill,
    with_alignment,
)

PROFILE = build_profile({"x": np.random.default_rng(0).normal(size=4000)}, bins=8)
STORED = {1: Stored(loss=0.12, accepted=0.1), 2: Stored(loss=0.9, accepted=0.1)}


def test_lost_skill_is_zero_as_accepted_and_one_at_the_constant() -> None:
    assert lost_skill(0.2, 0.2, 1.0) == 0.0
    assert lost_skill(1.0, 0.2, 1.0) == pytest.approx(1.0)
    assert lost_skill(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert lost_skill(1.8, 0.2, 1.0) == pytest.approx(2.0)
    assert lost_skill(0.0, 0.2, 1.0) == pytest.approx(-0.25)
    losses = np.linspace(0, 2, 50)
    assert (np.diff([lost_skill(loss, 0.3, 0.9) for loss in losses]) > 0).all()


def test_a_model_without_skill_does_not_lose_it_by_a_small_change() -> None:
    assert lost_skill(1.02, 1.0, 1.03) == pytest.approx(0.02)
    assert lost_skill(2.0, 1.0, 0.0) == pytest.approx(
        1.0
    )  # rows of one class: a constant is right about all of them


@pytest.mark.parametrize(("loss", "share"), [(0.0, 0.0), (1e-9, MOST_LOST), (7.0, MOST_LOST)])
def test_where_nothing_was_ever_lost_any_loss_is_the_most(loss: float, share: float) -> None:
    assert lost_skill(loss, 0.0, 0.0) == share


def test_divergence_is_the_analytic_one_of_known_shares() -> None:
    rows = 100_000
    counts = np.zeros(PROFILE.size, dtype=np.int64)
    counts[:8] = rows // 4 * np.array([1, 1, 1, 1, 0, 0, 0, 0])  # one half of the reference's range
    q, p = np.array([1 / 4] * 4 + [0] * 4), np.full(8, 1 / 8)
    middle = (p + q) / 2
    expected = sum(a * math.log(a / b) for a, b in zip(q, middle, strict=True) if a) / 2
    expected += sum(a * math.log(a / b) for a, b in zip(p, middle, strict=True)) / 2
    assert divergence(PROFILE, counts, rows) == pytest.approx(expected, abs=0.002)


def test_divergence_of_the_same_regime_is_zero_but_for_chance_and_at_most_ln_2() -> None:
    rng = np.random.default_rng(1)
    same = [divergence(PROFILE, PROFILE.count({"x": rng.normal(size=500)}), 500) for _ in range(100)]
    assert (
        np.mean(same) < 0.001
    )  # a bias of (9 - 1) / 8 (1/500 + 1/4000) = 0.00225 is taken off, the rest is above zero
    apart = divergence(PROFILE, PROFILE.count({"x": np.full(5000, 99.0)}), 5000)
    assert 0.4 < apart <= math.log(2)
    assert divergence(PROFILE, PROFILE.count({"x": np.empty(0)}), 0) == 0.0


@pytest.mark.parametrize(
    ("stored", "parent", "constant", "alignment", "kind", "distance"),
    [
        ({}, None, None, None, None, None),
        ({2: Stored(0.9)}, 2, 1.0, None, None, None),  # accepted without a loss
        (STORED, 2, 1.0, None, "recurring", 0.02 / 0.9),
        (STORED, 1, 1.0, None, "near", 0.02 / 0.9),
        ({2: STORED[2]}, 2, 1.0, None, "far", 0.8 / 0.9),
        (STORED | {1: Stored(0.82, 0.1)}, 2, 1.0, None, "far", 0.8 / 0.9),  # less bad, but no fit
        (STORED | {2: Stored(0.13, 0.1)}, 2, 1.0, None, "near", 0.03 / 0.9),  # the parent fits as well
        ({2: Stored(5.0, 0.1)}, 2, 1.0, None, "far", 1.0),
        ({2: Stored(0.05, 0.1)}, 2, 1.0, None, "near", 0.0),
        ({}, None, None, Alignment(0.2, 1.0, 0.1), "near", 0.1 / 0.9),
        ({}, None, None, Alignment(0.2, 1.0), None, None),
        ({}, None, None, Alignment(0.2, 1.0, None, -0.6, 0.1), "far", 0.8),
        ({2: Stored(0.1, 0.1)}, 2, 1.0, Alignment(0.9, 1.0, 0.1, -0.6, 0.2), "far", 0.8),
        ({2: Stored(0.1, 0.1)}, 2, 1.0, Alignment(0.9, 1.0, 0.1, -0.6, 0.4), "near", 0.0),  # by chance
        ({2: Stored(0.9, 0.1)}, 2, 1.0, Alignment(0.9, 1.0, 0.1, 1.0, 0.1), "far", 0.8 / 0.9),
        ({2: Stored(0.9, None, 0.05)}, 2, None, None, "near", 0.05 / math.log(2)),
        ({2: Stored(0.9, None, 0.6)}, 2, None, None, "far", 0.6 / math.log(2)),
        ({2: Stored(0.1, 0.1, 0.69)}, 2, 1.0, None, "near", 0.0),  # inputs moved without harm
    ],
)
def test_cases(
    stored: dict[int, Stored],
    parent: int | None,
    constant: float | None,
    alignment: Alignment | None,
    kind: str | None,
    distance: float | None,
) -> None:
    found = judge(stored, parent, constant, alignment)
    if kind is None:
        assert found is None
        return
    assert found is not None
    assert found.kind == kind
    assert found.distance == pytest.approx(distance)
    assert found.version == (1 if kind == "recurring" else None)
    assert Similarity.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_what_the_learner_sees_itself_makes_a_regime_farther_never_nearer() -> None:
    known = judge(STORED, 1, 1.0)
    assert known is not None
    opposed, agreed = Alignment(0.2, 1.0, 0.1, -0.9, 0.1), Alignment(0.2, 1.0, 0.1, 0.9, 0.1, {3: 0.5})
    farther = with_alignment(known, opposed)
    assert farther is not None
    assert farther == replace(known, kind="far", distance=0.95, reason=farther.reason, alignment=opposed)
    assert with_alignment(known, agreed) == replace(known, alignment=agreed)
    recurring = with_alignment(judge(STORED, 2, 1.0), opposed)
    assert recurring is not None
    assert (recurring.kind, recurring.version, recurring.distance) == ("recurring", 1, 0.95)
    assert with_alignment(None, None) is None


def _at(distance: float) -> Similarity:
    return Similarity("near" if distance < 0.5 else "far", distance, "")


def test_a_recipe_stays_as_it_is_in_the_middle_and_moves_both_ways() -> None:
    auto = RECIPES["auto"]
    assert adapted(auto, _at(0.5)) == auto
    assert adapted(auto, None) is auto
    default = RECIPES["ewc+replay"]
    assert adapted(default, _at(1.0)) is default
    near, far = adapted(auto, _at(0.0)), adapted(auto, _at(1.0))
    assert (near.epochs, near.ewc_lambda) == (auto.epochs / 2, auto.ewc_lambda * 2)
    assert (far.epochs, far.ewc_lambda) == (auto.epochs * 2, auto.ewc_lambda / 2)
    assert near.replay_share == far.replay_share == auto.replay_share
    ways = [effort(_at(d)) for d in np.linspace(0, 1, 11)]
    assert ways == sorted(ways)
    assert (ways[0], ways[-1]) == (0.5, 2.0)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"gdumb"}))  # which learns new weights
@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_any_recipe_may_adapt(name: str, distance: float) -> None:
    recipe = replace(RECIPES[name], adapt=True)
    changed = adapted(recipe, _at(distance))
    for field in ("ewc_lambda", "si_lambda", "lwf_lambda"):
        assert (getattr(changed, field) > 0) == (getattr(recipe, field) > 0)


def _rows(slope: tuple[float, ...], count: int, seed: int) -> Encoded:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, len(slope)))).float()
    return Encoded((x,), x @ torch.tensor(slope), np.arange(count))


class _Line(torch.nn.Module):
    """w.x, with what `measure` needs of a model."""

    schema = type("Schema", (), {"task": "regression", "outputs": 1})

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.w)[:, None]


MSE = Recipe(loss="mse")


def measured(
    line: _Line, new: Encoded, old: Encoded, seed: int, regime: torch.Tensor | None = None
) -> Alignment:
    memory = Memory.empty(1000, 0)
    strata = torch.zeros(len(old), dtype=torch.int64) if regime is None else regime
    memory.offer(old.inputs, old.target, torch.from_numpy(old.position), strata)
    found = measure(cast(Model, line), new, memory, MSE, seed, regime is not None)
    assert found is not None
    return found


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2, 2.0, math.pi])
def test_the_cosine_is_that_of_the_expected_gradients(angle: float) -> None:
    """Of w = 0 and y = a.x with independent x the expected gradient of the squared error is -a."""
    new, old = _rows((math.cos(angle), math.sin(angle)), 512, 1), _rows((1.0, 0.0), 512, 2)
    found = measured(_Line((0.0, 0.0)), new, old, 3)
    assert found.cosine is not None
    assert found.error is not None
    assert found.cosine == pytest.approx(math.cos(angle), abs=4 * found.error + 0.02)
    assert found.error < 0.15
    assert found.new_loss == pytest.approx(new.target.square().mean().item() / 2, rel=1e-5)


def test_gradients_are_unbiased_and_the_error_is_the_spread() -> None:
    cosines, errors = [], []
    for seed in range(60):
        found = measured(
            _Line((0.0,) * 20),
            _rows((1.0,) * 10 + (0.0,) * 10, 64, seed),
            _rows((0.0,) * 5 + (1.0,) * 15, 64, 900 + seed),
            0,
        )
        assert found.cosine is not None
        assert found.error is not None
        cosines.append(found.cosine)
        errors.append(found.error)
    assert np.mean(cosines) == pytest.approx(
        5 / math.sqrt(150), abs=4 * float(np.std(cosines)) / math.sqrt(60) + 0.02
    )
    assert np.mean(errors) == pytest.approx(np.std(cosines), rel=0.3)


def test_at_an_optimum_there_is_no_direction_or_none_that_is_sure() -> None:
    sure = 0
    for seed in range(40):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=256)).float()
        old = _rows((1.0, 0.0, 0.0), 256, 100 + seed)
        old = replace(old, target=old.target + noise)
        fitted = torch.linalg.lstsq(old.inputs[0], old.target[:, None]).solution[:, 0]
        found = measured(_Line(tuple(fitted.tolist())), _rows((-1.0, 2.0, 0.0), 256, seed), old, seed)
        sure += found.cosine is not None
    assert (
        sure == 0
    )  # the sum of the parts' gradients is exactly zero, so their products are below zero on average


def test_regimes_in_memory_are_compared_one_by_one() -> None:
    old = _rows((1.0, 0.0), 300, 1)
    regime = torch.arange(300) % 3
    old = replace(old, target=torch.where(regime == 1, -old.target, old.target))
    found = measured(_Line((0.0, 0.0)), _rows((1.0, 0.0), 300, 2), old, 0, regime)
    assert sorted(found.by_regime) == [0, 1, 2]
    assert found.by_regime[0] > 0.9
    assert found.by_regime[1] < -0.9
    few = measured(_Line((0.0, 0.0)), _rows((1.0, 0.0), 300, 2), old, 0, regime * 0 + (torch.arange(300) < 9))
    assert sorted(few.by_regime) == [0]


def test_measuring_leaves_mode_and_gradients_and_few_rows_have_no_direction() -> None:
    model = _Line((0.5, 0.0)).train()
    found = measured(model, _rows((1.0, 0.0), 12, 1), _rows((1.0, 0.0), 300, 2), 0)
    assert (found.cosine, found.error, found.by_regime) == (None, None, {})
    assert found.memory_loss is not None
    assert model.training
    assert model.w.grad is None
    assert measured(model, _rows((1.0, 0.0), 12, 1), _rows((1.0, 0.0), 0, 2), 0).memory_loss is None


def test_the_best_constant_is_the_median_or_the_class_frequencies() -> None:
    assert constant_loss(row_loss("auto", "regression"), torch.tensor([0.0, 1.0, 5.0]), 1) == pytest.approx(
        5 / 3
    )
    half = constant_loss(row_loss("auto", "classification"), torch.tensor([0, 2, 0, 2]), 3)
    assert half == pytest.approx(math.log(2))
    assert constant_loss(row_loss("auto", "classification"), torch.tensor([1, 1]), 3) == 0.0
