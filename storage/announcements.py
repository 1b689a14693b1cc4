"""What those who serve elsewhere are told: written in the transaction that makes it true, delivered by webhooks later, in order."""

from __future__ import annotations

from sqlalchemy import Connection, Insert, insert

from cls.domain import Json
from storage.db import database_now
from storage.statements import per_dialect
from storage.tables import announcements


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
    connection.execute(_announce(connection), {"stream": stream, "kind": kind, "payload": payload})
