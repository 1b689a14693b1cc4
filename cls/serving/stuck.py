"""Champions that hang: whose batch has not ended by its deadline, and since when. A thread cannot be killed, a process can."""

from __future__ import annotations

import time

from cls.errors import Unavailable


class Hung(Unavailable):
    """A version's thread will not end: only another process can go on."""


class Stuck:
    """Knows by stream which champion hangs. Written by the event loop alone, read by any thread."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[int, float]] = {}

    def begin(self, stream: str, version: int, seconds: float) -> None:
        """Note a version that has been at one batch for so long."""
        self._begun[stream] = version, time.monotonic() - seconds

    def end(self, stream: str) -> None:
        """Forget a stream's: its batch has ended, or another version is its champion."""
        self._begun.pop(stream, None)

    def __bool__(self) -> bool:
        return bool(self._begun)

    def seconds(self) -> dict[str, float]:
        """Return by stream for how long its champion has been at one batch."""
        now = time.monotonic()
        return {stream: now - since for stream, (_, since) in self._begun.copy().items()}

    def check(self, limit: float) -> None:
        """Raise `Hung` if one has been for longer than so many seconds."""
        now = time.monotonic()
        for stream, (version, since) in self._begun.copy().items():
            if now - since > limit:
                raise Hung(f"version {version} of stream {stream!r} has hung for {now - since:.0f} s")
