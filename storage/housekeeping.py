"""What nobody refers to any more: files that no row names, inbox files that were taken in, snapshots, old dead letters and sums."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, delete, or_, select

from cls.ports import SegmentStore
from storage.db import read_clock, reading, transaction, wall_clock
from storage.tables import (
    allocations,
    champions,
    dead_letters,
    inbox,
    jobs,
    processes,
    rollouts,
    segments,
    served,
)


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


def drop_sums(engine: Engine, older_than: timedelta) -> int:
    """Drop what guardrails counted of rollouts that have ended, some time after the last count; returns how many rows.

    Outside of rollouts, of versions that nobody goes back to or is compared with: neither champion, nor the one before, nor in a rollout.
    """
    ended = select(rollouts.c.id).where(rollouts.c.ended_at.is_not(None))
    with transaction(engine) as connection:
        before = read_clock(connection) - older_than
        old = served.c.updated_at < before
        dropped = connection.execute(delete(served).where(old, served.c.rollout.in_(ended))).rowcount
        champion = select(champions.c.promotion).where(
            champions.c.stream == served.c.stream,
            or_(champions.c.version == served.c.version, champions.c.previous == served.c.version),
        )
        compared = select(rollouts.c.id).where(
            rollouts.c.stream == served.c.stream,
            rollouts.c.ended_at.is_(None),
            or_(rollouts.c.version == served.c.version, rollouts.c.parent == served.c.version),
        )
        nobody = served.c.rollout == 0, ~champion.exists(), ~compared.exists()
        dropped += connection.execute(delete(served).where(*nobody)).rowcount
        counted = select(served.c.rollout).where(served.c.rollout == allocations.c.rollout)
        gone = allocations.c.rollout.in_(ended), ~counted.exists()
        return dropped + connection.execute(delete(allocations).where(*gone)).rowcount


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
