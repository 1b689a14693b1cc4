"""Where segments' bytes lie: immutable Parquet files, synced before anything refers to them.

A file exists for the service only once a manifest row in SQL names it; what no row names is an orphan, collected after a
grace period. `MemorySegments` is the twin for backtests and tests.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cls.errors import Corrupt, Unavailable


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file so that it survives a power cut: temporary name, fsync, rename, fsync of the directory.

    Raises
    ------
    Unavailable
        If the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else str(error)
        raise Unavailable(f"cannot write {path}: {what}", delay=10.0 if full else 5.0) from error


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hex."""
    return hashlib.sha256(data).hexdigest()


class DiskSegments:
    """Segments as Parquet files under a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, stem: str, table: pa.Table) -> tuple[str, str]:
        """Write a table under a name that carries its content hash; returns (path under the root, sha256)."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue()
        sha256 = digest(data)
        path = f"{stem}-{sha256[:16]}.parquet"
        try:
            os.utime(
                self.root / path
            )  # an orphan of the same content is wanted again: its grace period starts anew
        except FileNotFoundError:
            write_synced(self.root / path, data)
        return path, sha256

    def get(self, path: str, sha256: str) -> pa.Table:
        """Read a table back; raises `Corrupt` if it is gone or its bytes are not those that were written."""
        try:
            data = (self.root / path).read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(f"segment {path} is missing under {self.root}") from error
        except OSError as error:
            raise Unavailable(f"segment {path}: {error}") from error
        if digest(data) != sha256:
            raise Corrupt(f"segment {path} does not match its hash: restore it from a backup")
        return pq.read_table(io.BytesIO(data))

    def files(self) -> Iterator[tuple[str, float]]:
        """Yield (path, modification time in epoch seconds) of every file, for the collection of orphans."""
        for file in self.root.rglob("*"):
            if file.is_file():
                yield file.relative_to(self.root).as_posix(), file.stat().st_mtime

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        (self.root / path).unlink(missing_ok=True)


class MemorySegments:
    """The twin of `DiskSegments` in memory: nothing outlives the process."""

    def __init__(self) -> None:
        self._tables: dict[str, pa.Table] = {}
        self._puts = 0

    def put(self, stem: str, table: pa.Table) -> tuple[str, str]:
        """Keep a table; see `DiskSegments.put`."""
        self._puts += 1
        path = f"{stem}-{self._puts:012d}.memory"
        self._tables[path] = table
        return path, digest(path.encode())

    def get(self, path: str, sha256: str) -> pa.Table:
        """Return a table; see `DiskSegments.get`."""
        if path not in self._tables or sha256 != digest(path.encode()):
            raise Corrupt(f"segment {path} is missing in memory")
        return self._tables[path]

    def files(self) -> Iterator[tuple[str, float]]:
        """Yield every path with modification time 0."""
        for path in list(self._tables):
            yield path, 0.0

    def delete(self, path: str) -> None:
        """Forget a table."""
        self._tables.pop(path, None)
