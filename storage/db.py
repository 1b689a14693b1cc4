"""One way to open the database and one way to hold a transaction, on SQLite and on PostgreSQL.

SQLite: WAL, synced commits, and every writing transaction begins IMMEDIATE, so that two writers wait for each other instead of
failing half-way. PostgreSQL: READ COMMITTED; what must be serial is a compare-and-set or a row lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.sql.elements import ColumnElement

from cls.errors import Unavailable
from storage.tables import Instant

BUSY_SECONDS = 30
ROWCOUNT = {"preserve_rowcount": True}  # of INSERT ... ON CONFLICT, too: without it PostgreSQL says -1


def open_database(url: str, *, durable: bool = True) -> Engine:
    """Open an engine on `url` (sqlite:///FILE or postgresql+psycopg://...).

    Parameters
    ----------
    url
        The database.
    durable
        False only for databases that nobody needs after a power cut, such as a backtest's.

    Raises
    ------
    Unavailable
        If the directory of a SQLite file cannot be made.
    """
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=8,
            execution_options=ROWCOUNT,
            connect_args={"connect_timeout": 5},
        )
    if parsed.database:
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"database: cannot make the directory of {parsed.database}: {error}") from error
    engine = create_engine(
        parsed, execution_options=ROWCOUNT, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )
    event.listen(engine, "connect", _configure_sqlite)
    if not durable:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we emit BEGIN ourselves
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Hold one writing transaction: committed at the end of the block, rolled back on any error.

    Raises
    ------
    Unavailable
        If the database does not answer or refuses for now (locked, full disk, connection lost).
    """
    with _translated(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Hold one consistent read: never waits for a writer on SQLite. Raises `Unavailable` as `transaction` does."""
    with _translated(), engine.connect().execution_options(reading=True) as connection, connection.begin():
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(f"database: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"database: {error.orig}") from error
        raise


def database_now(connection: Connection) -> ColumnElement[Any]:
    """Return the database's clock as an expression (microseconds since the epoch): for leases, heartbeats and HTTP limits."""
    if connection.dialect.name == "sqlite":
        return literal_column("CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", Instant())
    return literal_column("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)", Instant())


def read_clock(connection: Connection) -> datetime:
    """Return the database's time."""
    now: datetime = connection.execute(select(database_now(connection))).scalar_one()
    return now


def wall_clock() -> datetime:
    """Return this machine's time: for file ages and logs, never for leases."""
    return datetime.now(UTC)


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that knows ON CONFLICT; both dialects spell it the same way."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
