"""Numeric features as the first linear layer sees them (Gorishniy et al. 2022, arXiv:2203.05556).

Shapes: B rows, F features, T bins or frequencies, D = width of the result.
Input is standardised, NaN where the value is missing; missing becomes 0 and raises an indicator.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from learners.models.tabular_config import NumericEmbedding


class Plain(nn.Module):
    """The value and its missing indicator."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.width = 2 * features

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return (B, D)."""
        missing_BF = x_BF.isnan()
        return torch.cat([torch.where(missing_BF, 0.0, x_BF), missing_BF.to(x_BF.dtype)], dim=1)


class Periodic(nn.Module):
    """Plain, and sines and cosines of learned frequencies."""

    def __init__(self, features: int, frequencies: int) -> None:
        super().__init__()
        self.plain = Plain(features)
        self.frequency_FT = nn.Parameter(0.3 * torch.randn(features, frequencies))
        self.width = self.plain.width + 2 * features * frequencies

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return (B, D)."""
        angle_BFT = 2 * math.pi * self.frequency_FT * x_BF.nan_to_num(0.0)[:, :, None]
        return torch.cat([self.plain(x_BF), angle_BFT.sin().flatten(1), angle_BFT.cos().flatten(1)], dim=1)


class Piecewise(nn.Module):
    """Plain, and how far the value has passed through each bin between quantiles, from 0 to 1."""

    low: Tensor  # (F, T) lower edge of each bin
    span: Tensor  # (F, T) width of each bin

    def __init__(self, features: int, bins: int) -> None:
        super().__init__()
        self.plain = Plain(features)
        self.register_buffer("low", torch.zeros(features, bins))
        self.register_buffer("span", torch.ones(features, bins))
        self.width = self.plain.width + features * bins

    def fit(self, x_NF: Tensor) -> None:
        """Put the edges at the quantiles of the standardised train rows."""
        bins = self.low.shape[1]
        known_NF = torch.where(x_NF.isnan().all(dim=0), 0.0, x_NF).double().numpy()
        edge_EF = np.nanquantile(known_NF, np.linspace(0, 1, bins + 1), axis=0)
        edge_FE = torch.from_numpy(edge_EF).T.float()
        self.low.copy_(edge_FE[:, :-1])
        self.span.copy_(edge_FE.diff(dim=1).clamp(min=1e-3))  # equal quantiles: a step

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return (B, D)."""
        passed_BFT = (x_BF.nan_to_num(0.0)[:, :, None] - self.low) / self.span
        return torch.cat([self.plain(x_BF), passed_BFT.clamp(0, 1).flatten(1)], dim=1)


def numeric_embedding(kind: NumericEmbedding, features: int, bins: int) -> Plain | Periodic | Piecewise:
    """Return the embedding called `kind`."""
    if kind == "periodic":
        return Periodic(features, bins)
    return Piecewise(features, bins) if kind == "piecewise" else Plain(features)
