"""Housekeeping deletes what nobody refers to, never what somebody does or is about to."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, func, insert, select, update

from cls.arms import Served
from cls.credits import EMPTY
from cls.domain import Batch
from cls.errors import Corrupt
from storage import streams
from storage.db import database_now, read_clock, reading, transaction
from storage.housekeeping import (
    collect_inbox,
    collect_orphans,
    drop_dead_letters,
    drop_sums,
    forget_processes,
)
from storage.inbox import Inbox, InboxSource, forget_files
from storage.log import Log, record_segment, write_events
from storage.segments import DiskSegments
from storage.served import add_served
from storage.tables import (
    allocations,
    champions,
    dead_letters,
    inbox,
    processes,
    promotions,
    rollouts,
    served,
)

HOUR = timedelta(hours=1)


def batch(rows: int = 3) -> Batch:
    zeros = np.zeros(rows, np.int64)
    keys = [f"k{i}" for i in range(rows)]
    return Batch(
        {"x": np.arange(rows, dtype=np.float64)},
        keys,
        zeros,
        zeros.astype(np.int8),
        np.full(rows, np.nan),
        zeros,
    )


def age(path: Path, by: timedelta) -> None:
    then = time.time() - by.total_seconds()
    os.utime(path, (then, then))


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_orphans_are_collected_after_the_grace_period_and_named_segments_never(
    engine: Engine, home: Path
) -> None:
    store = DiskSegments(home)
    named = write_events(store, "s", 0, batch())
    with transaction(engine) as connection:
        record_segment(connection, named)
    old, young = (write_events(store, "s", start, batch()).path for start in (3, 6))
    part = home / "s" / ".half.part"
    part.write_bytes(b"half")
    for path in (home / named.path, home / old, part):
        age(path, 2 * HOUR)
    assert collect_orphans(engine, store, HOUR) == 2
    assert files(home) == {named.path, young}
    assert len(Log(engine, store, {"s": ["x"]}).events("s", 0, 9)) == 3
    assert collect_orphans(engine, store, HOUR) == 0


def test_a_segment_written_again_after_a_long_stop_has_its_grace_period_again(
    engine: Engine, home: Path
) -> None:
    store = DiskSegments(home)
    age(home / write_events(store, "s", 0, batch()).path, 24 * HOUR)  # died before its commit, a day ago
    again = write_events(store, "s", 0, batch())  # the restarted process is about to commit it
    collect_orphans(engine, store, HOUR)  # another process keeps house meanwhile
    with transaction(engine) as connection:
        record_segment(connection, again)
    assert len(Log(engine, store, {"s": ["x"]}).events("s", 0, 3)) == 3


def test_inbox_files_without_a_row_go_after_the_grace_period(engine: Engine, home: Path) -> None:
    box = Inbox(engine, home)
    box.put("s", "p", 1, "events", pa.table({"x": [1]}))
    box.put("s", "p", 1, "events", pa.table({"x": [1]}))  # sent twice: acknowledged, its file is nobody's
    box.close()
    with reading(engine) as connection:
        (kept,) = connection.execute(select(inbox.c.path)).scalars()
    assert len(files(home)) == 2
    assert collect_inbox(engine, home, HOUR) == 0  # younger than the grace period
    for name in files(home):
        age(home / name, 2 * HOUR)
    assert collect_inbox(engine, home, HOUR) == 1
    assert files(home) == {kept}
    assert collect_inbox(engine, home / "absent", HOUR) == 0


def test_inbox_files_go_once_ingest_has_committed_them_and_their_rows_stay(
    engine: Engine, home: Path
) -> None:
    box = Inbox(engine, home)
    for sequence in (1, 2, 3):
        box.put("s", "p", sequence, "events", pa.table({"x": [sequence]}))
    source = InboxSource(engine, home, "s")
    first = source.read("")
    assert first is not None
    assert forget_files(engine, home, "s", "") == 0
    assert forget_files(engine, home, "s", first.token) == 1
    second = source.read(first.token)
    assert second is not None
    assert second.table.to_pydict() == {"x": [2]}
    assert box.put("s", "p", 1, "events", pa.table({"x": [9]})).duplicate  # still known
    box.close()


def test_a_missing_inbox_file_is_corrupt(engine: Engine, home: Path) -> None:
    box = Inbox(engine, home)
    box.put("s", "p", 1, "events", pa.table({"x": [1]}))
    box.close()
    for name in files(home):
        (home / name).unlink()
    with pytest.raises(Corrupt):
        InboxSource(engine, home, "s").read("")


def test_dead_letters_are_kept_for_their_retention(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.add_dead_letters(connection, "s", "events", [("old", {"id": 1}), ("new", {"id": 2})])
        first = connection.execute(select(func.min(dead_letters.c.id))).scalar_one()
        received = connection.execute(
            select(dead_letters.c.received_at).where(dead_letters.c.id == first)
        ).scalar_one()
        connection.execute(
            update(dead_letters).where(dead_letters.c.id == first).values(received_at=received - 10 * HOUR)
        )
        assert connection.execute(select(database_now(connection))).scalar_one() >= received
    assert drop_dead_letters(engine, 9 * HOUR) == 1
    with reading(engine) as connection:
        assert [row.reason for row in streams.list_dead_letters(connection)] == ["new"]


def test_killed_processes_are_forgotten_after_a_while(engine: Engine) -> None:
    with transaction(engine) as connection:
        streams.sign_in(connection, "worker@h:1", "worker", {})
        streams.sign_in(connection, "worker@h:2", "worker", {})
        long_ago = read_clock(connection) - 2 * HOUR
        killed = update(processes).where(processes.c.id == "worker@h:1")
        connection.execute(killed.values(seen_at=long_ago))
    assert forget_processes(engine, 3 * HOUR) == 0
    assert forget_processes(engine, HOUR) == 1
    with reading(engine) as connection:
        assert [row.id for row in streams.list_processes(connection)] == ["worker@h:2"]


def test_sums_of_rollouts_that_ended_long_ago_go_and_those_in_use_stay(engine: Engine) -> None:
    old, month = timedelta(days=31), timedelta(days=30)
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "s")
        now = read_clock(connection)
        row = {"stream": "s", "version": 4, "parent": 3, "state": "done", "light": False, "effective_at": now}
        ends = {1: now, 2: now, 3: None, 4: now}  # stream time; the fourth counted nothing for a month
        for number, ended in ends.items():
            state = "watching" if ended is None else "done"
            connection.execute(
                insert(rollouts).values(row | {"id": number, "ended_at": ended, "state": state})
            )
            add_served(connection, "s", number, "canary-0", 4, Served(rows=1))
            bitmaps = {"champion": EMPTY, "canary": EMPTY, "misrouted": 0}
            connection.execute(insert(allocations).values(rollout=number, step=0, **bitmaps))
        for version in range(1, 6):
            add_served(connection, "s", 0, "champion", version, Served(rows=1))
        row = {"stream": "s", "version": 2, "previous": 1, "since": 0, "reference": "r"}
        made = connection.execute(insert(promotions).values(**row, reason="test")).inserted_primary_key
        assert made is not None
        connection.execute(insert(champions).values(**row, promotion=made[0]))
        aged = update(served).where(served.c.rollout.in_((1, 3, 4)))
        connection.execute(aged.values(updated_at=now - old))
    # Of rollouts 1 and 4 sums and keys; outside of rollouts version 5: it is neither champion, nor the one before, nor watched.
    assert drop_sums(engine, month) == 2 + 2 + 1
    with reading(engine) as connection:
        left = [tuple(row) for row in connection.execute(select(served.c.rollout, served.c.version))]
        assert sorted(left) == [(0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (3, 4)]
        assert sorted(connection.execute(select(allocations.c.rollout)).scalars()) == [2, 3]
    assert drop_sums(engine, month) == 0
