"""What a stream remembers between two batches: positions, watermark, triggers, the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Insert, Row, bindparam, insert, select, type_coerce, update
from sqlalchemy.exc import IntegrityError

from cls.domain import Json
from cls.errors import Refused
from storage.audit import record_answer
from storage.db import database_now, upsert
from storage.statements import add_row, per_dialect
from storage.tables import dead_letters, ledger, positions, processes, streams, trigger_is_open, triggers

_STREAM = streams.c.name == bindparam("stream")
_WATERMARK = select(streams.c.watermark).where(_STREAM)
_RAISE_WATERMARK = (
    update(streams)
    .where(_STREAM, streams.c.watermark.is_(None) | (streams.c.watermark < bindparam("to")))
    .values(watermark=bindparam("to"))
)
_LAST_UPDATE = select(streams.c.last_update, streams.c.tried_labels).where(_STREAM)
_NOTE_UPDATE = (
    update(streams).where(_STREAM).values(last_update=bindparam("at"), tried_labels=bindparam("labels"))
)
_BUDGET = select(streams.c.budget_left, streams.c.budget_at).where(_STREAM)
_CHARGE = update(streams).where(_STREAM).values(budget_left=bindparam("left"), budget_at=bindparam("now"))

_POSITION = select(positions.c.token).where(
    positions.c.stream == bindparam("stream"),
    positions.c.consumer == bindparam("consumer"),
    positions.c.partition == bindparam("partition"),
)
_BEGIN = insert(positions)
_ADVANCE = (  # compare-and-set
    update(positions)
    .where(
        positions.c.stream == bindparam("of_stream"),
        positions.c.consumer == bindparam("of_consumer"),
        positions.c.partition == bindparam("of_partition"),
        positions.c.token == bindparam("old"),
    )
    .values(token=bindparam("new"))
)

_LAST_DECISION = (
    select(ledger.c.decision, ledger.c.reason)
    .where(ledger.c.stream == bindparam("stream"), ledger.c.kind == "decision")
    .order_by(ledger.c.id.desc())
    .limit(1)
)

_LEDGER_AFTER = (
    select(ledger)
    .where(ledger.c.stream == bindparam("stream"), ledger.c.id > bindparam("entry"))
    .order_by(ledger.c.id)
)
_LEDGER_END = (
    select(ledger.c.id).where(ledger.c.stream == bindparam("stream")).order_by(ledger.c.id.desc()).limit(1)
)

_OPEN_TRIGGERS = (
    select(triggers).where(triggers.c.stream == bindparam("stream"), trigger_is_open).order_by(triggers.c.id)
)


@per_dialect
def _write_ledger(connection: Connection) -> Insert:
    return insert(ledger).values(recorded_at=database_now(connection))


@per_dialect
def _add_dead_letters(connection: Connection) -> Insert:
    return insert(dead_letters).values(received_at=database_now(connection))


def ensure_stream(connection: Connection, name: str) -> None:
    """Make the row of a configured stream, if it is not there."""
    connection.execute(upsert(connection, streams).values(name=name).on_conflict_do_nothing())


def watermark(connection: Connection, stream: str) -> datetime | None:
    """Return the stream's time, or None before its first record."""
    return connection.execute(_WATERMARK, {"stream": stream}).scalar()


def raise_watermark(connection: Connection, stream: str, to: datetime) -> None:
    """Move the stream's time forward; never back."""
    connection.execute(_RAISE_WATERMARK, {"stream": stream, "to": to})


def last_update(connection: Connection, stream: str) -> tuple[datetime | None, int]:
    """Return when (stream time) an update was last decided on, and the label position that it went up to."""
    row = connection.execute(_LAST_UPDATE, {"stream": stream}).first()
    return (None, 0) if row is None else (row.last_update, row.tried_labels or 0)


def note_update(connection: Connection, stream: str, at: datetime, labels: int) -> None:
    """Note a decision to update on the labels up to a position."""
    connection.execute(_NOTE_UPDATE, {"stream": stream, "at": at, "labels": labels})


