"""A small convolutional network. Without normalisation of batches: what one row gives never depends on the others.

Shapes: B rows, F features = C channels x H x W pixels, K outputs.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from learners.models.cnn_config import CnnConfig


class Cnn(nn.Module):
    """Convolutions that each halve the image, one hidden layer, a head.

    Raises
    ------
    ValueError
        If the inputs are not the pixels of `shape`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        shape: tuple[int, ...] = CnnConfig.shape,
        channels: tuple[int, ...] = CnnConfig.channels,
        hidden: int = CnnConfig.hidden,
        shift: int = CnnConfig.shift,
    ) -> None:
        super().__init__()
        CnnConfig(shape=shape, channels=channels, hidden=hidden, shift=shift).check_features(inputs)
        self.shape, self.shift = shape, shift
        layers: list[nn.Module] = []
        for before, after in zip((shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.convolutions = nn.Sequential(*layers)
        pixels = math.prod(side >> len(channels) for side in shape[1:])
        self.hidden = nn.Linear(channels[-1] * pixels, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return out_BK."""
        maps_BCHW = self.convolutions(x_BF.reshape(len(x_BF), *self.shape))
        return cast(Tensor, self.head(self.hidden(maps_BCHW.flatten(1)).relu()))

    def augment(self, x_BF: Tensor, generator: torch.Generator) -> Tensor:
        """Return each image moved by up to `shift` pixels each way; its border is repeated."""
        x_BCHW = x_BF.reshape(len(x_BF), *self.shape)
        shift_B2 = torch.randint(-self.shift, self.shift + 1, (len(x_BF), 2), generator=generator)
        row_BH, column_BW = (
            (torch.arange(side) + shift_B2[:, axis, None]).clamp(0, side - 1).to(x_BF.device)
            for axis, side in enumerate(self.shape[1:])
        )
        image_B = torch.arange(len(x_BF), device=x_BF.device)
        moved_BHWC: Tensor = x_BCHW[image_B[:, None, None], :, row_BH[:, :, None], column_BW[:, None, :]]
        return moved_BHWC.permute(0, 3, 1, 2).flatten(1)
