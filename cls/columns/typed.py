"""Typed cells: booleans, times, texts and embeddings of any Arrow type as the plain columns that are derived from them.

The one place where it happens, at the border, for ingest as for predictions: the log, the models and the detectors see
derived columns only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cls.columns.cells import BLANK, Mask, Report, column_of, texts, times
from detectors.columns import Column
from detectors.derivation import Derivation, Kind
from detectors.derive import NO_TIME, derive_boolean, derive_embedding, derive_text, derive_timestamp

_TRUE, _FALSE = frozenset(("true", "t", "yes", "y", "1")), frozenset(("false", "f", "no", "n", "0"))
_NEVER = np.iinfo(np.int64).max  # a feature may lie in the future: a due date, say


def derived(table: pa.Table, columns: Sequence[Derivation], report: Report) -> dict[str, Column]:
    """Return what is derived from the typed columns of a table.

    Parameters
    ----------
    table
        As it came; a column that it lacks is missing in every row.
    columns
        Which of its columns have which type.
    report
        Told of values that are not of the type.
    """
    found: dict[str, Column] = {}
    for column in columns:
        found |= _READERS[column.kind](column_of(table, column.name), table, column, report)
    return found


def _boolean(
    values: pa.Array | None, table: pa.Table, column: Derivation, report: Report
) -> dict[str, Column]:
    truth: list[bool | None] = [None] * table.num_rows
    wrong = np.zeros(table.num_rows, bool)
    for row, text in enumerate(_words(values, table)):
        if text not in BLANK:
            truth[row] = True if text in _TRUE else False if text in _FALSE else None
            wrong[row] = truth[row] is None
    report(wrong | _nested(values, table), f"feature {column.name!r} is not true or false")
    return derive_boolean(column, truth)


def _timestamp(
    values: pa.Array | None, table: pa.Table, column: Derivation, report: Report
) -> dict[str, Column]:
    if values is None or pa.types.is_null(values.type):
        return derive_timestamp(column, np.full(table.num_rows, NO_TIME))
    time_us = times(table, column.name, lambda *_: None, _NEVER)
    written = np.asarray(values.is_valid())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        written &= np.array([word not in BLANK for word in _words(values, table)], bool)
    elif pa.types.is_floating(values.type):
        written &= ~np.asarray(pc.is_nan(values).fill_null(False))
    report(
        (time_us == NO_TIME) & written,
        f"feature {column.name!r} is not a time (ISO 8601, timestamp or epoch seconds)",
    )
    return derive_timestamp(column, time_us)


def _text(values: pa.Array | None, table: pa.Table, column: Derivation, report: Report) -> dict[str, Column]:
    report(_nested(values, table), f"feature {column.name!r} is not a text")
    return derive_text(column, [None] * table.num_rows if values is None else texts(values))


def _embedding(
    values: pa.Array | None, table: pa.Table, column: Derivation, report: Report
) -> dict[str, Column]:
    vectors_ND = np.full((table.num_rows, column.length), np.nan)
    wrong = np.zeros(table.num_rows, bool)
    if values is not None and not pa.types.is_null(values.type):
        if _is_list(values.type):
            _from_lists(values, vectors_ND)
        elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            _from_json(values.to_pylist(), vectors_ND)
        with np.errstate(over="ignore", invalid="ignore"):  # what has no finite norm is not taken
            short = np.isfinite(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
        written = np.asarray(values.is_valid())
        if not _is_list(values.type):
            written &= np.array([word not in BLANK for word in _words(values, table)], bool)
            written |= _nested(values, table)
        wrong = written & ~short
        vectors_ND[~short] = np.nan
    report(wrong, f"feature {column.name!r} is not a list of {column.length} finite numbers")
    return derive_embedding(column, vectors_ND)


_READERS: dict[Kind, Callable[[pa.Array | None, pa.Table, Derivation, Report], dict[str, Column]]] = {
    "boolean": _boolean,
    "timestamp": _timestamp,
    "text": _text,
    "embedding": _embedding,
}


def _words(values: pa.Array | None, table: pa.Table) -> list[str]:
    """Return values as small letters without space around them, blank where there is none."""
    if values is None:
        return [""] * table.num_rows
    return ["" if text is None else _whole(text.strip().lower()) for text in texts(values)]


def _whole(text: str) -> str:
    return text[:1] if text in ("1.0", "0.0") else text


def _nested(values: pa.Array | None, table: pa.Table) -> Mask:
    """Return the rows that hold bytes, a list or a struct."""
    kind = None if values is None else values.type
    tests = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    if values is None or not any(test(kind) for test in tests):
        return np.zeros(table.num_rows, bool)
    return np.asarray(values.is_valid())


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return False
    item = kind.value_type
    return bool(pa.types.is_floating(item) or pa.types.is_integer(item) or pa.types.is_decimal(item))


def _from_lists(values: pa.Array, vectors_ND: NDArray[np.float64]) -> None:
    """Fill in the rows that have the right length."""
    fits = pc.fill_null(pc.equal(pc.list_value_length(values), vectors_ND.shape[1]), False)
    rows = np.flatnonzero(np.asarray(fits))
    if len(rows):
        flat = pc.list_flatten(values.take(pa.array(rows)))
        numbers = pc.cast(flat, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        vectors_ND[rows] = numbers.reshape(len(rows), -1)


def _from_json(written: list[str | None], vectors_ND: NDArray[np.float64]) -> None:
    """Fill in the rows that are a JSON list of the right length."""
    for row, text in enumerate(written):
        try:
            vector = orjson.loads(text or "")
        except orjson.JSONDecodeError:
            continue
        if isinstance(vector, list) and len(vector) == vectors_ND.shape[1]:
            try:
                vectors_ND[row] = [_number(item) for item in vector]
            except (TypeError, OverflowError):
                continue


def _number(item: object) -> float:
    if type(item) not in (int, float):
        raise TypeError(f"not a number: {item!r}")
    return float(item)  # type: ignore[arg-type]  # just seen