def allowance(connection: Connection, stream: str, now: datetime, per_day: float, days: float) -> float:
    """Return the device-seconds that a stream may spend at a stream time.

    A token bucket: it fills at `per_day` device-seconds per day of stream time, up to `days` days' worth, and starts full. What it
    lets through in any span of D days is at most per_day (D + days), whatever happens.
    """
    row = connection.execute(_BUDGET, {"stream": stream}).first()
    full = per_day * days
    if row is None or row.budget_left is None:
        return full
    return float(min(full, row.budget_left + per_day * ((now - row.budget_at) / timedelta(days=1))))


def charge(
    connection: Connection, stream: str, seconds: float, now: datetime, per_day: float, days: float
) -> None:
    """Take device-seconds from the bucket; a job that cost more than expected leaves a debt."""
    left = allowance(connection, stream, now, per_day, days) - seconds
    connection.execute(_CHARGE, {"stream": stream, "left": left, "now": now})


def position(connection: Connection, stream: str, consumer: str, partition: int = 0) -> str:
    """Return a consumer's committed token, "" at the start."""
    where = {"stream": stream, "consumer": consumer, "partition": partition}
    return connection.execute(_POSITION, where).scalar() or ""


def advance(
    connection: Connection, stream: str, consumer: str, old: str, new: str, partition: int = 0
) -> None:
    """Move a consumer by compare-and-set, in the transaction of the effects.

    Raises
    ------
    Refused
        If somebody else moved it: this transaction must be dropped and the position read anew.
    """
    if old == "":
        first = {"stream": stream, "consumer": consumer, "partition": partition, "token": new}
        try:
            with connection.begin_nested():
                connection.execute(_BEGIN, first)
        except IntegrityError as error:
            raise Refused(f"{stream}/{consumer}: another process has moved the position") from error
        return
    move = {"of_stream": stream, "of_consumer": consumer, "of_partition": partition, "old": old, "new": new}
    if connection.execute(_ADVANCE, move).rowcount != 1:
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
    entry = {
        "stream": stream,
        "at": at,
        "kind": kind,
        "decision": decision,
        "reason": reason,
        "episode_id": episode,
        "job_id": job,
        "version": version,
        "details": details or {},
    }
    return add_row(connection, _write_ledger(connection), entry)


def read_ledger(connection: Connection, stream: str | None = None, limit: int = 100) -> list[Row[Any]]:
    """Return the newest entries, newest first."""
    query = select(ledger).order_by(ledger.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(ledger.c.stream == stream)
    return list(connection.execute(query))


def ledger_after(connection: Connection, stream: str, entry: int) -> list[Row[Any]]:
    """Return a stream's entries after one, oldest first."""
    return list(connection.execute(_LEDGER_AFTER, {"stream": stream, "entry": entry}))


def ledger_end(connection: Connection, stream: str) -> int:
    """Return the id of a stream's newest entry, 0 before the first."""
    return int(connection.execute(_LEDGER_END, {"stream": stream}).scalar() or 0)


def last_decision(connection: Connection, stream: str) -> tuple[str, str] | None:
    """Return (decision, reason) of the newest decision in the ledger."""
    row = connection.execute(_LAST_DECISION, {"stream": stream}).first()
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
    return list(connection.execute(_OPEN_TRIGGERS, {"stream": stream}))


def show_trigger(connection: Connection, unique_key: str) -> Row[Any] | None:
    """Return one trigger."""
    return connection.execute(select(triggers).where(triggers.c.unique_key == unique_key)).first()


def answer_trigger(connection: Connection, trigger_id: int, outcome: str) -> None:
    """Close a trigger with what came of it; the audit keeps it, too."""
    connection.execute(
        update(triggers)
        .where(triggers.c.id == trigger_id)
        .values(consumed_at=database_now(connection), outcome=outcome)
    )
    record_answer(connection, trigger_id, outcome)


def add_dead_letters(connection: Connection, stream: str, kind: str, letters: list[tuple[str, Json]]) -> None:
    """Keep (reason, record) pairs that could not be used."""
    if letters:
        rows = [
            {"stream": stream, "kind": kind, "reason": reason, "record": record} for reason, record in letters
        ]
        connection.execute(_add_dead_letters(connection), rows)


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
