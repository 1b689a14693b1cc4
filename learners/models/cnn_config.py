"""Shape of the convolutional network. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from learners.models.network_config import NetworkConfig, Scale, check_whole, check_widths


@dataclass(frozen=True)
class CnnConfig(NetworkConfig):
    """Arguments of `learners.models.cnn.Cnn`; errors as those of `NetworkConfig`."""

    scale: Scale = "global"  # pixels are of one kind
    shape: tuple[int, ...] = (1, 28, 28)  # channels, height, width: the features in row-major order
    channels: tuple[int, ...] = (16, 32)  # of each convolution; each halves height and width
    hidden: int = 128  # width of the layer before the head
    shift: int = 2  # pixels by which augmentation moves an image, at most

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("shape", self.shape, 1, 4_096)
        if len(self.shape) != 3:
            raise ValueError(f"model: shape must be channels, height and width, not {list(self.shape)}")
        check_widths("channels", self.channels, 1, 4_096)
        check_whole("hidden", self.hidden, 1, 65_536)
        check_whole("shift", self.shift, 0, 4_096)

    def check_features(self, features: int) -> None:
        """Refuse features that are not the pixels of `shape`, and a `shape` too small for the convolutions."""
        pixels, side = math.prod(self.shape), min(self.shape[1:])
        if pixels != features:
            raise ValueError(
                f"model: shape {list(self.shape)} has {pixels} pixels, but there are {features} numeric features; "
                "set shape to [channels, height, width] of your images"
            )
        if side < 2 ** len(self.channels):
            raise ValueError(
                f"model: channels has {len(self.channels)} convolutions, each of which halves the image, and an image "
                f"of {self.shape[1]} by {self.shape[2]} has room for {side.bit_length() - 1}"
            )
