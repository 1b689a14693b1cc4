"""Who asked for what, and what came of it. Rows are added and never changed.

A request that the daemon answers has two rows: the asking, written with the request, and the answer, written with its effect. Both
name the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Insert, Row, insert, select

from cls.domain import Json
from cls.errors import Permanent
from storage.db import database_now, transaction
from storage.statements import per_dialect
from storage.tables import audit, triggers

REFUSED = "refused: "
ACTIONS = {"manual": "train"}  # what operators call a kind of trigger, where they call it otherwise


@per_dialect
def _record(connection: Connection) -> Insert:
    return insert(audit).values(at=database_now(connection))


def record(
    connection: Connection,
    *,
    actor: str,
    origin: str,
    action: str,
    stream: str | None,
    arguments: Json,
    outcome: str,
) -> None:
    """Add a row.

    Parameters
    ----------
    actor
        user@host, or token:ID NAME.
    origin
        "cli", the address of an HTTP client, or "daemon" for what it answered.
    action
        What was asked for, as "train" or "token.create".
    arguments
        Of the action; never a secret.
    outcome
        "asked", "done", what the daemon answered, or "refused: " and the reason.
    """
    row = {"actor": actor[:255], "origin": origin[:64], "action": action[:64], "stream": stream}
    connection.execute(_record(connection), row | {"arguments": arguments, "outcome": outcome})


def record_answer(connection: Connection, trigger_id: int, outcome: str) -> None:
    """Add what the daemon answered to an operator's request; what schedules ask for is not an operator's."""
    row = connection.execute(select(triggers).where(triggers.c.id == trigger_id)).first()
    if row is not None and row.kind != "schedule":
        record(
            connection,
            actor=row.requested_by,
            origin="daemon",
            action=ACTIONS.get(row.kind, row.kind),
            stream=row.stream,
            arguments=row.arguments | {"request": row.unique_key},
            outcome=outcome,
        )


def list_audit(connection: Connection, stream: str | None = None, limit: int = 100) -> list[Row[Any]]:
    """Return the newest rows, newest first."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(audit.c.stream == stream)
    return list(connection.execute(query))


@contextmanager
def audited(
    engine: Engine,
    *,
    actor: str,
    origin: str,
    action: str,
    stream: str | None,
    arguments: Json,
    outcome: str = "done",
) -> Iterator[Connection]:
    """Hold the transaction of an operator's action, and write its row in it; of one that is refused, in a transaction of its own.

    The block may add to `arguments`. The others are those of `record`.
    """
    row: Json = {"actor": actor, "origin": origin, "action": action, "stream": stream, "arguments": arguments}
    try:
        with transaction(engine) as connection:
            yield connection
            record(connection, **row, outcome=outcome)
    except Permanent as error:
        with transaction(engine) as connection:
            record(connection, **row, outcome=f"{REFUSED}{error}")
        raise
