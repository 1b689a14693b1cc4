"""Commands that change something: each effect is there once, and each refusal has its reason and exit code."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cls.config import load_config
from cls.domain import JobKind, RolloutState
from storage import job_rows, queue, streams, versions
from storage.db import open_database, reading, transaction
from storage.inbox import Inbox, InboxSource


@contextmanager
def answering(engine: Engine, answer: Callable[[Any, Any], str]) -> Iterator[list[Any]]:
    """Stand in for the daemon: answer the flights' requests as they come."""
    seen: list[Any] = []
    stop = threading.Event()

    def work() -> None:
        own = open_database(engine.url.render_as_string(hide_password=False))
        while not stop.wait(0.02):
            with reading(own) as connection:
                waiting = streams.open_triggers(connection, "flights")
            for row in waiting:
                with transaction(own) as connection:
                    streams.answer_trigger(connection, row.id, answer(connection, row))
                seen.append(row)
        own.dispose()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_a_queued_job_is_cancelled_and_retried(cli: Any, full: Engine) -> None:
    assert cli.json("jobs", "cancel", "3") == {"id": 3, "state": "cancelled"}
    again = cli("jobs", "cancel", "3")
    assert again.exit_code == 1
    assert "has ended" in again.stderr
    assert cli.json("jobs", "retry", "3") == {"id": 3, "state": "queued"}
    assert cli("jobs", "retry", "1").exit_code == 1
    assert cli("jobs", "retry", "77").exit_code == 3


def test_a_promotion_is_asked_for_once_and_answered(cli: Any, full: Engine) -> None:
    with answering(full, lambda _, row: f"version {row.arguments['version']} is champion") as seen:
        outcome = cli.json("models", "promote", "flights", "1")
    assert outcome == {"stream": "flights", "outcome": "version 1 is champion"}
    assert [(row.kind, row.arguments) for row in seen] == [("promote", {"version": 1})]
    assert "@" in seen[0].requested_by


@pytest.mark.parametrize("command", [("rollback",), ("models", "rollback")])
def test_a_rollback_goes_to_the_previous_version(cli: Any, full: Engine, command: tuple[str, ...]) -> None:
    with answering(full, lambda *_: "version 1 serves again") as seen:
        assert cli(*command, "flights").exit_code == 0
    assert [(row.kind, row.arguments) for row in seen] == [("rollback", {"version": 1})]


def test_a_rollback_with_nothing_before_it_is_refused(cli: Any, full: Engine) -> None:
    result = cli("rollback", "quiet")
    assert result.exit_code == 1
    assert "no previous version" in result.stderr


def test_without_a_daemon_the_request_stays_and_the_answer_is_4(cli: Any, full: Engine) -> None:
    result = cli("rollback", "flights", "--timeout", "0.2")
    assert result.exit_code == 4
    assert "cls daemon" in result.stderr
    with reading(full) as connection:
        assert len(streams.open_triggers(connection, "flights")) == 1


def test_a_refused_training_ends_with_1_and_the_reason(cli: Any, full: Engine) -> None:
    with answering(full, lambda *_: "refused: the budget is spent"):
        result = cli("train", "flights")
    assert result.exit_code == 1
    assert "the budget is spent" in result.stderr
    assert cli("train", "flights", "--strategy", "ewx").exit_code == 3


def test_training_without_waiting_names_its_job(cli: Any, full: Engine) -> None:
    with answering(full, lambda *_: "job 7") as seen:
        outcome = cli.json("train", "flights", "--full", "--no-wait")
    assert outcome["job"] == 7
    assert seen[0].kind == "manual"
    assert seen[0].arguments == {"strategy": "ewc+replay", "full": True}


