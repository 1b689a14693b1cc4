"""Text files record by record: parsed as a block, and one by one where a block has a malformed line."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from cls.columns.records import parse_line, to_table
from cls.errors import BadData
from storage.pieces import Fault, Piece

LINE_BYTES = 4 << 20  # longer lines are malformed
QUOTED_LINES = 1_000  # a quoted value with more line ends is an unbalanced quote
TEXT_KEPT = 64 << 10  # characters of malformed text that a dead letter keeps
Record = tuple[int, bytes]  # number of its first line, and its bytes


class LineReader(ABC):
    """Text by records."""

    def __init__(self, path: Path) -> None:
        self._stream = io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)
        self._line = 0  # number of the last line that was read
        self._again: deque[Record] = deque()  # lines and records that were read and handed back
        self._bad: dict[int, str] = {}  # reason by line
        self._judged = 0  # lines up to this one were looked at one by one

    def skip(self, rows: int) -> None:
        """Pass over records."""
        for _ in islice(self._records(), rows):
            pass

    def read(self, rows: int) -> Piece | None:
        """Return the next records up to a malformed one, or the malformed ones."""
        first = next(self._records(), None)
        if first is None:
            return None
        self._again.appendleft(first)
        if first[0] > self._judged:
            block = list(islice(self._records(), rows))
            fits = all(len(data) <= LINE_BYTES for _, data in block)
            table = self._fast([data for _, data in block]) if fits else None
            if table is not None:
                return Piece(len(block), table)
            self._again.extendleft(reversed(block))
        return self._read_carefully(rows)

    def _read_carefully(self, rows: int) -> Piece:
        run: list[Record] = []
        for record in islice(self._records(), rows):
            self._judge(record)
            if run and (record[0] in self._bad) != (run[0][0] in self._bad):
                self._again.appendleft(record)
                break
            run.append(record)
        if run[0][0] in self._bad:
            return Piece(len(run), fault=self._fault(run))
        return Piece(len(run), self._table([data for _, data in run]))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _judge(self, record: Record) -> None:
        line, data = record
        if line > self._judged:
            self._judged = line
            reason = "is too long" if len(data) > LINE_BYTES else self._reason(data)
            if reason:
                self._bad[line] = reason

    def _fault(self, run: Sequence[Record]) -> Fault:
        reasons = [self._bad.pop(line) for line, _ in run]
        first, last = run[0][0], run[-1][0]
        text = b"".join(data for _, data in run).decode(errors="backslashreplace").rstrip("\r\n")
        if len(run) == 1:
            return Fault(f"line {first}: {reasons[0]}", {"line": first, "text": text[:TEXT_KEPT]})
        details = {"line": first, "last_line": last, "lines": len(run), "text": text[:TEXT_KEPT]}
        return Fault(f"lines {first} to {last}: {reasons[0]}", details)

    def _records(self) -> Iterator[Record]:
        """Yield (number of its first line, bytes) of each record that is not blank."""
        while True:
            record = self._record()
            if record is None:
                return
            if record[1].strip():
                yield record

    def _record(self) -> Record | None:
        return self._next_line()

    def _next_line(self) -> Record | None:
        if self._again:
            return self._again.popleft()
        data = self._stream.readline(LINE_BYTES + 1)
        if not data:
            return None
        self._line += 1
        rest = data
        while len(rest) > LINE_BYTES and not rest.endswith(
            b"\n"
        ):  # the rest of an endless line is passed over
            rest = self._stream.readline(LINE_BYTES + 1)
        return self._line, data

    @abstractmethod
    def _fast(self, records: Sequence[bytes]) -> Any:
        """Parse records as a block; None if they are not as plain as that."""

    @abstractmethod
    def _table(self, records: Sequence[bytes]) -> Any:
        """Parse records of which none is malformed."""

    @abstractmethod
    def _reason(self, record: bytes) -> str:
        """Return why a record is malformed, an empty text if it is not."""


class NdjsonReader(LineReader):
    """NDJSON: one object per line."""

    def _fast(self, records: Sequence[bytes]) -> Any:
        try:
            return self._table(records)
        except BadData:
            return None

    def _table(self, records: Sequence[bytes]) -> Any:
        return to_table([parse_line(record) for record in records])

    def _reason(self, record: bytes) -> str:
        try:
            parse_line(record)
        except BadData as error:
            return str(error).replace("line 1, ", "")
        return ""


class CsvReader(LineReader):
    """CSV with a header; every value is text, and nothing between two commas is null.

    Types are ingest's business: guessed from a part of the file they would differ between parts.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header = next(self._records(), (0, b""))[1].removeprefix(b"\xef\xbb\xbf")
        self._names = next(csv.reader([header.decode()], strict=True), []) if header else []
        twice = sorted({name for name in self._names if self._names.count(name) > 1})
        if twice:
            raise ValueError(f"columns named twice: {', '.join(map(repr, twice))}")

    def _record(self) -> Record | None:
        """Return a record with the lines that its quotes hold together."""
        first = self._next_line()
        if first is None or first[1].count(b'"') % 2 == 0:
            return first
        line, data = first
        more: list[Record] = []
        while len(more) < QUOTED_LINES and (following := self._next_line()) is not None:
            more.append(following)
            if following[1].count(b'"') % 2:
                record = b"".join([data, *(part for _, part in more)])
                if not self._reason(record):
                    return line, record
                break
        self._again.extendleft(reversed(more))  # the quotes hold nothing together: this line stands alone
        return line, data

    def _fast(self, records: Sequence[bytes]) -> Any:
        data = b"".join(record if record.endswith(b"\n") else record + b"\n" for record in records)
        try:
            table = arrow_csv.read_csv(
                io.BytesIO(data),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=len(data) + 1, column_names=self._names
                ),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(self._names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowException:
            return None
        return table if table.num_rows == len(records) else None

    def _table(self, records: Sequence[bytes]) -> Any:
        table = self._fast(records)
        if table is not None:
            return table
        rows = [_fields(record) for record in records]
        return pa.table({name: [row[i] or None for row in rows] for i, name in enumerate(self._names)})

    def _reason(self, record: bytes) -> str:
        try:
            fields = _fields(record)
        except (ValueError, csv.Error) as error:
            return f"not CSV: {error}"
        if len(fields) != len(self._names):
            return f"has {len(fields)} fields where the header has {len(self._names)}"
        return ""


def _fields(record: bytes) -> list[str]:
    rows = list(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    if len(rows) != 1:
        raise ValueError("not one record")
    return rows[0]
