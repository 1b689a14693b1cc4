"""`cls token` and `cls audit`: a secret is shown once, and what an operator did is told for ever."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update
from typer.main import get_command

from cls.cli.main import app
from cls.doors.token_book import TokenBook
from storage import streams
from storage.audit import list_audit
from storage.db import reading, transaction
from storage.tables import dead_letters, jobs, ledger, outbox, processes, triggers

ME = f"{getpass.getuser()}@{socket.gethostname()}"


def trail(engine: Engine) -> list[tuple[str, str | None, str]]:
    """Return (action, stream, outcome) of the audit, the oldest first; all of it must be mine."""
    with reading(engine) as connection:
        rows = list_audit(connection)[::-1]
    assert {(row.actor, row.origin) for row in rows} <= {(ME, "cli")}
    return [(row.action, row.stream, row.outcome) for row in rows]


def test_a_token_is_printed_once_works_and_is_revoked(cli: Any, state: Engine) -> None:
    made = cli("token", "create", "feeder", "--scope", "ingest", "--scope", "read", "--expires", "90d")
    assert made.exit_code == 0
    text = made.stdout.strip()
    name = text.split("_")[1]
    assert f"cls token revoke {name}" in made.stderr
    assert text not in made.stderr
    book = TokenBook(state)
    book.refresh()
    token = book.check(text.encode())
    assert token is not None
    assert (token.name, sorted(token.scopes)) == ("feeder", ["ingest", "read"])
    (row,) = cli.json("token", "list")
    assert (row["id"], row["scopes"], row["created_by"], row["revoked_at"]) == (
        name,
        ["ingest", "read"],
        ME,
        None,
    )
    assert row["expires_at"] is not None
    assert "hash" not in row
    assert cli.json("token", "revoke", name) == {"id": name, "state": "revoked"}
    book.refresh()
    assert book.check(text.encode()) is None
    assert cli("token", "revoke", name).exit_code == 1
    assert cli("token", "revoke", "nobody").exit_code == 3
    assert trail(state) == [
        ("token.create", None, "done"),
        ("token.revoke", None, "done"),
        ("token.revoke", None, f"refused: token {name} was revoked before"),
        ("token.revoke", None, "refused: no token has the id 'nobody': see `cls token list`"),
    ]


def test_as_json_the_token_stands_beside_its_id(cli: Any, state: Engine) -> None:
    made = cli.json("token", "create", "ops", "--scope", "admin")
    assert made["token"].startswith(f"cls_{made['id']}_")
    assert (made["scopes"], made["expires_at"]) == (["admin"], None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "x"),
        ("create", "x", "--scope", "amdin"),
        ("create", "", "--scope", "read"),
        ("create", "x" * 64, "--scope", "read"),
        ("create", "a\nb", "--scope", "read"),
        ("create", "x", "--scope", "read", "--expires", "90"),
        ("create", "x", "--scope", "read", "--expires", "0d"),
        ("create", "x", "--scope", "read", "--expires", "9999999d"),
    ],
)
def test_a_token_that_makes_no_sense_is_a_fault_of_the_command_line(
    cli: Any, state: Engine, arguments: tuple[str, ...]
) -> None:
    assert cli("token", *arguments).exit_code == 2
    assert cli.json("token", "list") == []


def test_every_action_is_in_the_audit_with_its_stream_and_what_was_refused_too(
    cli: Any, full: Engine
) -> None:
    cli("jobs", "cancel", "3")
    cli("jobs", "cancel", "3")
    cli("jobs", "retry", "3")
    cli("jobs", "retry", "77")
    cli("dead-letters", "replay", "flights", "--all")
    cli("dead-letters", "replay", "flights", "--id", "99")
    now = ("--timeout", "0")
    cli("train", "flights", *now)
    cli("train", "flights", "--strategy", "ewx", *now)
    cli("models", "promote", "flights", "1", *now)
    cli("models", "promote", "flights", "9", *now)
    cli("rollback", "flights", *now)
    cli("rollback", "quiet", *now)
    for hold in ("pause", "resume", "approve", "abort"):
        cli("rollout", hold, "flights", *now)
    found = trail(full)
    assert [(action, stream, outcome.partition(":")[0]) for action, stream, outcome in found] == [
        ("jobs.cancel", "flights", "done"),
        ("jobs.cancel", "flights", "refused"),
        ("jobs.retry", "flights", "done"),
        ("jobs.retry", None, "refused"),
        ("dead-letters.replay", "flights", "asked"),
        ("dead-letters.replay", "flights", "done"),
        ("dead-letters.replay", "flights", "refused"),
        ("train", "flights", "asked"),
        ("train", "flights", "refused"),
        ("promote", "flights", "asked"),
        ("promote", "flights", "refused"),
        ("rollback", "flights", "asked"),
        ("rollback", "quiet", "refused"),
        *((hold, "flights", "asked") for hold in ("pause", "resume", "approve", "abort")),
    ]
    with reading(full) as connection:
        asked = [row.unique_key for row in streams.open_triggers(connection, "flights")]
        told = [
            row.arguments["request"]
            for row in list_audit(connection)[::-1]
            if "request" in row.arguments and row.outcome == "asked"
        ]
    assert told == asked
    shown = cli.json("audit", "list", "--stream", "quiet")
    assert [(row["action"], row["actor"]) for row in shown] == [("rollback", ME)]
    assert cli("audit", "list", "--stream", "trains").exit_code == 3
    assert "dead-letters.replay" in cli("audit", "list").stdout


# -- secrets ----------------------------------------------------------------------------------------------------------

PASSWORD, SECRET = "hunter2hunter2", "Zx9" * 14 + "Q"
PLANTED = f"cannot reach postgresql://cls:{PASSWORD}@db/cls?password={PASSWORD} with cls_abcdefghij_{SECRET}"
LISTINGS = {
    "audit list",
    "config check",
    "config show",
    "db check",
    "dead-letters list",
    "doctor",
    "drift episodes",
    "drift list",
    "jobs list",
    "ledger",
    "rollout list",
    "status",
    "streams",
    "token list",
    "webhook list",
}
ABOUT = {"drift performance": "flights", "jobs show": "1", "models list": "flights", "drift show": "1"}


def listings(command: Any, path: tuple[str, ...] = ()) -> set[str]:
    """Return the commands with --json that need no argument: whoever adds one adds it here, too."""
    inner = getattr(command, "commands", {})
    found = set().union(*(listings(below, (*path, name)) for name, below in inner.items()))
    options = {option for parameter in command.params for option in parameter.opts}
    needed = any(parameter.required for parameter in command.params)
    return found | ({" ".join(path)} if not inner and "--json" in options and not needed else set())


def test_all_listings_are_looked_at() -> None:
    assert listings(get_command(app)) <= LISTINGS | {"webhook test", "webhook resume"}


@pytest.mark.parametrize("as_json", [True, False])
def test_no_listing_shows_a_secret_that_got_into_the_database_or_the_configuration(
    cli: Any, full: Engine, as_json: bool
) -> None:
    with transaction(full) as connection:
        connection.execute(update(jobs).values(error=PLANTED, progress={"why": PLANTED}))
        connection.execute(update(ledger).values(reason=PLANTED, details={"why": [PLANTED]}))
        connection.execute(update(outbox).values(error=PLANTED, attempts=3))
        connection.execute(update(dead_letters).values(reason=PLANTED, record={"note": PLANTED}))
        connection.execute(update(processes).values(details={"url": PLANTED}))
        connection.execute(update(triggers).values(outcome=PLANTED))
        streams.write_ledger(connection, "flights", "note", PLANTED, at=None)
    cli("jobs", "cancel", "3")
    cli("train", "flights", "--timeout", "0", "--strategy", PLANTED)  # refused, and kept as it was sent
    config = Path(cli.config)
    config.write_text(
        config.read_text().replace(
            "[http]",
            f'mlflow_uri = "http://me:{PASSWORD}@127.0.0.1:1"\n\n[webhooks.ops]\n'
            f'url = "https://me:{PASSWORD}@ops.example.org/?token={SECRET}"\nsecret_env = "HOME"\n\n[http]',
        )
    )
    seen = ""
    for command in (*sorted(LISTINGS), *(f"{name} {of}" for name, of in ABOUT.items())):
        result = cli(*command.split(), *(["--json"] if as_json else []))
        assert result.exit_code in (0, 1, 2), result.output
        assert result.stdout.strip()
        assert PASSWORD not in result.output, command
        assert SECRET not in result.output, command
        seen += json.dumps(json.loads(result.stdout)) if as_json else result.stdout
    assert seen.count("cls_abcdefghij_***") > 5  # they came by


def test_errors_that_name_a_secret_are_told_without_it(cli: Any, tmp_path: Path) -> None:
    config = Path(cli.config)
    broken = f'[webhooks.ops]\nurl = "postgresql://me:{PASSWORD}@db/x"\nsecret_env = "HOME"\n\n[http]'
    config.write_text(config.read_text().replace("[http]", broken))
    result = cli("status")
    assert result.exit_code == 2
    assert "postgresql://me:***@db/x" in result.stderr
    assert PASSWORD not in result.output
