"""What nobody refers to any more: files that no row names, inbox files that were taken in, snapshots, old dead letters."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, delete, select

from cls.ports import SegmentStore
from storage.db import read_clock, reading, transaction, wall_clock
from storage.tables import dead_letters, inbox, jobs, processes, segments


def collect_orphans(engine: Engine, store: SegmentStore, grace: timedelta) -> int:
    """Delete segment files that no manifest row names and that are older than a grace period; returns how many.

    The grace period covers the moment between writing a file and committing its row.
    """
    before = (wall_clock() - grace).timestamp()
    old = {path for path, modified in store.files() if modified < before}
    with reading(engine) as connection:
        named = {path for (path,) in connection.execute(select(segments.c.path))}
    orphans = old - named
    for path in orphans:
        store.delete(path)
    return len(orphans)


def collect_inbox(engine: Engine, root: Path, grace: timedelta) -> int:
    """Delete inbox files that no row names (the request was never acknowledged) after the grace period; returns how many."""
    before = (wall_clock() - grace).timestamp()
    old = {
        path.relative_to(root).as_posix(): path
        for path in root.glob("*/*")
        if path.is_file() and path.stat().st_mtime < before
    }
    if not old:
        return 0
    with reading(engine) as connection:
        named = {path for (path,) in connection.execute(select(inbox.c.path))}
    orphans = [file for name, file in old.items() if name not in named]
    for file in orphans:
        file.unlink(missing_ok=True)
    return len(orphans)


def drop_dead_letters(engine: Engine, older_than: timedelta) -> int:
    """Drop dead letters after their retention; returns how many."""
    with transaction(engine) as connection:
        before = read_clock(connection) - older_than
        return connection.execute(delete(dead_letters).where(dead_letters.c.received_at < before)).rowcount


def collect_snapshots(engine: Engine, root: Path) -> int:
    """Delete the snapshots of jobs that have ended; returns how many."""
    ended = 0
    for directory in root.glob("*"):
        if not directory.name.isdigit():
            continue
        with reading(engine) as connection:
            state = connection.execute(select(jobs.c.state).where(jobs.c.id == int(directory.name))).scalar()
        if state not in ("queued", "running"):
            shutil.rmtree(directory, ignore_errors=True)
            ended += 1
    return ended


def forget_processes(engine: Engine, unseen_for: timedelta) -> int:
    """Forget processes that were killed, some time after their last sign of life; returns how many."""
    with transaction(engine) as connection:
        before = read_clock(connection) - unseen_for
        return connection.execute(delete(processes).where(processes.c.seen_at < before)).rowcount
