"""What a step sees, by hand: which rows, what they weigh, and what they compete with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from learners.encoded import Encoded
from learners.feed import Feed
from learners.losses import row_loss
from learners.memory import Memory
from learners.models.base import Model
from learners.models.mlp_config import MlpConfig
from learners.models.registry import load
from learners.objective import objective
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema

CLASSES = 5
RECIPE = Recipe(batch_rows=40, replay_share=0.5, epochs=50.0)
ACE = replace(RECIPE, class_mask="ace")


def labelled(first: int, target: list[int], model: Model | None = None) -> tuple[Model, Encoded]:
    """Return rows whose feature is their position, so that what comes from where can be read off."""
    position = np.arange(first, first + len(target))
    rows = Rows({"x": position.astype(np.float64)}, np.array(target, dtype=np.float64), position)
    if model is None:
        schema = Schema(("x",), (), "classification", tuple("abcde"))
        model = load("mlp").fit_preprocessing(MlpConfig(hidden=(4,)), schema, rows)
    return model, Encoded.of(model, rows)


def fed(
    recipe: Recipe,
    new: list[int],
    old: list[int],
    outputs: Tensor | None = None,
    teacher: Tensor | None = None,
    seen: int | None = None,
) -> Feed:
    model, train = labelled(1000, new)
    memory = Memory.empty(1000, 0)
    if old:
        _, kept = labelled(0, old, model)
        memory.offer(
            kept.inputs, kept.target, torch.from_numpy(kept.position), torch.zeros(len(old)).long(), outputs
        )
    memory.seen = len(old) if seen is None else seen
    return Feed(model, train, memory, teacher, recipe, 3)


def outputs_of(rows: int, columns: int = CLASSES) -> Tensor:
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)


def test_rows_come_in_the_order_new_again_replayed_each_with_its_own_target() -> None:
    feed = fed(ACE, [3, 4] * 40, [0, 1] * 30)
    seen = feed.at(2)
    new, again, replayed = len(seen.new), len(seen.again), len(seen.replayed)
    assert (new, again, replayed) == (20, 10, 10)  # two of the four classes in play are new
    mine = torch.from_numpy(np.concatenate([seen.new, seen.again]))
    slots = torch.from_numpy(seen.replayed)
    expected = torch.cat([feed.train.inputs[0][mine], feed.memory.inputs[0][slots]])
    assert torch.equal(seen.batch.inputs[0], expected)
    targets = torch.cat([feed.train.target[mine], feed.memory.target[slots]])
    assert torch.equal(seen.batch.target, targets)
    assert set(seen.batch.target[:30].tolist()) == {3, 4}
    assert set(seen.batch.target[30:].tolist()) == {0, 1}


@pytest.mark.parametrize("half_life", [None, 10.0])
def test_slots_are_drawn_by_age_as_the_recipe_says(half_life: float | None) -> None:
    feed = fed(replace(RECIPE, recency_rows=half_life, replay_share=0.9), [0] * 80, [1] * 30)
    slots = np.concatenate([feed.at(step).replayed for step in range(feed.batches.steps)])
    counts = np.bincount(feed.memory.position.numpy()[slots], minlength=30)
    age = 29 - np.arange(30)
    chances = np.ones(30) if half_life is None else 0.5 ** (age / half_life)
    assert stats.chisquare(counts, counts.sum() * chances / chances.sum()).pvalue > 1e-3


def test_new_rows_compete_among_their_own_classes_and_replayed_ones_among_all_there_were() -> None:
    seen = fed(ACE, [3, 4] * 40, [0, 1] * 30).at(0)
    masked = seen.batch.masked
    assert masked is not None
    assert masked[: len(seen.new)].tolist() == [[True, True, True, False, False]] * len(seen.new)
    rest = len(seen.again) + len(seen.replayed)
    assert masked[len(seen.new) :].tolist() == [[False, False, True, False, False]] * rest
    assert not masked[torch.arange(len(seen.batch)), seen.batch.target].any()


@pytest.mark.parametrize(
    ("new", "old", "again"), [([3, 4], [0, 1], 1 / 2), ([0, 4], [0, 1, 2], 2 / 4), ([2], [0, 1, 2], 1 / 3)]
)
def test_new_rows_have_the_share_of_their_classes_in_the_replayed_part(
    new: list[int], old: list[int], again: float
) -> None:
    recipe = replace(ACE, batch_rows=120)
    seen = fed(recipe, new * 120, old * 30).at(0)
    assert len(seen.again) / (len(seen.again) + len(seen.replayed)) == pytest.approx(again, abs=0.01)


def test_without_the_mask_all_compete_and_no_new_row_comes_again() -> None:
    seen = fed(RECIPE, [3, 4] * 40, [0, 1] * 30).at(0)
    assert seen.batch.masked is None
    assert len(seen.again) == 0


def test_a_new_row_does_not_push_down_an_old_class() -> None:
    feed = fed(ACE, [3, 4] * 40, [0, 1] * 30)
    seen = feed.at(0)
    out_BK = torch.zeros(len(seen.batch), CLASSES, requires_grad=True)
    cross_entropy = row_loss("auto", "classification")
    loss = objective(out_BK, seen.batch, feed.recipe, cross_entropy, "classification")
    pull_BK = torch.autograd.grad(loss, out_BK)[0]
    assert (pull_BK[: len(seen.new), :3] == 0).all()
    assert (pull_BK[len(seen.new) :, :2] != 0).all()


def test_stored_outputs_are_those_of_the_replayed_slots() -> None:
    stored_MK = outputs_of(60)
    feed = fed(replace(RECIPE, rehearsal="der"), [3, 4] * 40, [0, 1] * 30, stored_MK)
    seen = feed.at(1)
    batch, new = seen.batch, len(seen.new)
    assert batch.stored is not None
    assert batch.stored_weight is not None
    assert batch.stored[:new].isnan().all()
    positions = feed.memory.position[torch.from_numpy(seen.replayed)]
    assert torch.equal(batch.stored[new:], stored_MK[positions])
    assert batch.weight.tolist() == pytest.approx([1 / 40] * 20 + [0.0] * 20)
    assert batch.stored_weight.tolist() == pytest.approx([0.0] * 20 + [1 / 40] * 20)


def test_der_learns_the_target_of_what_it_has_no_outputs_of() -> None:
    stored_MK = outputs_of(60)
    stored_MK[::2] = torch.nan  # as of rows that were never visited
    stored_MK[:, 4] = torch.nan  # as of rows from before the head grew
    feed = fed(replace(RECIPE, rehearsal="der"), [3, 4] * 40, [0, 1] * 30, stored_MK)
    seen = feed.at(1)
    new, positions = len(seen.new), feed.memory.position[torch.from_numpy(seen.replayed)]
    unknown = (positions % 2 == 0).float()
    assert 0 < unknown.sum() < len(unknown)
    assert seen.batch.stored_weight is not None
    assert seen.batch.weight[new:].tolist() == pytest.approx((unknown / 40).tolist())
    assert seen.batch.stored_weight[new:].tolist() == pytest.approx(((1 - unknown) / 40).tolist())
    nothing = fed(replace(RECIPE, rehearsal="der"), [3, 4] * 40, [0, 1] * 30).at(1).batch
    assert nothing.stored is None
    assert nothing.weight.tolist() == pytest.approx([1 / 40] * 40)


def test_the_memory_weighs_as_many_rows_as_it_was_offered() -> None:
    feed = fed(replace(RECIPE, replay_weight="seen"), [3, 4] * 40, [0, 1] * 30, seen=720)
    weight = feed.at(0).batch.weight
    assert weight.tolist() == pytest.approx([0.1 / 20] * 20 + [0.9 / 20] * 20)


def test_the_parents_outputs_hold_new_rows_alone_each_its_own() -> None:
    teacher_NK = outputs_of(80, 3)
    seen = fed(replace(ACE, lwf_lambda=1.0), [3, 4] * 40, [0, 1] * 30, teacher=teacher_NK).at(1)
    batch, new = seen.batch, len(seen.new)
    assert batch.teacher is not None
    assert batch.teacher_weight is not None
    assert torch.equal(batch.teacher[:new], teacher_NK[torch.from_numpy(seen.new)])
    assert batch.teacher_weight.tolist() == pytest.approx([1 / new] * new + [0.0] * (len(batch) - new))


BALANCED = replace(RECIPE, balance_classes=1.0)
RARE = [0] * 60 + [1] * 20  # n / (K n_c) with the K = 2 classes that there are
FACTOR = {0: 80 / (2 * 60), 1: 80 / (2 * 20)}


def factors(target: Tensor) -> list[float]:
    """Return the factors by hand; classes 2 and 3 are in the memory alone, whose rows weigh one."""
    return [FACTOR.get(index, 1.0) for index in target.tolist()]


def test_new_rows_weigh_by_their_class_and_replayed_ones_by_none() -> None:
    batch = fed(BALANCED, RARE, [2, 3] * 30).at(0).batch
    assert batch.weight.tolist() == pytest.approx([f / 40 for f in factors(batch.target)])
    replayed = fed(BALANCED, RARE, [0, 1] * 30).at(0).batch
    expected = [f / 40 for f in factors(replayed.target[:20])] + [1 / 40] * 20
    assert replayed.weight.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("old", [[], [2, 3] * 30])
def test_each_half_of_a_mixture_weighs_by_its_own_class(kind: str, old: list[int]) -> None:
    recipe = replace(BALANCED, mixup=float(kind == "mixup"), cutmix=float(kind == "cutmix"))
    batch = fed(recipe, RARE, old).at(0).batch
    assert batch.partner is not None
    assert batch.partner_weight is not None
    assert (batch.partner != batch.target).any()
    assert batch.weight.tolist() == pytest.approx([f / 40 for f in factors(batch.target)])
    assert batch.partner_weight.tolist() == pytest.approx([f / 40 for f in factors(batch.partner)])


def test_mixing_leaves_the_mean_weight_of_a_class_as_it_is() -> None:
    feed, share = fed(replace(BALANCED, mixup=1.0, replay_share=0.0), RARE, []), torch.zeros(2)
    for step in range(feed.batches.steps):
        batch = feed.at(step).batch
        assert batch.partner is not None
        assert batch.partner_weight is not None
        assert batch.partner_share is not None
        share.index_add_(0, batch.target, batch.weight * (1 - batch.partner_share))
        share.index_add_(0, batch.partner, batch.partner_weight * batch.partner_share)
    assert (share / share.sum()).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_mixed_targets_of_a_regression_weigh_like_their_rows() -> None:
    position = np.arange(100)
    rows = Rows({"x": position.astype(np.float64)}, position.astype(np.float64), position)
    model = load("mlp").fit_preprocessing(MlpConfig(hidden=(4,)), Schema(("x",)), rows)
    feed = Feed(
        model, Encoded.of(model, rows), Memory.empty(0, 0), None, replace(RECIPE, mixup=1.0, loss="mse"), 3
    )
    batch = feed.at(0).batch
    out_B1 = torch.zeros(len(batch), 1)
    loss = objective(out_B1, batch, feed.recipe, row_loss("mse", "regression"), "regression")
    assert batch.partner is not None
    assert loss.item() == pytest.approx((batch.partner.square() / 2).mean().item(), rel=1e-5)
    assert batch.inputs[0][:, 0].tolist() == pytest.approx(
        model.encode({"x": (batch.partner.double() * model.target_scale + model.target_location).numpy()})[0][
            :, 0
        ].tolist(),
        abs=1e-4,
    )  # the feature is the target, and so it is after mixing
