"""Step sizes: closed forms, and a plateau that survives JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest

from learners.recipe import Recipe
from learners.schedule import FLOOR, Plateau, rate


def test_warm_up_rises_linearly_to_the_peak_and_stays_there() -> None:
    recipe = Recipe(learning_rate=0.1, warmup_steps=4)
    assert [rate(recipe, step, 10) for step in range(6)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


def test_cosine_starts_at_the_peak_passes_its_half_and_ends_near_zero() -> None:
    recipe = Recipe(learning_rate=0.1, warmup_steps=0, schedule="cosine")
    assert rate(recipe, 0, 1000) == 0.1
    assert rate(recipe, 500, 1000) == pytest.approx(0.05)
    assert rate(recipe, 999, 1000) == pytest.approx(0.1 * math.sin(math.pi / 2000) ** 2)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_other_schedules_do_not_look_at_the_plateau(schedule: Literal["constant", "cosine"]) -> None:
    recipe = Recipe(schedule=schedule)
    assert rate(recipe, 20, 100, plateau=0.1) == rate(recipe, 20, 100)


def test_plateau_multiplies_the_warmed_up_step_size() -> None:
    recipe = Recipe(learning_rate=0.1, warmup_steps=1, schedule="plateau")
    assert [rate(recipe, step, 10, plateau=0.25) for step in (0, 5)] == pytest.approx([0.0125, 0.025])


def judged(losses: Sequence[float], **settings: Any) -> list[float]:
    plateau, multipliers = Plateau(), list[float]()
    for loss in losses:
        plateau = plateau.judge(loss, **settings)
        multipliers.append(plateau.multiplier)
    return multipliers


def test_step_size_is_cut_after_as_many_epochs_without_a_lower_loss_as_patience_says() -> None:
    assert judged([3, 2, 2, 2, 2, 2, 1, 1], patience=2) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert judged([3, 3, 3], patience=1, factor=0.1) == pytest.approx([1, 0.1, 0.01])


def test_a_loss_that_keeps_falling_never_cuts_and_rounding_is_no_fall() -> None:
    assert judged([0.9**k for k in range(50)], patience=1) == [1] * 50
    assert judged([-(k + 1.0) for k in range(50)], patience=1) == [1] * 50  # log densities may be negative
    assert judged([1, 1 - 1e-6, 1 - 2e-6], patience=2)[-1] == 0.5


def test_fresh_and_retained_losses_count_together() -> None:
    plateau = Plateau().judge(1.0, 1.0, patience=1)
    assert plateau.judge(0.5, 1.6, patience=1).multiplier == 0.5  # learns the new, forgets the old by more
    assert plateau.judge(0.5, 1.4, patience=1).multiplier == 1.0


def test_a_loss_that_is_no_number_is_not_lower_and_the_multiplier_has_a_floor() -> None:
    assert judged([math.nan, 1.0, math.nan, math.inf], patience=2)[-1] == 0.5
    assert judged([1.0] * 100, patience=1)[-1] == FLOOR


def test_plateau_resumes_from_json_at_any_judgement() -> None:
    losses = [3, 2, 2, 2.5, 1.9, 1.9, 1.9, 1.9]
    for cut in range(len(losses)):
        plateau = Plateau()
        for k, loss in enumerate(losses):
            if k == cut:
                plateau = Plateau.restore(json.loads(json.dumps(plateau.scalars)))
            plateau = plateau.judge(loss)
        assert plateau.multiplier == judged(losses)[-1]


@pytest.mark.parametrize("settings", [{"factor": 1.0}, {"factor": 0.0}, {"patience": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="factor in"):
        Plateau().judge(1.0, **settings)
    with pytest.raises(ValueError, match="at least one loss"):
        Plateau().judge()


def test_plateau_is_a_value() -> None:
    plateau = Plateau()
    plateau.judge(1.0)
    assert plateau == Plateau() == replace(plateau)
