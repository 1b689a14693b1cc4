"""What those who serve elsewhere are told: written in the transaction that makes it true, delivered by webhooks later, in order."""

from __future__ import annotations

from sqlalchemy import Connection, Insert, insert, text

from cls.domain import Json
from storage.db import database_now
from storage.statements import per_dialect
from storage.tables import announcements

_LOCK = 7_401_003  # PostgreSQL: ids must become visible in order, or a webhook would pass one by
_SERIAL = text("SELECT pg_advisory_xact_lock(:key)")


@per_dialect
def _announce(connection: Connection) -> Insert:
    return insert(announcements).values(created_at=database_now(connection))


def announce(connection: Connection, stream: str, kind: str, payload: Json) -> None:
    """Add an announcement.

    Parameters
    ----------
    kind
        What happened, as "rollout.canary" or "drift.alarm".
    payload
        Versions and reasons, as JSON.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_SERIAL, {"key": _LOCK})
    connection.execute(_announce(connection), {"stream": stream, "kind": kind, "payload": payload})
