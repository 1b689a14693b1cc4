"""Task losses, as means over a batch. Shapes: B rows, K outputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from learners.recipe import Loss
from learners.schema import Task

Criterion = Callable[[Tensor, Tensor], Tensor]  # (out_BK, target_B) -> mean loss


def criterion(loss: Loss, task: Task) -> Criterion:
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
    return _CRITERIA[name]


_CRITERIA: dict[str, Criterion] = {
    "cross_entropy": functional.cross_entropy,
    "l1": lambda out_BK, target_B: functional.l1_loss(out_BK[:, 0], target_B),
    "huber": lambda out_BK, target_B: functional.smooth_l1_loss(out_BK[:, 0], target_B, beta=0.1),
    "mse": lambda out_BK, target_B: functional.mse_loss(out_BK[:, 0], target_B) / 2,
}
