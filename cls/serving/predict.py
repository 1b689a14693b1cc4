"""The HTTP side of predictions.

    POST /v1/streams/NAME/predict    JSON (an object, a list, {"rows": [...], "log": true}), NDJSON or Arrow IPC
    GET  /v1/streams, /healthz, /readyz, /metrics, /openapi.json

The first is answered by a plain ASGI callable: routes and middleware of a framework cost more than a small model. A request reads its
route once, so that a swap cannot tear it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from cls.columns.faults import Fault, FeatureError, shown
from cls.config import Config, SchemaConfig
from cls.domain import Json
from cls.doors.callers import STRANGER
from cls.doors.guard import guard
from cls.doors.openapi import document_route, predict_document
from cls.doors.token_book import TokenBook
from cls.doors.web import (
    ARROW_STREAM,
    GAVE_UP,
    INLINE_BYTES,
    Limits,
    Problem,
    Room,
    Rows,
    answer,
    http_app,
    read_rows,
    receive_body,
)
from cls.logging import get_logger
from cls.metrics.serve import ServeMetrics
from cls.serving.answers import Answers, wants_arrow
from cls.serving.batcher import Lane
from cls.serving.follow import Follower, Route
from cls.serving.lanes import Lanes, canary_rows
from cls.serving.parts import Part, RowsOf, Unreadable
from cls.serving.settle import Log, Shared
from cls.serving.stuck import Stuck
from cls.serving.tally import Tally

INLINE_ROWS = 1000
_JSON, _ARROW = b"application/json", ARROW_STREAM.encode()
_log = get_logger(__name__)


def predict_app(
    config: Config,
    follower: Follower,
    log: Log,
    *,
    tally: Tally | None = None,
    metrics: ServeMetrics | None = None,
    book: TokenBook | None = None,
    stuck: Stuck | None = None,
) -> ASGIApp:
    """Return the application of `cls serve`.

    Parameters
    ----------
    config
        Streams, addresses and limits.
    follower
        Knows who answers.
    log
        Takes what was predicted.
    tally
        Counts what each version does, for the rollout.
    metrics
        Counts requests and batches, for those who watch.
    book
        Knows the tokens.
    stuck
        Told of champions that hang.
    """
    metrics = metrics or ServeMetrics(config.streams)
    shared = Shared(config.serve, log, tally or Tally(), metrics, Stuck() if stuck is None else stuck)
    door = _Predictions(config, follower, shared, metrics)
    middleware = guard(config, config.http.serve, book)
    guarded: ASGIApp = middleware.cls(door, *middleware.args, **middleware.kwargs)
    return guarded


class _Predictions:
    """Answers predictions itself, and has the rest answered by routes."""

    def __init__(self, config: Config, follower: Follower, shared: Shared, metrics: ServeMetrics) -> None:
        self._follower = follower
        self._shared = shared
        self._metrics = metrics
        self._settings = config.serve
        self._limits = Limits(config.serve.body_bytes, config.serve.body_rows)
        self._room = Room(config.serve.body_bytes)
        self._schemas = {name: settings.columns for name, settings in config.streams.items()}
        self._lanes = {name: Lanes(schema, shared) for name, schema in self._schemas.items()}
        self._paths = {f"/v1/streams/{name}/predict": name for name in config.streams}
        metrics.reads("cls_serve_stuck_seconds", lambda: {(n,): s for n, s in shared.stuck.seconds().items()})
        metrics.reads("cls_serve_queue_rows", lambda: {(n,): lanes.rows for n, lanes in self._lanes.items()})
        self._rest = http_app(
            [
                Path("/healthz", self._health),
                Path("/readyz", self._ready),
                Path("/metrics", self._measures),
                document_route(predict_document(config)),
                Path("/v1/streams", self._streams),
                Path("/v1/streams/{name}/predict", self._unknown, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = None
        if scope["type"] == "http" and scope["method"] == "POST":
            name = self._paths.get(scope["path"])
        if name is None:
            await self._rest(scope, receive, send)
            return
        arrived = time.monotonic()
        headers = [(b"content-type", _JSON)]
        status, rows = 200, 0
        try:
            rows, kind, body = await self._predict(name, scope, receive)
            headers = [(b"content-type", kind)]
        except Problem as problem:
            status, body = problem.status, orjson.dumps(problem.body)
            if problem.retry_after is not None:
                headers.append((b"retry-after", problem.retry_after_seconds.encode()))
            if status in (429, 503, 504):
                self._metrics.shed(name, str(problem.details.get("reason", "other")))
        except Exception as error:  # noqa: BLE001 - whatever it was: no traceback leaves the house
            _log.error("request failed", stream=name, error=str(error), exc_info=error)
            status, body = (
                500,
                b'{"error":"this request could not be answered; the log of cls serve says why"}',
            )
        headers.append((b"content-length", b"%d" % len(body)))
        self._metrics.answered(name, scope.get(GAVE_UP, status), time.monotonic() - arrived, rows)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _predict(self, name: str, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        """Return the number of rows, the content type and the body."""
        route = self._follower.route(name)
        if route is None:
            why = "its champion is being loaded, or the first one trained"
            raise Problem(503, f"nobody answers for stream {name!r} yet: {why}", retry_after=1.0)
        champion, canary = self._lanes[name].follow(route)
        if (full := champion.refusal(1)) is not None:  # before anything is read
            raise full
        content_type, accept, size = _headers(scope, self._limits.body_bytes)
        if size <= INLINE_BYTES:
            return await self._answer(name, route, champion, canary, scope, receive, content_type, accept)
        with self._room.take(scope["headers"]):
            return await self._answer(name, route, champion, canary, scope, receive, content_type, accept)

    async def _answer(
        self,
        name: str,
        route: Route,
        champion: Lane,
        canary: Lane | None,
        scope: Scope,
        receive: Receive,
        content_type: str,
        accept: bytes,
    ) -> tuple[int, bytes, bytes]:
        data = await receive_body(scope["headers"], receive, self._limits.body_bytes)
        if len(data) <= INLINE_BYTES:
            rows = read_rows(content_type, data, "rows", self._limits)
        else:
            rows = await asyncio.to_thread(read_rows, content_type, data, "rows", self._limits)
        source = rows.table if rows.records is None else rows.records
        number = len(source)
        if (full := champion.refusal(number)) is not None:
            raise full
        schema = self._schemas[name]
        keys = _cells(source, schema.key)
        wanted = _wants_log(scope, rows)
        loggable = _loggable(keys, _cells(source, schema.event_time)) if wanted else False
        asked = self._parts(name, route, champion, canary, source, keys, loggable) if number else []
        for lane, part in asked:
            full = lane.refusal(part.number)
            await self._put(lane if full is None else lane.champion or lane, part)
        found = []
        for _, part in asked:
            outcome = await part.done
            if isinstance(outcome, Unreadable):
                others = [await other.done for _, other in asked if other is not part]
                errors = [other.error for other in others if isinstance(other, Unreadable)]
                raise Unreadable(FeatureError.joined([outcome.error, *errors]), rows.place)
            if isinstance(outcome, Problem):
                raise outcome
            found.append((part, outcome))
        summary: Json = {"stream": name, "version": route.champion.version}
        summary["logged"] = sum(predicted.logged for _, predicted in found)
        if wanted and summary["logged"] < number:
            summary["not_logged"] = _why_not(schema, loggable, summary["logged"], number)
        answers = Answers(summary, keys, found)
        arrow = wants_arrow(accept)
        write = answers.arrow if arrow else answers.json
        body = write() if number <= INLINE_ROWS else await asyncio.to_thread(write)
        return number, _ARROW if arrow else _JSON, body

    def _parts(
        self,
        name: str,
        route: Route,
        champion: Lane,
        canary: Lane | None,
        source: RowsOf,
        keys: Sequence[Any],
        loggable: bool | Sequence[bool],
    ) -> list[tuple[Lane, Part]]:
        """Return the parts of a request, each with the lane of the version that is to answer."""
        if canary is None:
            return [(champion, Part(source, loggable))]
        group = self._schemas[name].group
        chosen = canary_rows(route, _cells(source, group) if group else keys)
        if all(chosen) or not any(chosen):
            return [(canary if chosen[0] else champion, Part(source, loggable))]
        parts = []
        for lane, mine in ((champion, False), (canary, True)):
            numbers = [row for row, one in enumerate(chosen) if one is mine]
            some = source.take(numbers) if isinstance(source, pa.Table) else [source[row] for row in numbers]
            mask = loggable if isinstance(loggable, bool) else [loggable[row] for row in numbers]
            parts.append((lane, Part(some, mask, numbers)))
        return parts

    async def _put(self, lane: Lane, part: Part) -> None:
        """Queue a part; the features of a table, and of more rows than a batch takes, are read here, in a thread if that is work."""
        if isinstance(part.rows, list) and part.number <= self._settings.batch_rows:
            lane.put(part)
            return
        seat, champion = lane.seat, lane.champion
        try:
            if isinstance(part.rows, pa.Table) and seat.reader.quick(part.rows):
                part.columns = seat.reader.read(part.rows)
            else:
                part.columns = await asyncio.to_thread(seat.reader.read, part.rows)
        except FeatureError as error:
            if champion is None or champion.seat.reader.features == seat.reader.features:
                part.refuse(error)
                return
            lane = champion
            try:
                part.columns = await asyncio.to_thread(champion.seat.reader.read, part.rows)
            except FeatureError as fault:
                part.refuse(fault)
                return
            self._shared.tally.error(*seat.arm)
        lane.put(part)

    async def _health(self, _request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        for name, lanes in self._lanes.items():
            if (route := self._follower.route(name)) is not None:
                lanes.follow(route)  # another champion may have taken over from one that hangs
        stuck = self._shared.stuck.seconds()
        ready = self._follower.ready and not stuck
        state = {} if request.scope.get(STRANGER) else self._follower.state()
        for name in stuck.keys() & state.keys():
            state[name]["stuck_seconds"] = round(stuck[name], 1)
        return answer(200 if ready else 503, {"ready": ready, "streams": state})

    async def _streams(self, _request: Request) -> Response:
        return answer(200, {"streams": [{"stream": n, **s} for n, s in self._follower.state().items()]})

    async def _measures(self, request: Request) -> Response:
        body, kind = self._metrics.page(request.headers.get("accept", ""))
        return Response(body, 200, {"Content-Type": kind})

    async def _unknown(self, request: Request) -> Response:
        name, known = request.path_params["name"], sorted(self._schemas)
        self._metrics.answered(name, 404, 0.0, 0)
        raise Problem(404, f"no stream is called {name!r}; known: {', '.join(known) or 'none'}", known=known)


def _headers(scope: Scope, limit: int) -> tuple[str, bytes, int]:
    """Return content type, Accept, and the bytes of the body: those declared, else as many as it may have."""
    content_type, accept, size = b"", b"", 0
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"accept":
            accept = value
        elif name == b"content-length" and value.isdigit():
            size = min(int(value), limit)
        elif name == b"transfer-encoding":
            size = limit
    return content_type.decode("latin-1"), accept, size


def _wants_log(scope: Scope, rows: Rows) -> bool:
    if "log" in rows.options:
        if not isinstance(rows.options["log"], bool):
            raise _not_a_wish(rows.options["log"])
        return bool(rows.options["log"])
    query = scope["query_string"]
    wish = parse_qs(query.decode("latin-1")).get("log", ["true"])[-1] if query else "true"
    if wish not in ("true", "1", "false", "0"):
        raise _not_a_wish(wish)
    return wish in ("true", "1")


def _not_a_wish(found: Any) -> Problem:
    fault = Fault("log", None, "log is true or false", shown(found), "send true or false")
    return Unreadable(FeatureError([fault]), "$")


def _cells(source: RowsOf, name: str) -> list[Any]:
    """Return the values of a column, None where there is none."""
    if isinstance(source, pa.Table):
        return list(source.column(name).to_pylist()) if name in source.column_names else [None] * len(source)
    return [record.get(name) for record in source]


def _loggable(keys: Sequence[Any], times: Sequence[Any]) -> bool | list[bool]:
    """Return which rows can be an event of the log: those that say who and when."""
    good = [
        key is not None and time is not None and type(key) not in (dict, list)
        for key, time in zip(keys, times, strict=True)
    ]
    return good[0] if len(set(good)) == 1 else good


def _why_not(schema: SchemaConfig, loggable: bool | Sequence[bool], logged: int, number: int) -> str:
    possible = number * loggable if isinstance(loggable, bool) else sum(loggable)
    if logged < possible:
        return "the log has no room: the inbox does not answer"
    return f"rows without {schema.key!r} or {schema.event_time!r}"
