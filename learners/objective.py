"""What one step minimises: a weighted sum over the rows of its batch.

    sum_i w_i l(out_i, y_i)  +  alpha sum_i u_i |out_i - z_i|^2  +  lambda sum_i v_i D_T(out_i, t_i)

with targets y, outputs z stored in memory, and outputs t of the parent. Of a row that is a mixture (`learners.mixing`), the first term
is lambda_i w_i l(out_i, y_i) + (1 - lambda_i) w'_i l(out_i, y'_i), with its partner's target and weight. Weights are normalised over the whole batch, so
that it may be passed through the network in parts.

Shapes: B rows of a batch, new ones first, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learners.losses import RowLoss, softened_distance, squared_distance
from learners.models.base import Inputs
from learners.recipe import Recipe
from learners.schema import Task


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one step, and what each is to come to."""

    inputs: Inputs  # (B, ...) each
    target: Tensor  # (B,)
    weight: Tensor  # (B,) of the task loss
    partner: Tensor | None = None  # (B,) targets of the rows that these were mixed with
    partner_weight: Tensor | None = None  # (B,) of the task loss on that target
    partner_share: Tensor | None = None  # (B,) how much of the partner is in the mixture
    stored: Tensor | None = None  # (B, K) outputs from memory, NaN where there are none
    stored_weight: Tensor | None = None  # (B,)
    teacher: Tensor | None = None  # (B, K of the parent) outputs of the parent
    teacher_weight: Tensor | None = None  # (B,)
    masked: Tensor | None = None  # (B, K) classes that a row does not compete with

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, first: int, stop: int) -> Batch:
        """Return some of the rows."""
        cut = slice(first, stop)
        named = {name: value[cut] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, inputs=tuple(tensor[cut] for tensor in self.inputs), **named)

    def parts(self, count: int) -> Iterator[Batch]:
        """Cut the batch into that many nearly equal parts, or one per row."""
        if count == 1:
            yield self
            return
        for bounds in torch.arange(len(self)).tensor_split(min(count, len(self))):
            yield self.rows(int(bounds[0]), int(bounds[-1]) + 1)


def objective(out_BK: Tensor, batch: Batch, recipe: Recipe, row_loss: RowLoss, task: Task) -> Tensor:
    """Return the sum of the module's docstring, in the units of the task loss."""
    scores_BK = out_BK if batch.masked is None else out_BK.masked_fill(batch.masked, -torch.inf)
    loss_B = batch.weight * row_loss(scores_BK, batch.target)
    if batch.partner is not None and batch.partner_weight is not None and batch.partner_share is not None:
        partner_B = batch.partner_weight * row_loss(scores_BK, batch.partner)
        loss_B = torch.lerp(loss_B, partner_B, batch.partner_share)
    loss = loss_B.sum()
    if batch.stored is not None and batch.stored_weight is not None:
        distance_B = squared_distance(out_BK, batch.stored)
        loss = loss + recipe.distil_weight * (batch.stored_weight * distance_B).sum()
    if batch.teacher is not None and batch.teacher_weight is not None:
        distance_B = softened_distance(out_BK, batch.teacher, task, recipe.lwf_temperature)
        loss = loss + recipe.lwf_lambda * (batch.teacher_weight * distance_B).sum()
    return loss
