"""What a stream remembers between two batches: positions, watermark, triggers, the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, insert, select, type_coerce, update
from sqlalchemy.exc import IntegrityError

from cls.domain import Json
from cls.errors import Refused
from storage.db import database_now, upsert
from storage.tables import dead_letters, ledger, positions, processes, streams, triggers


def ensure_stream(connection: Connection, name: str) -> None:
    """Make the row of a configured stream, if it is not there."""
    connection.execute(upsert(connection, streams).values(name=name).on_conflict_do_nothing())


def watermark(connection: Connection, stream: str) -> datetime | None:
    """Return the stream's time, or None before its first record."""
    return connection.execute(select(streams.c.watermark).where(streams.c.name == stream)).scalar()


def raise_watermark(connection: Connection, stream: str, to: datetime) -> None:
    """Move the stream's time forward; never back."""
    later = streams.c.watermark.is_(None) | (streams.c.watermark < to)
    connection.execute(update(streams).where(streams.c.name == stream, later).values(watermark=to))


def last_update(connection: Connection, stream: str) -> datetime | None:
    """Return the stream time of the last decision to update."""
    return connection.execute(select(streams.c.last_update).where(streams.c.name == stream)).scalar()


def note_update(connection: Connection, stream: str, at: datetime) -> None:
    """Note a decision to update."""
    connection.execute(update(streams).where(streams.c.name == stream).values(last_update=at))


def allowance(connection: Connection, stream: str, now: datetime, per_day: float, days: float) -> float:
    """Return the device-seconds that a stream may spend at a stream time.

    A token bucket: it fills at `per_day` device-seconds per day of stream time, up to `days` days' worth, and starts full. What it
    lets through in any span of D days is at most per_day (D + days), whatever happens.
    """
    query = select(streams.c.budget_left, streams.c.budget_at).where(streams.c.name == stream)
    row = connection.execute(query).first()
    full = per_day * days
    if row is None or row.budget_left is None:
        return full
    return float(min(full, row.budget_left + per_day * ((now - row.budget_at) / timedelta(days=1))))


def charge(
    connection: Connection, stream: str, seconds: float, now: datetime, per_day: float, days: float
) -> None:
    """Take device-seconds from the bucket; a job that cost more than expected leaves a debt."""
    left = allowance(connection, stream, now, per_day, days) - seconds
    connection.execute(
        update(streams).where(streams.c.name == stream).values(budget_left=left, budget_at=now)
    )


def position(connection: Connection, stream: str, consumer: str, partition: int = 0) -> str:
    """Return a consumer's committed token, "" at the start."""
    query = select(positions.c.token).where(
        positions.c.stream == stream, positions.c.consumer == consumer, positions.c.partition == partition
    )
    return connection.execute(query).scalar() or ""


def advance(
    connection: Connection, stream: str, consumer: str, old: str, new: str, partition: int = 0
) -> None:
    """Move a consumer by compare-and-set, in the transaction of the effects.

    Raises
    ------
    Refused
        If somebody else moved it: this transaction must be dropped and the position read anew.
    """
    where = (
        positions.c.stream == stream,
        positions.c.consumer == consumer,
        positions.c.partition == partition,
    )
    if old == "":
        statement = insert(positions).values(stream=stream, consumer=consumer, partition=partition, token=new)
        try:
            with connection.begin_nested():
                connection.execute(statement)
        except IntegrityError as error:
            raise Refused(f"{stream}/{consumer}: another process has moved the position") from error
    elif (
        connection.execute(
            update(positions).where(*where, positions.c.token == old).values(token=new)
        ).rowcount
        != 1
    ):
        raise Refused(f"{stream}/{consumer}: another process has moved the position")


def write_ledger(
    connection: Connection,
    stream: str,
    kind: str,
    reason: str,
    *,
    at: datetime | None,
    decision: str | None = None,
    episode: int | None = None,
    job: int | None = None,
    version: int | None = None,
    details: Json | None = None,
) -> int:
    """Add an entry; returns its id."""
    statement = insert(ledger).values(
        stream=stream,
        at=at,
        recorded_at=database_now(connection),
        kind=kind,
        decision=decision,
        reason=reason,
        episode_id=episode,
        job_id=job,
        version=version,
        details=details or {},
    )
    return int(connection.execute(statement).inserted_primary_key[0])


