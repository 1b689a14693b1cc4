"""The HTTP doors as OpenAPI 3.1: one path for each stream, its features with their types, and every answer that may come.

Clients are generated from it, and tests attack the servers by it. It is written from the configuration alone.
"""

from __future__ import annotations

from importlib.metadata import version

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cls.config import Config, StreamConfig
from cls.doors.addresses import is_loopback
from cls.doors.openapi_operate import operate_paths
from cls.doors.openapi_parts import (
    BODY,
    GUARDED,
    INTEGER,
    NULLABLE_INTEGER,
    NULLABLE_TEXT,
    OBJECT,
    TEXT,
    UNREADABLE,
    Json,
    Schema,
    fields,
    get,
    list_of,
    responses_of,
)
from cls.doors.openapi_rows import example, prediction_of, row_to_keep, row_to_predict, unreadable

_NDJSON, _ARROW, _ARROW_FILE = (
    "application/x-ndjson",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
)


def predict_document(config: Config) -> Json:
    """Return the document of `cls serve`."""
    paths = {
        "/healthz": {"get": get("whether the process lives", fields(status=TEXT), bare=True)},
        "/readyz": {"get": _ready()},
        "/v1/streams": {
            "get": get("streams and the versions that serve them", fields(streams=list_of(OBJECT)))
        },
        "/metrics": {"get": _metrics()},
        **{f"/v1/streams/{name}/predict": {"post": _predict(name, s)} for name, s in config.streams.items()},
    }
    document = _document(config, "CLS: predictions", config.http.serve, paths)
    document["components"]["schemas"]["Unreadable"] = unreadable()
    return document


def intake_document(config: Config) -> Json:
    """Return the document of `cls daemon`: events and labels, progress, and what operators do."""
    paths: Json = {
        "/healthz": {"get": get("whether the process lives", fields(status=TEXT), bare=True)},
        "/readyz": {"get": _ready()},
        "/metrics": {"get": _metrics()},
        "/v1/streams": {"get": get("the streams", fields(streams=list_of(OBJECT)))},
    }
    for name, stream in config.streams.items():
        path = f"/v1/streams/{name}"
        paths[path] = {"get": get(f"how far {name} has come", _progress(), 503)}
        paths |= {f"{path}/{kind}": {"post": _take(name, stream, kind)} for kind in ("events", "labels")}
    paths |= operate_paths(config)
    return _document(config, "CLS: events and labels", config.http.ingest, paths)


def document_route(document: Json) -> Route:
    """Return the route that shows a document."""
    body = orjson.dumps(document)

    async def show(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Route("/openapi.json", show)


def _document(config: Config, title: str, listening: str, paths: Json) -> Json:
    scheme = "https" if config.http.tls_certificate else "http"
    asked = config.http.require_tokens or not is_loopback(listening)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("cls-continual")},
        "servers": [{"url": f"{scheme}://{listening}"}],
        "security": [{"token": []}] if asked else [{}, {"token": []}],
        "paths": paths | {"/openapi.json": {"get": get("this document", OBJECT)}},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "made by `cls token create`"}
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {"type": "string", "description": "what is wrong, for people"},
                        "field": {"type": "string"},
                        "row": {"type": ["integer", "null"], "description": "from 0; null if it is all rows"},
                    },
                }
            },
        },
    }


# -- operations -------------------------------------------------------------------------------------------------------


def _ready() -> Json:
    state = fields(ready={"type": "boolean"})
    responses = responses_of({200: state, 503: state}, *GUARDED)
    return {"summary": "whether it answers for every stream", "responses": responses, "security": []}


def _metrics() -> Json:
    content = {"text/plain": {"schema": TEXT}}
    responses = responses_of({}, *GUARDED) | {
        "200": {"description": "Prometheus's text format", "content": content}
    }
    return {"summary": "figures of this process", "responses": responses}


def _predict(name: str, stream: StreamConfig) -> Json:
    row = row_to_predict(stream.columns)
    log = {"type": "boolean", "description": "false: these rows are not logged"}
    logged = {
        "name": "log",
        "in": "query",
        "description": "false or 0: these rows are not logged",
        "schema": {"type": "string", "enum": ["true", "1", "false", "0"]},
    }
    answered = fields(
        stream=TEXT, version=INTEGER, predictions=list_of(prediction_of(stream)), logged=INTEGER
    )
    answered["properties"]["version"] = {"type": "integer", "description": "of the champion"}
    answered["properties"]["not_logged"] = {"type": "string", "description": "why rows were not logged"}
    responses = responses_of({200: answered}, *GUARDED, *BODY, 503, 504)
    responses["422"] = {
        "description": "fields are absent or not of their type: each with where it is, and what to send",
        "content": {"application/json": {"schema": UNREADABLE}},
    }
    arrow = {"type": "string", "format": "binary", "description": "a row each, if Accept asks for it"}
    responses["200"]["content"][_ARROW] = {"schema": arrow}
    return {
        "summary": f"Predict {stream.columns.target} of {name}",
        "operationId": f"predict_{name}",
        "parameters": [logged],
        "requestBody": _body(row, "rows", log, example(stream.columns)),
        "responses": responses,
    }


def _take(name: str, stream: StreamConfig, kind: str) -> Json:
    headers = [
        {
            "name": "X-CLS-Producer",
            "in": "header",
            "description": "who sends; with X-CLS-Sequence a request is taken once, however often it is sent",
            "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"},
        },
        {
            "name": "X-CLS-Sequence",
            "in": "header",
            "description": "number of the request; each of a producer's has its own, over events and labels",
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        },
    ]
    columns = stream.columns
    row = row_to_keep(columns, kind)
    sample = example(columns) if kind == "events" else {columns.key: "row-1", columns.target: 2.5}
    taken = fields(stream=TEXT, producer=TEXT, sequence=INTEGER, rows=INTEGER, duplicate={"type": "boolean"})
    taken["properties"]["idempotent"] = {"type": "boolean"}
    return {
        "summary": f"Take {kind} of {name}; the answer comes once they are durable",
        "operationId": f"{kind}_{name}",
        "parameters": headers,
        "requestBody": _body(row, kind, None, sample),
        "responses": responses_of({202: taken}, *GUARDED, *BODY, 409, 503),
    }


def _body(row: Schema, wrapper: str, log: Schema | None, sample: Json) -> Json:
    wrapped = {
        "type": "object",
        "required": [wrapper],
        "properties": {wrapper: list_of(row)} | ({} if log is None else {"log": log}),
    }
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [row, list_of(row), wrapped]},
                "examples": {"one": {"value": sample}, "several": {"value": {wrapper: [sample, sample]}}},
            },
            _NDJSON: {"schema": {"type": "string", "description": "an object on each line"}},
            _ARROW: {"schema": {"type": "string", "format": "binary", "description": "Arrow IPC stream"}},
            _ARROW_FILE: {"schema": {"type": "string", "format": "binary", "description": "Arrow IPC file"}},
        },
    }


def _progress() -> Schema:
    counts = (
        "inbox_waiting",
        "events",
        "labels",
        "scored",
        "watched",
        "joined",
        "live_jobs",
        "unhandled_jobs",
    )
    return fields(
        stream=TEXT,
        **dict.fromkeys(counts, INTEGER),
        watermark=NULLABLE_TEXT,
        champion=NULLABLE_INTEGER,
        rollouts_waiting=list_of(TEXT),
    )
