"""Tokens in the database, and the copy of them that a process works from, also while the database is away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cls.doors.token_book import Refusal, TokenBook, refuse_unguarded
from cls.doors.tokens import Fresh, make
from cls.errors import NotFound, Refused, Unavailable
from cls.settings.faults import ConfigError
from storage import audit, tables
from storage import tokens as store
from storage.db import open_database, reading, transaction


def add(engine: Engine, *scopes: str, lifetime: timedelta | None = None) -> Fresh:
    fresh = make()
    with transaction(engine) as connection:
        store.add_token(connection, fresh, "feeder", scopes, lifetime, "me@here")
    return fresh


def known(engine: Engine, fresh: Fresh) -> bool:
    book = TokenBook(engine)
    book.refresh()
    return book.check(fresh.text.encode()) is not None


@pytest.fixture
def away(tmp_path: Path, sqlite_template: str) -> Iterator[tuple[Engine, Path]]:
    """Return an engine on a file that can be taken away, and the file."""
    import shutil

    from sqlalchemy.pool import NullPool

    path = tmp_path / "away" / "cls.db"
    path.parent.mkdir()
    shutil.copyfile(sqlite_template, path)
    engine = open_database(f"sqlite:///{path}")
    engine.pool = NullPool(engine.pool._creator)
    yield engine, path
    engine.dispose()


def test_the_secret_is_nowhere_in_the_database(engine: Engine) -> None:
    fresh = add(engine, "read")
    secret = fresh.text.rpartition("_")[2]
    with reading(engine) as connection:
        rows = [
            str(tuple(row))
            for table in tables.metadata.sorted_tables
            for row in connection.execute(select(table))
        ]
        (listed,) = store.list_tokens(connection)
    assert not any(secret in row for row in rows)
    assert any(fresh.hash in row for row in rows)
    assert fresh.hash not in str(tuple(listed))


def test_a_revoked_token_is_none_and_is_revoked_once(engine: Engine) -> None:
    one, other = add(engine, "read"), add(engine, "read")
    assert known(engine, one)
    with transaction(engine) as connection:
        store.revoke_token(connection, one.id)
    assert (known(engine, one), known(engine, other)) == (False, True)
    with pytest.raises(Refused, match="before"), transaction(engine) as connection:
        store.revoke_token(connection, one.id)
    with pytest.raises(NotFound), transaction(engine) as connection:
        store.revoke_token(connection, "nobody")


def test_a_revocation_is_learned_at_the_next_renewal(engine: Engine) -> None:
    fresh, book = add(engine, "read"), TokenBook(engine)
    book.refresh()
    with transaction(engine) as connection:
        store.revoke_token(connection, fresh.id)
    assert book.check(fresh.text.encode()) is not None
    book.refresh()
    assert book.check(fresh.text.encode()) is None


def test_use_is_noted_to_the_minute_and_written_once_a_minute(engine: Engine) -> None:
    fresh, unused, book = add(engine, "read"), add(engine, "read"), TokenBook(engine)
    book.refresh()
    book.check(fresh.text.encode())
    book.check(fresh.text[:-1].encode() + b"?")
    book.refresh()
    with reading(engine) as connection:
        used = {row.id: row.used_at for row in store.list_tokens(connection)}
    assert used[unused.id] is None
    assert used[fresh.id] is not None
    assert (used[fresh.id].second, used[fresh.id].microsecond) == (0, 0)
    assert 0 <= time.time() - used[fresh.id].timestamp() < 90
    with transaction(engine) as connection:
        store.note_uses(connection, {fresh.id: used[fresh.id] - timedelta(minutes=5)})
    with reading(engine) as connection:
        assert {row.used_at for row in store.list_tokens(connection)} == {None, used[fresh.id]}


def test_while_the_database_is_away_tokens_go_on_and_expire_by_the_clock(
    away: tuple[Engine, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, path = away
    lasting, ending = add(engine, "read"), add(engine, "read", lifetime=timedelta(seconds=30))
    book = TokenBook(engine)
    book.refresh()
    path.rename(path.with_name("gone"))
    path.mkdir()  # nothing can be opened there
    with pytest.raises(Unavailable):
        book.refresh()
    assert book.check(lasting.text.encode()) is not None
    assert book.check(ending.text.encode()) is not None
    later = time.time() + 31
    monkeypatch.setattr(time, "time", lambda: later)
    assert book.check(lasting.text.encode()) is not None
    assert book.check(ending.text.encode()) is None


def test_the_clock_that_counts_is_the_databases(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = add(engine, "read", lifetime=timedelta(minutes=5))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)  # this machine is a day ahead
    assert known(engine, fresh)


def test_what_was_refused_for_want_of_a_scope_is_in_the_audit(engine: Engine) -> None:
    fresh, book = add(engine, "read"), TokenBook(engine)
    book.refresh()
    token = book.check(fresh.text.encode())
    assert token is not None
    for number in range(2000):  # a flood stays in bounds, and keeps the newest
        book.refused(Refusal(token, f"10.0.0.{number}", "train", "flights", "operate"))
    book.refresh()
    book.refresh()
    with reading(engine) as connection:
        rows = audit.list_audit(connection, "flights", 10_000)
    assert len(rows) == 1000
    assert (rows[0].actor, rows[0].origin, rows[0].action) == (
        f"token:{fresh.id} feeder",
        "10.0.0.1999",
        "train",
    )
    assert rows[0].outcome == "refused: needs the scope operate"
    with reading(engine) as connection:
        (lost,) = [row for row in audit.list_audit(connection, None, 10_000) if row.stream is None]
    assert (lost.outcome.startswith("refused: 1000 more"), lost.arguments) == (True, {"requests": 1000})


def test_refusals_wait_for_a_database_that_is_away(away: tuple[Engine, Path]) -> None:
    engine, path = away
    fresh, book = add(engine, "read"), TokenBook(engine)
    book.refresh()
    token = book.check(fresh.text.encode())
    assert token is not None
    for number in range(1001):
        book.refused(Refusal(token, f"10.0.0.{number}", "train", "flights", "operate"))
    with sqlite3.connect(path) as other:  # read it may, write it may not
        other.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT * FROM gone; END")
    with pytest.raises(Unavailable):
        book.refresh()
    book.refused(Refusal(token, "10.0.1.1", "train", "flights", "operate"))
    with sqlite3.connect(path) as other:
        other.execute("DROP TRIGGER full")
    book.refresh()
    with reading(engine) as connection:
        *rows, lost = audit.list_audit(connection, None, 10_000)
    assert [row.origin for row in rows] == ["10.0.1.1", *(f"10.0.0.{n}" for n in range(1000, 1, -1))]
    assert lost.arguments == {"requests": 2}


def test_a_refusal_that_the_database_will_never_take_does_not_stop_renewals(engine: Engine) -> None:
    fresh, book = add(engine, "read"), TokenBook(engine)
    book.refresh()
    token = book.check(fresh.text.encode())
    assert token is not None
    book.refused(Refusal(token, "10.0.0.1", "x\0", "x\0", "operate"))  # PostgreSQL keeps no NUL
    book.refresh()
    book.refused(Refusal(token, "10.0.0.2", "train", "flights", "operate"))
    book.refresh()
    with reading(engine) as connection:
        assert audit.list_audit(connection, "flights")[0].origin == "10.0.0.2"


def test_nobody_listens_where_others_come_without_a_valid_token(engine: Engine) -> None:
    book = TokenBook(engine)
    revoked = add(engine, "read")
    add(engine, "read", lifetime=timedelta(microseconds=1))  # has expired
    with transaction(engine) as connection:
        store.revoke_token(connection, revoked.id)
    book.refresh()
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"):
        refuse_unguarded("http.serve", address, book)
    for address in ("0.0.0.0:1", "[::]:1", "192.168.1.2:1", "cls.example.org:1"):
        with pytest.raises(ConfigError, match="cls token create") as error:
            refuse_unguarded("http.serve", address, book)
        assert error.value.faults[0].place == "http.serve"
    add(engine, "read")
    book.refresh()
    refuse_unguarded("http.serve", "0.0.0.0:1", book)
