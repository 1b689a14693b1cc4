"""The doctor: each thing that is wrong is found, named and given a fix; what is merely absent is no failure."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cls.config import load_config
from cls.doctor import examine
from storage import queue
from storage.db import transaction


def states(checks: list[dict[str, str]]) -> dict[str, str]:
    worst: dict[str, str] = {}
    for check in checks:
        worst[check["name"]] = max(
            worst.get(check["name"], ""), check["state"], key=["", "ok", "warn", "fail"].index
        )
    return worst


@contextmanager
def listening(port: int, status: int) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_fresh_configuration_has_no_failure(cli: Any) -> None:
    found = states(cli.json("doctor"))
    assert found["python"] == found["packages"] == found["configuration"] == found["home"] == "ok"
    assert found["database"] == "warn"
    assert "fail" not in found.values()


def test_a_home_that_lives_shows_what_waits(cli: Any, full: Engine) -> None:
    checks = cli.json("doctor")
    assert all(set(check) == {"name", "state", "message", "fix"} for check in checks)
    assert all(check["fix"] for check in checks if check["state"] != "ok")
    found = states(checks)
    assert found["schema"] == found["daemon"] == found["leases"] == found["queue"] == "ok"
    assert found["clock"] == "ok"
    assert found["worker"] == found["reporter"] == found["serve"] == "warn"
    assert next(check["fix"] for check in checks if check["name"] == "reporter").endswith(
        "`cls worker --reports`"
    )
    assert found["outbox"] == "warn"
    assert "MLflow does not answer" in cli("doctor").stdout


def test_orphans_and_stuck_jobs_and_the_vanished_are_found(cli: Any, full: Engine) -> None:
    with transaction(full) as connection:
        assert queue.claim(connection, "w", timedelta(seconds=60)) is not None
        connection.execute(
            text("UPDATE jobs SET lease_until = lease_until - 3600000000 WHERE state = 'running'")
        )
        connection.execute(text("UPDATE processes SET seen_at = seen_at - 120000000"))
    found = states(cli.json("doctor"))
    assert found["leases"] == "warn"
    assert found["daemon"] == "warn"
    with transaction(full) as connection:
        connection.execute(
            text("UPDATE jobs SET state = 'queued', run_at = run_at - 3600000000 WHERE id = 3")
        )
    assert states(cli.json("doctor"))["queue"] == "warn"


def test_an_old_schema_fails_with_the_command_that_helps(cli: Any, full: Engine) -> None:
    with full.begin() as connection:
        connection.execute(text("DELETE FROM cls_alembic_version"))
    checks = cli.json("doctor", code=1)
    schema = next(check for check in checks if check["name"] == "schema")
    assert schema["state"] == "fail"
    assert "cls db upgrade" in schema["fix"]


def test_a_port_is_free_ours_or_somebody_elses(cli: Any) -> None:
    port = int(load_config(cli.config).http.ingest.rpartition(":")[2])
    assert states(cli.json("doctor"))["port ingest"] == "ok"
    with listening(port, 200):
        assert states(cli.json("doctor"))["port ingest"] == "ok"
    with listening(port, 404):
        assert states(cli.json("doctor", code=1))["port ingest"] == "fail"


def test_an_mlflow_server_that_is_away_is_no_failure(
    cli: Any, free_ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS_MLFLOW_URI", f"http://me:s3cret@127.0.0.1:{free_ports(1)[0]}")
    result = cli("doctor")
    assert result.exit_code == 0
    assert "s3cret" not in result.output
    assert states(cli.json("doctor"))["mlflow"] == "warn"


def test_a_database_that_does_not_answer_fails(
    cli: Any, free_ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS_DATABASE_URL", f"postgresql://me:s3cret@127.0.0.1:{free_ports(1)[0]}/cls")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "s3cret" not in result.output


def test_faults_of_the_configuration_are_all_told(tmp_path: Path) -> None:
    path = tmp_path / "cls.toml"
    path.write_text("[worker]\nslot = 1\n[http]\nserves = ''\n")
    faults = [check for check in examine(path) if check.name == "configuration"]
    assert [check.state for check in faults] == ["fail", "fail"]
    assert "slots" in faults[0].message


def test_a_check_that_breaks_is_a_failed_check_and_the_others_go_on(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("at postgresql://a:s3cret@h/x")

    monkeypatch.setattr("cls.doctor.ports", broken)
    checks = {check.name: check for check in examine(cli.config)}
    assert checks["ports"].state == "fail"
    assert "s3cret" not in checks["ports"].message
    assert "database" in checks
