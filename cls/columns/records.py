"""JSON records to Arrow tables, so that each value reads the same whatever its neighbours are.

Types of one column that do not go together become text, which ingest judges row by row; no record is refused for the type of
another one. Text stays text: what looks like a time is not turned into one. Objects and lists inside a record become their JSON.

Parsing each line by orjson and building columns takes two thirds of the time of Arrow's JSON reader, and has no types to guess again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson
import pyarrow as pa

from cls.domain import Json
from cls.errors import BadData

DEEPEST = 500  # levels of JSON: what is nested deeper cannot be written back as text by Python's own json


def to_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return records as a table, columns in order of appearance, null where a record lacks one."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(record))
    if not names:
        return pa.table({"": pa.nulls(len(records))}).drop_columns([""])
    return pa.table({name: _column([record.get(name) for record in records]) for name in names})


def table_of(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.Table:
    """Return these columns of records, as `to_table` would; what every record lacks is left out."""
    columns = dict(zip(names, map(_column, cells(records, names)), strict=True))
    return pa.table({name: column for name, column in columns.items() if column.null_count < len(records)})


def cells(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Sequence[Any]]:
    """Return values by column, None where a record lacks one."""
    if len(names) > 1 and records:
        try:
            return list(zip(*map(itemgetter(*names), records), strict=True))
        except KeyError:
            pass
    return [[record.get(name) for record in records] for name in names]


def parse_json(data: bytes) -> Any:
    """Parse one JSON document; NaN and infinities are numbers, as many writers have it.

    Raises
    ------
    BadData
        With line and column, or if it is nested deeper than what is made of it may be.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = _lenient(data)
    if data.count(b"[") + data.count(b"{") - _listed(value) > DEEPEST and _is_deep(value):
        raise BadData(f"not taken: JSON nested deeper than {DEEPEST} levels")
    return value


def _listed(value: Any) -> int:
    """Return how many members the lists at the top have: each may be one more object, but none is deeper for it."""
    lists = [value] if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return sum(len(members) for members in lists if isinstance(members, list))


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for child in chain.from_iterable(children) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _lenient(data: bytes) -> Any:
    """Parse what orjson does not take, or say what is wrong with it."""
    try:
        value = json.loads(data.decode())
        json.dumps(value, ensure_ascii=False).encode()  # finds lone surrogates
    except UnicodeEncodeError as error:
        raise BadData("not JSON: half a surrogate pair is no text") from error
    except json.JSONDecodeError as error:
        raise BadData(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadData(f"not JSON: line {line}, column {column}: not UTF-8") from error
    except (RecursionError, ValueError) as error:
        raise BadData(f"not JSON: {error}") from error
    return value


def parse_line(data: bytes) -> Json:
    """Parse one line of NDJSON; raises `BadData` if it is not one object."""
    value = parse_json(data.rstrip())
    if not isinstance(value, dict):
        raise BadData(f"not a JSON object but {_kind(value)}")
    return value


def parse_lines(data: bytes) -> pa.Table:
    """Parse NDJSON as a whole; blank lines do not count.

    Raises
    ------
    BadData
        Naming the first line that is not an object.
    """
    records = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        if line.strip():
            try:
                records.append(parse_line(line))
            except BadData as error:
                reason = str(error).replace("line 1, ", "")
                raise BadData(f"line {number}: {reason}") from error
    return to_table(records)


def _column(values: Sequence[Any]) -> pa.Array:
    if not values or type(values[0]) not in (dict, list):
        try:
            array = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            pass
        else:
            if not pa.types.is_nested(array.type) and not _turns_truth_into_numbers(values, array.type):
                return array
    return pa.array([_text(value) for value in values], pa.string())


def _turns_truth_into_numbers(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether true and false stand behind fractions, of which Arrow makes 1.0 and 0.0."""
    return bool(pa.types.is_floating(kind)) and bool in set(map(type, values))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value != value:  # NaN is missing, whatever stands beside it
        return None
    return str(value) if isinstance(value, int | float) else json.dumps(value)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
