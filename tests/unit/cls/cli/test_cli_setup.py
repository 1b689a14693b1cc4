"""Before anything runs: writing, inferring and checking a configuration; the database's schema."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cls.cli.main import app
from cls.config import load_config
from cls.settings.check import check_config
from storage.db import open_database
from storage.schema import current, head


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "Flights 2013.csv"
    rows = [f"f{i},2013-01-{1 + i // 24:02d}T{i % 24:02d}:00:00Z,{i * 7.5},{i * 1.5}" for i in range(100)]
    path.write_text("\n".join(["flight_id,at,distance,target", *rows]) + "\n")
    return path


def test_init_writes_a_configuration_without_faults_and_never_overwrites(tmp_path: Path) -> None:
    assert run("init", str(tmp_path / "new")).exit_code == 0
    path = tmp_path / "new" / "cls.toml"
    assert check_config(path) == []
    before = path.read_bytes()
    again = run("init", str(tmp_path / "new"))
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert path.read_bytes() == before


def test_an_inferred_stream_that_is_appended_is_a_faultless_configuration(tmp_path: Path, data: Path) -> None:
    run("init", str(tmp_path))
    path = tmp_path / "cls.toml"
    shown = run("--config", str(path), "stream", "infer", str(data))
    assert shown.exit_code == 0
    assert "[streams.flights-2013]" in shown.stdout
    assert run("--config", str(path), "stream", "infer", str(data), "--write").exit_code == 0
    assert check_config(path) == []
    schema = load_config(path).streams["flights-2013"].columns
    assert (schema.key, schema.event_time, schema.target) == ("flight_id", "at", "target")
    twice = run("--config", str(path), "stream", "infer", str(data), "--write")
    assert twice.exit_code == 1
    assert "--name" in twice.stderr


def test_infer_as_json_names_a_reason_for_every_column(data: Path) -> None:
    result = run("stream", "infer", str(data), "--name", "f", "--json")
    proposal = json.loads(result.stdout)
    assert set(proposal) == {"name", "path", "rows", "task", "schema", "reasons", "toml"}
    assert set(proposal["reasons"]) == {"flight_id", "at", "distance", "target"}


def test_infer_refuses_a_bad_name_and_a_missing_file(data: Path, tmp_path: Path) -> None:
    assert run("stream", "infer", str(data), "--name", "Not a name").exit_code == 2
    assert run("stream", "infer", str(tmp_path / "none.csv")).exit_code == 1


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "cls.toml"
    path.write_text("[worker]\nslot = 1\nthreads = 'x'\n")
    result = run("--config", str(path), "config", "check", "--json")
    assert result.exit_code == 2
    faults = json.loads(result.stdout)
    assert [(fault["place"], fault["line"]) for fault in faults] == [
        ("worker.slot", 2),
        ("worker.threads", 3),
    ]
    assert "slots" in faults[0]["message"]
    for command in (
        ["config", "check"],
        ["status"],
        ["streams"],
        ["config", "show"],
        ["db", "check"],
        ["up"],
    ):
        other = run("--config", str(path), *command)
        assert other.exit_code == 2, command
        assert "worker.slot" in other.output, command
        assert "worker.threads" in other.output, command


def test_a_recipe_that_cannot_work_is_a_warning_of_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "cls.toml"
    text = (
        '[streams.f]\ntask = "regression"\n'
        '[streams.f.schema]\nnumeric = ["x"]\nkey = "id"\nevent_time = "at"\ntarget = "y"\n'
        '[streams.f.update]\nrecipe = "auto"\noverrides = { %s }\n'
    )
    path.write_text(text % "")
    assert run("--config", str(path), "config", "check").stdout == "no fault\n"
    path.write_text(text % 'class_mask = "ace"')
    result = run("--config", str(path), "config", "check", "--json")
    assert result.exit_code == 0
    (warning,) = json.loads(result.stdout)
    assert warning["place"] == "streams.f.update.overrides.class_mask"
    assert (warning["line"], warning["level"]) == (10, "warning")
    shown = run("--config", str(path), "config", "check").stdout
    assert "class_mask" in shown
    assert shown.endswith("\nno fault, 1 warning\n")
    path.write_text(text % 'memory_balance = "class"')
    result = run("--config", str(path), "config", "check")
    assert result.exit_code == 2
    assert "memory_balance" in result.stdout
    assert "no fault" not in result.stdout
    path.write_text(text % "mixup = 0.2, cutmix = 0.2")
    result = run("--config", str(path), "config", "check", "--json")
    assert result.exit_code == 2
    assert "exclude each other" in json.loads(result.stdout)[0]["message"]


def test_a_missing_configuration_says_how_to_get_one(tmp_path: Path) -> None:
    result = run("--config", str(tmp_path / "cls.toml"), "status")
    assert result.exit_code == 2
    assert "cls init" in result.stderr


def test_the_configuration_is_shown_without_passwords(tmp_path: Path) -> None:
    path = tmp_path / "cls.toml"
    path.write_text(
        'database_url = "postgresql+psycopg://me:s3cret@db/cls"\nmlflow_uri = "http://u:pw99@mlflow:5000"\n'
        '[webhooks.ops]\nurl = "https://hooks.example/services/s3cret"\nsecret_env = "HOOK"\n'
    )
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        result = run("--config", str(path), *arguments)
        assert result.exit_code == 0
        assert "s3cret" not in result.output
        assert "pw99" not in result.output
        assert "postgresql+psycopg://me:***@db/cls" in result.stdout
        assert "https://hooks.example" in result.stdout


def test_a_database_is_made_once_and_then_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "cls.toml"
    path.write_text("")
    before = run("--config", str(path), "db", "check")
    assert before.exit_code == 3
    assert not (tmp_path / ".cls" / "cls.db").exists()  # looking makes nothing
    assert run("--config", str(path), "db", "upgrade").exit_code == 0
    engine = open_database(f"sqlite:///{tmp_path / '.cls' / 'cls.db'}")
    assert current(engine) == head()
    engine.dispose()
    assert json.loads(run("--config", str(path), "db", "check", "--json").stdout)["ok"] is True
    assert "up to date" in run("--config", str(path), "db", "upgrade").stdout
