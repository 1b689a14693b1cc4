"""A quadratic penalty at the latest optimum, with its gradient in closed form.

    L(theta) = L_new(theta) + lambda/2 sum_i w_i (theta_i - theta*_i)^2,    gradient: lambda w_i (theta_i - theta*_i)

w is Fisher information (`learners.ewc`) or path integral (`learners.si`); theta* is the latest optimum, one anchor for
all that was learned before (Huszar 2018, arXiv:1712.03847), so that the cost does not grow with what was learned.
Parameters are matched by name. Rows that a layer has grown since, and new parameters, are unprotected: w = 0.

Shapes: P all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Named = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Consolidation:
    """What is known about the latest optimum; empty before the first consolidation."""

    importance: Named = field(default_factory=dict)  # w >= 0, by parameter
    anchor: Named = field(default_factory=dict)  # theta*, by parameter

    def aligned(self, parameters: Named) -> Consolidation:
        """Return it in the shapes of the given parameters, dropping what they no longer have.

        Returns itself if all shapes fit already.
        """
        if all(
            name in parameters and parameters[name].shape == w.shape for name, w in self.importance.items()
        ):
            return self
        names = [name for name in parameters if name in self.importance]
        return Consolidation(
            {name: onto(torch.zeros_like(parameters[name]), self.importance[name]) for name in names},
            {name: onto(parameters[name].detach(), self.anchor[name]) for name in names},
        )

    def after(self, parameters: Named, latest: Named, gamma: float) -> Consolidation:
        """Return the consolidation at the optimum just reached: importance gamma w + `latest`, anchored there."""
        old = self.aligned(parameters).importance
        importance = {name: gamma * old[name] + w if name in old else w for name, w in latest.items()}
        return Consolidation(importance, {name: parameters[name].detach().clone() for name in importance})


@torch.no_grad()
def pull(parameters: Named, consolidation: Consolidation, strength: float) -> Tensor:
    """Add the penalty's gradient to every `.grad`, in place, and return the penalty.

    Parameters
    ----------
    parameters
        By name. One without a gradient yet is given one; one that requires none is fixed, and passed over.
    consolidation
        In the parameters' shapes, see `Consolidation.aligned`.
    strength
        lambda. With 0 no gradient is touched.

    Returns
    -------
    Tensor
        lambda/2 sum_i w_i (theta_i - theta*_i)^2, without dimensions.
    """
    total = torch.zeros(())
    if strength == 0:
        return total
    for name, w in consolidation.importance.items():
        theta = parameters[name]
        if not theta.requires_grad:
            continue
        away = theta - consolidation.anchor[name]
        if theta.grad is None:
            theta.grad = torch.zeros_like(theta)
        theta.grad.addcmul_(w, away, value=strength)
        total = total + torch.dot(w.flatten(), away.square_().flatten())
    return strength / 2 * total


def onto(base: Tensor, values: Tensor) -> Tensor:
    """Return a copy of `values`, with `base` wherever that is larger; of `base` if it is smaller anywhere."""
    result = base.clone()
    if base.dim() == values.dim() and all(n <= m for n, m in zip(values.shape, base.shape, strict=True)):
        result[tuple(slice(n) for n in values.shape)] = values
    return result
