"""The migrations lead to exactly the tables that the code declares, from anywhere, however many processes start at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from cls.errors import Unavailable
from storage.db import open_database, reading, transaction
from storage.schema import VERSION_TABLE, alembic_config, check, current, head, upgrade
from storage.tables import metadata

UPGRADE = """
import sys
from storage.db import open_database
from storage.schema import check, upgrade
engine = open_database(sys.argv[1])
sys.stdin.readline()
upgrade(engine)
check(engine)
"""


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = open_database(empty_database_url)
    yield engine
    engine.dispose()


def differences(engine: Engine) -> list[Any]:
    """Return what Alembic sees between a database and the declared tables."""
    with reading(engine) as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}  # defaults: see `catalogue`
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def catalogue(engine: Engine) -> list[tuple[Any, ...]]:
    """Return what the database itself says of its tables, partial indexes and their conditions included."""
    if engine.dialect.name == "sqlite":
        queries = [
            (
                "SELECT m.name, p.name, p.type, p.\"notnull\", trim(coalesce(p.dflt_value, ''), '()'), p.pk"
                " FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table'"
            ),
            "SELECT name, tbl_name, replace(sql, '\"', '') FROM sqlite_master WHERE type = 'index'",
            (
                'SELECT m.name, f."from", f."table", f."to" FROM sqlite_master m'
                " JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'"
            ),
        ]
    else:
        queries = [
            (
                "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
                " FROM information_schema.columns WHERE table_schema = 'public'"
            ),
            "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            (
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace"
            ),
        ]
    with reading(engine) as connection:
        rows = [tuple(row) for query in queries for row in connection.execute(text(query))]
    return sorted((row for row in rows if VERSION_TABLE not in str(row)), key=str)


def test_upgrading_from_empty_gives_the_declared_tables(empty: Engine) -> None:
    upgrade(empty)
    assert differences(empty) == []
    assert current(empty) == head()
    check(empty)


def test_migrated_and_declared_catalogues_are_equal(empty: Engine) -> None:
    with transaction(empty) as connection:
        metadata.create_all(connection)
    declared = catalogue(empty)
    with transaction(empty) as connection:
        metadata.drop_all(connection)
    upgrade(empty)
    assert catalogue(empty) == declared


def test_a_difference_would_be_found(empty: Engine) -> None:
    upgrade(empty)
    before = catalogue(empty)
    with transaction(empty) as connection:
        connection.execute(text("ALTER TABLE streams ADD COLUMN surplus INTEGER"))
        connection.execute(text("DROP INDEX uq_jobs_live"))
        connection.execute(
            text("CREATE UNIQUE INDEX uq_jobs_live ON jobs (stream, kind) WHERE state = 'queued'")
        )
    assert [difference[0] for difference in differences(empty)] == ["remove_column"]
    changed = {row for row in catalogue(empty) if row not in before}
    assert {"surplus", "uq_jobs_live"} <= {str(name) for row in changed for name in row}


def test_upgrading_twice_changes_nothing(empty: Engine) -> None:
    upgrade(empty)
    before = catalogue(empty)
    upgrade(empty)
    assert catalogue(empty) == before


def test_downgrading_leaves_nothing(empty: Engine) -> None:
    upgrade(empty)
    with transaction(empty) as connection:
        command.downgrade(alembic_config(connection), "base")
    assert catalogue(empty) == []
    assert current(empty) is None


def test_a_schema_that_is_behind_or_ahead_is_refused_with_the_fix(empty: Engine) -> None:
    with pytest.raises(Unavailable, match="cls db upgrade"):
        check(empty)
    upgrade(empty)
    with transaction(empty) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(Unavailable, match=r"9999.*newer release"):
        check(empty)
    with pytest.raises(Unavailable, match="newer release"):
        upgrade(empty)


def test_a_failed_upgrade_leaves_nothing_behind(empty: Engine) -> None:
    with transaction(empty) as connection:
        connection.execute(text("CREATE TABLE versions (mine INTEGER)"))  # in the way of a table of ours
    with pytest.raises(Exception, match="versions"):
        upgrade(empty)
    assert {row[0] for row in catalogue(empty)} == {"versions"}
    assert current(empty) is None


def test_four_processes_may_upgrade_at_once(empty_database_url: str, empty: Engine) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:  # all are loaded by the time that the last one is let go
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
    assert differences(empty) == []
