"""Row losses and distances against their closed forms and gradients."""

from __future__ import annotations

import math
from typing import cast, get_args

import pytest
import torch
from torch import Tensor

from learners.losses import row_loss, softened_distance, squared_distance
from learners.recipe import Loss

ROWS, CLASSES = 7, 5


def drawn(seed: int, columns: int = CLASSES) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(ROWS, columns, generator=draws, dtype=torch.float64)


def gradient_of(loss_B: Tensor, out_BK: Tensor) -> Tensor:
    return torch.autograd.grad(loss_B.sum(), out_BK)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
def test_the_softened_distance_is_the_scaled_divergence_from_the_teacher(temperature: float) -> None:
    student_BK, teacher_BK = drawn(0), drawn(1)
    p_BK, q_BK = ((out / temperature).softmax(dim=1) for out in (teacher_BK, student_BK))
    by_hand_B = [
        temperature**2 * sum(p * math.log(p / q) for p, q in zip(of_teacher, of_student, strict=True))
        for of_teacher, of_student in zip(p_BK.tolist(), q_BK.tolist(), strict=True)
    ]
    distance_B = softened_distance(student_BK, teacher_BK, "classification", temperature)
    assert distance_B.tolist() == pytest.approx(by_hand_B)
    assert (distance_B > 0.01).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
def test_its_gradient_is_t_times_the_difference_of_the_softened_probabilities(temperature: float) -> None:
    student_BK, teacher_BK = drawn(0).requires_grad_(), drawn(1)
    distance_B = softened_distance(student_BK, teacher_BK, "classification", temperature)
    probability_BK, towards_BK = (
        (out.detach() / temperature).softmax(dim=1) for out in (student_BK, teacher_BK)
    )
    expected_BK = temperature * (probability_BK - towards_BK)
    assert torch.allclose(gradient_of(distance_B, student_BK), expected_BK, rtol=0, atol=1e-13)


def test_at_the_teacher_there_is_neither_distance_nor_gradient_whatever_is_added_to_all_logits() -> None:
    student_BK, teacher_BK = (drawn(1) + 3.0).requires_grad_(), drawn(1)
    distance_B = softened_distance(student_BK, teacher_BK, "classification", 2.0)
    assert distance_B.abs().max() < 1e-13
    assert gradient_of(distance_B, student_BK).abs().max() < 1e-13


def test_descending_the_distance_leads_to_the_teacher() -> None:
    student_BK, teacher_BK = drawn(0).requires_grad_(), drawn(1)
    distance_B = softened_distance(student_BK, teacher_BK, "classification", 2.0)
    nearer_BK = student_BK.detach() - 0.1 * gradient_of(distance_B, student_BK)
    assert (softened_distance(nearer_BK, teacher_BK, "classification", 2.0) < distance_B).all()


def test_classes_that_the_teacher_does_not_know_are_left_to_the_task() -> None:
    student_BK, teacher_BK = drawn(0, CLASSES + 2).requires_grad_(), drawn(1)
    distance_B = softened_distance(student_BK, teacher_BK, "classification", 2.0)
    known_B = softened_distance(student_BK[:, :CLASSES], teacher_BK, "classification", 2.0)
    assert torch.equal(distance_B, known_B)
    gradient_BK = gradient_of(distance_B, student_BK)
    assert (gradient_BK[:, CLASSES:] == 0).all()
    assert (gradient_BK[:, :CLASSES] != 0).all()


def test_of_a_regression_it_is_half_the_square() -> None:
    student_B1, teacher_B1 = drawn(0, 1).requires_grad_(), drawn(1, 1)
    distance_B = softened_distance(student_B1, teacher_B1, "regression", 2.0)
    difference_B1 = student_B1.detach() - teacher_B1
    assert torch.allclose(distance_B, difference_B1[:, 0].square() / 2)
    assert torch.allclose(gradient_of(distance_B, student_B1), difference_B1)


def with_gaps(stored_BK: Tensor) -> Tensor:
    """Return them with one row of which nothing is stored, and single gaps in two others."""
    stored_BK = stored_BK.clone()
    stored_BK[0] = torch.nan
    stored_BK[1, 3] = stored_BK[2, 0] = torch.nan
    return stored_BK


