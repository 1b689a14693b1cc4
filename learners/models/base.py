"""What the loop needs of a model: any `nn.Module` that can describe, encode and grow itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.columns import Columns
from learners.rows import Rows
from learners.schema import Schema

Inputs = tuple[Tensor, ...]  # tensors of the same first dimension: one entry per row


class Model(nn.Module, ABC):
    """A network with its preprocessing inside, so that one checkpoint is the whole predictor."""

    schema: Schema

    @classmethod
    @abstractmethod
    def fit_preprocessing(cls, config: Any, schema: Schema, train: Rows) -> Self:
        """Return an untrained network whose scales and vocabularies fit the train rows.

        `config` is the model's own: a frozen value or None for its defaults.
        """

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the network that `spec()` described, with unset weights and buffers."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return, as JSON, the registered name and what `from_spec` needs."""

    @abstractmethod
    def encode(self, columns: Columns) -> Inputs:
        """Return the arguments of `forward`, one entry per row."""

    @abstractmethod
    def encode_target(self, target: NDArray[np.float64]) -> Tensor:
        """Return standardised targets (float32) or class indices (int64)."""

    @abstractmethod
    def predict(self, columns: Columns) -> NDArray[np.float64]:
        """Return (N,) predictions in target units, or (N, K) class probabilities."""

    @abstractmethod
    def grow(self, columns: Columns) -> None:
        """Make room for what the columns bring for the first time, without changing any prediction."""
