"""Rows mixed in pairs: MixUp (Zhang et al. 2018, arXiv:1710.09412), CutMix (Yun et al. 2019, arXiv:1905.04899).

Each row a of a batch has a partner b, and lambda ~ Beta(alpha, alpha) says how much of a remains:

    MixUp     x = lambda x_a + (1 - lambda) x_b; a categorical code is b's with probability 1 - lambda
    CutMix    of an image, a box that covers 1 - lambda of the area is b's; of a table, each feature with probability
              1 - lambda, categorical or not. Lambda then becomes the share of a that remains (section 3.1)
    loss      lambda L(x, y_a) + (1 - lambda) L(x, y_b); of a regression L(x, lambda y_a + (1 - lambda) y_b)

Where one of two numbers is missing (not a number), MixUp, too, takes one of them.

Shapes: B rows of a batch, F features, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["mixup", "cutmix"]


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixed batch, whose loss is share_B L(target) + (1 - share_B) L(target_b)."""

    inputs: tuple[Tensor, ...]  # as the model's `forward` takes them
    target_b: Tensor  # (B,) class of the partner; of a regression the mixed target
    share_B: Tensor  # (B,) float32: share of the loss on the row's own target; of a regression 0
    partner_B: Tensor  # (B,) int64: which row of the batch is the partner


def mix(
    inputs: tuple[Tensor, ...],
    target: Tensor,
    kind: Kind,
    alpha: float,
    generator: np.random.Generator,
    image: tuple[int, int, int] | None = None,
) -> Mixed:
    """Return the batch with each row mixed with another one.

    Parameters
    ----------
    inputs
        Tensors of B entries; floating-point ones are blended, whole numbers are codes.
    target
        (B,) int64 classes, or floating point for a regression.
    alpha
        Of the Beta distribution of lambda, above 0; 1 is uniform, small values hardly mix.
    image
        (C, H, W) if a row is an image, also where it comes flat.
    """
    rows = len(target)
    share_B = torch.from_numpy(generator.beta(alpha, alpha, rows)).float()
    partner_B = torch.from_numpy(generator.permutation(rows)).to(target.device)
    if kind == "cutmix" and image is not None:
        keep_BHW = ~_boxes(share_B, image[1:], generator)
        share_B = keep_BHW.float().mean(dim=(1, 2))
        keeps = [keep_BHW[:, None].expand(-1, image[0], -1, -1).reshape(tensor.shape) for tensor in inputs]
    else:
        keeps = [_scattered(share_B, tensor, generator) for tensor in inputs]
        if kind == "cutmix":
            share_B = torch.cat([keep.flatten(1) for keep in keeps], dim=1).float().mean(dim=1)
    mixed = tuple(
        _mix(tensor, tensor[partner_B], keep.to(tensor.device), share_B if kind == "mixup" else None)
        for tensor, keep in zip(inputs, keeps, strict=True)
    )
    share_B = share_B.to(target.device)
    if target.is_floating_point():
        return Mixed(
            mixed, torch.lerp(target[partner_B], target, share_B), torch.zeros_like(share_B), partner_B
        )
    return Mixed(mixed, target[partner_B], share_B, partner_B)


def _mix(own: Tensor, other: Tensor, keep: Tensor, share_B: Tensor | None) -> Tensor:
    """Return each entry of `own` that is to be kept, and the others' of `other`; blended where a share is given."""
    swapped = torch.where(keep, own, other)
    if share_B is None or not own.is_floating_point():
        return swapped
    blended = torch.lerp(other, own, share_B.to(own.device, own.dtype).view(-1, *[1] * (own.ndim - 1)))
    return torch.where(blended.isnan(), swapped, blended)


def _scattered(share_B: Tensor, tensor: Tensor, generator: np.random.Generator) -> Tensor:
    """Return which entries of a tensor of that shape are kept, each with the probability of its row."""
    uniform = torch.from_numpy(generator.random(tensor.shape, dtype=np.float32))
    return uniform < share_B.view(-1, *[1] * (tensor.ndim - 1))


def _boxes(share_B: Tensor, sides: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Return boxes_BHW of sides sqrt(1 - lambda) around uniform centres, cut off at the border (equation 2)."""
    inside = []
    for side in sides:
        half_B = (side * (1 - share_B).sqrt() / 2).view(-1, 1)
        centre_B = torch.from_numpy(generator.random((len(share_B), 1), dtype=np.float32)) * side
        pixel_S = torch.arange(side) + 0.5
        inside.append((pixel_S > centre_B - half_B) & (pixel_S < centre_B + half_B))
    return inside[0][:, :, None] & inside[1][:, None, :]
