"""`cls up` before its first child: what it would start, and what it refuses to start on."""

import http.server
import json
import os
import signal
import socket
import sys
import threading
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cls.cli.exits import Root
from cls.config import load_config
from cls.errors import Refused, Unavailable
from cls.up import only_one, programs_of, refuse_taken, up


def test_programs_start_in_order_and_carry_no_password(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLS__WORKER__SLOTS", "2")
    monkeypatch.setenv("CLS_MLFLOW_URI", "postgresql://u:s3cret@h/mlflow")
    programs = programs_of(load_config(cli.config), cli.config, ui=True)
    assert [program.name for program in programs] == [
        "daemon",
        "worker-0",
        "worker-1",
        "reporter",
        "serve",
        "mlflow",
    ]
    assert all("s3cret" not in " ".join(program.command) for program in programs)
    assert [program.name for program in programs if not program.needed] == ["reporter", "mlflow"]
    assert programs[-1].environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert programs[-1].environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert programs[-1].end_with == signal.SIGTERM  # it passes it on to its server
    assert str(cli.config) in programs[0].command


def test_no_ui_is_started_on_request_or_where_a_server_has_its_own(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "mlflow" not in [program.name for program in programs_of(load_config(cli.config), None, ui=False)]
    monkeypatch.setenv("CLS_MLFLOW_URI", "http://mlflow:5000")
    assert "mlflow" not in [program.name for program in programs_of(load_config(cli.config), None, ui=True)]
    shown = cli("ui")
    assert shown.exit_code == 0
    assert shown.stdout.strip() == "http://mlflow:5000"


def test_a_ui_that_runs_already_is_named_and_another_program_is_not_taken_for_it(cli: Any) -> None:
    address = load_config(cli.config).http.mlflow
    host, _, port = address.rpartition(":")
    for body, code in ((b"OK", 0), (b"<html>", 1)):

        class Handler(http.server.BaseHTTPRequestHandler):
            answer = body

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(self.answer)

            def log_message(self, *_: object) -> None:
                return

        with http.server.ThreadingHTTPServer((host, int(port)), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            shown = cli("ui")
            server.shutdown()
        assert shown.exit_code == code
        assert shown.stdout.startswith(f"http://{address}/#/") == (code == 0)


@pytest.mark.parametrize(
    ("error", "said"), [(BrokenPipeError(32, "Broken pipe"), ""), (PermissionError(13, "No", "f"), "cls: ")]
)
def test_a_reader_that_has_enough_hears_no_complaint_and_others_one_line(error: OSError, said: str) -> None:
    app = typer.Typer(cls=Root)

    @app.callback()
    def group() -> None: ...

    @app.command()
    def listing() -> None:
        raise error

    result = CliRunner().invoke(app, ["listing"])
    assert result.exit_code == 1
    assert result.stderr[:5] == said
    assert len(result.stderr.splitlines()) == bool(said)


def test_a_home_has_one_roof(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(Refused, match="already, as process"), only_one(tmp_path):
        pytest.fail("two at once")
    with only_one(tmp_path):
        pass


def test_a_home_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot write"), only_one(tmp_path / "file" / "home"):
        pytest.fail("there is no directory")


def test_a_taken_port_is_refused_before_anything_starts(cli: Any) -> None:
    config = load_config(cli.config)
    host, _, port = config.http.ingest.rpartition(":")
    with socket.create_server((host, int(port))):
        with pytest.raises(Refused, match=r"http\.ingest"):
            refuse_taken("daemon", config.http.ingest)
        with pytest.raises(Refused, match="is taken"):
            up(config, cli.config, threading.Event(), lambda _: None)
    assert not (config.home / "logs").exists()


def test_a_backtest_without_data_or_with_a_bad_setting_does_not_begin(cli: Any, tmp_path: Path) -> None:
    assert cli("backtest", str(tmp_path / "none.csv"), "--stream", "flights").exit_code == 3
    data = tmp_path / "d.csv"
    data.write_text("id\n1\n")
    assert cli("backtest", str(data), "--stream", "flights", "--set", "cadence").exit_code == 2
    assert cli("backtest", str(data), "--stream", "flights", "--step", "soon").exit_code == 2
    wrong = cli("backtest", str(data), "--stream", "flights", "--set", "update.cadnce=every")
    assert wrong.exit_code == 2
    assert "update.cadnce" in wrong.stderr
    for setting, place, said in (
        ("update.recipe=der+", "update.recipe", "did you mean 'der++'"),
        ("update.overrides.memory_row=4", "update.overrides.memory_row", "did you mean 'memory_rows'"),
        ("update.overrides.loss=cross_entropy", "update.overrides.loss", "does not fit a regression"),
    ):
        wrong = cli("backtest", str(data), "--stream", "flights", "--set", setting)
        assert wrong.exit_code == 2
        _, line = wrong.stderr.splitlines()
        assert f"streams.flights.{place}" in line
        assert said in line
    unwritable = cli("backtest", str(data), "--stream", "flights", "--out", str(data / "below"))
    assert unwritable.exit_code == 1
    assert unwritable.stderr.startswith("cls: ")
    assert str(data) in unwritable.stderr


def test_a_backtest_is_told_as_tables_as_json_and_as_a_file(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Result:
        def to_json(self) -> dict[str, Any]:
            updates = [{"at": "2013-02-01", "why": "drift", "details": {"a": 1}}]
            return {"rows": 7, "mean_loss": float("nan"), "by_month": {"2013-02": 9.5}, "updates": updates}

    def run_backtest(config: Any, stream: str, data: Path, **options: Any) -> Result:
        seen.append((config.streams[stream].update.cadence, data, options["step"]))
        return Result()

    monkeypatch.setitem(sys.modules, "cls.backtest", types.SimpleNamespace(run_backtest=run_backtest))
    data = tmp_path / "d.csv"
    data.write_text("id\n1\n")
    arguments = [
        "backtest",
        str(data),
        "--stream",
        "flights",
        "--set",
        "update.cadence=continuous",
        "--step",
        "1h",
    ]
    document = cli.json(*arguments, "--out", str(tmp_path / "out"))
    assert document["mean_loss"] is None
    assert json.loads((tmp_path / "out" / "backtest-flights.json").read_text()) == document
    assert seen == [("continuous", data, timedelta(hours=1))]
    assert "CLS__STREAMS__FLIGHTS__UPDATE__CADENCE" not in os.environ
    table = cli(*arguments).stdout
    assert "2013-02" in table
    assert "drift" in table
