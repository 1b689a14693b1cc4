"""What each of two versions did while both were at work: the sums that guardrails look at.

An arm is a version in a stage of a rollout. Replicas count what they answer and add what is new to `storage.served` from time to time. The
scorer adds what both versions predict for the same rows: all of a shadow, the outputs of a canary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LATENCY_US = tuple(
    int(100 * 2 ** (i / 4)) for i in range(60)
)  # upper edges, 0.1 ms to 2.8 s; one more bin beyond
OUTPUT_BINS = 32
LIVE = "champion"  # stage of what a champion answers while nobody answers beside it
ASKED = "asked"  # stage of rows that came with a prediction while a shadow was compared: somebody had asked for it
UNLOADABLE = "unloadable"  # stage of a shadow's tries to be loaded that showed damage, which no statistics need to judge
BEFORE = "before"  # stage of what a version did outside of the rollout that is looked at
TRIES = 3  # to load a shadow, after which it goes back
_REACH = 4.0  # scales of the target on either side of its location that the inner bins cover

Counts = NDArray[np.int64]


def output_bins(outputs: int) -> int:
    """Return how many bins the predictions of a model have: one per class, or those of a regression."""
    return outputs if outputs > 1 else OUTPUT_BINS


def count_outputs(
    value: NDArray[np.float64], location: float, scale: float, bins: int, *, classes: bool
) -> Counts:
    """Count finite predictions by bin.

    Parameters
    ----------
    value
        (N,) class indices, or predictions in target units.
    location, scale
        Of the champion's target; both versions are counted on the same bins.
    bins
        See `output_bins`.
    """
    value = value[np.isfinite(value)]
    if classes:
        return np.bincount(value.astype(np.int64), minlength=bins)[:bins]
    inner = (value - location) / scale / _REACH  # -1 to 1
    index = np.clip(np.floor((inner + 1) / 2 * (bins - 2)), -1, bins - 2).astype(np.int64) + 1
    return np.bincount(index, minlength=bins)


@dataclass(frozen=True, eq=False)
class Served:
    """Sums of one version in one stage."""

    rows: int = 0
    batches: int = 0
    errors: int = 0  # batches that raised
    nonfinite: int = 0  # rows answered by what is no number
    latency: Counts = field(default_factory=lambda: np.zeros(len(LATENCY_US) + 1, np.int64))  # batches
    outputs: Counts = field(default_factory=lambda: np.zeros(0, np.int64))  # rows

    @property
    def counts_anything(self) -> bool:
        """Whether there is anything to add."""
        return bool(self.rows or self.errors or self.outputs.any())

    def __add__(self, other: Served) -> Served:
        """Return the sums of both; output bins may have grown by classes."""
        return Served(
            self.rows + other.rows,
            self.batches + other.batches,
            self.errors + other.errors,
            self.nonfinite + other.nonfinite,
            self.latency + other.latency,
            _padded_sum(self.outputs, other.outputs),
        )


def _padded_sum(one: Counts, other: Counts) -> Counts:
    size = max(len(one), len(other))
    return np.pad(one, (0, size - len(one))) + np.pad(other, (0, size - len(other)))


def stage_name(state: str, step: int) -> str:
    """Return how a stage is called in `storage.served`: "shadow", "canary-0" ..., else `LIVE`."""
    if state == "canary":
        return f"canary-{step}"
    return "shadow" if state == "shadow" else LIVE
