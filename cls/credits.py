"""Credits: which arm of a canary the keys of a batch belong to, and which rows the wrong one answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls.domain import Rollout
from cls.serving.routing import SLOTS, place


@dataclass(frozen=True, eq=False)
class Credits:
    """What a batch adds to a step of a canary."""

    rollout: int
    step: int
    slots: NDArray[np.int64]  # hash slot of each row that came back
    canary: NDArray[np.bool_]  # whether its key is the canary's
    misrouted: int  # rows that the other version answered

    def added(self, champion: bytes, canary: bytes) -> tuple[bytes, bytes]:
        """Return both bitmaps with these rows; a slot that is credited already stays where it is.

        A slot is taken by its first key, whose arm does not depend on it: credits are independent of each other, each the canary's with the
        probability of its share, also when slots run out.
        """
        slots, first = np.unique(self.slots, return_index=True)
        arms = [np.unpackbits(np.frombuffer(bitmap, np.uint8)).astype(bool) for bitmap in (champion, canary)]
        free = ~(arms[0] | arms[1])[slots]
        for arm, bitmap in enumerate(arms):
            bitmap[slots[free & (self.canary[first] == bool(arm))]] = True
        return np.packbits(arms[0]).tobytes(), np.packbits(arms[1]).tobytes()


EMPTY = bytes(SLOTS // 8)


def credits_of(
    rollout: Rollout, keys: Sequence[str], prediction: NDArray[np.float64], version: NDArray[np.int64]
) -> Credits:
    """Return what rows add to a canary's step: those of them that either of its versions answered.

    Parameters
    ----------
    rollout
        In canary.
    keys
        By which rows are routed (`cls.serving.routing`), one per row.
    prediction, version
        What rows came with; NaN and 0 for nothing.

    Notes
    -----
    A key counts for the arm that it belongs to at the present share, whoever answered it. What is compared with the share is thus who comes
    back: an arm whose answers get lost, or whose clients go away, has fewer keys. Replicas that lag for a moment at a step, and champions
    that answer for a canary which is not loaded, only raise `misrouted`.
    """
    answered = np.isfinite(prediction) & ((version == rollout.version) | (version == rollout.parent))
    rows = np.flatnonzero(answered)
    places = [place(rollout.id, keys[row]) for row in rows.tolist()]
    canary = np.array([where < rollout.share for where, _ in places], bool)
    misrouted = int((canary != (version[rows] == rollout.version)).sum())
    slots = np.array([slot for _, slot in places], np.int64)
    return Credits(rollout.id, rollout.step, slots, canary, misrouted)
