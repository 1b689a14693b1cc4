"""Predict from a checkpoint with numpy alone.

This file is complete in itself: a copy of it beside `model.json` and `model.safetensors` predicts what
`learners.models.tabular.TabularNetwork` does, without CLS and without torch:

    from predict import load
    load().predict(dataframe)

It repeats lines of `mlp_numpy.py`: each is copied out alone, so neither may import from the other.

Shapes: N rows, F numeric and C categorical features, T bins, K outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

FORMAT = 1
CLIP = 10.0  # standardised values beyond count as this

Array = NDArray[np.float64]


def load(directory: str | Path | None = None) -> Predictor:
    """Return the predictor stored in a directory, by default that of this file."""
    folder = Path(__file__).parent if directory is None else Path(directory)
    spec = json.loads((folder / "model.json").read_text(encoding="utf-8"))["spec"]
    return Predictor(spec, load_file(folder / "model.safetensors"))


def _load_pyfunc(path: str) -> Predictor:
    """Return what MLflow serves, where it names this file as the loader of a directory."""
    return load(path)


class Predictor:
    """A tabular network at rest.

    Parameters
    ----------
    spec
        What `TabularNetwork.spec()` returned.
    tensors
        Its state, by name.
    """

    def __init__(self, spec: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        if spec["name"] != "tabular" or spec["format"] != FORMAT:
            raise ValueError(f"not a tabular model of format {FORMAT}: {spec['name']} {spec['format']}")
        self.spec = spec
        self.tensors = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}
        self.index = {
            name: {category: i for i, category in enumerate(vocabulary, start=1)}
            for name, vocabulary in spec["vocabularies"].items()
        }

    def predict(self, data: Any, params: Any = None) -> Array:  # noqa: ARG002 - MLflow passes params
        """Return (N,) predictions in target units, or (N, K) class probabilities.

        Parameters
        ----------
        data
            A pandas DataFrame or a mapping from name to values. Missing is NaN or None; columns that the model
            does not know are left alone.
        params
            Not used.
        """
        parts = [
            self._numbers(data),
            *(self._embedded(data, c) for c in range(len(self.spec["categorical"]))),
        ]
        out_NK = np.concatenate(parts, axis=1)
        for layer in range(len(self.spec["config"]["hidden"])):
            out_NK = np.maximum(self._linear(f"body.{3 * layer}", out_NK), 0.0)  # linear, ReLU, dropout
        out_NK = self._linear("head", out_NK)
        if self.spec["task"] == "classification":
            power_NK = np.exp(out_NK - out_NK.max(axis=1, keepdims=True))
            return np.asarray(power_NK / power_NK.sum(axis=1, keepdims=True))
        return np.asarray(out_NK[:, 0] * self.tensors["target_scale"] + self.tensors["target_location"])

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _numbers(self, data: Any) -> Array:
        columns = [np.asarray(data[name], dtype=np.float64) for name in self.spec["numeric"]]
        raw_NF = np.stack(columns, axis=1) if columns else np.empty((self._rows(data), 0))
        missing_NF = ~np.isfinite(raw_NF)
        x_NF = (
            np.where(missing_NF, 0.0, raw_NF - self.tensors["numeric_mean"]) / self.tensors["numeric_scale"]
        )
        x_NF = np.clip(x_NF, -CLIP, CLIP)
        parts = [x_NF, missing_NF.astype(np.float64)]
        kind, rows = self.spec["config"]["numeric_embedding"], len(x_NF)
        width = x_NF.shape[1] * self.spec["config"]["embedding_bins"]
        if kind == "periodic":
            angle_NFT = 2 * np.pi * self.tensors["numeric.frequency_FT"] * x_NF[:, :, None]
            parts += [np.sin(angle_NFT).reshape(rows, width), np.cos(angle_NFT).reshape(rows, width)]
        elif kind == "piecewise":
            passed_NFT = (x_NF[:, :, None] - self.tensors["numeric.low"]) / self.tensors["numeric.span"]
            parts.append(np.clip(passed_NFT, 0.0, 1.0).reshape(rows, width))
        return np.concatenate(parts, axis=1)

    def _embedded(self, data: Any, c: int) -> Array:
        name = self.spec["categorical"][c]
        index = self.index[name]
        codes_N = [index.get(value if isinstance(value, str) else str(value), 0) for value in data[name]]
        return self.tensors[f"embeddings.{c}.weight"][np.asarray(codes_N, dtype=np.int64)]

    def _rows(self, data: Any) -> int:
        return len(data[self.spec["categorical"][0]])
