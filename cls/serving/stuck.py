"""Champions that hang: whose batch does not end, and since when. A thread cannot be killed, a process can."""

from __future__ import annotations

import time

from cls.errors import CLSError


class Hung(CLSError):
    """A version's thread will not end: only another process can go on."""


class Stuck:
    """Knows which champions hang. Written by the event loop alone, read by any thread; one of these counts its looks."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, int], float] = {}  # monotonic times, by stream and version
        self._looks: dict[tuple[str, int, float], int] = {}

    def begin(self, stream: str, version: int, seconds: float) -> None:
        """Note a version that has been at one batch for so long."""
        self._begun[stream, version] = time.monotonic() - seconds

    def end(self, stream: str, version: int) -> None:
        """Forget a version: its batch has ended, or another is the champion."""
        self._begun.pop((stream, version), None)

    def seconds(self) -> dict[str, float]:
        """Return by stream for how long its champion has been at one batch."""
        now = time.monotonic()
        return {stream: now - since for (stream, _), since in self._begun.copy().items()}

    def look(self, limit: int) -> None:
        """Raise `Hung` if one has hung at more than so many looks in a row: unlike the clock, they stand still with the process."""
        marks = [(*key, since) for key, since in self._begun.copy().items()]
        self._looks = {mark: self._looks.get(mark, 0) + 1 for mark in marks}
        for (stream, version, _), looks in self._looks.items():
            if looks > limit:
                raise Hung(f"version {version} of stream {stream!r} hangs")
