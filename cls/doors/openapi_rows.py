"""JSON schemas of the rows that streams take: each feature by its type, with what is read as it besides.

A schema says no more and no less than what the code does, as far as JSON Schema can say it: a test sends what it allows and what it does
not, and compares.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from cls.columns.faults import NAMED
from cls.config import SchemaConfig, StreamConfig
from cls.doors.openapi_parts import Schema
from detectors.derivation import Derivation

_NUMBER_TEXT = r"^\s*([+-]?([0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})([eE][+-]?[0-9]{1,2})?|[nN][aA][nN]|[nN][uU][lL][lL]|[nN][aA]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])?\s*$"
_TRUTH_TEXT = r"^\s*([tT]([rR][uU][eE])?|[fF]([aA][lL][sS][eE])?|[yY]([eE][sS])?|[nN][oO]?|[01](\.0)?)?\s*$"
_TIME_TEXT = r"^((19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])([T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][01][0-9]:[0-5][0-9])?)?)?$"
_LARGEST = sys.float_info.max
_LONGEST = math.sqrt(_LARGEST)  # a vector's norm must be finite


def numeric(name: str) -> Schema:
    """Return the schema of a number."""
    return {
        "description": f"{name}: a number, as text, too; true is 1, false 0; null or blank where it is missing",
        "anyOf": [
            {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
            {"type": "string", "pattern": _NUMBER_TEXT},
            {"type": ["boolean", "null"]},
        ],
    }


def categorical(name: str) -> Schema:
    """Return the schema of a category."""
    return {
        "description": f"{name}: a category; 1, 1.0 and its text are the same, and what is no text is read as its JSON; null where it is missing"
    }


def derived(column: Derivation) -> Schema:
    """Return the schema of a typed column."""
    return _TYPED[column.kind](column)


def _boolean(column: Derivation) -> Schema:
    return {
        "description": f"{column.name}: true or false, yes or no, 1 or 0; null or blank where it is missing",
        "anyOf": [
            {"type": ["boolean", "null"]},
            {"enum": [0, 1]},
            {"type": "string", "pattern": _TRUTH_TEXT},
        ],
    }


def _timestamp(column: Derivation) -> Schema:
    return {
        "description": f"{column.name}: ISO 8601 (UTC unless it says otherwise) or epoch seconds; null where it is missing",
        "anyOf": [
            {"type": "string", "pattern": _TIME_TEXT},
            {"type": "number", "minimum": -8_520_336_000, "maximum": 99_999_999_999},
            {"type": "null"},
        ],
    }


def _text(column: Derivation) -> Schema:
    return {
        "description": f"{column.name}: free text; null where it is missing; what is no text is read as its JSON"
    }


def _embedding(column: Derivation) -> Schema:
    return {
        "description": f"{column.name}: {column.length} numbers; null where it is missing",
        "anyOf": [
            {
                "type": "array",
                "items": {"type": "number", "minimum": -_LONGEST, "maximum": _LONGEST},
                "minItems": column.length,
                "maxItems": column.length,
            },
            {"type": "null"},
        ],
    }


_TYPED = {"boolean": _boolean, "timestamp": _timestamp, "text": _text, "embedding": _embedding}


def row_to_predict(columns: SchemaConfig) -> Schema:
    """Return the schema of a row of a prediction request: all features are named, whatever else is there is left alone."""
    features = {
        **{name: numeric(name) for name in columns.numeric},
        **{name: categorical(name) for name in columns.categorical},
        **{column.name: derived(column) for column in columns.derivations},
    }
    beside = {
        columns.key: {"description": "identifies the row; with the event time, what is predicted is logged"},
        columns.event_time: {"description": "time of the event: ISO 8601 or epoch seconds"},
    }
    return {
        "type": "object",
        "required": list(features),
        "properties": beside | features,
        "example": example(columns),
    }


def row_to_keep(columns: SchemaConfig, kind: str) -> Schema:
    """Return the schema of an event or a label: what is wrong with one row makes it a dead letter, not the request an error."""
    types = {
        **{name: {"description": "number"} for name in columns.numeric},
        **{name: {"description": "category"} for name in columns.categorical},
        **{column.name: {"description": column.kind} for column in columns.derivations},
    }
    known = {"description": "time at which the label became known; without it, that of the event"}
    label = {columns.target: {"description": "the target"}} | (
        {columns.label_time: known} if columns.label_time else {}
    )
    there = {"not": {"type": "null"}}
    if kind == "labels":
        return {
            "type": "object",
            "required": [columns.key, columns.target],
            "properties": {columns.key: there, **label, columns.target: there},
        }
    needed = {columns.key: there, columns.event_time: there}
    return {
        "type": "object",
        "required": [columns.key, columns.event_time],
        "properties": types | label | needed,
        "example": example(columns),
    }


def unreadable() -> Schema:
    """Return the schema of the answer to rows that cannot be read."""
    row = {"type": ["integer", "null"], "description": "from 0; null if it is all rows"}
    path = "JSONPath of the field in what was sent; NDJSON and Arrow count as a list of rows"
    fault: Schema = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": path},
            "row": row,
            "field": {"type": "string"},
            "error": {"type": "string", "description": "what is wrong"},
            "found": {"type": ["string", "null"], "description": "what was found, as JSON, maybe shortened"},
            "fix": {"type": "string", "description": "what to send"},
        },
    }
    fault |= {"required": list(fault["properties"])}
    errors = {"type": "array", "items": fault, "minItems": 1, "maxItems": NAMED, "description": "by row"}
    more = {"type": "integer", "minimum": 0, "description": "faults besides those in `errors`"}
    first = {"description": "the first of `errors`, in words"}
    properties = {"error": {"type": "string"} | first, "field": {"type": "string"}, "row": row}
    properties |= {"errors": errors, "more": more}
    return {"type": "object", "required": list(properties), "properties": properties}


def example(columns: SchemaConfig) -> dict[str, Any]:
    """Return a row."""
    typed = {"boolean": True, "timestamp": "2026-01-01T08:00:00Z", "text": "a few words"}
    return {
        columns.key: "row-1",
        columns.event_time: "2026-01-01T12:00:00Z",
        **dict.fromkeys(columns.numeric, 1.5),
        **dict.fromkeys(columns.categorical, "a"),
        **{c.name: [0.5] * c.length if c.kind == "embedding" else typed[c.kind] for c in columns.derivations},
    }


def prediction_of(stream: StreamConfig) -> Schema:
    """Return the schema of the answer to one row."""
    number = {"type": ["number", "null"], "description": "null where it is no finite number"}
    found: Schema = {
        "key": {"description": "the row's key, where it had one"},
        "version": {"type": "integer", "description": "who answered: the champion, or a canary"},
        "prediction": number,
    }
    if stream.task == "classification":
        found["prediction"] = {"type": "string"}
        found["probabilities"] = {"type": "object", "additionalProperties": number}
    required = [name for name in found if name != "key"]
    return {"type": "object", "required": required, "properties": found}
