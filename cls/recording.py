"""Recordings: a stream in one file, for backtests and inference."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from cls.errors import BadData

READERS = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".ndjson": pyarrow.json.read_json,
    ".jsonl": pyarrow.json.read_json,
}


def read_recording(path: Path) -> pa.Table:
    """Return a whole file as a table; raises `BadData` naming the file and the fault."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadData(f"{path}: unknown kind of file; use one of {', '.join(READERS)}")
    try:
        table = reader(path)
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path}: cannot be read: {error}") from error
    if table.num_rows == 0:
        raise BadData(f"{path}: there are no rows in it")
    return table
