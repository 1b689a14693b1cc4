"""Operators over HTTP: asked once, answered by the daemon, and in the audit whatever came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from cls.config import Config
from cls.domain import ModelVersion
from cls.doors.operate import WAITERS
from cls.doors.token_book import TokenBook
from cls.doors.tokens import Fresh, make
from cls.intake import intake_app
from storage import audit, streams, versions
from storage.db import open_database, reading, transaction
from storage.inbox import Inbox
from storage.tokens import add_token

STREAM = {"schema": {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y"}, "task": "regression"}
FLIGHTS = "/v1/streams/flights"
T0 = datetime(2013, 1, 1, tzinfo=UTC)


class Door:
    """The daemon's door, with a token for each scope; nobody answers what is asked."""

    def __init__(self, engine: Engine, inbox: Inbox, *, required: bool = True) -> None:
        http = {"require_tokens": required}
        config = Config.model_validate({"streams": {"flights": STREAM, "quiet": STREAM}, "http": http})
        self.engine = engine
        self.woken: list[str] = []
        self.tokens: dict[str, Fresh] = {}
        for scope in ("read", "operate", "admin"):
            self.tokens[scope] = make()
            with transaction(engine) as connection:
                add_token(connection, self.tokens[scope], f"my {scope}", [scope], None, "me@here")
        self.book = TokenBook(engine)
        self.book.refresh()
        app = intake_app(config, inbox, engine, self.woken.append, book=self.book)
        self.client = TestClient(app, base_url="http://localhost:8710", client=("10.0.0.7", 1))

    def __call__(self, method: str, path: str, scope: str | None = "operate", **more: Any) -> Any:
        headers = {} if scope is None else {"Authorization": f"Bearer {self.tokens[scope].text}"}
        return self.client.request(method, path, headers=headers, **more)

    def trail(self) -> list[Any]:
        with reading(self.engine) as connection:
            return audit.list_audit(connection)[::-1]

    def asked(self, stream: str = "flights") -> list[Any]:
        with reading(self.engine) as connection:
            return streams.open_triggers(connection, stream)


@pytest.fixture
def inbox(engine: Engine, tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(engine, tmp_path / "inbox")
    yield inbox
    inbox.close()


@pytest.fixture
def door(engine: Engine, inbox: Inbox) -> Door:
    with transaction(engine) as connection:
        for name in ("flights", "quiet"):
            streams.ensure_stream(connection, name)
        for number, parent in ((1, None), (2, 1)):
            versions.add_version(connection, version(number))
            versions.promote(
                connection, "flights", number, expected=parent, since=0, reference="p", at=T0, reason="better"
            )
    return Door(engine, inbox)


def version(number: int) -> ModelVersion:
    return ModelVersion(
        stream="flights",
        number=number,
        digest=f"{number:064x}",
        parent=None,
        job_id=None,
        strategy="ewc+replay",
        learned_up_to=0,
        reference_from=0,
        reference_to=0,
        gate={},
        metrics={},
        created_at=T0,
        files={},
    )


@contextmanager
def daemon(engine: Engine, answer: Callable[[Any], str]) -> Iterator[None]:
    """Stand in for the daemon: answer the flights' requests as they come."""
    stop = threading.Event()

    def work() -> None:
        own = open_database(engine.url.render_as_string(hide_password=False))
        while not stop.wait(0.02):
            with reading(own) as connection:
                waiting = streams.open_triggers(connection, "flights")
            for row in waiting:
                with transaction(own) as connection:
                    streams.answer_trigger(connection, row.id, answer(row))
        own.dispose()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("action", "sent", "kind", "arguments"),
    [
        ("train", None, "manual", {"strategy": "ewc+replay", "full": False}),
        ("train", {"strategy": "naive", "full": True}, "manual", {"strategy": "naive", "full": True}),
        ("promote", {"version": 1}, "promote", {"version": 1}),
        ("rollback", {}, "rollback", {"version": 1}),
        *((hold, None, hold, {}) for hold in ("pause", "resume", "approve", "abort")),
    ],
)
def test_what_is_asked_is_written_down_once_with_who_asked(
    door: Door, action: str, sent: Any, kind: str, arguments: dict[str, Any]
) -> None:
    answer = (
        door("POST", f"{FLIGHTS}/{action}", json=sent)
        if sent is not None
        else door("POST", f"{FLIGHTS}/{action}")
    )
    assert answer.status_code == 202, answer.text
    key = answer.json()["request"]
    (asked,) = door.asked()
    assert (asked.kind, asked.unique_key, asked.arguments) == (kind, key, arguments)
    actor = f"token:{door.tokens['operate'].id} my operate"
    assert asked.requested_by == actor
    (row,) = door.trail()
    assert (row.actor, row.origin, row.action, row.stream) == (actor, "10.0.0.7", action, "flights")
    assert (row.arguments, row.outcome) == (arguments | {"request": key}, "asked")
    assert door.woken == ["flights"]
    assert door("GET", f"{FLIGHTS}/requests/{key}", "read").json()["outcome"] is None


