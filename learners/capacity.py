"""When a network is too small for what it should know: the signal for `learners.models.widen`. Torch-free.

Near the optimum b of the new regime its loss is 1/2 sum_i G_i (theta_i - b_i)^2, with G its Fisher information, and the
penalty is lambda/2 sum_i F_i (theta_i - a_i)^2. Their sum is least at

    theta_i = (G_i b_i + lambda F_i a_i) / (G_i + lambda F_i):

weight i stays the share h_i = lambda F_i / (G_i + lambda F_i) of its way from a_i to b_i behind. The network is full
when the weights that the new regime needs are the ones that earlier regimes hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def held_back(importance: Mapping[str, Tensor], latest: Mapping[str, Tensor], strength: float) -> float:
    """Return sum_i G_i h_i / sum_i G_i: how far the new regime is kept from its optimum, from 0 (free) to 1 (bound).

    Parameters
    ----------
    importance
        F, what the penalty multiplies with `strength`. Parameters that it lacks are free.
    latest
        G, the Fisher information of new rows, not normalised, by parameter name.
    strength
        lambda, of the penalty.
    """
    needed = sum(float(new.sum()) for new in latest.values())
    kept = 0.0
    for name, new in latest.items():
        if name in importance and strength > 0:
            pull = strength * importance[name]
            kept += float((new * pull / (new + pull).clamp(min=1e-30)).sum())
    return kept / needed if needed > 0 else 0.0


def wants_width(
    reached: float,
    earlier: Sequence[float],
    held: float | None = None,
    *,
    worse: float = 1.2,
    bound: float = 0.5,
) -> bool:
    """Tell whether a wider network is worth trying: new rows are fitted worse than any before, for want of weights.

    Noisier labels raise the loss too, and no width helps there: `held` tells the two apart where there is a penalty.

    Parameters
    ----------
    reached
        Train loss on new rows at the end of their update.
    earlier
        The same of earlier regimes, each at the end of its own. Without any the answer is no.
    held
        `held_back` of the new rows; None where nothing is penalised, so that the loss decides alone.
    worse
        How many times the worst of the earlier losses counts as worse.
    bound
        Share of its way that the new regime must be held back.
    """
    if not earlier or not reached > worse * max(earlier):
        return False
    return held is None or held > bound
