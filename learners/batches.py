"""Which rows each step learns from: a pure function of seed and step, so that resuming needs no generator state.

Rows are numbered new ones first (0 to N-1), then those of the memory (N to N+M-1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from learners.recipe import Recipe
from learners.seeds import REPLAY, SHUFFLE, generator


@dataclass(frozen=True, eq=False)
class Batches:
    """Epochs over the new rows, each batch filled up with replayed ones."""

    new_rows: int
    weights: NDArray[np.float64]  # (M,) chance of each memory row to be replayed, unnormalised
    recipe: Recipe
    seed: int

    @property
    def replay_share(self) -> float:
        """Share of each batch that comes from memory."""
        return self.recipe.replay_share if len(self.weights) else 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of nearly equal batches that see every new row once."""
        return math.ceil(self.new_rows / max(1, round(self.recipe.batch_rows * (1 - self.replay_share))))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        steps = math.ceil(self.recipe.epochs * self.steps_per_epoch)
        return steps if self.recipe.max_steps is None else min(steps, self.recipe.max_steps)

    def at(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of step `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order_N = _permutation(self.seed, epoch, self.new_rows)
        bounds = (
            self.new_rows * place // self.steps_per_epoch,
            self.new_rows * (place + 1) // self.steps_per_epoch,
        )
        new = order_N[slice(*bounds)]
        share = self.replay_share
        if share == 0:
            return new
        uniform = generator(self.seed, REPLAY, step).random(round(len(new) * share / (1 - share)))
        drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
        return np.concatenate([new, self.new_rows + np.minimum(drawn, len(self.weights) - 1)])

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(self.weights)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    return generator(seed, SHUFFLE, epoch).permutation(rows)
