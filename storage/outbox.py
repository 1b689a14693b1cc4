"""What the outside must be told, written in the transaction that makes it true and delivered later, in order, at least once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Insert, Row, func, insert, select, update

from cls.domain import Json
from storage.db import database_now, read_clock
from storage.statements import per_dialect
from storage.tables import outbox

BACKOFF_LIMIT = timedelta(minutes=5)
HOLD = timedelta(minutes=2)  # a message is its taker's for this long, which is more than a delivery can take

_WAITING = outbox.c.done_at.is_(None)
_OLDEST = select(outbox).where(_WAITING).order_by(outbox.c.id).limit(1)
_COUNT = select(func.count()).select_from(outbox).where(_WAITING)
_LAST_ERROR = select(outbox.c.error).where(_WAITING).order_by(outbox.c.id).limit(1)


@per_dialect
def _post(connection: Connection) -> Insert:
    now = database_now(connection)
    return insert(outbox).values(created_at=now, next_at=now)


def post(connection: Connection, stream: str, kind: str, payload: Json) -> None:
    """Add a message: "job" (a run), "version" or "aliases"."""
    connection.execute(_post(connection), {"stream": stream, "kind": kind, "payload": payload})


def due(connection: Connection) -> bool:
    """Whether there is a message to take: a look that takes no lock."""
    row = connection.execute(_OLDEST).first()
    return row is not None and row.next_at <= read_clock(connection)


def take_message(connection: Connection) -> Row[Any] | None:
    """Take the oldest undelivered message if its time has come and nobody holds it; a failing one holds back those behind it."""
    row = connection.execute(_OLDEST).first()
    now = read_clock(connection)
    if row is None or row.next_at > now:
        return None
    mine = update(outbox).where(outbox.c.id == row.id, outbox.c.next_at == row.next_at, _WAITING)
    return row if connection.execute(mine.values(next_at=now + HOLD)).rowcount == 1 else None


def delivered(connection: Connection, message_id: int) -> None:
    """Note a delivery."""
    statement = update(outbox).where(outbox.c.id == message_id)
    connection.execute(statement.values(done_at=database_now(connection), error=None))


def postponed(connection: Connection, message_id: int, attempts: int, error: str) -> None:
    """Note a failed delivery and wait longer each time."""
    delay = min(timedelta(seconds=1) * 2 ** min(attempts, 20), BACKOFF_LIMIT)
    statement = update(outbox).where(outbox.c.id == message_id)
    connection.execute(
        statement.values(attempts=attempts + 1, next_at=read_clock(connection) + delay, error=error[:2000])
    )


def undelivered(connection: Connection) -> int:
    """Count what is waiting."""
    return int(connection.execute(_COUNT).scalar_one())


def last_error(connection: Connection) -> str | None:
    """Return why the first waiting message could not be delivered."""
    return connection.execute(_LAST_ERROR).scalar()
