"""The beginning of a data file as an Arrow table, for looking at it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cls.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

SAMPLE_ROWS = 200_000

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


def read_sample(path: Path, rows: int = SAMPLE_ROWS) -> pa.Table:
    """Read the first rows of a file, or of the first file by name in a directory.

    Strings that are all ISO 8601 times come back as times.

    Parameters
    ----------
    path
        A Parquet, CSV or NDJSON file, known by its suffix, also compressed (.gz, .bz2, .zst, .lz4); or a directory.
    rows
        How many rows to read at most.

    Raises
    ------
    BadData
        When it does not exist, cannot be read, is of no known format, or holds no rows.
    """
    import pyarrow as pa

    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and _format(file))
        if not files:
            raise BadData(f"{path}: no Parquet, CSV or NDJSON file in this directory")
        path = files[0]
    if not path.is_file():
        raise BadData(f"{path}: there is no such file")
    try:
        table = _read(path, rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read: {error}") from error
    if table.num_rows == 0:
        raise BadData(f"{path}: holds no rows")
    try:
        names = table.column_names
    except UnicodeDecodeError as error:
        raise BadData(f"{path}: the names of its columns are not UTF-8: {error}") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadData(f"{path}: has more than one column called {twice[0]!r}")
    return _with_times(table)


def _format(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _read(path: Path, rows: int) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    kind = _format(path)
    if kind == "parquet":
        with parquet.ParquetFile(path) as file:
            return _take(file.iter_batches(batch_size=min(rows, 65_536)), file.schema_arrow, rows)
    if kind is None:
        raise BadData(f"{path}: known are .parquet, .csv and .ndjson (.jsonl), also compressed")
    with pa.input_stream(str(path), compression="detect") as stream:
        options = {"block_size": 16 << 20}  # types are inferred from the first block: make it a good look
        if kind == "csv":
            reader = csv.open_csv(stream, read_options=csv.ReadOptions(**options))
        else:
            reader = json.open_json(stream, read_options=json.ReadOptions(**options))
        with reader:
            return _take(reader, reader.schema, rows)


def _take(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int) -> pa.Table:
    import pyarrow as pa

    taken: list[pa.RecordBatch] = []
    for batch in islice(batches, rows):
        taken.append(batch)
        if sum(each.num_rows for each in taken) >= rows:
            break
    return pa.Table.from_batches(taken, schema=schema).slice(0, rows)


def _with_times(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for index, name in enumerate(table.column_names):
        column = table.column(index)
        if pa.types.is_timestamp(column.type):
            table = table.set_column(index, name, column.cast(pa.timestamp("us", tz="UTC"), safe=False))
        elif (
            pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ) and column.null_count < len(column):
            for zone in ("UTC", None):
                try:
                    times = column.cast(pa.timestamp("us", tz=zone))
                except pa.ArrowInvalid:
                    continue
                table = table.set_column(index, name, times.cast(pa.timestamp("us", tz="UTC"), safe=False))
                break
    return table
