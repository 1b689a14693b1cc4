"""How the daemon is doing, for those who supervise it: GET /readyz (200, or 503 with reasons) and GET /metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cls.doors.callers import STRANGER
from cls.doors.web import answer
from cls.errors import CLSError
from cls.logging import redact
from cls.metrics.daemon import Measures, Turning
from storage.schema import check

KEPT_SECONDS = 1.0  # for which the answer of the database is kept: anybody may ask


class Turns:
    """When each stream's loop last did its work, and why it does not go on.

    Parameters
    ----------
    streams
        Names of the streams that this process turns.
    """

    def __init__(self, streams: Iterable[str]) -> None:
        now = time.monotonic()
        self._lock = Lock()
        self._turned_at = dict.fromkeys(streams, now)
        self._halted: dict[str, str] = {}

    def went_well(self, stream: str) -> None:
        """Note the end of a turn."""
        with self._lock:
            self._turned_at[stream] = time.monotonic()
            self._halted.pop(stream, None)

    def halt(self, stream: str, reason: str) -> None:
        """Note that a stream stands still for a fault that it cannot get over."""
        with self._lock:
            self._halted[stream] = reason

    def state(self) -> dict[str, Turning]:
        """Return how each stream's loop is doing."""
        now = time.monotonic()
        with self._lock:
            return {
                name: Turning(now - at, self._halted.get(name, "")) for name, at in self._turned_at.items()
            }


@dataclass(frozen=True)
class Readiness:
    """Whether the daemon can do its work. The database is asked once a second, however many ask."""

    engine: Engine
    turns: Turns
    measures: Measures
    _lock: Lock = field(default_factory=Lock, init=False)
    _told: list[tuple[float, list[str]]] = field(default_factory=list, init=False)  # when, and the faults

    def routes(self) -> list[Route]:
        """Return the routes /readyz and /metrics."""
        return [Route("/readyz", self._ready), Route("/metrics", self._metrics)]

    def faults(self) -> list[str]:
        """Return why the daemon is not ready: the database does not answer or has another schema, or a stream is halted."""
        found = [
            f"stream {name} is halted: {one.halted}" for name, one in self.turns.state().items() if one.halted
        ]
        with self._lock:
            if not self._told or time.monotonic() >= self._told[0][0] + KEPT_SECONDS:
                self._told[:] = [(time.monotonic(), self._database())]
            return found + self._told[0][1]

    def _database(self) -> list[str]:
        try:
            check(self.engine)
        except CLSError as error:
            return [str(error)]
        return []

    async def _ready(self, request: Request) -> Response:
        faults = await run_in_threadpool(self.faults)
        told = [] if request.scope.get(STRANGER) else [redact(fault) for fault in faults]
        return answer(503 if faults else 200, {"ready": not faults, "reasons": told})

    async def _metrics(self, request: Request) -> Response:
        body, content_type = await run_in_threadpool(self.measures.page, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)
