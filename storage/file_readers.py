"""A reader for each format of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from storage.line_readers import CsvReader, NdjsonReader
from storage.pieces import Piece, Reader

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


def format_of(path: Path) -> str | None:
    """Return the format that a file's suffix tells, None if it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


class ParquetReader:
    """Parquet by row groups."""

    def __init__(self, path: Path) -> None:
        self._file = parquet.ParquetFile(path)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._held: list[pa.RecordBatch] = []
        self._first_group = 0
        self._begun = False

    def skip(self, rows: int) -> None:
        """Pass over records: whole row groups are not read."""
        metadata = self._file.metadata
        while self._first_group < metadata.num_row_groups:
            size = metadata.row_group(self._first_group).num_rows
            if rows < size:
                break
            rows -= size
            self._first_group += 1
        while rows > 0 and (piece := self.read(min(rows, 65_536))) is not None:
            rows -= piece.rows

    def read(self, rows: int) -> Piece | None:
        """Return the next records."""
        if not self._begun:
            groups = list(range(self._first_group, self._file.metadata.num_row_groups))
            self._batches = self._file.iter_batches(min(rows, 65_536), row_groups=groups, use_threads=False)
            self._begun = True
        taken, missing = [], rows
        while missing and (batch := self._next()) is not None:
            taken.append(batch.slice(0, missing))
            if batch.num_rows > missing:
                self._held.append(batch.slice(missing))
            missing -= taken[-1].num_rows
        if not taken:
            return None
        return Piece(rows - missing, pa.Table.from_batches(taken))

    def _next(self) -> pa.RecordBatch | None:
        while True:
            batch = self._held.pop() if self._held else next(self._batches, None)
            if batch is None or batch.num_rows:
                return batch

    def close(self) -> None:
        """Close the file."""
        self._file.close()


FORMATS: dict[str, Callable[[Path], Reader]] = {
    "parquet": ParquetReader,
    "csv": CsvReader,
    "ndjson": NdjsonReader,
}
"""Readers by the name of their format."""
