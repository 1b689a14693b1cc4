"""Which rows each step learns from: a pure function of seed and step, so that resuming needs no generator state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from learners.recipe import Recipe
from learners.seeds import REPLAY, SHUFFLE, generator

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batches:
    """Epochs over the new rows, each batch filled up with replayed ones."""

    new_rows: int
    weights: NDArray[np.float64]  # (M,) chance of each memory row to be replayed, unnormalised
    recipe: Recipe
    seed: int
    again: float = 0.0  # share of the replayed part that is drawn from the new rows, not from memory

    @property
    def replay_share(self) -> float:
        """Share of each batch that comes from memory."""
        return self.recipe.replay_share if len(self.weights) else 0.0

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of nearly equal batches that see every new row once."""
        return math.ceil(self.new_rows / max(1, round(self.recipe.batch_rows * (1 - self.replay_share))))

    @cached_property
    def steps(self) -> int:
        """Steps of the whole training."""
        steps = math.ceil(self.recipe.epochs * self.steps_per_epoch)
        return steps if self.recipe.max_steps is None else min(steps, self.recipe.max_steps)

    def at(self, step: int) -> tuple[Index, Index, Index]:
        """Return which rows step `step` sees: new ones, new ones in the replayed part, and slots of the memory."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order_N = _permutation(self.seed, epoch, self.new_rows)
        first, last = (self.new_rows * end // self.steps_per_epoch for end in (place, place + 1))
        share, new = self.replay_share, order_N[first:last]
        if share == 0:
            return new, np.empty(0, np.int64), np.empty(0, np.int64)
        random = generator(self.seed, REPLAY, step)
        more, less = random.random(2)  # rounding by chance: the shares are exact in expectation
        uniform = random.random(math.floor(len(new) * share / (1 - share) + more))
        again, uniform = np.split(uniform, [math.floor(len(uniform) * self.again + less)])
        drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
        return new, (again * self.new_rows).astype(np.int64), np.minimum(drawn, len(self.weights) - 1)

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(self.weights)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> Index:
    return generator(seed, SHUFFLE, epoch).permutation(rows)
