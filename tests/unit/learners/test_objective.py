"""What a step minimises: each term by hand, and as much in parts as in one pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learners.losses import row_loss, softened_distance, squared_distance
from learners.objective import Batch, objective
from learners.recipe import Recipe

ROWS, NEW, CLASSES, OF_PARENT = 11, 6, 5, 3
RECIPE = Recipe(rehearsal="der++", distil_weight=0.7, lwf_lambda=1.3, lwf_temperature=3.0)
CROSS_ENTROPY = row_loss("auto", "classification")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole() -> tuple[Tensor, Batch]:
    """Return outputs, and a batch with all that a row may come to."""
    stored_BK = drawn(2, ROWS, CLASSES)
    stored_BK[:NEW], stored_BK[NEW, 4] = torch.nan, torch.nan
    masked_BK = torch.zeros(ROWS, CLASSES, dtype=torch.bool)
    masked_BK[:NEW, 3:] = True
    batch = Batch(
        (drawn(0, ROWS, 2),),
        torch.arange(ROWS) % OF_PARENT,
        drawn(3, ROWS).square(),
        partner=(torch.arange(ROWS) + 1) % OF_PARENT,
        partner_weight=drawn(4, ROWS).square(),
        partner_share=drawn(5, ROWS).sigmoid(),
        stored=stored_BK,
        stored_weight=drawn(6, ROWS).square(),
        teacher=drawn(7, ROWS, OF_PARENT),
        teacher_weight=drawn(8, ROWS).square(),
        masked=masked_BK,
    )
    return drawn(1, ROWS, CLASSES).requires_grad_(), batch


def value(out_BK: Tensor, batch: Batch, recipe: Recipe = RECIPE) -> Tensor:
    return objective(out_BK, batch, recipe, CROSS_ENTROPY, "classification")


def task_alone(batch: Batch) -> Batch:
    """Return the batch with its targets and weights only."""
    return Batch(batch.inputs, batch.target, batch.weight)


def test_the_task_loss_is_the_weighted_sum() -> None:
    out_BK, batch = whole()
    probability_BK = out_BK.detach().softmax(dim=1)
    by_hand = sum(
        w * -p[y].log() for w, p, y in zip(batch.weight, probability_BK, batch.target.tolist(), strict=True)
    )
    assert value(out_BK, task_alone(batch)).item() == pytest.approx(float(by_hand))


def test_the_distance_to_stored_outputs_counts_by_its_weights_times_alpha() -> None:
    out_BK, batch = whole()
    alone = replace(task_alone(batch), stored=batch.stored, stored_weight=batch.stored_weight)
    assert batch.stored is not None
    assert batch.stored_weight is not None
    more = value(out_BK, alone) - value(out_BK, task_alone(batch))
    expected = 0.7 * (batch.stored_weight[NEW:] * squared_distance(out_BK[NEW:], batch.stored[NEW:])).sum()
    assert more.item() == pytest.approx(expected.item())
    assert torch.autograd.grad(more, out_BK)[0][:NEW].abs().max() < 1e-12  # nothing stored, nothing pulled


def test_the_distance_to_the_parent_counts_by_its_weights_times_lambda() -> None:
    out_BK, batch = whole()
    alone = replace(task_alone(batch), teacher=batch.teacher, teacher_weight=batch.teacher_weight)
    assert batch.teacher is not None
    assert batch.teacher_weight is not None
    more = value(out_BK, alone) - value(out_BK, task_alone(batch))
    distance_B = softened_distance(out_BK, batch.teacher, "classification", 3.0)
    assert more.item() == pytest.approx(1.3 * (batch.teacher_weight * distance_B).sum().item())
    assert more > 0.01


def test_classes_that_a_row_does_not_compete_with_are_not_pushed_and_the_others_as_if_they_were_all() -> None:
    out_BK, batch = whole()
    gradient_BK = torch.autograd.grad(
        value(out_BK, replace(task_alone(batch), masked=batch.masked)), out_BK, retain_graph=True
    )[0]
    assert (gradient_BK[:NEW, 3:] == 0).all()
    few_BK = out_BK.detach()[:NEW, :3].requires_grad_()
    few = value(few_BK, task_alone(batch).rows(0, NEW))
    assert torch.allclose(gradient_BK[:NEW, :3], torch.autograd.grad(few, few_BK)[0])
    free = torch.autograd.grad(value(out_BK, task_alone(batch)), out_BK)[0]
    assert torch.allclose(gradient_BK[NEW:], free[NEW:])


def test_a_mixtures_loss_lies_between_those_of_its_halves_each_by_its_own_weight() -> None:
    out_BK, batch = whole()
    mixed = replace(
        task_alone(batch),
        partner=batch.partner,
        partner_weight=batch.partner_weight,
        partner_share=batch.partner_share,
    )
    assert batch.partner is not None
    assert batch.partner_weight is not None
    assert batch.partner_share is not None
    own_B = batch.weight * CROSS_ENTROPY(out_BK, batch.target)
    other_B = batch.partner_weight * CROSS_ENTROPY(out_BK, batch.partner)
    by_hand = sum(
        (1 - share) * own + share * other
        for share, own, other in zip(
            batch.partner_share.tolist(), own_B.tolist(), other_B.tolist(), strict=True
        )
    )
    assert value(out_BK, mixed).item() == pytest.approx(by_hand)
    for share, expected_B in ((0.0, own_B), (1.0, other_B)):
        pure = replace(mixed, partner_share=torch.full((ROWS,), share, dtype=torch.float64))
        assert value(out_BK, pure).item() == pytest.approx(expected_B.sum().item())


@pytest.mark.parametrize("count", [1, 2, 3, 4, ROWS, 50])
def test_parts_add_up_in_value_and_gradient(count: int) -> None:
    out_BK, batch = whole()
    parts = list(batch.parts(count))
    assert len(parts) == min(count, ROWS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert torch.equal(torch.cat([part.inputs[0] for part in parts]), batch.inputs[0])
    losses, first = [], 0
    for part in parts:
        losses.append(value(out_BK[first : first + len(part)], part))
        first += len(part)
    together, expected = torch.stack(losses).sum(), value(out_BK, batch)
    assert together.item() == pytest.approx(expected.item(), rel=1e-13)
    of_parts, of_whole = (torch.autograd.grad(loss, out_BK)[0] for loss in (together, expected))
    assert torch.allclose(of_parts, of_whole, rtol=0, atol=1e-14)


def test_a_regression_is_held_by_squares() -> None:
    out_B1 = drawn(1, ROWS, 1)
    batch = Batch(
        (drawn(0, ROWS, 2),),
        drawn(2, ROWS),
        drawn(3, ROWS).square(),
        stored=drawn(4, ROWS, 1),
        stored_weight=drawn(5, ROWS).square(),
        teacher=drawn(6, ROWS, 1),
        teacher_weight=drawn(7, ROWS).square(),
    )
    found = objective(out_B1, batch, RECIPE, row_loss("mse", "regression"), "regression")
    assert batch.stored is not None
    assert batch.stored_weight is not None
    assert batch.teacher is not None
    assert batch.teacher_weight is not None
    squares = [
        (batch.weight / 2, batch.target),
        (0.7 * batch.stored_weight, batch.stored[:, 0]),
        (1.3 * batch.teacher_weight / 2, batch.teacher[:, 0]),
    ]
    expected = sum((weight * (out_B1[:, 0] - to).square()).sum().item() for weight, to in squares)
    assert found.item() == pytest.approx(expected)
