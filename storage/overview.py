"""What `cls status` and `cls doctor` ask across tables. Reading only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select

from storage.db import database_now, read_clock
from storage.queue import LIVE
from storage.tables import dead_letters, jobs, outbox, pending_labels, positions


@dataclass(frozen=True)
class Undelivered:
    """What waits in the outbox."""

    waiting: int
    oldest_seconds: float | None  # age of the first, by the database's clock
    error: str | None  # why the first could not be delivered


def undelivered(connection: Connection) -> Undelivered:
    """Return what waits in the outbox, and since when."""
    waiting = outbox.c.done_at.is_(None)
    number = connection.execute(select(func.count()).select_from(outbox).where(waiting)).scalar_one()
    first = connection.execute(select(outbox).where(waiting).order_by(outbox.c.id).limit(1)).first()
    if first is None:
        return Undelivered(0, None, None)
    age = read_clock(connection) - first.created_at
    return Undelivered(int(number), age.total_seconds(), first.error)


def waiting_dead_letters(connection: Connection, stream: str) -> int:
    """Count the dead letters that nobody has sent in again."""
    query = select(func.count()).select_from(dead_letters)
    query = query.where(dead_letters.c.stream == stream, dead_letters.c.replayed_at.is_(None))
    return int(connection.execute(query).scalar_one())


def dead_letter_ids(connection: Connection, stream: str) -> list[int]:
    """Return the ids of the dead letters that nobody has sent in again, oldest first."""
    query = select(dead_letters.c.id).where(
        dead_letters.c.stream == stream, dead_letters.c.replayed_at.is_(None)
    )
    return list(connection.execute(query.order_by(dead_letters.c.id)).scalars())


def show_dead_letters(connection: Connection, stream: str, ids: list[int]) -> list[Row[Any]]:
    """Return those of the dead letters that belong to the stream, in order."""
    query = select(dead_letters).where(dead_letters.c.stream == stream, dead_letters.c.id.in_(ids))
    return list(connection.execute(query.order_by(dead_letters.c.id)))


def waiting_labels(connection: Connection, stream: str) -> int:
    """Count the labels whose event has not come."""
    query = select(func.count()).select_from(pending_labels).where(pending_labels.c.stream == stream)
    return int(connection.execute(query).scalar_one())


def tokens(connection: Connection, stream: str) -> dict[str, str]:
    """Return each consumer's committed token; partitions beyond the first as "name/partition"."""
    query = (
        select(positions)
        .where(positions.c.stream == stream)
        .order_by(positions.c.consumer, positions.c.partition)
    )
    return {
        f"{row.consumer}/{row.partition}" if row.partition else row.consumer: row.token
        for row in connection.execute(query)
    }


def live_jobs(connection: Connection, stream: str) -> list[Row[Any]]:
    """Return the stream's queued and running jobs, oldest first."""
    query = select(jobs).where(jobs.c.stream == stream, jobs.c.state.in_(LIVE)).order_by(jobs.c.id)
    return list(connection.execute(query))


def orphaned(connection: Connection, grace: timedelta) -> list[Row[Any]]:
    """Return running jobs whose lease ended longer ago than `grace`: nobody works on them, and nobody took them back."""
    ended = jobs.c.lease_until < read_clock(connection) - grace
    return list(connection.execute(select(jobs).where(jobs.c.state == "running", ended).order_by(jobs.c.id)))


def job_waits(connection: Connection) -> list[tuple[int, str, float]]:
    """Return (id, stream, seconds) of due jobs that nobody has claimed, the longest waiting first."""
    seconds = ((database_now(connection) - jobs.c.run_at) / 1_000_000.0).label("seconds")
    query = select(jobs.c.id, jobs.c.stream, seconds).where(jobs.c.state == "queued")
    query = query.where(jobs.c.run_at <= database_now(connection)).order_by(jobs.c.run_at)
    return [(int(row.id), row.stream, float(row.seconds)) for row in connection.execute(query)]