@pytest.mark.parametrize(
    ("passes", "code"), [pytest.param(True, 0, id="passes the gate"), pytest.param(False, 1, id="fails it")]
)
def test_training_waits_for_job_and_rollout(
    cli: Any, full: Engine, job_input: Callable[..., Any], passes: bool, code: int
) -> None:
    def work(connection: Any, _row: Any) -> str:
        number = queue.enqueue(connection, "flights", JobKind.UPDATE, job_input(), priority=0)
        job = queue.claim(connection, "w", timedelta(seconds=60), (JobKind.UPDATE,))
        assert job is not None
        gate = {"verdict": "pass" if passes else "fail", "reason": "worse by 9%"}
        result = {"version": 2 if passes else None, "gate": gate}
        queue.succeed(connection, job, result, charged_seconds=1.0, passes=1.0)
        job_rows.mark_handled(connection, number)
        if passes:
            rollout = versions.add_rollout(
                connection,
                "flights",
                2,
                parent=1,
                light=True,
                effective_at=job.input.decided_at,
                episode=None,
            )
            waiting = versions.rollouts_in(connection, "flights", RolloutState.WAITING)
            assert [one.id for one in waiting] == [rollout]
            versions.move_rollout(connection, waiting[0], RolloutState.WATCHING, at=None, reason="light")
        return f"job {number}"

    with answering(full, work):
        outcome = cli.json("train", "flights", code=code)
    assert outcome["state"] == "succeeded"
    assert outcome["champion"] is passes
    assert outcome["rollout"] == ("watching" if passes else None)
    assert passes or "worse by 9%" in outcome["reason"]


def test_dead_letters_are_sent_in_again_once(cli: Any, full: Engine) -> None:
    assert cli("dead-letters", "replay", "flights").exit_code == 2  # neither --id nor --all
    outcomes = cli.json("dead-letters", "replay", "flights", "--all")
    assert [(row["id"], row["outcome"]) for row in outcomes] == [
        (1, "sent"),
        (2, "sent"),
        (3, "it is a fault of the source, not a record"),
    ]
    assert (
        cli.json("dead-letters", "replay", "flights", "--id", "1")[0]["outcome"]
        == "it was sent in again already"
    )
    assert [row["id"] for row in cli.json("dead-letters", "flights")] == [3]
    assert len(cli.json("dead-letters", "flights", "--replayed")) == 3

    source = InboxSource(full, cli.config.parent / "home" / "inbox", "flights")
    token, records = "", []
    while (batch := source.read(token)) is not None:
        token = batch.token
        assert batch.kind == "events"
        records += batch.table.to_pylist()
    assert sorted(record["at"] for record in records) == ["2013-01-01", "2013-01-01"]
    assert {record["distance"] for record in records} == {1.0, "[bold]far"}


@pytest.fixture
def inbox(cli: Any, full: Engine) -> Iterator[Engine]:
    """Serve the HTTP inbox as the daemon does."""
    from cls.doors.server import HttpServer
    from cls.intake import intake_app

    config = load_config(cli.config)
    store = Inbox(full, config.home / "inbox")
    server = HttpServer(intake_app(config, store, full, lambda _: None), config.http.ingest)
    server.start()
    yield full
    server.stop()
    store.close()


def test_a_file_is_sent_in_numbered_requests_and_goes_on_where_it_stopped(
    cli: Any, inbox: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    lines = ["id,at,distance,carrier", *(f"r{i},2013-01-05T00:00:00Z,{i},AA" for i in range(250))]
    file.write_text("\n".join(lines[:-1]) + "\n")
    first = cli.json("send", "flights", str(file), "--rows", "100")
    assert (first["requests"], first["rows"], first["duplicates"]) == (3, 249, 0)
    again = cli.json("send", "flights", str(file), "--rows", "100")
    assert (again["requests"], again["rows"], again["duplicates"]) == (0, 0, 249)
    other = cli.json("send", "flights", str(file), "--rows", "50")
    assert other["producer"] != first["producer"]  # other requests, other numbers


def test_malformed_lines_are_named_and_the_rest_is_sent(cli: Any, inbox: Engine, tmp_path: Path) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text(
        '{"id": "a", "at": "2013-01-05", "distance": 1}\nnot json\n{"id": "b", "at": "2013-01-05"}\n'
    )
    result = cli("send", "flights", str(file))
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "2 events taken in" in result.stdout


def test_sending_without_an_inbox_ends_with_4(
    cli: Any, full: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.cli.send.TRIES", 1)
    file = tmp_path / "rows.csv"
    file.write_text("id,at,distance\na,2013-01-05,1\n")
    result = cli("send", "flights", str(file))
    assert result.exit_code == 4
    assert "cls daemon" in result.stderr
    assert cli("send", "flights", str(tmp_path / "none.csv")).exit_code == 3
    assert cli("send", "flights", str(cli.config)).exit_code == 1  # .toml is no format of rows
