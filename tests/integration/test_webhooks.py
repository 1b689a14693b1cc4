"""Webhooks: signed, in order, at least once, each by itself, and never led astray."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update
from sqlalchemy.exc import OperationalError

from cls.elsewhere.webhooks import GIVE_UP_AFTER, deliver_next, run_webhook
from cls.settings.http import WebhookConfig
from storage.announcements import announce
from storage.db import open_database, read_clock, reading, transaction
from storage.outbox import post
from storage.streams import read_ledger
from storage.tables import announcements, webhooks
from storage.webhooks import SqlWebhooks, drop_announcements, resume, standings
from tests.integration.receiver import SECRET, Receiver, receiving

LOOPBACK: dict[str, Any] = {"secret_env": "HOOK_SECRET", "allow_private": True, "timeout_seconds": 60.0}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiving() as found:
        yield found


@pytest.fixture
def rows(engine: Engine) -> SqlWebhooks:
    found = SqlWebhooks(engine)
    found.begin("ops")
    return found


def say(engine: Engine, *kinds: str, stream: str = "trips") -> None:
    for kind in kinds:
        with transaction(engine) as connection:
            announce(connection, stream, kind, {"version": 7, "reason": "better"})


def now(engine: Engine, name: str = "ops") -> None:
    """Let the time of the next try come."""
    with transaction(engine) as connection:
        connection.execute(
            update(webhooks).where(webhooks.c.name == name).values(next_at=read_clock(connection))
        )


def standing(engine: Engine, hook: WebhookConfig) -> Any:
    with reading(engine) as connection:
        return standings(connection, {"ops": hook})[0]


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_announcements_arrive_in_order_signed_with_ids_of_their_own(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.waiting", "rollout.shadow", "rollout.promoted")
    while deliver_next("ops", hook, rows):
        pass
    assert receiver.kinds == ["rollout.waiting", "rollout.shadow", "rollout.promoted"]
    assert len({one.id for one in receiver.received}) == 3
    for one in receiver.received:
        assert one.signed_by(SECRET)
        assert not one.signed_by("whsec_" + "A" * 32)
        assert abs(time.time() - int(one.headers["webhook-timestamp"])) < 60
        assert one.path == "/hook?of=us"
        assert one.document["data"] == {"stream": "trips", "version": 7, "reason": "better"}
    found = standing(engine, hook)
    assert (found.waiting, found.attempts, found.error) == (0, 0, None)
    assert found.delivered_at is not None


def test_a_new_webhook_begins_at_the_present_end_and_hears_what_it_asked_for(
    engine: Engine, receiver: Receiver
) -> None:
    say(engine, "drift.alarm")
    rows = SqlWebhooks(engine)
    rows.begin("ops")
    rows.begin("ops")
    say(engine, "drift.alarm", "rollout.done")
    say(engine, "rollout.rolled_back", stream="other")
    say(engine, "rollout.canary")
    hook = WebhookConfig(url=receiver.url, kinds=("rollout.*",), streams=("trips",), **LOOPBACK)
    assert standing(engine, hook).waiting == 2
    while deliver_next("ops", hook, rows):
        pass
    assert receiver.kinds == ["rollout.done", "rollout.canary"]


def test_what_waits_is_counted_without_reading_it_all(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.webhooks.MOST", 3)
    say(engine, "rollout.done", "drift.alarm", "rollout.done", "rollout.done", "rollout.done")
    read: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: read.append(given[2]))
    hook = WebhookConfig(url=receiver.url, kinds=("rollout.*",), **LOOPBACK)
    assert standing(engine, hook).waiting == 2
    assert not any("payload" in statement for statement in read)


def test_while_a_secret_is_replaced_both_sign(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = "whsec_" + "B" * 40
    monkeypatch.setenv("HOOK_SECRET", f"{new} {SECRET}")
    say(engine, "rollout.done")
    assert deliver_next("ops", WebhookConfig(url=receiver.url, **LOOPBACK), rows)
    assert receiver.received[0].signed_by(SECRET)
    assert receiver.received[0].signed_by(new)


def test_a_failure_is_tried_again_with_the_same_id_later_each_time_and_holds_back_what_follows(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.shadow", "rollout.canary")
    receiver.answers = [(500, {}), (503, {"retry-after": "600"}), (429, {"retry-after": "99999999"})]
    waits = []
    for _ in range(3):
        assert not deliver_next("ops", hook, rows)
        assert not deliver_next("ops", hook, rows)  # its time has not come
        with reading(engine) as connection:
            due = standings(connection, {"ops": hook})[0].next_at
            assert due is not None
            waits.append((due - read_clock(connection)).total_seconds())
        now(engine)
    assert waits == pytest.approx([5, 600, 3600], abs=2)
    assert "429" in standing(engine, hook).error
    while deliver_next("ops", hook, rows):
        pass
    assert receiver.kinds == ["rollout.shadow"] * 4 + ["rollout.canary"]
    assert len({one.id for one in receiver.received}) == 2
    assert len({one.body for one in receiver.received[:4]}) == 1


def test_after_a_day_of_failures_a_message_is_given_up_in_the_ledger_and_the_next_follows(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.shadow", "rollout.canary")
    receiver.answers = [(500, {})] * 100
    waited, tries = timedelta(), 0
    while not deliver_next("ops", hook, rows):
        with reading(engine) as connection:
            due = standings(connection, {"ops": hook})[0].next_at
            assert due is not None
            waited, tries = waited + (due - read_clock(connection)), tries + 1
        now(engine)
    assert GIVE_UP_AFTER - timedelta(minutes=1) < waited < GIVE_UP_AFTER + timedelta(hours=1)
    assert tries < 50
    with reading(engine) as connection:
        [entry] = read_ledger(connection, "trips")
    assert "ops was not told of rollout.shadow" in entry.reason
    receiver.answers = []
    assert deliver_next("ops", hook, rows)
    assert receiver.kinds[-1] == "rollout.canary"


def test_gone_pauses_until_it_is_resumed(engine: Engine, rows: SqlWebhooks, receiver: Receiver) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.shadow")
    receiver.answers = [(410, {})]
    assert not deliver_next("ops", hook, rows)
    found = standing(engine, hook)
    assert found.paused
    assert found.waiting == 1
    assert "cls webhook resume ops" in found.error
    assert not deliver_next("ops", hook, rows)
    with transaction(engine) as connection:
        assert resume(connection, "ops")
        assert not resume(connection, "nobody")
    assert deliver_next("ops", hook, rows)
    assert len({one.id for one in receiver.received}) == 1
    assert len(receiver.received) == 2


def test_a_secret_that_is_not_there_holds_messages_and_is_never_shown(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.shadow")
    for secret in (None, "short-and-known", "whsec_no-base64!", "whsec_" + "QUJD"):
        if secret is None:
            monkeypatch.delenv("HOOK_SECRET")
        else:
            monkeypatch.setenv("HOOK_SECRET", secret)
        assert not deliver_next("ops", hook, rows)
        error = standing(engine, hook).error
        assert "HOOK_SECRET" in error
        assert secret is None or secret.removeprefix("whsec_") not in error
        now(engine)
    assert standing(engine, hook).attempts == 0
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    assert deliver_next("ops", hook, rows)


def test_a_redirect_to_the_loopback_is_not_followed(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    with receiving() as inside:
        receiver.answers = [(status, {"location": inside.url}) for status in (301, 302, 303, 307, 308)]
        hook = WebhookConfig(url=receiver.url, **LOOPBACK)
        say(engine, "rollout.shadow")
        for _ in range(5):
            assert not deliver_next("ops", hook, rows)
            assert "redirect" in standing(engine, hook).error
            now(engine)
        assert inside.received == []


def test_a_target_inside_is_refused_without_allow_private(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    port = receiver.url.split(":")[2]
    say(engine, "rollout.shadow")
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]", "[::1]"):
        hook = WebhookConfig(url=f"http://{host}:{port}", secret_env="HOOK_SECRET", timeout_seconds=2.0)
        assert not deliver_next("ops", hook, rows)
        assert re.search("allow_private is not set", standing(engine, hook).error)
        now(engine)
    assert receiver.received == []


def test_several_senders_share_a_webhook_and_each_message_is_sent_once(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.elsewhere.webhooks.LOOK_SECONDS", 0.005)
    hook, stop = WebhookConfig(url=receiver.url, **LOOPBACK), Event()
    senders = [Thread(target=run_webhook, args=("ops", hook, SqlWebhooks(engine), stop)) for _ in range(4)]
    for sender in senders:
        sender.start()
    try:
        for n in range(30):
            say(engine, f"rollout.step{n}")
        until(lambda: len(receiver.received) >= 30, 60)
    finally:
        stop.set()
        for sender in senders:
            sender.join(60)
    assert receiver.kinds == [f"rollout.step{n}" for n in range(30)]


def test_one_webhook_that_hangs_holds_back_no_other(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.elsewhere.webhooks.LOOK_SECONDS", 0.01)
    stop, free = Event(), Event()
    with receiving() as hanging:

        def hang() -> None:
            free.wait(60)

        hanging.before_answer = hang
        hooks = {
            name: WebhookConfig(url=one.url, **LOOPBACK)
            for name, one in (("ops", receiver), ("slow", hanging))
        }
        rows.begin("slow")
        threads = [
            Thread(target=run_webhook, args=(name, hook, SqlWebhooks(engine), stop))
            for name, hook in hooks.items()
        ]
        say(engine, "rollout.shadow")
        for thread in threads:
            thread.start()
        until(lambda: hanging.received)
        began = time.monotonic()
        say(engine, "rollout.canary", "rollout.promoted")
        until(lambda: len(receiver.received) == 3)
        assert time.monotonic() - began < 30  # the one that hangs is given up after 60
        assert len(hanging.received) == 1
        stop.set()
        free.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


SENDER = """
import sys
from pathlib import Path
from threading import Event
from cls.settings.http import WebhookConfig
from cls.elsewhere.webhooks import run_webhook
from storage.db import open_database
from storage.webhooks import SqlWebhooks
hook = WebhookConfig(url=sys.argv[2], secret_env="HOOK_SECRET", allow_private=True, timeout_seconds=30.0)
run_webhook("ops", hook, SqlWebhooks(open_database(sys.argv[1])), Event())
"""


def test_killed_between_delivery_and_commit_the_same_message_comes_again_under_its_id(
    engine: Engine, database_url: str, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.promoted", "rollout.done")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SENDER, database_url, receiver.url], cwd=Path.cwd())

    first = start()
    receiver.before_answer = lambda: os.kill(first.pid, 9)
    until(lambda: first.poll() is not None, 60)
    assert first.returncode == -9
    assert receiver.kinds == ["rollout.promoted"]
    receiver.before_answer = lambda: None
    assert not deliver_next("ops", hook, rows)  # the dead one still holds it
    now(engine)
    second = start()
    try:
        until(lambda: len(receiver.received) >= 3, 60)
    finally:
        second.kill()
        second.wait(60)
    assert receiver.kinds == ["rollout.promoted", "rollout.promoted", "rollout.done"]
    assert receiver.received[0].id == receiver.received[1].id != receiver.received[2].id
    assert receiver.received[0].body == receiver.received[1].body


def test_an_announcement_is_not_passed_by_while_an_earlier_one_commits(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    second = Thread(target=say, args=(engine, "rollout.second"))
    with transaction(engine) as connection:
        announce(connection, "trips", "rollout.first", {})
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join(60)
    while deliver_next("ops", hook, rows):
        pass
    assert receiver.kinds == ["rollout.first", "rollout.second"]


def test_a_sender_whose_hold_ran_out_changes_nothing(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    say(engine, "rollout.shadow", "rollout.canary")
    late = rows.take("ops", hook, timedelta(seconds=60))
    assert late is not None
    assert rows.take("ops", hook, timedelta(seconds=60)) is None
    now(engine)
    again = rows.take("ops", hook, timedelta(seconds=60))
    assert again is not None
    assert again.id == late.id
    rows.delivered(again)
    for outcome in (
        rows.delivered,
        lambda told: rows.given_up(told, "x"),
        lambda told: rows.paused(told, "x"),
    ):
        outcome(late)
    with reading(engine) as connection:
        assert read_ledger(connection, "trips") == []
    assert standing(engine, hook).waiting == 1
    assert not standing(engine, hook).paused


def test_the_reporter_survives_a_database_that_is_away_for_a_while(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.elsewhere.webhooks.LOOK_SECONDS", 0.01)
    rows, stop = SqlWebhooks(engine), Event()
    take, failures = rows.take, [2]

    def shaky(*arguments: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            from cls.errors import Unavailable

            raise Unavailable("database: locked", delay=0.01) from OperationalError("", {}, Exception())
        return take(*arguments)

    monkeypatch.setattr(rows, "take", shaky)
    thread = Thread(target=run_webhook, args=("ops", WebhookConfig(url=receiver.url, **LOOPBACK), rows, stop))
    thread.start()
    until(lambda: failures[0] == 0)
    say(engine, "rollout.done")
    until(lambda: receiver.received)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_announcements_go_when_all_are_past_them_or_they_are_too_old_but_the_newest_stays(
    engine: Engine, rows: SqlWebhooks, receiver: Receiver
) -> None:
    hook = WebhookConfig(url=receiver.url, **LOOPBACK)
    rows.begin("removed")  # from cls.toml since
    rows.begin("behind")
    hooks = {"ops": hook, "behind": hook}
    say(engine, *(f"rollout.step{n}" for n in range(5)))

    def age(days: int) -> None:
        with transaction(engine) as connection:
            at = read_clock(connection) - timedelta(days=days)
            connection.execute(update(announcements).values(created_at=at))

    def left() -> list[str]:
        with reading(engine) as connection:
            return list(
                connection.execute(select(announcements.c.kind).order_by(announcements.c.id)).scalars()
            )

    for _ in range(3):
        assert deliver_next("ops", hook, rows)
    assert drop_announcements(engine, hooks) == 0  # too young
    age(4)
    assert drop_announcements(engine, hooks) == 0  # behind was not told
    assert deliver_next("behind", hook, rows)
    assert drop_announcements(engine, hooks) == 1
    assert drop_announcements(engine, {"ops": hook}) == 2
    assert left() == ["rollout.step3", "rollout.step4"]
    age(31)
    assert drop_announcements(engine, hooks) == 1
    assert left() == ["rollout.step4"]
    with reading(engine) as connection:
        reasons = {entry.reason.partition(":")[0] for entry in read_ledger(connection, "trips")}
    assert reasons == {f"webhook {name} was not told of announcement 4" for name in hooks}
    assert drop_announcements(engine, hooks) == 0
    say(engine, "rollout.last")
    assert receiver.received
    while deliver_next("ops", hook, rows):
        pass
    assert receiver.kinds[-1] == "rollout.last"


REPORTER = """
import sys
from pathlib import Path
from threading import Event
from cls.config import load_config
from cls.reporter import run_reporter
run_reporter(load_config(Path(sys.argv[1])), Event())
"""


def test_the_reporter_tells_webhooks_though_mlflow_does_not_answer(
    sqlite_template: str, tmp_path: Path, receiver: Receiver
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        mlflow = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = tmp_path / "cls.toml"
        config.write_text(
            f'home = "home"\nmlflow_uri = "{mlflow}"\n[webhooks.ops]\nurl = "{receiver.url}"\n'
            'secret_env = "HOOK_SECRET"\nallow_private = true\n'
        )
        (tmp_path / "home").mkdir()
        shutil.copy(sqlite_template, tmp_path / "home" / "cls.db")
        engine = open_database(f"sqlite:///{tmp_path / 'home' / 'cls.db'}")
        with transaction(engine) as connection:
            post(connection, "trips", "aliases", {})  # what keeps the outbox busy with MLflow
        reporter = subprocess.Popen([sys.executable, "-c", REPORTER, str(config)])
        try:
            until(lambda: _begun(engine), 60)
            say(engine, "rollout.promoted")
            until(lambda: receiver.received, 60)
        finally:
            reporter.kill()
            reporter.wait(60)
            engine.dispose()
    assert receiver.kinds == ["rollout.promoted"]
    assert receiver.received[0].signed_by(SECRET)


def _begun(engine: Engine) -> bool:
    with reading(engine) as connection:
        return connection.execute(select(webhooks.c.name)).first() is not None
