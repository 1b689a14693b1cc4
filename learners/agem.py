"""A-GEM: steps that do not raise the loss on the memory (Chaudhry et al. 2019, arXiv:1812.00420, eq. 11).

    g~ = g - (g' g_ref / g_ref' g_ref) g_ref    if g' g_ref < 0, else g

g is the gradient on new rows, g_ref the one on a batch from memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def project(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """Project the gradients, in place, off the reference where they point against it; return whether they did.

    A reference that is not finite makes the gradients so, too: the step that it does not bound is not to be taken.
    """
    dot = sum((g * ref).sum() for g, ref in zip(gradients, reference, strict=True))
    norm = sum(ref.square().sum() for ref in reference)
    if norm == 0 or (dot >= 0 and norm < torch.inf):
        return False
    for gradient, ref in zip(gradients, reference, strict=True):
        gradient.sub_(ref * (dot / norm))
    return True