def test_who_waits_is_told_what_the_daemon_says_and_the_audit_has_both(door: Door) -> None:
    with daemon(door.engine, lambda row: f"version {row.arguments['version']} is champion"):
        answer = door("POST", f"{FLIGHTS}/promote?wait=20", json={"version": 1})
    assert (answer.status_code, answer.json()["outcome"]) == (200, "version 1 is champion")
    assert [(row.origin, row.outcome) for row in door.trail()] == [
        ("10.0.0.7", "asked"),
        ("daemon", "version 1 is champion"),
    ]
    assert door.trail()[0].arguments == door.trail()[1].arguments
    key = answer.json()["request"]
    assert door("GET", f"{FLIGHTS}/requests/{key}", "read").json()["outcome"] == "version 1 is champion"
    assert door("GET", f"/v1/streams/quiet/requests/{key}", "read").status_code == 404


def test_what_the_daemon_refuses_is_409_with_the_reason(door: Door) -> None:
    with daemon(door.engine, lambda _: "refused: no rollout is on its way"):
        answer = door("POST", f"{FLIGHTS}/pause?wait=20")
    assert (answer.status_code, answer.json()["error"]) == (409, "no rollout is on its way")
    assert door.trail()[-1].outcome == "refused: no rollout is on its way"
    key = answer.json()["request"]
    shown = door("GET", f"{FLIGHTS}/requests/{key}", "read").json()
    assert shown["outcome"] == "refused: no rollout is on its way"


def test_without_a_daemon_the_waiting_ends_and_the_request_stays(door: Door) -> None:
    answer = door("POST", f"{FLIGHTS}/abort?wait=0.3")
    assert answer.status_code == 202
    assert len(door.asked()) == 1


@pytest.mark.parametrize(
    ("path", "sent", "status", "reason"),
    [
        (f"{FLIGHTS}/promote", {"version": 77}, 404, "refused: stream flights has no version 77"),
        (
            "/v1/streams/quiet/rollback",
            {},
            409,
            "refused: stream quiet has no previous version to go back to",
        ),
        (f"{FLIGHTS}/train", {"strategy": "ewx"}, 404, "refused: no recipe is called 'ewx'"),
    ],
)
def test_what_is_refused_at_once_is_in_the_audit_and_asks_nothing(
    door: Door, path: str, sent: Any, status: int, reason: str
) -> None:
    assert door("POST", path, json=sent).status_code == status
    assert door.asked() == door.asked("quiet") == []
    (row,) = door.trail()
    assert row.outcome.startswith(reason)
    assert row.actor.endswith("my operate")


@pytest.mark.parametrize("scope", ["read", None])
def test_a_token_without_the_scope_does_nothing_and_that_it_tried_is_in_the_audit(
    door: Door, scope: str | None
) -> None:
    assert door("POST", f"{FLIGHTS}/rollback", scope).status_code == (401 if scope is None else 403)
    assert door.asked() == []
    door.book.refresh()
    rows = [(row.actor.partition(" ")[2], row.action, row.stream, row.outcome) for row in door.trail()]
    told = [("my read", "rollback", "flights", "refused: needs the scope operate")]
    assert rows == ([] if scope is None else told)  # strangers fill no table


