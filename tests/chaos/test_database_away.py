"""The database goes away and comes back: processes wait and go on, predictions are answered all the time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from tests.chaos.harness import Feed, System, Watcher, check_whole, compare, facts, running

OUTAGE_SECONDS = 3.0


class Server:
    """The PostgreSQL server, from outside the database."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.database = str(parsed.database)
        self._dsn = parsed.set(drivername="postgresql", database="postgres").render_as_string(
            hide_password=False
        )

    def terminate(self) -> int:
        """End every connection to the database; returns how many there were."""
        with psycopg.connect(self._dsn, autocommit=True) as admin:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            return len(admin.execute(query, [self.database]).fetchall())

    def allow(self, yes: bool) -> None:
        """Let connections in, or not."""
        statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        with psycopg.connect(self._dsn, autocommit=True) as admin:
            admin.execute(statement.format(sql.Identifier(self.database), sql.Literal(yes)))


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_a_database_that_goes_away_changes_nothing(
    tmp_path: Path, database_url: str, feed: Feed, undisturbed: dict[str, Any]
) -> None:
    server, ended = Server(database_url), []

    def disturb(batch: int) -> None:
        if batch % 4 == 3:
            ended.append(server.terminate())
        if batch in (13, 22):
            server.allow(False)
            try:
                until = time.monotonic() + OUTAGE_SECONDS
                while time.monotonic() < until:
                    ended.append(server.terminate())
                    time.sleep(0.1)
            finally:
                server.allow(True)

    system = System(tmp_path / "run", database_url)
    with running(system):
        before = {name: system.pid(name) for name in ("daemon", "serve")}
        watcher = Watcher(system)
        system.feed(feed, disturb)
        watcher.close()
        assert sum(ended) > 20
        assert {name: system.pid(name) for name in before} == before
        assert [name for name, code in system.exits if (name, code) != ("worker-0", 75)] == []
        assert (watcher.faults, watcher.refused) == ([], 0)
        check_whole(system, feed)
        compare(facts(system), undisturbed)
