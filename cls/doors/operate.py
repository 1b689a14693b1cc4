"""What operators do over HTTP, with a token of scope `operate`; whatever they ask for is in the audit, and what was refused, too.

    POST /v1/streams/NAME/train      {"strategy": RECIPE, "full": true}, both optional
    POST /v1/streams/NAME/promote    {"version": NUMBER}
    POST /v1/streams/NAME/rollback, pause, resume, approve, abort
    GET  /v1/streams/NAME/requests/ID    what became of a request
    GET  /v1/streams/NAME/rollouts, /v1/ledger?stream=NAME, /v1/audit?stream=NAME    the newest first; &limit=ROWS

A request is written down and answered 202 with its id; the daemon acts on it. `?wait=SECONDS` waits for what it says: 200, or 409 if it
refused.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cls.asking import answer_to, place
from cls.columns.records import parse_json
from cls.config import Config
from cls.domain import Json
from cls.doors.callers import TOKEN
from cls.doors.guard import client_of
from cls.doors.tokens import Token
from cls.doors.web import Problem, answer, read_body
from cls.errors import BadData, NotFound, Refused, Unavailable
from storage.audit import ACTIONS, REFUSED, list_audit
from storage.db import reading
from storage.streams import read_ledger
from storage.versions import list_rollouts

Found = TypeVar("Found")
LONGEST_WAIT = 60.0  # seconds
WAITERS = 8  # at once; others are answered 202 without waiting: each asks the database ten times a second
MOST_ROWS = 1000
_BODY_BYTES = 64 << 10
_POLL_SECONDS = 0.1
_KEY = re.compile(r"[0-9a-f]{32}")  # of a request, see `cls.asking.place`
_KINDS = ("manual", "promote", "rollback", "pause", "resume", "approve", "abort")
_ARGUMENTS: dict[str, dict[str, type]] = {
    "manual": {"strategy": str, "full": bool},
    "promote": {"version": int},
}
_NEEDED = {"promote": ("version",)}
_LARGEST, _LONGEST = 2**31 - 1, 100  # of numbers, and of texts in letters


def operate_routes(config: Config, engine: Engine, wake: Callable[[str], None]) -> list[Route]:
    """Return the routes of operators.

    Parameters
    ----------
    config
        Streams.
    engine
        The database.
    wake
        Called with the stream's name after something was asked of it.
    """
    desk = _Desk(config, engine, wake)
    routes = [
        Route(f"/v1/streams/{{name}}/{ACTIONS.get(kind, kind)}", desk.asks(kind), methods=["POST"])
        for kind in _KINDS
    ]
    return [
        *routes,
        Route("/v1/streams/{name}/requests/{id}", desk.request),
        Route("/v1/streams/{name}/rollouts", desk.rollouts),
        Route("/v1/ledger", desk.ledger),
        Route("/v1/audit", desk.audit),
    ]


class _Desk:
    def __init__(self, config: Config, engine: Engine, wake: Callable[[str], None]) -> None:
        self._config = config
        self._engine = engine
        self._wake = wake
        self._waiting = 0

    def asks(self, kind: str) -> Callable[[Request], Any]:
        """Return the endpoint of a kind of request."""

        async def ask(request: Request) -> Response:
            stream = self._known(request.path_params["name"])
            wait = _number(request, "wait", 0.0, LONGEST_WAIT)
            arguments = _arguments(kind, await read_body(request, _BODY_BYTES))
            if kind == "manual":
                arguments = {
                    "strategy": self._config.streams[stream].update.recipe,
                    "full": False,
                } | arguments
            actor, origin = _who(request)

            def write() -> str:
                return place(self._engine, stream, kind, arguments, actor=actor, origin=origin)

            key = await _told(write)
            self._wake(stream)
            body = {"stream": stream, "request": key}
            outcome = await self._wait(stream, key, wait)
            if outcome is None:
                return answer(202, body)
            if outcome.startswith(REFUSED):
                raise Problem(409, outcome.removeprefix(REFUSED), stream=stream, request=key)
            return answer(200, body | {"outcome": outcome})

        return ask

    async def _wait(self, stream: str, key: str, seconds: float) -> str | None:
        if self._waiting >= WAITERS:
            return None
        until = time.monotonic() + seconds
        outcome = None
        self._waiting += 1
        try:
            while outcome is None and time.monotonic() < until:
                await asyncio.sleep(_POLL_SECONDS)
                outcome = await _told(lambda: answer_to(self._engine, stream, key))
        finally:
            self._waiting -= 1
        return outcome

    async def request(self, request: Request) -> Response:
        stream, key = self._known(request.path_params["name"]), request.path_params["id"]
        if not _KEY.fullmatch(key):
            raise Problem(404, f"stream {stream} has no request {key[:40]!r}")
        outcome = await _told(lambda: answer_to(self._engine, stream, key))
        return answer(200, {"stream": stream, "request": key, "outcome": outcome})

    async def rollouts(self, request: Request) -> Response:
        stream = self._known(request.path_params["name"])
        return await self._rows("rollouts", request, list_rollouts, stream)

    async def ledger(self, request: Request) -> Response:
        return await self._rows("ledger", request, read_ledger, self._asked(request))

    async def audit(self, request: Request) -> Response:
        return await self._rows("audit", request, list_audit, self._asked(request))

    async def _rows(
        self,
        name: str,
        request: Request,
        read: Callable[[Connection, str | None, int], list[Row[Any]]],
        stream: str | None,
    ) -> Response:
        limit = int(_number(request, "limit", 100, MOST_ROWS, whole=True))

        def rows() -> list[Json]:
            with reading(self._engine) as connection:
                return [
                    {
                        str(name): value for name, value in row._mapping.items()
                    }  # names of SQL are a kind of str
                    for row in read(connection, stream, limit)
                ]

        return answer(200, {name: await _told(rows)})

    def _asked(self, request: Request) -> str | None:
        stream = request.query_params.get("stream")
        return None if stream is None else self._known(stream)

    def _known(self, name: str) -> str:
        if name not in self._config.streams:
            raise Problem(404, f"no stream is called {name!r}", known=sorted(self._config.streams))
        return name


async def _told(call: Callable[[], Found]) -> Found:
    """Run a call on the database in a thread; what it raises on purpose is the answer."""
    try:
        return await run_in_threadpool(call)
    except NotFound as error:
        raise Problem(404, str(error)) from error
    except Refused as error:
        raise Problem(409, str(error)) from error
    except Unavailable as error:
        raise Problem(503, str(error), retry_after=error.delay) from error


def _who(request: Request) -> tuple[str, str]:
    """Return (actor, origin) for the audit."""
    token: Token | None = request.scope.get(TOKEN)
    return ("anonymous" if token is None else f"token:{token.id} {token.name}"), client_of(request.scope)


def _arguments(kind: str, body: bytes) -> Json:
    allowed = _ARGUMENTS.get(kind, {})
    try:
        given = parse_json(body) if body.strip() else {}
    except BadData as error:
        raise Problem(400, str(error)) from error
    if not isinstance(given, dict):
        raise Problem(400, "the arguments must be a JSON object")
    # JSON tells 2 and 2.0 not apart
    given = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in given.items()}
    for name, value in given.items():
        if name not in allowed:
            known = f"known are {', '.join(allowed)}" if allowed else "none is known"
            raise Problem(422, f"unknown argument {name[:100]!r}; {known}", field=name[:100])
        if type(value) is not allowed[name]:
            raise Problem(422, f"{name!r} must be of type {allowed[name].__name__}", field=name)
        if not -1 < value <= _LARGEST if isinstance(value, int) else len(str(value)) > _LONGEST:
            raise Problem(422, f"{name!r} is out of range", field=name)
    for name in _NEEDED.get(kind, ()):
        if name not in given:
            raise Problem(422, f"{name!r} is missing", field=name)
    return given


def _number(request: Request, name: str, default: float, most: float, *, whole: bool = False) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most or (whole and not value.is_integer()):
        raise Problem(
            400,
            f"{name} must be a {'whole ' if whole else ''}number from 0 to {most:g}, not {text[:40]!r}",
            field=name,
        )
    return value
