"""A multilayer perceptron: Linear and ReLU, nothing else. Shapes: B rows, F features, K outputs."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from learners.models.mlp_config import MlpConfig


class Mlp(nn.Module):
    """Layers of the given widths, and a head."""

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...] = MlpConfig.hidden) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return out_BK."""
        return cast(Tensor, self.head(self.body(x_BF)))
