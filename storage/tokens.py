"""Tokens in the database: made, listed, revoked, and when each was last used. Never a secret, only its hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Insert, Row, Update, bindparam, insert, select, update

from cls.doors.tokens import Fresh, Token, implied
from cls.errors import NotFound, Refused
from storage.db import database_now, read_clock
from storage.statements import per_dialect
from storage.tables import tokens

_NOT_REVOKED = select(tokens).where(tokens.c.revoked_at.is_(None))
_USED = (
    update(tokens)
    .where(
        tokens.c.id == bindparam("of_id"),
        tokens.c.used_at.is_(None) | (tokens.c.used_at < bindparam("minute")),
    )
    .values(used_at=bindparam("minute"))
)


@per_dialect
def _add(connection: Connection) -> Insert:
    return insert(tokens).values(created_at=database_now(connection))


@per_dialect
def _revoke(connection: Connection) -> Update:
    return (
        update(tokens)
        .where(tokens.c.id == bindparam("of_id"), tokens.c.revoked_at.is_(None))
        .values(revoked_at=database_now(connection))
    )


def add_token(
    connection: Connection,
    fresh: Fresh,
    name: str,
    scopes: Iterable[str],
    lifetime: timedelta | None,
    created_by: str,
) -> datetime | None:
    """Keep a new token; returns when it expires.

    Parameters
    ----------
    lifetime
        From now on; None: until it is revoked.
    """
    expires = None if lifetime is None else read_clock(connection) + lifetime
    row = {"id": fresh.id, "name": name, "hash": fresh.hash, "scopes": sorted(set(scopes))}
    connection.execute(_add(connection), row | {"created_by": created_by, "expires_at": expires})
    return expires


def list_tokens(connection: Connection) -> list[Row[Any]]:
    """Return all tokens, the newest first; without their hashes."""
    columns = [column for column in tokens.c if column.name != "hash"]
    return list(connection.execute(select(*columns).order_by(tokens.c.created_at.desc(), tokens.c.id)))


def usable_tokens(connection: Connection) -> list[Token]:
    """Return the tokens that nobody revoked; those that have expired among them."""
    return [
        Token(
            row.id,
            row.name,
            row.hash,
            implied(row.scopes),
            float("inf") if row.expires_at is None else row.expires_at.timestamp(),
        )
        for row in connection.execute(_NOT_REVOKED)
    ]


def revoke_token(connection: Connection, token_id: str) -> None:
    """End a token.

    Raises
    ------
    NotFound
        If there is none with this id.
    Refused
        If it was revoked before.
    """
    if connection.execute(_revoke(connection), {"of_id": token_id}).rowcount == 1:
        return
    if connection.execute(select(tokens.c.id).where(tokens.c.id == token_id)).first() is None:
        raise NotFound(f"no token has the id {token_id!r}: see `cls token list`")
    raise Refused(f"token {token_id} was revoked before")


def note_uses(connection: Connection, minutes: Mapping[str, datetime]) -> None:
    """Note when tokens (by id) were last used; never an earlier time than is there."""
    for token_id, minute in minutes.items():
        connection.execute(_USED, {"of_id": token_id, "minute": minute})
