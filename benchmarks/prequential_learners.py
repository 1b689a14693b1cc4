"""The same network, kept up to date in different ways: never, by retraining, and by going on from what it is.

Everybody begins with the same long training on the warm blocks. Retraining trains a new network, preprocessing included, at every
block; going on keeps network and preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.prequential_cells import Maker
from benchmarks.prequential_data import BLOCKS, WARM, Stream
from learners.learn import Learner, start
from learners.models.base import Model
from learners.recipe import RECIPES, Recipe
from learners.rows import Rows, concat_rows

RETRAIN = RECIPES["retrain"]
UPDATE = replace(
    RECIPES["ewc+replay"],
    learning_rate=5e-3,
    weight_decay=0.5,
    epochs=8.0,
    replay_share=0.65,
    recency_rows=2000,
)
SEED_STEP = 1000  # between the seeds of two runs; updates count up in between


@dataclass
class Continued:
    """A network that learns every block, or only the first."""

    stream: Stream
    seed: int
    update: Recipe | None  # None = frozen

    def __post_init__(self) -> None:
        self.learner: Learner | None = None

    def learn(self, rows: Rows) -> None:
        """Go on from what was learned before."""
        if self.learner is None:
            recipe = _first(self.update or RETRAIN)
            self.learner = trained(None, rows, recipe, self.stream, SEED_STEP * self.seed)
        elif self.update is not None:
            seed = SEED_STEP * self.seed + self.learner.updates
            self.learner = trained(self.learner, rows, self.update, self.stream, seed)

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return (N,) values or (N, K) probabilities."""
        assert self.learner is not None
        return self.learner.model.predict(rows.columns)


@dataclass
class Retrain:
    """A new network at every block, from all rows so far or the latest ones."""

    stream: Stream
    seed: int
    window_blocks: int = BLOCKS

    def __post_init__(self) -> None:
        self.blocks: list[Rows] = []
        self.model: Model | None = None
        self.updates = 0

    def learn(self, rows: Rows) -> None:
        """Train on the rows that are held, these included."""
        self.blocks.append(rows)
        held = concat_rows(self.blocks)
        if self.updates and self.window_blocks < BLOCKS:
            first = len(self.stream.rows) * self.window_blocks // BLOCKS
            held = held.take(np.arange(max(0, len(held) - first), len(held)))
        seed = SEED_STEP * self.seed + self.updates
        self.model = trained(None, held, RETRAIN, self.stream, seed).model
        self.updates += 1

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return (N,) values or (N, K) probabilities."""
        assert self.model is not None
        return self.model.predict(rows.columns)


def trained(parent: Learner | None, rows: Rows, recipe: Recipe, stream: Stream, seed: int) -> Learner:
    """Return what one training, from its first to its last step, leaves."""
    training = start(parent, rows, recipe, schema=stream.schema, seed=seed)
    while not training.done:
        training.step()
    return training.conclude()


def frozen(stream: Stream, seed: int) -> Continued:
    """Make the network that never learns again."""
    return Continued(stream, seed, None)


def window(stream: Stream, seed: int) -> Retrain:
    """Make what retrains on as many of the latest rows as there were warm ones."""
    return Retrain(stream, seed, WARM)


def full(stream: Stream, seed: int) -> Retrain:
    """Make what retrains on all rows so far."""
    return Retrain(stream, seed)


def naive(stream: Stream, seed: int) -> Continued:
    """Make plain fine-tuning."""
    return Continued(stream, seed, RECIPES["naive"])


def ours(stream: Stream, seed: int) -> Continued:
    """Make elastic weight consolidation with replay, one recipe for all streams."""
    return Continued(stream, seed, UPDATE)


def auto(stream: Stream, seed: int) -> Continued:
    """Make the same recipe, which likeness to what was seen may change."""
    return Continued(stream, seed, replace(UPDATE, adapt=True))


OURS = "ours"
LEARNERS: dict[str, Maker] = {
    "frozen": frozen,
    "window retrain": window,
    "full retrain": full,
    "naive": naive,
    OURS: ours,
    "ours, auto": auto,
}


def _first(recipe: Recipe) -> Recipe:
    """Return the recipe of the first training: as long as a retraining, with the memory and the information that updates need."""
    return replace(
        recipe, epochs=RETRAIN.epochs, schedule=RETRAIN.schedule, average_share=RETRAIN.average_share
    )
