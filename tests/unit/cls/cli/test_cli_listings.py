"""Listings: their JSON has stable keys and nothing beside it, their tables say the same, their exit codes tell scripts what is what."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, text

KEYS = {
    ("streams",): {
        "name", "task", "priority", "source", "path", "features", "target", "model", "cadence", "recipe",
    },
    ("ledger",): {
        "id", "stream", "at", "recorded_at", "kind", "decision", "reason", "episode_id", "job_id", "version", "details",
    },
    ("drift",): {
        "id", "stream", "detector", "alarm", "p_value", "nats", "baseline_nats", "start", "stop", "time_from", "time_to",
        "onset", "promotion", "summary",
    },
    ("drift", "episodes"): {
        "id", "stream", "state", "detector", "onset", "opened_at", "closed_at", "verdict_id", "assessment", "outcome",
    },
    ("jobs", "list"): {
        "id", "stream", "kind", "state", "priority", "attempt", "failures", "crashes", "worker", "cancel_requested",
        "created_at", "run_at", "started_at", "ended_at", "decided_at", "charged_seconds", "passes", "progress", "error",
        "strategy", "reason", "similarity", "distance", "effort",
    },
    ("models", "list", "flights"): {
        "stream", "number", "digest", "parent", "job_id", "strategy", "learned_up_to", "reference_from", "reference_to",
        "created_at", "metrics", "role", "rollout",
    },
    ("dead-letters",): {"id", "stream", "kind", "reason", "record", "received_at", "replayed_at"},
}  # fmt: skip


@pytest.mark.parametrize("command", list(KEYS), ids=" ".join)
def test_a_listing_has_stable_keys_and_a_table(cli: Any, full: Engine, command: tuple[str, ...]) -> None:
    rows = cli.json(*command)
    assert rows
    assert all(set(row) == KEYS[command] for row in rows)
    table = cli(*command)
    assert table.exit_code == 0
    assert "Traceback" not in table.output
    assert table.stdout.count("\n") >= len(rows)


def test_times_are_iso_and_numbers_are_numbers(cli: Any, full: Engine) -> None:
    newest = cli.json("models", "list", "flights")[0]
    assert newest["number"] == 2
    assert newest["role"] == "champion"
    assert newest["created_at"].endswith("+00:00")
    assert newest["metrics"] == {"loss": 7.0}
    assert cli.json("drift", "--alarms")[0]["time_to"] == "2013-01-02T00:00:00+00:00"


def test_status_tells_what_serves_what_lags_and_what_waits(cli: Any, full: Engine) -> None:
    status = cli.json("status")
    assert set(status) == {"streams", "processes", "outbox"}
    flights = next(stream for stream in status["streams"] if stream["name"] == "flights")
    assert set(flights) == {
        "name", "task", "priority", "champion", "previous", "champion_since", "watermark", "events", "labels", "scored",
        "joined", "score_lag", "join_lag", "inbox_waiting", "labels_waiting", "dead_letters", "episode", "jobs",
        "rollouts", "budget",
    }  # fmt: skip
    assert (flights["champion"], flights["previous"], flights["events"], flights["score_lag"]) == (
        2,
        1,
        50,
        20,
    )
    assert flights["dead_letters"] == 3
    assert flights["episode"]["state"] == "open"
    assert [job["kind"] for job in flights["jobs"]] == ["assess"]
    assert flights["watermark"] == "2013-01-04T00:00:00+00:00"
    assert status["outbox"]["error"] == "MLflow does not answer"
    assert status["processes"][0]["state"] == "alive"
    people = cli("status", "flights")
    assert "open since event 480" in people.stdout
    assert "MLflow does not answer" in people.stdout
    assert "quiet" not in people.stdout


def test_filters_and_limits_hold(cli: Any, full: Engine) -> None:
    assert len(cli.json("drift", "flights")) == 2
    assert len(cli.json("drift", "--limit", "1", "flights")) == 1
    assert [row["alarm"] for row in cli.json("drift", "flights", "--alarms")] == [True]
    assert cli.json("drift", "quiet") == []
    assert [row["stream"] for row in cli.json("ledger", "quiet")] == ["quiet"]
    assert cli("drift", "quiet").stdout.strip() == "no window was judged yet"


def test_a_verdict_is_drawn_with_its_features_and_bins(cli: Any, full: Engine) -> None:
    shown = cli.json("drift", "show", "2")
    assert shown["drift"]["features"][0]["name"] == "distance"
    drawn = cli("drift", "show", "2").stdout
    assert "reference" in drawn
    assert "█" in drawn
    assert "100%" in drawn  # distance's share


def test_a_version_shows_its_gate_and_its_service(cli: Any, full: Engine) -> None:
    shown = cli.json("models", "show", "flights", "1")
    assert shown["champion"] is False
    assert shown["gate"]["slices"][0]["name"] == "fresh"
    assert [promotion["reason"] for promotion in shown["promotions"]] == ["better"]
    assert "no slice is worse" in cli("models", "show", "flights", "1").stdout


def test_a_job_shows_its_frozen_input(cli: Any, full: Engine) -> None:
    shown = cli.json("jobs", "show", "1")
    assert shown["input"]["decided_at"] == "2013-01-01T00:00:00+00:00"
    assert shown["result"] == {"version": 1}
    assert "ewc+replay" in cli("jobs", "show", "1").stdout


def test_the_likeness_that_a_training_found_is_shown(cli: Any, full: Engine) -> None:
    found = {"similarity": "far", "distance": 0.75, "effort": 1.41}
    nothing = dict.fromkeys(found)
    listed = {row["id"]: row for row in cli.json("jobs", "list")}
    for number, expected in ((1, nothing), (2, found)):
        for row in (
            listed[number],
            cli.json("jobs", "show", str(number)),
            cli.json("models", "show", "flights", str(number)),
        ):
            assert {name: row[name] for name in found} == expected
    for command in (("jobs", "show", "2"), ("models", "show", "flights", "2")):
        lines = [line.split() for line in cli(*command).stdout.splitlines()]
        for name, value in (("similarity", "far"), ("distance", "0.75"), ("effort", "1.41")):
            assert [name, value] in lines


def test_records_are_never_read_as_markup(cli: Any, full: Engine) -> None:
    assert "[bold]far" in cli("dead-letters").stdout


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("status", "flight"), "did you mean 'flights'"),
        (("ledger", "nobody"), "no stream is called"),
        (("jobs", "show", "99"), "no job 99"),
        (("drift", "show", "99"), "no verdict 99"),
        (("models", "show", "flights", "9"), "no version 9"),
        (("models", "promote", "flights", "9"), "no version 9"),
        (("dead-letters", "replay", "flights", "--id", "99"), "no dead letter 99"),
    ],
)
def test_what_is_not_there_ends_with_3_and_one_line(
    cli: Any, full: Engine, command: tuple[str, ...], hint: str
) -> None:
    result = cli(*command)
    assert result.exit_code == 3
    assert hint in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "ledger", "drift", "dead-letters"])
def test_nothing_set_up_ends_with_3_says_how_and_makes_nothing(cli: Any, command: str) -> None:
    result = cli(command)
    assert result.exit_code == 3
    assert "cls up" in result.stderr
    assert not (cli.config.parent / "home").exists()


def test_a_database_without_our_tables_ends_with_3(cli: Any, state: Engine) -> None:
    with state.begin() as connection:
        connection.execute(text("DROP TABLE ledger"))
    result = cli("ledger")
    assert result.exit_code == 3
    assert "cls db upgrade" in result.stderr


def test_a_database_that_does_not_answer_ends_with_4_and_no_password(
    cli: Any, free_ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS_DATABASE_URL", f"postgresql+psycopg://me:s3cret@127.0.0.1:{free_ports(1)[0]}/cls")
    result = cli("status")
    assert result.exit_code == 4
    assert "s3cret" not in result.output


def test_json_says_null_where_it_has_no_number() -> None:
    from cls.cli.output import plain

    assert (
        json.dumps(plain({"a": float("nan"), "b": [float("inf")]}), allow_nan=False)
        == '{"a": null, "b": [null]}'
    )
