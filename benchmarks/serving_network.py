"""The flight network as one would write it without CLS: what the peers of benchmarks.serving serve. Needs torch and safetensors alone.

Its parameters have the names that CLS's checkpoint has, so that all servers answer with the very same weights.

Shapes: B rows, F numeric and C categorical features, T bins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS, SPEC = "model.safetensors", "network.json"
CLIP = 10.0  # standardised values beyond are outliers


class Numeric(nn.Module):
    """Values, which of them are missing, and how far each has passed through the bins of its feature."""

    low: Tensor  # (F, T)
    span: Tensor  # (F, T)

    def __init__(self, features: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(features, bins))
        self.register_buffer("span", torch.ones(features, bins))

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return (B, F (2 + T))."""
        missing_BF = x_BF.isnan()
        known_BF = torch.where(missing_BF, 0.0, x_BF)
        passed_BFT = ((known_BF[:, :, None] - self.low) / self.span).clamp(0, 1)
        return torch.cat([known_BF, missing_BF.float(), passed_BFT.flatten(1)], dim=1)


class FlightNetwork(nn.Module):
    """Minutes in the air from the features of a flight."""

    numeric_mean: Tensor  # (F,)
    numeric_scale: Tensor  # (F,)
    target_location: Tensor
    target_scale: Tensor

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.numeric_names: list[str] = spec["numeric"]
        self.categorical_names: list[str] = spec["categorical"]
        self.codes = [
            {word: code for code, word in enumerate(spec["vocabularies"][name], start=1)}
            for name in self.categorical_names
        ]
        features = len(self.numeric_names)
        for name in ("numeric_mean", "numeric_scale"):
            self.register_buffer(name, torch.zeros(features, dtype=torch.float64))
        for name in ("target_location", "target_scale"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.numeric = Numeric(features, spec["config"]["embedding_bins"])
        self.embeddings = nn.ModuleList(
            nn.Embedding(1 + len(codes), width)
            for codes, width in zip(self.codes, spec["widths"], strict=True)
        )
        width = features * (2 + spec["config"]["embedding_bins"]) + sum(spec["widths"])
        layers: list[nn.Module] = []
        for hidden in spec["config"]["hidden"]:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.0)]
            width = hidden
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)

    @classmethod
    def load(cls, folder: Path) -> FlightNetwork:
        """Return the network whose weights and description are in a folder, ready to predict on one thread."""
        torch.set_num_threads(1)
        network = cls(json.loads((folder / SPEC).read_text()))
        network.load_state_dict(load_file(folder / WEIGHTS))
        return network.eval()

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Return numeric_BF (float64, NaN where missing) and categorical_BC (int64) of some rows."""
        nan = float("nan")
        numeric = [
            [nan if (value := row[name]) is None else value for name in self.numeric_names] for row in rows
        ]
        named = list(zip(self.categorical_names, self.codes, strict=True))
        categorical = [[codes.get(row[name], 0) for name, codes in named] for row in rows]
        return torch.tensor(numeric, dtype=torch.float64), torch.tensor(categorical)

    def forward(self, numeric_BF: Tensor, categorical_BC: Tensor) -> Tensor:
        """Return minutes_B."""
        x_BF = ((numeric_BF - self.numeric_mean) / self.numeric_scale).clamp(-CLIP, CLIP).float()
        parts = [embedding(categorical_BC[:, c]) for c, embedding in enumerate(self.embeddings)]
        out_B = self.head(self.body(torch.cat([self.numeric(x_BF), *parts], dim=1)))[:, 0]
        return out_B.double() * self.target_scale + self.target_location

    @torch.inference_mode()
    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the minutes of some rows."""
        return self(*self.encode(rows)).tolist()