def read_ledger(connection: Connection, stream: str | None = None, limit: int = 100) -> list[Row[Any]]:
    """Return the newest entries, newest first."""
    query = select(ledger).order_by(ledger.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(ledger.c.stream == stream)
    return list(connection.execute(query))


def last_decision(connection: Connection, stream: str) -> tuple[str, str] | None:
    """Return (decision, reason) of the newest decision in the ledger."""
    query = (
        select(ledger.c.decision, ledger.c.reason)
        .where(ledger.c.stream == stream, ledger.c.kind == "decision")
        .order_by(ledger.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else (row.decision, row.reason)


def add_trigger(
    connection: Connection, stream: str, kind: str, unique_key: str, arguments: Json, requested_by: str
) -> bool:
    """Ask the daemon for something once per unique key; returns False if it had been asked already."""
    statement = (
        upsert(connection, triggers)
        .values(
            stream=stream,
            kind=kind,
            unique_key=unique_key,
            arguments=arguments,
            requested_by=requested_by,
            requested_at=database_now(connection),
        )
        .on_conflict_do_nothing(index_elements=["unique_key"])
    )
    return connection.execute(statement).rowcount == 1


def open_triggers(connection: Connection, stream: str) -> list[Row[Any]]:
    """Return what was asked for and not yet answered, oldest first."""
    query = select(triggers).where(triggers.c.stream == stream, triggers.c.consumed_at.is_(None))
    return list(connection.execute(query.order_by(triggers.c.id)))


def show_trigger(connection: Connection, unique_key: str) -> Row[Any] | None:
    """Return one trigger."""
    return connection.execute(select(triggers).where(triggers.c.unique_key == unique_key)).first()


def answer_trigger(connection: Connection, trigger_id: int, outcome: str) -> None:
    """Close a trigger with what came of it."""
    connection.execute(
        update(triggers)
        .where(triggers.c.id == trigger_id)
        .values(consumed_at=database_now(connection), outcome=outcome)
    )


def add_dead_letters(connection: Connection, stream: str, kind: str, letters: list[tuple[str, Json]]) -> None:
    """Keep (reason, record) pairs that could not be used."""
    if letters:
        now = database_now(connection)
        for reason, record in letters:
            connection.execute(
                insert(dead_letters).values(
                    stream=stream, kind=kind, reason=reason, record=record, received_at=now
                )
            )


def list_dead_letters(
    connection: Connection, stream: str | None = None, *, limit: int = 100, replayed: bool = False
) -> list[Row[Any]]:
    """Return dead letters, newest first; those replayed only if asked for."""
    query = select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(dead_letters.c.stream == stream)
    if not replayed:
        query = query.where(dead_letters.c.replayed_at.is_(None))
    return list(connection.execute(query))


def mark_replayed(connection: Connection, ids: list[int]) -> None:
    """Note that dead letters were sent in again."""
    connection.execute(
        update(dead_letters).where(dead_letters.c.id.in_(ids)).values(replayed_at=database_now(connection))
    )


def sign_in(connection: Connection, process: str, kind: str, details: Json) -> None:
    """Note that a process is alive; `cls status` and `cls doctor` read it."""
    now = database_now(connection)
    statement = upsert(connection, processes).values(
        id=process, kind=kind, started_at=now, seen_at=now, details=details
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": now, "details": details})
    )


def sign_out(connection: Connection, process: str) -> None:
    """Note that a process ended as it should."""
    connection.execute(processes.delete().where(processes.c.id == process))


def list_processes(connection: Connection) -> list[Row[Any]]:
    """Return all processes that signed in, with the seconds since they were last seen."""
    seen, now = (type_coerce(time, BigInteger) for time in (processes.c.seen_at, database_now(connection)))
    age = ((now - seen) / 1_000_000.0).label("age_seconds")
    return list(connection.execute(select(processes, age).order_by(processes.c.id)))
