"""Alembic's environment: run by `storage.schema`, which hands over an open connection; there is no alembic.ini."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from storage.schema import VERSION_TABLE
from storage.tables import Instant, metadata


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write our own types into revisions as what they are in the database, so that revisions never import the code."""
    if kind == "type" and isinstance(item, Instant):
        return "sa.BigInteger()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_item=render_item,
    render_as_batch=True,  # SQLite alters a table by copying it
    compare_type=True,
    compare_server_default=context.config.attributes["connection"].dialect.name
    != "sqlite",  # there '' differs from ''
)
with context.begin_transaction():  # the caller's transaction, in which it holds its lock
    context.run_migrations()
