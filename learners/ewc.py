"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796), online (Schwarz et al. 2018, arXiv:1805.06370).

    L(theta) = L_new(theta) + lambda/2 sum_i F_i (theta_i - theta*_i)^2,    F = gamma F_before + F_latest

theta* is the latest optimum (`learners.quadratic`); each F_latest has trace one (`learners.fisher.normalised`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from learners.fisher import normalised
from learners.quadratic import Consolidation, Named

__all__ = ["Consolidation", "Named", "consolidate", "penalty"]


def penalty(parameters: Named, consolidation: Consolidation, ewc_lambda: float) -> Tensor:
    """Return lambda/2 sum_i F_i (theta_i - theta*_i)^2, of a consolidation aligned to the parameters."""
    total = torch.zeros(())
    for name, fisher in consolidation.importance.items():
        total = total + (fisher * (parameters[name] - consolidation.anchor[name]).square()).sum()
    return ewc_lambda / 2 * total


def consolidate(
    before: Consolidation, parameters: Named, latest: dict[str, Tensor], gamma: float
) -> Consolidation:
    """Return the consolidation at the optimum just reached, whose Fisher information is `latest`, unnormalised."""
    return before.after(parameters, normalised(latest), gamma)