def test_the_squared_distance_is_the_mean_over_what_was_stored() -> None:
    out_BK, stored_BK = drawn(0), with_gaps(drawn(1))
    by_hand_B = [
        math.fsum((a - b) ** 2 for a, b in zip(out, stored, strict=True) if not math.isnan(b))
        / max(1, sum(not math.isnan(b) for b in stored))
        for out, stored in zip(out_BK.tolist(), stored_BK.tolist(), strict=True)
    ]
    assert squared_distance(out_BK, stored_BK).tolist() == pytest.approx(by_hand_B)
    assert by_hand_B[0] == 0.0
    assert min(by_hand_B[1:]) > 0.01


def test_its_gradient_is_twice_the_difference_over_the_stored_outputs_alone() -> None:
    out_BK, stored_BK = drawn(0).requires_grad_(), with_gaps(drawn(1))
    known_BK = stored_BK.isfinite()
    assert known_BK.sum(dim=1).tolist() == [0, 4, 4, 5, 5, 5, 5]
    twice_BK = 2 * (out_BK.detach() - stored_BK).nan_to_num()
    expected_BK = twice_BK / known_BK.sum(dim=1, keepdim=True).clamp(min=1)
    gradient_BK = gradient_of(squared_distance(out_BK, stored_BK), out_BK)
    assert torch.allclose(gradient_BK, expected_BK, rtol=0, atol=1e-14)
    assert ((gradient_BK != 0) == known_BK).all()


def test_outputs_stored_before_the_head_grew_say_nothing_of_new_classes() -> None:
    out_BK, stored_BK = drawn(0, CLASSES + 2).requires_grad_(), drawn(1)
    distance_B = squared_distance(out_BK, stored_BK)
    assert torch.equal(distance_B, squared_distance(out_BK[:, :CLASSES], stored_BK))
    assert (gradient_of(distance_B, out_BK)[:, CLASSES:] == 0).all()


def test_of_a_regression_it_is_the_square() -> None:
    out_B1, stored_B1 = drawn(0, 1), drawn(1, 1)
    assert torch.equal(squared_distance(out_B1, stored_B1), (out_B1 - stored_B1)[:, 0].square())


def test_cross_entropy_is_minus_the_log_probability_and_pulls_by_the_difference() -> None:
    out_BK, target_B = drawn(0).requires_grad_(), torch.arange(ROWS) % CLASSES
    loss_B = row_loss("auto", "classification")(out_BK, target_B)
    probability_BK = out_BK.detach().softmax(dim=1)
    assert torch.allclose(loss_B, -probability_BK[torch.arange(ROWS), target_B].log())
    expected_BK = probability_BK - torch.eye(CLASSES)[target_B]
    assert torch.allclose(gradient_of(loss_B, out_BK), expected_BK, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "value", "slope"),
    [
        ("auto", abs, lambda d: math.copysign(1, d)),
        ("l1", abs, lambda d: math.copysign(1, d)),
        ("mse", lambda d: d * d / 2, lambda d: d),
        (
            "huber",
            lambda d: d * d / 0.2 if abs(d) < 0.1 else abs(d) - 0.05,
            lambda d: d / 0.1 if abs(d) < 0.1 else math.copysign(1, d),
        ),
    ],
)
def test_regression_losses_are_their_formulas(loss: Loss, value: object, slope: object) -> None:
    difference = [-3.0, -0.2, -0.05, 0.02, 0.09, 0.11, 4.0]
    out_B1 = (torch.tensor(difference, dtype=torch.float64) + 1.5)[:, None].requires_grad_()
    loss_B = row_loss(loss, "regression")(out_B1, torch.full((7,), 1.5, dtype=torch.float64))
    assert callable(value)
    assert callable(slope)
    assert loss_B.tolist() == pytest.approx([value(d) for d in difference])
    assert gradient_of(loss_B, out_B1)[:, 0].tolist() == pytest.approx([slope(d) for d in difference])


def test_a_loss_that_does_not_fit_the_task_is_refused() -> None:
    for loss in cast("tuple[Loss, ...]", get_args(Loss)):
        if loss != "auto":
            other = "regression" if loss == "cross_entropy" else "classification"
            with pytest.raises(ValueError, match=f"'{loss}' does not fit a {other}"):
                row_loss(loss, "regression" if loss == "cross_entropy" else "classification")