@pytest.mark.parametrize(
    ("action", "content", "status", "field"),
    [
        ("promote", b"{}", 422, "version"),
        ("promote", b'{"version": true}', 422, "version"),
        ("promote", b'{"version": "1"}', 422, "version"),
        ("promote", b'{"version": 99999999999999999999}', 422, "version"),
        ("promote", b'{"version": 1, "by": "me"}', 422, "by"),
        ("train", b'{"full": 1}', 422, "full"),
        ("train", b'{"strategy": "' + b"x" * 1000 + b'"}', 422, "strategy"),
        ("rollback", b'{"version": 1}', 422, "version"),
        ("rollback", b"[]", 400, None),
        ("rollback", b"{", 400, None),
        ("rollback", b"\xff", 400, None),
        ("rollback", b" " * 100_000, 413, None),
        ("pause?wait=nan", b"", 400, "wait"),
        ("pause?wait=-1", b"", 400, "wait"),
        ("pause?wait=1e9", b"", 400, "wait"),
    ],
)
def test_arguments_are_checked_and_named(
    door: Door, action: str, content: bytes, status: int, field: str | None
) -> None:
    answer = door("POST", f"{FLIGHTS}/{action}", content=content)
    assert answer.status_code == status, answer.text
    assert answer.json().get("field") == field
    assert door.asked() == []


def test_text_that_no_database_keeps_is_refused_like_any_other(door: Door) -> None:
    assert door("GET", f"{FLIGHTS}/requests/%00").status_code == 404
    assert door("GET", f"{FLIGHTS}/requests/{'0' * 32}").status_code == 404
    assert door("POST", f"{FLIGHTS}/train", json={"strategy": "\0"}).status_code == 404
    assert door("POST", "/v1/streams/x%00/train", "read").status_code == 403
    assert door("POST", f"{FLIGHTS}/%00", "read").status_code == 403
    door.book.refresh()
    assert [(row.stream, row.action) for row in door.trail()[1:]] == [(None, "train"), ("flights", "other")]


def test_only_some_may_wait_and_the_others_are_told_so_at_once(door: Door) -> None:
    def wait() -> None:
        assert door("POST", f"{FLIGHTS}/pause?wait=2").status_code == 202

    waiting = [threading.Thread(target=wait) for _ in range(WAITERS)]
    for one in waiting:
        one.start()
    until = time.monotonic() + 60
    while len(door.asked()) < WAITERS and time.monotonic() < until:
        time.sleep(0.01)
    began = time.monotonic()
    assert door("POST", f"{FLIGHTS}/pause?wait=60").status_code == 202
    assert time.monotonic() - began < 30
    for one in waiting:
        one.join()


def test_streams_that_are_not_there_are_404(door: Door) -> None:
    for method, path in (
        ("POST", "/v1/streams/trains/train"),
        ("GET", "/v1/streams/trains/rollouts"),
        ("GET", "/v1/ledger?stream=trains"),
        ("GET", f"{FLIGHTS}/requests/nothing"),
    ):
        assert door(method, path).status_code == 404


def test_ledger_rollouts_and_audit_are_listed_the_newest_first(door: Door) -> None:
    with transaction(door.engine) as connection:
        versions.add_rollout(connection, "flights", 2, parent=1, light=False, effective_at=T0, episode=None)
        for stream in ("flights", "quiet", "flights"):
            streams.write_ledger(connection, stream, "note", f"about {stream}", at=T0)
    door("POST", f"{FLIGHTS}/pause")
    (rollout,) = door("GET", f"{FLIGHTS}/rollouts", "read").json()["rollouts"]
    assert (rollout["version"], rollout["state"], rollout["effective_at"]) == (2, "waiting", T0.isoformat())
    ledger = door("GET", "/v1/ledger", "read").json()["ledger"]
    ids = [entry["id"] for entry in ledger]
    assert ids == sorted(ids, reverse=True)
    assert {entry["stream"] for entry in ledger} >= {"flights", "quiet"}
    ours = door("GET", "/v1/ledger?stream=flights&limit=1", "read").json()["ledger"]
    assert [entry["reason"] for entry in ours] == ["about flights"]
    assert door("GET", "/v1/audit", "operate").status_code == 403
    (row,) = door("GET", "/v1/audit?stream=flights", "admin").json()["audit"]
    assert row["action"] == "pause"
    assert door("GET", "/v1/audit?limit=1001", "admin").status_code == 400


def test_on_the_loopback_nobody_needs_a_token_and_the_audit_says_so(engine: Engine, inbox: Inbox) -> None:
    with transaction(engine) as connection:
        streams.ensure_stream(connection, "flights")
    door = Door(engine, inbox, required=False)
    assert door("POST", f"{FLIGHTS}/pause", None).status_code == 202
    assert [(row.actor, row.origin) for row in door.trail()] == [("anonymous", "10.0.0.7")]
    assert door("GET", "/v1/audit", None).status_code == 200
