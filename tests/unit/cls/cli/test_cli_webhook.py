"""`cls webhook`, and what `cls config check` and `cls doctor` say of webhooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from cls.domain import RolloutState
from cls.elsewhere.webhooks import deliver_next
from cls.settings.http import WebhookConfig
from cls.settings.webhooks import KINDS
from storage.announcements import announce
from storage.db import open_database, transaction
from storage.schema import upgrade
from storage.tables import audit
from storage.webhooks import SqlWebhooks
from tests.integration.receiver import SECRET, Receiver, receiving
from tests.unit.cls.cli.conftest import Cli

TABLE = """
[webhooks.ops]
url = "{url}"
secret_env = "HOOK_SECRET"
allow_private = true
timeout_seconds = 2.0
"""


@pytest.fixture
def receiver(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiving() as found:
        cli.config.write_text(cli.config.read_text() + TABLE.format(url=found.url))
        yield found


def database(cli: Cli) -> str:
    url = f"sqlite:///{cli.config.parent / 'home' / 'cls.db'}"
    engine = open_database(url)
    upgrade(engine)
    engine.dispose()
    return url


def test_a_ping_is_signed_and_its_answer_shown(cli: Cli, receiver: Receiver) -> None:
    url = database(cli)
    found = cli.json("webhook", "test", "ops")
    assert found["status"] == 204
    [ping] = receiver.received
    assert ping.signed_by(SECRET)
    assert ping.document["type"] == "webhook.ping"
    assert ping.id == found["id"]
    receiver.answers = [(401, {})]
    result = cli("webhook", "test", "ops")
    assert result.exit_code == 1
    assert "answered 401" in result.output
    assert cli("webhook", "test", "oops").exit_code == 3
    assert cli("webhook", "resume", "ops").exit_code == 3  # it has not begun
    engine = open_database(url)
    with engine.connect() as connection:
        told = [(row.action, row.outcome.partition(":")[0]) for row in connection.execute(select(audit))]
    engine.dispose()
    assert told == [("webhook.test", "done"), ("webhook.test", "done"), ("webhook.resume", "refused")]


def test_a_webhook_is_listed_with_what_waits_and_resumed_with_an_entry_in_the_audit(
    cli: Cli, receiver: Receiver
) -> None:
    url = database(cli)
    [row] = cli.json("webhook")
    assert (row["state"], row["waiting"], row["position"]) == ("not begun", 0, None)
    assert cli("webhook", "resume", "ops").exit_code == 3
    engine = open_database(url)
    rows = SqlWebhooks(engine)
    rows.begin("ops")
    with transaction(engine) as connection:
        announce(connection, "flights", "rollout.done", {})
    receiver.answers = [(410, {})]
    hook = WebhookConfig(url=receiver.url, secret_env="HOOK_SECRET", allow_private=True)
    assert not deliver_next("ops", hook, rows)
    [row] = cli.json("webhook", "list")
    assert (row["state"], row["waiting"], row["next_at"]) == ("paused", 1, None)
    assert row["host"].startswith("http://127.0.0.1:")
    assert "hook" not in row["host"]  # the path may hold a secret
    assert "410" in cli("webhook", "list").stdout
    checks = {check["name"]: check for check in cli.json("doctor")}
    assert checks["webhook ops"]["fix"] == "`cls webhook resume ops`"
    assert cli.json("webhook", "resume", "ops")["outcome"] == "resumed"
    assert deliver_next("ops", hook, rows)
    [row] = cli.json("webhook", "list")
    assert (row["state"], row["waiting"]) == ("ok", 0)
    assert row["delivered_at"] is not None
    with transaction(engine) as connection:
        [*_, entry] = connection.execute(select(audit).order_by(audit.c.id)).all()
    assert (entry.action, entry.arguments, entry.origin) == ("webhook.resume", {"webhook": "ops"}, "cli")
    engine.dispose()


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ('kinds = ["rollout.promote"]', "webhooks.ops.kinds", "did you mean 'rollout.promoted'?"),
        ('streams = ["flight"]', "webhooks.ops.streams", "did you mean 'flights'?"),
        ('url = "https://me:pw@hooks.example/"', "webhooks.ops.url", "are not sent"),
        ('url = "https://hooks.example:65536/"', "webhooks.ops.url", "Port out of range"),
        ('url = "https://hooks.example:0/"', "webhooks.ops.url", "no port 0"),
        ('url = "ftp://hooks.example/"', "webhooks.ops.url", "must be http(s)://"),
        ('secret_env = "HOOK_SHORT"', "webhooks.ops.secret_env", "24 bytes or more"),
        ('secret_env = "HOOK_NONE"', "webhooks.ops.secret_env", "HOOK_NONE is not set"),
    ],
)
def test_faults_are_told_with_their_place(
    cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, line: str, place: str, words: str
) -> None:
    monkeypatch.setenv("HOOK_SHORT", "short-and-known")
    text = cli.config.read_text()
    field = line.partition(" ")[0]
    kept = [
        one
        for one in text.splitlines()
        if not one.startswith(f"{field} =") or field not in ("url", "secret_env")
    ]
    cli.config.write_text("\n".join([*kept, line, ""]))
    [fault] = cli.json("config", "check", code=2)
    assert fault["place"] == place
    assert words in fault["message"]
    assert "short-and-known" not in fault["message"]


def test_whatever_a_rollout_becomes_can_be_asked_for() -> None:
    told = {"promoted" if state == RolloutState.WATCHING else state.value for state in RolloutState} | {
        "held"
    }
    assert {f"rollout.{kind}" for kind in told} == {kind for kind in KINDS if kind.startswith("rollout.")}


def test_a_webhook_as_it_should_be_has_no_fault(cli: Cli, receiver: Receiver) -> None:
    text = cli.config.read_text() + 'kinds = ["rollout.*", "drift.alarm"]\nstreams = ["flights"]\n'
    cli.config.write_text(text)
    assert cli.json("config", "check") == []
