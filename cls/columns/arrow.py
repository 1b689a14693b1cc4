"""Arrow tables to the columns that the mathematics works on, and back: the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, Columns

DICTIONARY = pa.dictionary(pa.int32(), pa.string())


def to_column(values: pa.ChunkedArray | pa.Array) -> Column:
    """Turn an Arrow column into float64 with NaN for null, or dictionary codes with -1 for null."""
    if isinstance(values, pa.ChunkedArray):
        if pa.types.is_dictionary(values.type) and values.num_chunks > 1:
            values = values.unify_dictionaries()
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # no chunk at all
            values = pa.array([], values.type)
    if pa.types.is_dictionary(values.type):
        codes = pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Categorical(codes, tuple(values.dictionary.to_pylist()))
    return to_floats(values)


def to_floats(values: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    """Return a float64 array, NaN for null; integers beyond 2^53 are rounded."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(
        pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64
    )


def to_columns(table: pa.Table, names: Iterable[str]) -> dict[str, Column]:
    """Turn the named columns of a table into columns; names the table lacks (an older schema) are left out."""
    present = set(table.column_names)
    return {name: to_column(table.column(name)) for name in names if name in present}


def from_columns(columns: Columns) -> dict[str, pa.Array]:
    """Turn columns into Arrow arrays by name."""
    return {name: _from_column(column) for name, column in columns.items()}


def _from_column(column: Column) -> pa.Array:
    if isinstance(column, Categorical):
        indices = pa.array(column.codes, pa.int32(), mask=column.codes < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(column.vocabulary, pa.string()))
    return pa.array(column, pa.float64(), from_pandas=True)
