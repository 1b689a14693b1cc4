"""What both HTTP doors share: bounded bodies, three ways to write rows, and problems as answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive

from cls.columns.records import parse_json, parse_lines, to_table
from cls.domain import Json
from cls.errors import BadData

BODY_BYTES = 32 << 20
BODY_ROWS = 200_000
INLINE_BYTES = 64 << 10  # larger bodies are read, and their answers written, off the event loop
GAVE_UP = "cls.gave_up"  # in the scope of a request that was answered while incomplete: its status
HELD_BODIES = 4  # large bodies that are held at once, at most, each of the largest size
COLUMNS = 2_000
JSON = ("application/json", "")
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
ARROW_STREAM, ARROW_FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
_EXPANSION = 4  # compressed Arrow may unfold to this many times the limit of a body


class Problem(Exception):
    """A request that is answered with its fault."""

    def __init__(
        self, status: int, message: str, *, retry_after: float | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.details = details

    @property
    def body(self) -> Json:
        """What is answered."""
        return {"error": str(self), **self.details}

    @property
    def retry_after_seconds(self) -> str:
        """The Retry-After header: whole seconds, one at least."""
        return str(max(1, math.ceil(self.retry_after or 0)))


@dataclass(frozen=True, eq=False)
class Limits:
    """What one request may carry."""

    body_bytes: int = BODY_BYTES
    rows: int = BODY_ROWS


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a body, either way, and what stood beside them."""

    records: list[Json] | None
    table: Any = None  # pyarrow.Table
    options: Json = field(default_factory=dict)
    place: str = "$[{}]"  # JSONPath of a row in the body, with {} for its number; of other formats, as if they were a list

    def to_table(self) -> Any:
        """Return the rows as a pyarrow.Table."""
        return self.table if self.records is None else to_table(self.records)

    def to_records(self) -> list[Json]:
        """Return the rows as objects."""
        return list(self.table.to_pylist()) if self.records is None else self.records


def answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer; what JSON cannot say (NaN) is null."""
    return Response(orjson.dumps(body), status, headers, "application/json")


async def problem_answer(_request: Request, problem: Exception) -> Response:
    """Return the answer of a `Problem`."""
    assert isinstance(problem, Problem)  # registered for it alone
    headers = {} if problem.retry_after is None else {"Retry-After": problem.retry_after_seconds}
    return answer(problem.status, problem.body, headers)


async def _framework_answer(_request: Request, error: Exception) -> Response:
    """Return what the framework refuses, as 404 and 405, in the form of all refusals."""
    assert isinstance(error, HTTPException)  # registered for it alone
    return answer(error.status_code, {"error": error.detail}, error.headers)


def http_app(routes: Sequence[BaseRoute], *middleware: Middleware) -> FastAPI:
    """Return an application of some routes, its `Problem`s answered; no pages of documentation are served."""
    return FastAPI(
        routes=list(routes),
        middleware=list(middleware),
        exception_handlers={Problem: problem_answer, HTTPException: _framework_answer},
        openapi_url=None,
    )


async def read_body(request: Request, limit: int) -> bytes:
    """Return a body, never holding more than the limit of it."""
    return await receive_body(request.scope["headers"], request.receive, limit)


async def receive_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """Return a body, never holding more than the limit of it. How long it may take is the server's business.

    Raises
    ------
    Problem
        413 for more, 415 for a compressed one, 400 if it ends early.
    """
    for name, value in headers:
        if name == b"content-encoding" and value != b"identity":
            raise Problem(415, "send the body without Content-Encoding")
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):  # nearly always
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts, size = [], 0
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise Problem(400, "the body ended early")


class Room:
    """Room for large bodies: so many of the largest size are held at once.

    Parameters
    ----------
    limit
        Bytes of the largest body.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @contextmanager
    def take(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
        """Hold room for a body of what its headers declare, else of the largest size; small ones need none.

        Raises
        ------
        Problem
            429 if there is none.
        """
        size = declared(headers, self._limit)
        if size <= INLINE_BYTES:
            yield
            return
        if self._held and self._held + size > HELD_BODIES * self._limit:
            raise Problem(
                429, "too many large requests at once; send it again later", retry_after=1.0, reason="queue"
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size


def declared(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int:
    """Return the bytes that a body may have: those declared, else as many as are taken."""
    size = 0
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            size = min(int(value), limit)
        elif name == b"transfer-encoding":
            return limit
    return size


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes; send fewer rows at once", limit_bytes=limit)


def read_rows(content_type: str, data: bytes, wrapper: str, limits: Limits) -> Rows:
    """Parse a body.

    Parameters
    ----------
    content_type
        The header; without one, JSON.
    data
        The body.
    wrapper
        Name of the list in {"events": [...]}, for JSON.
    limits
        Bounds.

    Raises
    ------
    Problem
        400 for what cannot be parsed, 413 for too much, 415 for an unknown type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind in JSON:
            rows = _json_rows(data, wrapper)
        elif kind in NDJSON:
            rows = Rows(None, parse_lines(data))
        elif kind in (ARROW_STREAM, ARROW_FILE):
            rows = Rows(None, _arrow_table(data, kind, limits))
        else:
            known = ", ".join((JSON[0], NDJSON[0], ARROW_STREAM, ARROW_FILE))
            raise Problem(415, f"Content-Type {kind!r} is not known; known are {known}")
    except BadData as error:
        raise Problem(400, str(error)) from error
    number = rows.table.num_rows if rows.records is None else len(rows.records)
    if number > limits.rows:
        raise Problem(
            413, f"{number} rows in one request; at most {limits.rows} are taken", limit_rows=limits.rows
        )
    names = rows.table.column_names if rows.records is None else _names(rows.records)
    if len(names) > COLUMNS:
        raise Problem(413, f"{len(names)} columns in one request; at most {COLUMNS} are taken")
    return rows


def _names(records: Sequence[Json]) -> set[str]:
    """Return all names in records; none where they cannot be too many anyway."""
    return set().union(*records) if sum(map(len, records)) > COLUMNS else set()


def _json_rows(data: bytes, wrapper: str) -> Rows:
    value = parse_json(data)
    options: Json = {}
    place = "$[{}]" if isinstance(value, list) else "$"
    if isinstance(value, dict) and isinstance(value.get(wrapper), list):
        options = {name: other for name, other in value.items() if name != wrapper}
        value, place = value[wrapper], f"$.{wrapper}[{{}}]"
    records = value if isinstance(value, list) else [value]
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise BadData(f"row {number} is not a JSON object")
    return Rows(records, options=options, place=place)


def _arrow_table(data: bytes, kind: str, limits: Limits) -> Any:
    """Read Arrow IPC as what it is, bytes of a stranger: every offset is checked before anything looks at the values."""
    try:
        source = pa.py_buffer(data)
        with pa.ipc.open_stream(source) if kind == ARROW_STREAM else pa.ipc.open_file(source) as reader:
            batches, rows, size = [], 0, 0
            for batch in (
                reader if kind == ARROW_STREAM else map(reader.get_batch, range(reader.num_record_batches))
            ):
                batch.validate(full=True)
                batches.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows > limits.rows or size > _EXPANSION * limits.body_bytes:
                    raise Problem(413, f"too much Arrow data: {rows} rows, {size} bytes so far")
            table = pa.Table.from_batches(batches, schema=reader.schema)
            names = table.column_names
            odd = [f"{field.name} ({field.type})" for field in table.schema if not _readable(field.type)]
    except (pa.ArrowException, OSError, ValueError) as error:  # names that are not UTF-8 among them
        raise BadData(f"not Arrow IPC: {error}") from error
    if odd:
        raise BadData(f"columns of types that are not taken: {', '.join(odd)}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise BadData(f"columns named twice: {', '.join(twice)}")
    return table


@lru_cache(maxsize=256)
def _readable(kind: Any) -> bool:
    """Whether a column can be a key, a time, a target or a feature; of lists, those of numbers: embeddings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    tests = (
        *(
            pa.types.is_null,
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_decimal,
        ),
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_timestamp, pa.types.is_date),
    )
    return any(test(kind) for test in tests)
