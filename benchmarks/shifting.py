"""Images moved by up to so many pixels each way: what a digit still is.

Shapes: B images of 28 by 28 pixels, flat; F pixels of a padded image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 28


def shifted(image_BI: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Return each image moved by its own whole number of pixels, at most `pixels` each way, the rest black."""
    width = SIDE + 2 * pixels
    padded_BF = functional.pad(image_BI.reshape(-1, SIDE, SIDE), (pixels,) * 4).flatten(1)
    corner_B2 = torch.randint(2 * pixels + 1, (len(image_BI), 2), generator=generator)
    window_I = (torch.arange(SIDE)[:, None] * width + torch.arange(SIDE)).flatten()
    return padded_BF.gather(1, (corner_B2[:, :1] * width + corner_B2[:, 1:]) + window_I)
