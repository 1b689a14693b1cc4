"""Predictions on their way back into the log: answered at once, made durable in groups by a thread, bounded in memory."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import count
from threading import Condition, Thread

from cls.domain import Json
from cls.errors import Temporary
from cls.logging import get_logger
from cls.records import to_table
from storage.inbox import Inbox

FLUSH_SECONDS = 0.05
FLUSH_ROWS = 500
CAPACITY_ROWS = 50_000
_REQUEST_ROWS = 5_000  # rows of one request to the inbox, at most
_log = get_logger(__name__)


class PredictionLog:
    """Buffers rows and puts them into the inbox as events.

    Parameters
    ----------
    inbox
        Where they go.
    capacity_rows
        Rows held while the inbox does not answer; more are not taken.
    """

    def __init__(self, inbox: Inbox, capacity_rows: int = CAPACITY_ROWS) -> None:
        self._inbox = inbox
        self._capacity_rows = capacity_rows
        self._producer = f"serve@{socket.gethostname()}:{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._sequence = count()
        self._rows: dict[str, deque[Json]] = {}
        self._held = 0  # rows buffered or on their way
        self._changed = Condition()
        self._deadline: float | None = None  # monotonic time at which closing gives up
        self._thread = Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def offer(self, stream: str, rows: Sequence[Json]) -> int:
        """Take rows for the log; returns how many there was room for."""
        with self._changed:
            room = self._capacity_rows - self._held if self._deadline is None else 0
            taken = rows[: max(room, 0)]
            self._rows.setdefault(stream, deque()).extend(taken)
            self._held += len(taken)
            if self._held >= FLUSH_ROWS:
                self._changed.notify()
            return len(taken)

    def close(self, patience_seconds: float = 10.0) -> int:
        """Write out what is held and stop; returns the rows that could not be written in time."""
        with self._changed:
            self._deadline = time.monotonic() + patience_seconds
            self._changed.notify()
        self._thread.join()
        return self._held

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._deadline is None:
                    self._changed.wait_for(lambda: self._held >= FLUSH_ROWS or self._deadline, FLUSH_SECONDS)
                closing = self._deadline is not None
                groups = [(stream, self._group(rows)) for stream, rows in self._rows.items() if rows]
            for stream, group in groups:
                if not self._write(stream, group):
                    _log.error("predictions not logged", stream=stream, rows=self._held)
                    return
            if closing and not groups:
                return

    @staticmethod
    def _group(rows: deque[Json]) -> list[Json]:
        return [rows.popleft() for _ in range(min(len(rows), _REQUEST_ROWS))]

    def _write(self, stream: str, group: list[Json]) -> bool:
        """Put a group into the inbox, however often it takes; False when closing ran out of patience."""
        sequence, table, failed = next(self._sequence), to_table(group), False
        while True:
            try:
                self._inbox.put(stream, self._producer, sequence, "events", table)
            except (Temporary, TimeoutError) as error:
                if not failed:
                    _log.warning("predictions wait to be logged", stream=stream, error=str(error))
                failed = True
                with self._changed:
                    if self._deadline is not None and time.monotonic() >= self._deadline:
                        return False
                    self._changed.wait(0.5)
            else:
                with self._changed:
                    self._held -= len(group)
                return True
