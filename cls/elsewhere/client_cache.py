"""Where the client keeps what it downloaded: a folder for each version, named by its digest, and a file that says which one answers.

The folders are this user's alone. What a name leads to is only ever touched after the name was checked.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from cls.errors import Corrupt, Refused
from cls.layout import check_names

CURRENT = "current"  # file with the digest of what answers now
FRESH_SECONDS = 300.0  # another process that shares the cache may be about to need what is younger


class Cache:
    """The cache of one alias.

    Parameters
    ----------
    root
        Of all streams; made if it is not there.

    Raises
    ------
    Refused
        If a folder cannot be made, is somebody else's, or may be written to by others.
    """

    def __init__(self, root: Path, stream: str, alias: str) -> None:
        check_names([stream, alias])
        self.path = root / stream / alias
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.path.parent, self.path):
                folder.mkdir(mode=0o700, exist_ok=True)
                found = folder.stat(follow_symlinks=False)
                if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise Refused(f"{folder}: the cache is somebody else's, or others may write to it")
        except OSError as error:
            raise Refused(f"{self.path}: no cache: {error}") from error

    def folder(self, digest: str) -> Path:
        """Return a version's folder; raises `Corrupt` if the digest would lead elsewhere."""
        check_names([digest])
        return self.path / digest

    def current(self) -> Path | None:
        """Return the folder of what answered last, None if there is none; raises `Corrupt` if the note of it says nothing of use."""
        try:
            digest = (self.path / CURRENT).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Corrupt(f"{self.path / CURRENT}: {error}") from error
        folder = self.folder(digest)
        return folder if folder.is_dir() else None

    def drop(self, digest: str) -> None:
        """Remove a version."""
        shutil.rmtree(self.folder(digest), ignore_errors=True)

    def keep(self, digest: str, before: str | None) -> None:
        """Note what answers now, so that a power cut loses it or keeps it; it, the version before and what is fresh stay."""
        part = self.path / f".{CURRENT}.{uuid.uuid4().hex}.part"
        with part.open("w") as file:
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / CURRENT)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for folder in self.path.iterdir():
            if not folder.is_dir() or folder.name in (digest, before) or folder.name.startswith("."):
                continue
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - folder.stat().st_mtime > FRESH_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
