"""What each version did in this process, counted as it answers and added to the table `served` about once a second.

Sums only: they stay small however long the database is away, and go out once it is back.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

import numpy as np
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError

from cls.arms import LATENCY_US, Served
from cls.logging import get_logger
from storage.db import transaction
from storage.served import add_served

Arm = tuple[str, int, str, int]  # stream, rollout, stage, version
_log = get_logger(__name__)


class Tally:
    """Counts by stream, rollout, stage and version; many threads may count at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: dict[Arm, _Sums] = {}
        self._unsent: dict[Arm, Served] = {}
        self._flushing = Lock()

    def batch(self, arm: Arm, seconds: float, rows: int, nonfinite: int) -> None:
        """Count a batch that was answered.

        Parameters
        ----------
        arm
            Who answered.
        seconds
            From the arrival of its oldest row.
        rows
            How many.
        nonfinite
            Those of them that were answered by what is no number.
        """
        place = bisect_left(LATENCY_US, seconds * 1e6)
        with self._lock:
            sums = self._of(arm)
            sums.rows += rows
            sums.batches += 1
            sums.nonfinite += nonfinite
            sums.latency[place] += 1

    def error(self, stream: str, rollout: int, stage: str, version: int) -> None:
        """Count a batch that raised, or a version that could not be loaded."""
        with self._lock:
            sums = self._of((stream, rollout, stage, version))
            sums.batches += 1
            sums.errors += 1

    def flush(self, engine: Engine) -> None:
        """Add what is new to the database; raises `Unavailable`, and then keeps it. What cannot be added at all is dropped."""
        with self._flushing:
            with self._lock:
                new, self._sums = self._sums, {}
            for arm, sums in new.items():
                self._unsent[arm] = self._unsent.get(arm, Served()) + sums.served()
            if self._unsent:
                with transaction(engine) as connection:
                    for arm in sorted(self._unsent):
                        _add(connection, arm, self._unsent[arm])
                self._unsent = {}

    def _of(self, arm: Arm) -> _Sums:
        found = self._sums.get(arm)
        if found is None:
            found = self._sums[arm] = _Sums()
        return found


def _add(connection: Connection, arm: Arm, gain: Served) -> None:
    try:
        with connection.begin_nested():
            add_served(connection, *arm, gain)
    except (ValueError, IntegrityError, DataError) as error:
        stream, rollout, stage, version = arm
        where = {"stream": stream, "rollout": rollout, "stage": stage, "version": version}
        _log.error("counts dropped", **where, rows=gain.rows, error=str(error))


class _Sums:
    """Sums of one arm."""

    def __init__(self) -> None:
        self.rows = self.batches = self.errors = self.nonfinite = 0
        self.latency = [0] * (len(LATENCY_US) + 1)

    def served(self) -> Served:
        latency = np.array(self.latency, np.int64)
        return Served(self.rows, self.batches, self.errors, self.nonfinite, latency)
