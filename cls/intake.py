"""The HTTP inbox: events and labels come in, and the answer goes out when they are durable.

    POST /v1/streams/NAME/events    JSON (an object, a list, {"events": [...]}), NDJSON or Arrow IPC
    POST /v1/streams/NAME/labels    the same, with the key and the target
    GET  /v1/streams/NAME           how far the stream has come
    GET  /v1/streams, /healthz, /readyz, /metrics
    and what operators do: see `cls.doors.operate`

X-CLS-Producer and X-CLS-Sequence make a request idempotent: the same pair is taken once, however often it is sent. Events and labels of
one producer share one sequence. What is wrong with a single record is ingest's business (dead letters), not the sender's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow.compute as pc
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cls.config import Config, StreamConfig
from cls.doors.guard import guard
from cls.doors.openapi import document_route, intake_document
from cls.doors.operate import operate_routes
from cls.doors.token_book import TokenBook
from cls.doors.web import Limits, Problem, Room, answer, http_app, read_body, read_rows
from cls.errors import Unavailable
from storage.db import reading
from storage.inbox import Inbox
from storage.progress import progress, request_of

PRODUCER, SEQUENCE = "X-CLS-Producer", "X-CLS-Sequence"
KINDS = ("events", "labels")
_LARGEST = 2**63 - 1


def intake_app(
    config: Config,
    inbox: Inbox,
    engine: Engine,
    wake: Callable[[str], None],
    *,
    between_turns: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    limits: Limits | None = None,
    book: TokenBook | None = None,
    more: Sequence[Route] = (),
) -> FastAPI:
    """Return the application of the inbox.

    Parameters
    ----------
    config
        Streams and addresses.
    inbox
        Where requests become durable.
    engine
        The database, for questions.
    wake
        Called with the stream's name after something new was stored.
    between_turns
        Holds a stream's turns while its progress is read, so that "quiet" never means "half-way through a turn".
    limits
        What one request may carry.
    book
        Knows the tokens; without it, none is valid.
    more
        Further routes: those by which the daemon is watched.
    """
    door = _Door(config, inbox, engine, wake, between_turns, limits or Limits())
    routes = [
        Route("/healthz", door.health),
        *more,
        document_route(intake_document(config)),
        Route("/v1/streams", door.streams),
        Route("/v1/streams/{name}", door.stream),
        *operate_routes(config, engine, wake),
        *(Route(f"/v1/streams/{{name}}/{kind}", door.takes(kind), methods=["POST"]) for kind in KINDS),
    ]
    return http_app(routes, guard(config, config.http.ingest, book))


class _Door:
    def __init__(
        self,
        config: Config,
        inbox: Inbox,
        engine: Engine,
        wake: Callable[[str], None],
        between_turns: Callable[[str], AbstractContextManager[Any]],
        limits: Limits,
    ) -> None:
        self._config = config
        self._inbox = inbox
        self._engine = engine
        self._wake = wake
        self._between_turns = between_turns
        self._limits = limits
        self._room = Room(limits.body_bytes)

    async def health(self, _request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def streams(self, _request: Request) -> Response:
        return answer(
            200, {"streams": [{"stream": n, "task": s.task} for n, s in self._config.streams.items()]}
        )

    async def stream(self, request: Request) -> Response:
        name, _ = self._known(request)
        return answer(200, await run_in_threadpool(self._progress, name))

    def takes(self, kind: str) -> Callable[[Request], Any]:
        """Return the endpoint that takes events, or labels."""

        async def take(request: Request) -> Response:
            name, settings = self._known(request)
            producer, sequence, idempotent = _sender(request)
            content_type = request.headers.get("content-type", "")

            def store(data: bytes) -> dict[str, Any]:
                table = read_rows(content_type, data, kind, self._limits).to_table()
                if table.num_rows == 0:
                    return {"rows": 0, "duplicate": False}
                _check_columns(table, settings, kind)
                return self._put(name, producer, sequence, kind, table)

            with self._room.take(request.scope["headers"]):
                data = await read_body(request, self._limits.body_bytes)
                receipt = await run_in_threadpool(store, data)
            body = {
                "stream": name,
                "producer": producer,
                "sequence": sequence,
                **receipt,
                "idempotent": idempotent,
            }
            return answer(202, body)

        return take

    def _put(self, name: str, producer: str, sequence: int, kind: str, table: Any) -> dict[str, Any]:
        try:
            receipt = self._inbox.put(name, producer, sequence, kind, table)
            if receipt.duplicate:
                self._check_same(name, producer, sequence, kind, table.num_rows)
        except Unavailable as error:
            raise Problem(503, str(error), retry_after=error.delay) from error
        except TimeoutError as error:
            raise Problem(503, "the inbox does not answer; send it again", retry_after=5.0) from error
        if not receipt.duplicate:
            self._wake(name)
        return {"rows": receipt.rows, "duplicate": receipt.duplicate}

    def _check_same(self, name: str, producer: str, sequence: int, kind: str, rows: int) -> None:
        """Refuse a number that was used for something else: taken as a repetition, its rows would be lost."""
        with reading(self._engine) as connection:
            first = request_of(connection, name, producer, sequence)
        if first is not None and (first.kind, first.rows) != (kind, rows):
            raise Problem(
                409,
                f"{producer!r} has used sequence {sequence} for {first.rows} {first.kind} before; "
                f"these {rows} {kind} need a number of their own",
            )

    def _progress(self, name: str) -> dict[str, Any]:
        try:
            with self._between_turns(name), reading(self._engine) as connection:
                return progress(connection, name)
        except Unavailable as error:
            raise Problem(503, str(error), retry_after=error.delay) from error

    def _known(self, request: Request) -> tuple[str, StreamConfig]:
        name = request.path_params["name"]
        if name not in self._config.streams:
            known = sorted(self._config.streams)
            raise Problem(
                404, f"no stream is called {name!r}; known: {', '.join(known) or 'none'}", known=known
            )
        return name, self._config.streams[name]


def _sender(request: Request) -> tuple[str, int, bool]:
    producer, sequence = request.headers.get(PRODUCER), request.headers.get(SEQUENCE)
    if producer is None and sequence is None:
        return f"anonymous-{uuid.uuid4().hex}", 0, False
    if producer is None or sequence is None:
        raise Problem(400, f"{PRODUCER} and {SEQUENCE} go together: send both or neither")
    if not 0 < len(producer) <= 200 or not producer.isprintable():
        raise Problem(400, f"{PRODUCER} must be 1 to 200 printable characters")
    if not (sequence.isascii() and sequence.isdigit()) or len(sequence) > 19 or int(sequence) > _LARGEST:
        raise Problem(400, f"{SEQUENCE} must be a whole number from 0 to {_LARGEST}, not {sequence[:40]!r}")
    return producer, int(sequence), True


def _check_columns(table: Any, settings: StreamConfig, kind: str) -> None:
    """Refuse a request in which no row at all can be used."""
    schema = settings.columns
    needed = (schema.key, schema.event_time) if kind == "events" else (schema.key, schema.target)
    for name in needed:
        if name not in table.column_names or pc.all(table.column(name).is_null()).as_py():
            raise Problem(422, f"no row has {name!r}, which {kind} need", field=name)
