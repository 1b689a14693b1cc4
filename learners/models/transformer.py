"""A small transformer for sequences (Vaswani et al. 2017, arXiv:1706.03762), normalised before each part.

Every projection of its attention is an `nn.Linear` of its own, so that Fisher information has a closed form there and
adapters find them by name.

Shapes: B rows, F features = S steps x C channels, W width, N heads of D each, K outputs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from learners.models.transformer_config import TransformerConfig


class Transformer(nn.Module):
    """Steps, embedded with a learned position each; blocks; their mean over the steps; a head.

    Raises
    ------
    ValueError
        If the inputs are no whole number of steps.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: int = TransformerConfig.channels,
        heads: int = TransformerConfig.heads,
        head_width: int = TransformerConfig.head_width,
        depth: int = TransformerConfig.depth,
        expansion: int = TransformerConfig.expansion,
    ) -> None:
        super().__init__()
        TransformerConfig(channels=channels).check_features(inputs)
        self.shape, width = (inputs // channels, channels), heads * head_width
        self.embed = nn.Linear(channels, width)
        self.position_SW = nn.Parameter(0.02 * torch.randn(self.shape[0], width))
        self.blocks = nn.ModuleList(Block(heads, head_width, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return out_BK."""
        x_BSW = self.embed(x_BF.reshape(len(x_BF), *self.shape)) + self.position_SW
        for block in self.blocks:
            x_BSW = block(x_BSW)
        return cast(Tensor, self.head(self.norm(x_BSW).mean(dim=1)))


class Block(nn.Module):
    """Attention and a perceptron, each added to what it reads."""

    def __init__(self, heads: int, head_width: int, expansion: int) -> None:
        super().__init__()
        self.heads, self.head_width, width = heads, head_width, heads * head_width
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # the softmax cancels what all keys have in common
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    def forward(self, x_BSW: Tensor) -> Tensor:
        """Return x_BSW."""
        x_BSW = x_BSW + self._attend(self.norm_attention(x_BSW))
        hidden = nn.functional.gelu(self.expand(self.norm_mlp(x_BSW)))
        return cast(Tensor, x_BSW + self.contract(hidden))

    def _attend(self, x_BSW: Tensor) -> Tensor:
        """Every step reads all steps, by the softmax of query times key (equation 1 of the paper)."""
        query_BNSD, key_BNSD, value_BNSD = (
            project(x_BSW).reshape(*x_BSW.shape[:2], self.heads, self.head_width).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        similar_BNSS = query_BNSD @ key_BNSD.transpose(2, 3) * self.head_width**-0.5
        read_BNSD = similar_BNSS.softmax(dim=3) @ value_BNSD
        return cast(Tensor, self.output(read_BNSD.transpose(1, 2).flatten(2)))
