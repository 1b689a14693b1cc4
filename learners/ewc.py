"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796), online (Schwarz et al. 2018, arXiv:1805.06370).

    L(theta) = L_new(theta) + lambda/2 sum_i F_i (theta_i - theta*_i)^2

theta* is the latest optimum, one anchor for all that was learned (Huszar 2018), and
F = gamma F_before + F_latest, each F_latest of trace one (`learners.fisher.normalised`).
Parameters are matched by name. Rows that an embedding has grown since, and new parameters, have no information: F = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learners.fisher import normalised

Named = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Consolidation:
    """What is known about the latest optimum; empty before the first consolidation."""

    fisher: Named = field(default_factory=dict)  # F, by parameter
    anchor: Named = field(default_factory=dict)  # theta*, by parameter

    def aligned(self, parameters: Named) -> Consolidation:
        """Return it in the shapes of the given parameters, dropping what they no longer have."""
        names = [name for name in parameters if name in self.fisher]
        return Consolidation(
            {name: _onto(torch.zeros_like(parameters[name]), self.fisher[name]) for name in names},
            {name: _onto(parameters[name].detach().clone(), self.anchor[name]) for name in names},
        )


def penalty(parameters: Named, consolidation: Consolidation, ewc_lambda: float) -> Tensor:
    """Return lambda/2 sum_i F_i (theta_i - theta*_i)^2, of a consolidation aligned to the parameters."""
    total = torch.zeros(())
    for name, fisher in consolidation.fisher.items():
        total = total + (fisher * (parameters[name] - consolidation.anchor[name]).square()).sum()
    return ewc_lambda / 2 * total


def consolidate(
    before: Consolidation, parameters: Named, latest: dict[str, Tensor], gamma: float
) -> Consolidation:
    """Return the consolidation at the optimum just reached, whose information is `latest`, unnormalised."""
    old = before.aligned(parameters).fisher
    fisher = {
        name: gamma * old[name] + values if name in old else values
        for name, values in normalised(latest).items()
    }
    return Consolidation(fisher, {name: parameters[name].detach().clone() for name in fisher})


def _onto(base: Tensor, values: Tensor) -> Tensor:
    """Return `values`, with `base` beyond where the first dimension has grown; `base` if shapes do not fit."""
    if base.shape[1:] != values.shape[1:] or base.dim() != values.dim() or len(values) > len(base):
        return base
    return torch.cat([values, base[len(values) :]]) if base.dim() else values
