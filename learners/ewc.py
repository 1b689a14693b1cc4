"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796), online (Schwarz et al. 2018, arXiv:1805.06370).

    L(theta) = L_new(theta) + lambda/2 sum_i F_i (theta_i - theta*_i)^2,    F = gamma F_before + F_latest

theta* is the latest optimum (`learners.quadratic`); each F_latest has mean one (`learners.fisher.normalised`).
"""

from __future__ import annotations

from learners.fisher import normalised
from learners.quadratic import Consolidation, Named


def consolidate(before: Consolidation, parameters: Named, latest: Named, gamma: float) -> Consolidation:
    """Return the consolidation at the optimum just reached, whose Fisher information is `latest`, unnormalised."""
    return before.after(parameters, normalised(latest), gamma)
