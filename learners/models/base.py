"""What the loop needs of a model: any `nn.Module` that can describe, encode and grow itself.

Shapes: B rows of a batch, N rows, K outputs, H features of the last hidden layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.columns import Columns, rows_of, take
from learners.errors import UnsuitableModelError, UnsuitableRowsError
from learners.rows import Rows
from learners.schema import Schema

Inputs = tuple[Tensor, ...]  # tensors of the same first dimension: one entry per row
_NORMAL_IQR = 1.3489795003921634  # interquartile range of the standard normal distribution


class Model(nn.Module, ABC):
    """A network with its preprocessing inside, so that one checkpoint is the whole predictor.

    `forward` returns out_BK: the standardised prediction of a regression, or one logit per class.
    """

    schema: Schema
    target_location: Tensor  # () float64, in target units
    target_scale: Tensor  # () float64, in target units
    image: tuple[int, int, int] | None = None  # (C, H, W) where a row of numbers is an image
    predict_rows: ClassVar[int] = 16_384  # rows per forward pass of `predict`

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("target_location", torch.zeros((), dtype=torch.float64))
        self.register_buffer("target_scale", torch.ones((), dtype=torch.float64))

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
    def grow(self, columns: Columns) -> None:
        """Make room for what the columns bring for the first time, without changing any prediction."""

    def grow_classes(self, classes: Sequence[str]) -> None:  # noqa: ARG002 - for those that can
        """Append an output for each new class; old ones stay. By default a model cannot.

        Parameters
        ----------
        classes
            All classes in the order of their index, beginning with those of the schema.

        Raises
        ------
        UnsuitableModelError
            If they begin otherwise, or the model is a regression or cannot grow.
        """
        raise UnsuitableModelError(
            f"{type(self).__name__} has a fixed number of outputs: override grow_classes, or declare all classes"
        )

    def represent(self, *inputs: Tensor) -> Tensor:
        """Return features_BH, what the last layer reads; by default the outputs themselves."""
        return cast(Tensor, self(*inputs))

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:  # noqa: ARG002 - for those that can
        """Return a randomly changed copy of encoded train rows that means the same; by default the rows."""
        return inputs

    def encode_target(self, target: NDArray[np.float64]) -> Tensor:
        """Return standardised targets (float32) or class indices (int64).

        Raises
        ------
        UnsuitableRowsError
            If a target is no class index of the schema.
        """
        device = self.target_scale.device
        if self.schema.task == "regression":
            standard_N = (target - self.target_location.item()) / self.target_scale.item()
            with np.errstate(over="ignore"):  # beyond float32: an infinite loss, which the loop reports
                return torch.from_numpy(standard_N.astype(np.float32)).to(device)
        index_N = target.astype(np.int64)
        if ((index_N != target) | (index_N < 0) | (index_N >= self.schema.outputs)).any():
            raise UnsuitableRowsError(f"targets must be class indices 0 to {self.schema.outputs - 1}")
        return torch.from_numpy(index_N).to(device)

    @torch.inference_mode()
    def predict(self, columns: Columns) -> NDArray[np.float64]:
        """Return (N,) predictions in target units, or (N, K) class probabilities. The mode is left as it was.

        In eval mode nothing is written, so that many threads may predict at once.
        """
        was_training = self.training
        if was_training:
            self.eval()
        out_NK = self.outputs(columns, self)
        if was_training:
            self.train()
        return self.decode(out_NK)

    def outputs(self, columns: Columns, forward: Callable[..., Tensor]) -> Tensor:
        """Return out_NK of `forward`, which does what the model's own does, over `predict_rows` at a time."""
        rows = rows_of(columns)
        if rows <= self.predict_rows:
            return forward(*self.encode(columns))
        firsts = range(0, rows, self.predict_rows)
        parts = [take(columns, slice(first, first + self.predict_rows)) for first in firsts]
        return torch.cat([forward(*self.encode(part)) for part in parts])

    def decode(self, out_NK: Tensor) -> NDArray[np.float64]:
        """Return (N,) predictions in target units, or (N, K) class probabilities, of what `forward` returned."""
        out_NK = out_NK.double()
        if self.schema.task == "classification":
            return cast("NDArray[np.float64]", out_NK.softmax(dim=1).cpu().numpy())
        standard_N = cast("NDArray[np.float64]", out_NK.cpu().numpy())[:, 0]
        return standard_N * self.target_scale.item() + self.target_location.item()

    def fit_target(self, target: NDArray[np.float64]) -> None:
        """Freeze the target's scale at the median and the interquartile range of the train rows."""
        if self.schema.task == "regression":
            low, middle, high = np.quantile(target, [0.25, 0.5, 0.75])
            spread = (high - low) / _NORMAL_IQR or float(target.std())
            self.target_location.fill_(middle)
            self.target_scale.fill_(spread if spread > 1e-9 * abs(middle) else 1.0)
