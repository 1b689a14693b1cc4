"""What operators do over HTTP, as paths of an OpenAPI document; see `cls.doors.operate`."""

from __future__ import annotations

from cls.config import Config
from cls.doors.openapi_parts import (
    GUARDED,
    NULLABLE_TEXT,
    OBJECT,
    TEXT,
    Json,
    Schema,
    fields,
    get,
    list_of,
    responses_of,
)

_WAIT = {
    "name": "wait",
    "in": "query",
    "description": "seconds to wait for the outcome",
    "schema": {"type": "number", "minimum": 0, "maximum": 60},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "rows, the newest first",
    "schema": {"type": "integer", "minimum": 0, "maximum": 1000},
}
_TRAIN = {
    "strategy": {"type": "string", "maxLength": 100, "description": "name of a recipe"},
    "full": {"type": "boolean", "description": "on everything there is, not only what is new"},
}
_VERSION = {"version": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}}
_ACTIONS: dict[str, tuple[str, Json, tuple[str, ...]]] = {  # summary, arguments, those that must be there
    "train": ("Train now", _TRAIN, ()),
    "promote": ("Make a version the champion", _VERSION, ("version",)),
    "rollback": ("Go back to the champion's predecessor", {}, ()),
    "pause": ("Hold the rollout where it is", {}, ()),
    "resume": ("Let the rollout go on", {}, ()),
    "approve": ("Let the rollout into the stage that waits for approval", {}, ()),
    "abort": ("Send the candidate back", {}, ()),
}


def operate_paths(config: Config) -> Json:
    """Return the paths of operators."""
    paths: Json = {}
    for name in config.streams:
        below = f"/v1/streams/{name}"
        paths |= {f"{below}/{action}": {"post": _action(name, action)} for action in _ACTIONS}
        key = {"name": "id", "in": "path", "required": True, "schema": TEXT}
        answered = get(f"What became of a request to {name}", _answered(), 404, 503)
        paths[f"{below}/requests/{{id}}"] = {"get": answered | {"parameters": [key]}}
        paths[f"{below}/rollouts"] = {"get": _rows(f"Rollouts of {name}", "rollouts", [_LIMIT])}
    stream = {"name": "stream", "in": "query", "schema": {"enum": sorted(config.streams)}}
    for table, summary in (("ledger", "What was seen and decided"), ("audit", "What operators asked for")):
        paths[f"/v1/{table}"] = {"get": _rows(summary, table, [stream, _LIMIT])}
    return paths


def _action(stream: str, action: str) -> Json:
    summary, arguments, needed = _ACTIONS[action]
    schema: Schema = {"type": "object", "properties": arguments, "additionalProperties": False}
    if needed:
        schema["required"] = list(needed)
    placed = fields(stream=TEXT, request=TEXT)
    done = fields(stream=TEXT, request=TEXT, outcome=TEXT)
    return {
        "summary": f"{summary}: {stream}",
        "operationId": f"{action}_{stream}",
        "parameters": [_WAIT],
        "requestBody": {"required": bool(needed), "content": {"application/json": {"schema": schema}}},
        "responses": responses_of({200: done, 202: placed}, *GUARDED, 400, 404, 409, 413, 415, 422, 503),
    }


def _answered() -> Schema:
    return fields(stream=TEXT, request=TEXT, outcome=NULLABLE_TEXT)


def _rows(summary: str, table: str, parameters: list[Json]) -> Json:
    return get(summary, fields(**{table: list_of(OBJECT)}), 400, 404, 503) | {"parameters": parameters}
