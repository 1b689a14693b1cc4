"""Doors that other machines reach: real processes, which refuse to open without tokens, and speak TLS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from cls.cli.main import app

CONFIG = """\
home = "home"

[http]
ingest = "0.0.0.0:{ingest}"
serve = "0.0.0.0:{serve}"
origins = ["https://ops.example.org"]
{more}

[streams.flights]
task = "regression"

[streams.flights.schema]
numeric = ["distance"]
key = "id"
event_time = "at"
target = "air_time"
"""
ROW = {"id": "a", "at": "2013-01-01T00:00:00Z", "distance": 100.0}
EVENTS = "/v1/streams/flights/events"


class House:
    """A configuration whose doors are open to all, on a database without tokens."""

    def __init__(self, folder: Path, template: str, more: str = "") -> None:
        self.folder = folder
        self.ingest, self.serve = (free_port() for _ in range(2))
        self.config = folder / "cls.toml"
        self.config.write_text(CONFIG.format(ingest=self.ingest, serve=self.serve, more=more))
        (folder / "home").mkdir()
        shutil.copyfile(template, folder / "home" / "cls.db")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cls.cli.main", "--config", str(self.config), *arguments]

    def process(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a process that is to end by itself."""
        return subprocess.run(
            self.command(name),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, *arguments: str, **environment: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, ["--config", str(self.config), *arguments], env=environment)

    def json(self, *arguments: str, **environment: str) -> Any:
        """Run a command and parse what it printed."""
        return json.loads(self.run(*arguments, "--json", **environment).stdout)

    def token(self, *scopes: str) -> str:
        """Make a token by the command line."""
        done = self.run("token", "create", "test", *(word for scope in scopes for word in ("--scope", scope)))
        assert done.exit_code == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def daemon(self) -> Iterator[Path]:
        """Run the daemon; gives the file of its log."""
        log = self.folder / "daemon.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command("daemon"),
                stderr=output,
                stdout=output,
                env=os.environ | {"CLS_LOG_LEVEL": "debug"},
            )
        try:
            eventually(lambda: "daemon ready" in log.read_text() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def eventually(found: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited {seconds:.0f} s"
        time.sleep(0.05)


def certificate(folder: Path) -> Path:
    """Sign a certificate for the loopback by its own key, certificate.pem and key.pem; returns the former."""
    made = folder / "certificate.pem"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    named = ("-subj", "/CN=cls", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1")
    files = ("-out", str(made), "-keyout", str(folder / "key.pem"))
    subprocess.run([*command, *named, *files], check=True, capture_output=True)
    return made


@pytest.mark.parametrize(("process", "field"), [("daemon", "http.ingest"), ("serve", "http.serve")])
def test_nothing_listens_outside_before_there_is_a_token(
    tmp_path: Path, sqlite_template: str, process: str, field: str
) -> None:
    house = House(tmp_path, sqlite_template)
    assert house.run("token", "create", "past", "--scope", "admin", "--expires", "1ms").exit_code == 0
    done = house.process(process)
    assert done.returncode == 2, done.stderr  # no supervisor starts it again
    assert f"{field}: 0.0.0.0:" in done.stderr
    assert "cls token create" in done.stderr
    found = {check["name"]: check for check in house.json("doctor")}
    assert found["tokens"]["state"] == "fail"
    assert found[field]["state"] == "warn"  # without TLS, which a proxy may have


def test_a_door_with_tls_answers_those_who_have_a_token_and_trust_it(
    tmp_path: Path, sqlite_template: str
) -> None:
    chain = certificate(tmp_path)
    house = House(tmp_path, sqlite_template, 'tls_certificate = "certificate.pem"\ntls_key = "key.pem"')
    ingest, read = house.token("ingest"), house.token("read")
    door = f"https://127.0.0.1:{house.ingest}"
    trust = ssl.create_default_context(cafile=str(chain))
    with house.daemon() as log, httpx.Client(base_url=door, verify=trust, trust_env=False) as client:
        sent = {"Authorization": f"Bearer {ingest}"}
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json()["reasons"] == []
        assert client.get("/openapi.json").status_code == 401
        assert client.post(EVENTS, json=ROW).status_code == 401
        assert client.post(EVENTS, json=ROW, headers={"Authorization": f"Bearer {read}"}).status_code == 403
        assert client.post(EVENTS, json=ROW, params={"token": ingest}).status_code == 401
        assert client.post(EVENTS, json=ROW, headers=sent).status_code == 202
        evil = {"Origin": "https://evil.example"}
        assert client.post(EVENTS, json=ROW, headers=sent | evil).status_code == 403
        friend = {"Origin": "https://ops.example.org"}
        answer = client.post(EVENTS, json=ROW, headers=sent | friend)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, friend["Origin"])
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
        for strange in ("cls_", ingest[:-1], ingest.swapcase(), "x" * 20_000, "\xe9" * 58):
            wrong = {b"Authorization": b"Bearer " + strange.encode("latin-1")}
            assert client.post(EVENTS, json=ROW, headers=wrong).status_code == 401

        with pytest.raises(httpx.TransportError):  # who does not trust it does not speak to it
            httpx.get(f"{door}/healthz", trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{house.ingest}/healthz", trust_env=False)

        rows = tmp_path / "rows.ndjson"
        rows.write_text("".join(json.dumps(ROW | {"id": f"k{i}"}) + "\n" for i in range(50)))
        refused = house.run("send", "flights", str(rows), CLS_TOKEN="")
        assert refused.exit_code == 1
        assert "401" in refused.stderr
        assert house.json("send", "flights", str(rows), CLS_TOKEN=ingest)["rows"] == 50
        found = {check["name"]: check for check in house.json("doctor")}
        assert "is ours" in found["port ingest"]["message"]
        assert found["tokens"]["state"] == "ok"

        assert house.run("token", "revoke", ingest.split("_")[1]).exit_code == 0
        eventually(lambda: client.post(EVENTS, json=ROW, headers=sent).status_code == 401)
        used = {row["id"]: row["used_at"] for row in house.json("token", "list")}
        assert used[ingest.split("_")[1]] is not None
        said = log.read_text()
    for token in (ingest, read):
        assert token.split("_")[2] not in said


def test_a_certificate_that_is_none_ends_the_daemon_with_its_reason(
    tmp_path: Path, sqlite_template: str
) -> None:
    certificate(tmp_path)
    (tmp_path / "key.pem").write_text("no key")
    house = House(tmp_path, sqlite_template, 'tls_certificate = "certificate.pem"\ntls_key = "key.pem"')
    house.token("ingest")
    done = house.process("daemon")
    assert done.returncode == 1
    assert "http.tls_certificate" in done.stderr
