"""Rows as the network reads them. Shapes: N rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.models.base import Inputs, Model
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Task


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

    def stratum(self, recipe: Recipe, task: Task, regime: int) -> Tensor:
        """Return the (N,) stratum of each row in a memory that the recipe balances.

        Raises
        ------
        ValueError
            If it balances classes where there are none.
        """
        if recipe.memory_balance == "class":
            if task != "classification":
                raise ValueError(
                    "recipe: memory_balance 'class' needs classes: use 'regime' or 'none' for a regression"
                )
            return self.target.long()
        return torch.full((len(self),), regime if recipe.memory_balance == "regime" else 0)
