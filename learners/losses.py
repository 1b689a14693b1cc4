"""Task losses and distances between outputs, row by row. Shapes: B rows, K outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from learners.recipe import Loss
from learners.schema import Task

RowLoss = Callable[[Tensor, Tensor], Tensor]  # (out_BK, target_B) -> loss_B


def row_loss(loss: Loss, task: Task) -> RowLoss:
    """Return the loss of that name; `auto` is cross-entropy or absolute error.

    Regression losses are in standardised target units; `mse` is half the square, the Gaussian's negative
    log-likelihood with unit variance, of which `learners.fisher` is the curvature.

    Raises
    ------
    ValueError
        If the loss does not fit the task.
    """
    name = ("cross_entropy" if task == "classification" else "l1") if loss == "auto" else loss
    if (name == "cross_entropy") != (task == "classification"):
        raise ValueError(f"recipe: loss {name!r} does not fit a {task}")
    return _ROW_LOSSES[name]


def squared_distance(out_BK: Tensor, stored_BK: Tensor) -> Tensor:
    """Return each row's mean squared distance to stored outputs, over those that were stored (the others are NaN).

    Of logits it is what dark experience replay minimises (Buzzega et al. 2020, arXiv:2004.07211, eq. 6); of predictions in
    standardised units, its twin for regression. Rows without any stored output have distance 0.
    """
    stored_BK = functional.pad(stored_BK, (0, out_BK.shape[1] - stored_BK.shape[1]), value=float("nan"))
    known_BK = stored_BK.isfinite()
    difference_BK = torch.where(known_BK, out_BK - stored_BK, 0.0)
    return difference_BK.square().sum(dim=1) / known_BK.sum(dim=1).clamp(min=1)


def softened_distance(out_BK: Tensor, teacher_BK: Tensor, task: Task, temperature: float) -> Tensor:
    """Return each row's distance to a teacher's outputs.

    Classification: T^2 KL(teacher || student) of both softened by the temperature T, over the teacher's classes alone
    (Li and Hoiem 2016, arXiv:1606.09282, eq. 2; Hinton et al. 2015, arXiv:1503.02531). Regression: half the square.
    """
    if task == "regression":
        return squared_distance(out_BK, teacher_BK) / 2
    student_BK = (out_BK[:, : teacher_BK.shape[1]] / temperature).log_softmax(dim=1)
    teacher_BK = (teacher_BK / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher_BK.exp() * (teacher_BK - student_BK)).sum(dim=1)


_ROW_LOSSES: dict[str, RowLoss] = {
    "cross_entropy": lambda out_BK, target_B: functional.cross_entropy(out_BK, target_B, reduction="none"),
    "l1": lambda out_BK, target_B: (out_BK[:, 0] - target_B).abs(),
    "huber": lambda out_BK, target_B: functional.smooth_l1_loss(
        out_BK[:, 0], target_B, beta=0.1, reduction="none"
    ),
    "mse": lambda out_BK, target_B: (out_BK[:, 0] - target_B).square() / 2,
}
