"""The schema's version in a database, and how it is brought up to date.

Migrations run in one transaction under a lock, so that any number of processes may start at once: the first upgrades, the others find
nothing left to do.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from cls.errors import Unavailable
from storage.db import reading, transaction

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = (
    "cls_alembic_version"  # MLflow has an alembic_version of its own, and may share a server with us
)
FIX = "run `cls db upgrade`"
_LOCK = 7_401_002  # PostgreSQL advisory lock


def upgrade(engine: Engine) -> None:
    """Bring a database to the newest schema, from empty or from any earlier release; safe to call from many processes.

    Raises
    ------
    Unavailable
        If the database does not answer, or was written by a newer release; it is left as it was.
    """
    from alembic import command

    if current(engine) == head():
        return
    with transaction(engine) as connection:  # SQLite: BEGIN IMMEDIATE keeps every other writer out
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = _current(connection)
        if found is not None and not _known(found):
            raise Unavailable(_ahead(found))
        command.upgrade(alembic_config(connection), "head")


def current(engine: Engine) -> str | None:
    """Return the revision of a database, None if it has none of our tables."""
    with reading(engine) as connection:
        return _current(connection)


@cache
def head() -> str:
    """Return the revision that this release needs; to find it takes Alembic milliseconds."""
    from alembic.script import ScriptDirectory

    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None, "this installation has no migrations"
    return revision


def check(engine: Engine) -> None:
    """Make sure that a database has the schema that this release needs.

    Raises
    ------
    Unavailable
        If the schema is behind or ahead, with what to do about it, or if the database does not answer.
    """
    found, needed = current(engine), head()
    if found == needed:
        return
    if found is None:
        raise Unavailable(f"database: it has no CLS schema yet: {FIX}")
    if not _known(found):
        raise Unavailable(_ahead(found))
    raise Unavailable(f"database: its schema is at revision {found}, this release needs {needed}: {FIX}")


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, which `migrations/env.py` reads the connection from."""
    from alembic.config import Config

    spec = find_spec("migrations")
    assert spec is not None, "the package migrations is part of this installation"
    assert spec.origin is not None, "the package migrations has an __init__.py"
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def _known(revision: str) -> bool:
    from alembic.script import ScriptDirectory

    return revision in {
        script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()
    }


def _ahead(found: str) -> str:
    return (
        f"database: its schema is at revision {found}, which this release does not know: a newer release wrote it; "
        f"install that release, or restore a backup and {FIX}"
    )
