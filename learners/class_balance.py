"""Loss weights against imbalance: n / (K n_c), to the power tau.

tau = 0 leaves the loss as it is and tau = 1 gives every class the same say; between lies a compromise, as a rare
class's few rows repeat their noise. With tau = 1/2, a class counts by the root of its frequency (Mikolov et al. 2013,
arXiv:1310.4546, section 2.3; Mahajan et al. 2018, arXiv:1805.00932).

Shapes: N rows, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_weights(target_N: Tensor, classes: int, tau: float) -> Tensor:
    """Return (K,) float32 loss weights whose mean over the rows is one.

    For `cross_entropy(..., weight=w_K, reduction="none").mean()`: torch's own mean divides by the weights of the
    batch at hand, and so undoes part of them. A class without rows weighs nothing.

    Parameters
    ----------
    target_N
        (N,) int64 class indices of the rows that the batches are drawn from.
    classes
        Number of classes K.
    tau
        Strength, 0 (none) to 1 (full).
    """
    count_K = torch.bincount(target_N, minlength=classes).double()
    weight_K = torch.where(count_K > 0, count_K.clamp(min=1) ** -tau, 0.0)
    return (weight_K * count_K.sum() / (weight_K * count_K).sum().clamp(min=1e-300)).float()
