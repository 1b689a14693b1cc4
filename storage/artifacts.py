"""Content-addressed bytes: the name is the SHA-256, so what is read is what was written, or an error."""

from __future__ import annotations

from pathlib import Path

from cls.errors import Corrupt, Unavailable
from cls.layout import to_json
from storage.segments import digest, write_synced


class DiskArtifacts:
    """Artifacts as files named by their SHA-256."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Store bytes durably; returns their SHA-256."""
        sha256 = digest(data)
        path = self._path(sha256)
        if not path.exists():
            write_synced(path, data)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return bytes; raises `Corrupt` if they are gone or altered."""
        path = self._path(sha256)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(f"artifact {sha256[:16]} is missing under {self._root}") from error
        except OSError as error:
            raise Unavailable(f"artifact {sha256[:16]}: {error}") from error
        if digest(data) != sha256:
            raise Corrupt(f"artifact {path} does not match its hash: it was altered or damaged")
        return data

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise Corrupt(f"not an artifact's name: {sha256[:80]!r}")
        return self._root / sha256[:2] / sha256


class MemoryArtifacts:
    """The twin of `DiskArtifacts` in memory."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Keep bytes; see `DiskArtifacts.put`."""
        sha256 = digest(data)
        self._data[sha256] = data
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return bytes; see `DiskArtifacts.get`."""
        if sha256 not in self._data:
            raise Corrupt(f"artifact {sha256[:16]} is missing in memory")
        return self._data[sha256]


def manifest_digest(files: dict[str, str]) -> str:
    """Return the hash that names a set of files."""
    return digest(to_json(files))
