"""Files as a source: one file, or a directory to which files are added; read in name order.

A file is taken once it no longer changes. Names that start with a dot or end in .part or .tmp are never taken: writers use them
while they write. A file whose name sorts before one that was begun already is never taken either. Rows appended to the newest
file are read once it rests again. The token is JSON, {"file": name, "row": records taken from it}; row null means that nothing
more will be taken from it.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from cls.errors import Unavailable
from cls.ports import RawBatch
from storage.file_readers import FORMATS, format_of
from storage.pieces import Fault, Reader

SETTLE_SECONDS = 1.0  # a file that rests as long is complete
_UNFINISHED = (".part", ".tmp")
_Content = (pa.ArrowException, OSError, EOFError, ValueError, zlib.error)
_State = tuple[int, int]  # size in bytes, modification time in nanoseconds


class FileSource:
    """Reads events from files.

    Parameters
    ----------
    path
        A file, or a directory.
    pattern
        For a directory: glob of the files to read, relative to it.
    format
        "parquet", "csv", "ndjson", or "auto" to go by the suffix.
    batch_rows
        Rows per batch; batches end at the end of a file and before malformed lines.
    settle_seconds
        How long a file must rest before it is taken.
    wall_seconds
        Clock that file times are compared with, in epoch seconds.
    """

    def __init__(
        self,
        path: Path,
        pattern: str = "*",
        format: str = "auto",  # noqa: A002 - the name of the field in cls.toml
        batch_rows: int = 1000,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._pattern = pattern
        self._format = format
        self._batch_rows = batch_rows
        self._settle_seconds = settle_seconds
        self._wall_seconds = wall_seconds
        self._seen: dict[
            str, tuple[_State, float]
        ] = {}  # files that may still change, and since when they rest
        self._open: tuple[str, int, _State, Reader] | None = None  # file, next row, its state when opened
        self._drained: tuple[str, int, _State] | None = (
            None  # nothing new in this file while it looks like this
        )

    def read(self, token: str) -> RawBatch | None:
        """Return the batch after a token, or None if there is none yet.

        Raises
        ------
        Unavailable
            If a directory or file cannot be read for now.
        """
        name, row = _parse(token)
        if self._open is not None and self._open[:2] == (name, row):
            batch = self._take(name, self._open[1], self._open[2])
            if batch is not None:
                return batch
        for file in self._files():
            if file < name or (file == name and row is None):
                continue
            state = self._resting(file)
            if state is None:  # later files wait for it: the order is by name
                return None
            batch = self._take(file, row or 0 if file == name else 0, state)
            if batch is not None:
                return batch
        return None

    def _take(self, name: str, row: int, state: _State) -> RawBatch | None:
        if state[0] == 0 or self._drained == (name, row, state):
            return None
        try:
            reader = self._reader(name, row, state)
            if isinstance(reader, Fault):
                return self._fault(name, None, reader)
            piece = reader.read(self._batch_rows)
        except _Content as error:
            self._close()
            if isinstance(error, OSError) and error.errno is not None:
                raise Unavailable(f"file {self._where(name)}: {error}") from error
            return self._fault(
                name, None, Fault(f"cannot be read from row {row + 1} on: {_first_line(error)}")
            )
        if piece is None:
            self._close()
            self._drained = (name, row, state)
            return None
        self._open = (name, row + piece.rows, state, reader)
        if piece.fault is not None:
            return self._fault(name, row + piece.rows, piece.fault)
        origin = f"{name}, rows {row + 1} to {row + piece.rows}"
        return RawBatch("events", piece.table, _token(name, row + piece.rows), origin)

    def _reader(self, name: str, row: int, state: _State) -> Reader | Fault:
        if self._open is not None and self._open[:3] == (name, row, state):
            return self._open[3]
        self._close()
        path = self._where(name)
        kind = format_of(path) if self._format == "auto" else self._format
        if kind is None:
            return Fault("unknown suffix; name the format in cls.toml, or keep it out by the pattern")
        reader = FORMATS[kind](path)
        self._open = (name, row, state, reader)
        reader.skip(row)
        return reader

    def _fault(self, name: str, row: int | None, fault: Fault) -> RawBatch:
        return RawBatch(
            "events",
            None,
            _token(name, row),
            name,
            f"file {name}: {fault.reason}",
            {"file": name, **fault.details},
        )

    def _close(self) -> None:
        if self._open is not None:
            self._open[3].close()
            self._open = None

    def _files(self) -> list[str]:
        """Return the names of all files that may be taken, in order."""
        try:
            if self._path.is_file():
                return [self._path.name]
            found = (p for p in self._path.glob(self._pattern) if p.is_file())
            names = sorted(p.relative_to(self._path).as_posix() for p in found)
        except OSError as error:
            raise Unavailable(f"directory {self._path}: {error}") from error
        return [
            n
            for n in names
            if not n.lower().endswith(_UNFINISHED) and not any(p[:1] == "." for p in n.split("/"))
        ]

    def _where(self, name: str) -> Path:
        return self._path if self._path.is_file() else self._path / name

    def _resting(self, name: str) -> _State | None:
        """Return size and time of a file that no longer changes, None for one that may."""
        try:
            stat = self._where(name).stat()
        except FileNotFoundError:
            return 0, 0  # gone meanwhile: as good as empty
        except OSError as error:
            raise Unavailable(f"file {self._where(name)}: {error}") from error
        state = stat.st_size, stat.st_mtime_ns
        if self._wall_seconds() - stat.st_mtime >= self._settle_seconds:
            self._seen.pop(name, None)
            return state
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if seen != state:
            self._seen[name] = (state, now)
            return state if self._settle_seconds <= 0 else None
        return state if now - since >= self._settle_seconds else None


def _token(name: str, row: int | None) -> str:
    return json.dumps({"file": name, "row": row})


def _parse(token: str) -> tuple[str, int | None]:
    if not token:
        return "", 0
    value = json.loads(token)
    return value["file"], value["row"]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
