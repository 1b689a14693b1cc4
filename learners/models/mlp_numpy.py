"""Predict from a checkpoint of model "mlp" with numpy alone.

This file is complete in itself: a copy of it beside `model.json` and `model.safetensors` predicts what the network predicts,
without CLS and without torch:

    from predict import load
    load().predict(dataframe)

It repeats lines of `tabular_numpy.py`: each is copied out alone, so neither may import from the other.

Shapes: N rows, F features, K outputs.
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
    """A multilayer perceptron at rest.

    Parameters
    ----------
    spec
        What the network's `spec()` returned.
    tensors
        Its state, by name.
    """

    def __init__(self, spec: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        if spec["name"] != "mlp" or spec["format"] != FORMAT:
            raise ValueError(f"not a model 'mlp' of format {FORMAT}: {spec['name']} {spec['format']}")
        self.spec = spec
        self.tensors = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}

    def predict(self, data: Any, params: Any = None) -> Array:  # noqa: ARG002 - MLflow passes params
        """Return (N,) predictions in target units, or (N, K) class probabilities.

        Parameters
        ----------
        data
            A pandas DataFrame or a mapping from name to values. Missing is NaN or None; columns that the model does not know are left
            alone.
        params
            Not used.
        """
        raw_NF = np.stack([np.asarray(data[name], dtype=np.float64) for name in self.spec["numeric"]], axis=1)
        known_NF = np.isfinite(raw_NF)
        out_NK = (
            np.where(known_NF, raw_NF - self.tensors["numeric_mean"], 0.0) / self.tensors["numeric_scale"]
        )
        if self.spec["scale"] != "none":
            out_NK = np.clip(out_NK, -CLIP, CLIP)
        for layer in range(len(self.spec["arguments"]["hidden"])):
            out_NK = np.maximum(self._linear(f"net.body.{2 * layer}", out_NK), 0.0)  # linear, ReLU
        out_NK = self._linear("net.head", out_NK)
        if self.spec["task"] == "classification":
            power_NK = np.exp(out_NK - out_NK.max(axis=1, keepdims=True))
            return np.asarray(power_NK / power_NK.sum(axis=1, keepdims=True))
        return np.asarray(out_NK[:, 0] * self.tensors["target_scale"] + self.tensors["target_location"])

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
