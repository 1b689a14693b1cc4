"""What each version did in this process, counted as it answers and added to the table `served` about once a second.

Sums only: they stay small however long the database is away, and go out once it is back.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from cls.arms import LATENCY_US, Served, count_outputs
from storage.db import transaction
from storage.served import add_served

Arm = tuple[str, int, str, int]  # stream, rollout, stage, version
Bins = tuple[float, float, int, bool]  # location, scale, bins, classes: see `count_outputs`
_FOLD_ROWS = 4096  # predictions that are kept as they are, at most


class Tally:
    """Counts by stream, rollout, stage and version; many threads may count at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: dict[Arm, _Sums] = {}
        self._unsent: dict[Arm, Served] = {}
        self._flushing = Lock()

    def batch(self, arm: Arm, seconds: float, prediction: NDArray[np.float64], bins: Bins) -> None:
        """Count a batch that was answered.

        Parameters
        ----------
        arm
            Who answered.
        seconds
            From the arrival of its oldest row.
        prediction
            (N,) predictions or indices of classes; what is not finite counts as such.
        bins
            Of the champion.
        """
        place = bisect_left(LATENCY_US, seconds * 1e6)
        with self._lock:
            sums = self._of(arm)
            sums.rows += len(prediction)
            sums.batches += 1
            sums.latency[place] += 1
            if sums.bins != bins:
                sums.fold()
                sums.bins = bins
            sums.predictions.append(prediction)
            sums.held += len(prediction)
            if sums.held > _FOLD_ROWS:
                sums.fold()

    def error(self, stream: str, rollout: int, stage: str, version: int) -> None:
        """Count a batch that raised, or a version that could not be loaded."""
        with self._lock:
            sums = self._of((stream, rollout, stage, version))
            sums.batches += 1
            sums.errors += 1

    def flush(self, engine: Engine) -> None:
        """Add what is new to the database; raises `Unavailable`, and then keeps it."""
        with self._flushing:
            with self._lock:
                for arm, sums in self._sums.items():
                    self._unsent[arm] = self._unsent.get(arm, Served()) + sums.served()
                self._sums = {}
            if self._unsent:
                with transaction(engine) as connection:
                    for (stream, rollout, stage, version), gain in sorted(
                        self._unsent.items(), key=lambda item: item[0]
                    ):
                        add_served(connection, stream, rollout, stage, version, gain)
                self._unsent = {}

    def _of(self, arm: Arm) -> _Sums:
        found = self._sums.get(arm)
        if found is None:
            found = self._sums[arm] = _Sums()
        return found


class _Sums:
    """Sums of one arm; predictions are counted by bin in groups, since each count costs as much as a small batch."""

    def __init__(self) -> None:
        self.rows = self.batches = self.errors = self.nonfinite = self.held = 0
        self.latency = [0] * (len(LATENCY_US) + 1)
        self.outputs = np.zeros(0, np.int64)
        self.bins: Bins | None = None
        self.predictions: list[NDArray[np.float64]] = []

    def fold(self) -> None:
        if self.predictions and self.bins is not None:
            value = np.concatenate(self.predictions)
            self.nonfinite += int(np.count_nonzero(~np.isfinite(value)))
            location, scale, bins, classes = self.bins
            gain = count_outputs(value, location, scale, bins, classes=classes)
            self.outputs = (Served(outputs=self.outputs) + Served(outputs=gain)).outputs
        self.predictions, self.held = [], 0

    def served(self) -> Served:
        self.fold()
        latency = np.array(self.latency, np.int64)
        return Served(self.rows, self.batches, self.errors, self.nonfinite, latency, self.outputs)
