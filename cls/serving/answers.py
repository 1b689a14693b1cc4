"""Predictions as the body of an answer: JSON, or Arrow IPC where the Accept header asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from cls.columns.features import text_of
from cls.domain import Json
from cls.doors.web import ARROW_STREAM
from cls.serving.parts import Part, Predicted


@dataclass(frozen=True, eq=False)
class Answers:
    """What a request came to.

    Parameters
    ----------
    summary
        Stream, version of the champion, and what became of the log.
    keys
        Of the rows; None where there is none.
    parts
        Each with its answer; together they are all rows.
    """

    summary: Json
    keys: Sequence[Any]
    parts: Sequence[tuple[Part, Predicted]]

    def json(self) -> bytes:
        """Return the body as JSON."""
        if len(self.parts) == 1 and self.parts[0][0].numbers is None:
            rows = _objects(self.keys, self.parts[0][1])
        else:
            rows = [{}] * len(self.keys)
            for part, predicted in self.parts:
                numbers = part.numbers or range(part.number)
                for number, row in zip(
                    numbers, _objects([self.keys[n] for n in numbers], predicted), strict=True
                ):
                    rows[number] = row
        logged = {name: self.summary[name] for name in ("logged", "not_logged") if name in self.summary}
        head = {"stream": self.summary["stream"], "version": self.summary["version"]}
        return orjson.dumps({**head, "predictions": rows, **logged}, default=str)

    def arrow(self) -> bytes:
        """Return the body as an Arrow IPC stream; what the JSON says besides is in the metadata of its schema."""
        if len(self.parts) == 1 and self.parts[0][0].numbers is None:
            table = _table(self.keys, self.parts[0][1])
        else:
            tables, numbers = [_table([], None)], list[int]()
            for part, predicted in self.parts:
                mine = part.numbers or range(part.number)
                tables.append(_table([self.keys[n] for n in mine], predicted))
                numbers += mine
            table = pa.concat_tables(tables, promote_options="permissive").take(np.argsort(numbers))
        table = table.replace_schema_metadata({name: str(value) for name, value in self.summary.items()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def wants_arrow(accept: bytes) -> bool:
    """Whether an Accept header asks for Arrow."""
    return ARROW_STREAM.encode() in accept


def _objects(keys: Sequence[Any], predicted: Predicted) -> list[Json]:
    values, version = predicted.values, predicted.model.version
    if values.ndim == 1:
        rows: list[Json] = [{"prediction": value, "version": version} for value in values.tolist()]
    else:
        classes = predicted.model.schema.classes
        rows = [
            {
                "prediction": classes[best],
                "probabilities": dict(zip(classes, row, strict=True)),
                "version": version,
            }
            for best, row in zip(values.argmax(axis=1).tolist(), values.tolist(), strict=True)
        ]
    return [row if key is None else {"key": key, **row} for key, row in zip(keys, rows, strict=True)]


def _table(keys: Sequence[Any], predicted: Predicted | None) -> pa.Table:
    key = pa.array([text_of(key) for key in keys], pa.string())
    if predicted is None:
        return pa.table({"key": key, "version": pa.array([], pa.int64())})
    values, classes = predicted.values, predicted.model.schema.classes
    version = pa.array(np.full(len(values), predicted.model.version, np.int64))
    if values.ndim == 1:
        return pa.table({"key": key, "version": version, "prediction": values})
    best = pa.array(classes, pa.string()).take(values.argmax(axis=1))
    probabilities = {f"probability.{name}": values[:, k] for k, name in enumerate(classes)}
    return pa.table({"key": key, "version": version, "prediction": best, **probabilities})
