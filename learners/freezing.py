"""Elastic freezing: what is important moves less, step by step.

    theta = before + m (theta after the optimiser's step - before),    m_i = 1 / (1 + strength w_i / w_mean)

This is the proximal step argmin over theta of |theta - after|^2 + strength sum_i (w_i / w_mean) (theta_i - before_i)^2.
A weight of mean importance moves 1 / (1 + strength) as far as it would; strength 0 is plain training, bit for bit, and
as strength grows all that has importance stands still. The degree w_i / w_mean has no unit: scaling the importance
changes nothing. The mean runs over what has importance, so that growth changes nothing either.

A penalty pulls weights back to an anchor and is stiff where importance is high; freezing has no anchor, slows every
step, and is stable for any strength. It holds whatever the optimiser, as it scales what Adam has already scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learners.quadratic import Consolidation, Named


def mobility(consolidations: Sequence[Consolidation], strength: float) -> dict[str, Tensor]:
    """Return m in (0, 1] by parameter name; nothing without strength or importance.

    Parameters
    ----------
    consolidations
        Each with importance in the parameters' shapes. Their degrees are averaged.
    strength
        At least 0, see the formula.
    """
    if strength == 0:
        return {}
    known = [kept for kept in consolidations if any(w.any() for w in kept.importance.values())]
    degree: dict[str, Tensor] = {}
    for kept in known:
        mean = _mean_of_positive(kept.importance)
        for name, w in kept.importance.items():
            degree[name] = degree.get(name, torch.zeros_like(w)) + w / (mean * len(known))
    return {name: 1 / (1 + strength * values) for name, values in degree.items()}


def noted(parameters: Named, mobility: Named) -> dict[str, Tensor]:
    """Return copies of the weights to be damped, as they are before the optimiser's step."""
    return {name: parameters[name].detach().clone() for name in mobility}


@torch.no_grad()
def damp(parameters: Named, before: Named, mobility: Named) -> None:
    """Let each weight go only its share m of the way from `before`. With m = 1 it keeps its bits."""
    for name, m in mobility.items():
        parameters[name].copy_(torch.lerp(before[name], parameters[name], m))


def _mean_of_positive(importance: Named) -> float:
    total = sum(float(w.double().sum()) for w in importance.values())
    return total / sum(int(w.count_nonzero()) for w in importance.values())
