"""Rows as the network reads them. Shapes: N rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learners.models.base import Inputs, Model
from learners.rows import Rows


@dataclass(frozen=True, eq=False)
class Encoded:
    """Arguments of `forward`, targets and places in the sample log."""

    inputs: Inputs  # (N, ...) each
    target: Tensor  # (N,) standardised, or class indices
    position: NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, model: Model, rows: Rows) -> Encoded:
        """Return the rows as `model` reads them."""
        return cls(model.encode(rows.columns), model.encode_target(rows.target), rows.position)

    def __len__(self) -> int:
        return len(self.target)
