"""SQL is built once: constants where both databases agree, `per_dialect` where they do not.

Parameters of an UPDATE must not be called as a column is (SQLAlchemy would set it); they are called `of_` and the column's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert

Built = TypeVar("Built")


def add_row(connection: Connection, statement: Insert, row: dict[str, Any]) -> int:
    """Insert one row; returns the id that the database gave it."""
    return int(next(iter(connection.execute(statement, row).inserted_primary_key or ())))


def per_dialect(build: Callable[[Connection], Built]) -> Callable[[Connection], Built]:
    """Make `build` run once per kind of database: it may ask a connection for its dialect and for nothing else."""
    built: dict[str, Built] = {}

    def statement(connection: Connection) -> Built:
        name = connection.dialect.name
        if name not in built:
            built[name] = build(connection)
        return built[name]

    return statement
