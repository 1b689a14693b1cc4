"""Parts of OpenAPI documents: answers with their errors, and the few schemas that all of them share."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
Schema = dict[str, Any]
ERROR = {"$ref": "#/components/schemas/Error"}
UNREADABLE = {"$ref": "#/components/schemas/Unreadable"}
INTEGER, TEXT, OBJECT = {"type": "integer"}, {"type": "string"}, {"type": "object"}
NULLABLE_INTEGER, NULLABLE_TEXT = {"type": ["integer", "null"]}, {"type": ["string", "null"]}
_REASONS = {
    400: "what was sent cannot be parsed, or ended early",
    401: "a token is needed, or this one is not valid",
    403: "the token lacks the scope that is needed, or a page of another origin calls",
    404: "there is no such thing",
    408: "the request did not arrive in time",
    409: "it was refused in this state of things",
    413: "more bytes, rows or columns than one request may have",
    415: "a Content-Type that is not known, or a Content-Encoding",
    421: "this Host is not served here",
    422: "a field is absent or not of its type: `field`, and `row` where it is one",
    429: "too much at once; try again after `Retry-After` seconds",
    500: "a fault of the server",
    503: "not now; try again after `Retry-After` seconds",
    504: "the version takes too long; try again after `Retry-After` seconds",
}
_RETRIED = (429, 503, 504)
GUARDED = (401, 403, 421, 429)  # what the guard may answer to anything
BODY = (400, 408, 413, 415, 422)


def get(summary: str, schema: Schema, *statuses: int, bare: bool = False) -> Json:
    """Return an operation that shows something; `bare` ones need no token."""
    operation = {"summary": summary, "responses": responses_of({200: schema}, *GUARDED, *statuses)}
    return operation | ({"security": []} if bare else {})


def responses_of(good: dict[int, Schema], *statuses: int) -> Json:
    """Return the answers of an operation: those with what was asked for, and its errors."""
    found: Json = {}
    for status, schema in good.items():
        found[str(status)] = {"description": "done", "content": {"application/json": {"schema": schema}}}
    for status in sorted(set(statuses) - set(good)):
        retry = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}, "required": True}}
        found[str(status)] = {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": ERROR}},
            **({"headers": retry} if status in _RETRIED else {}),
        }
    return found


def fields(**named: Schema) -> Json:
    """Return the schema of an object with these fields."""
    return {"type": "object", "required": list(named), "properties": named}


def list_of(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}
