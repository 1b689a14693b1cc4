"""`cls up` with its real children: it starts, works, heals, and leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

CONFIG = """\
home = "home"

[http]
ingest = "127.0.0.1:{}"
serve = "127.0.0.1:{}"
mlflow = "127.0.0.1:{}"

[streams.flights]
task = "regression"

[streams.flights.schema]
numeric = ["distance"]
key = "id"
event_time = "at"
target = "air_time"
"""


class Roof:
    """A running `cls up`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cls.cli.main", "--config", str(folder / "cls.toml"), "up", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.seen: dict[int, psutil.Process] = {}

    def children(self) -> dict[str, int]:
        """Return the pid of each of our processes by its command, and remember all of them."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self.seen[child.pid] = child
            try:
                words = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            for name in ("daemon", "worker", "serve"):
                if name in words and "cls.cli.main" in words:
                    found["reporter" if "--reports" in words else name] = child.pid
        return found

    def log(self, name: str) -> str:
        """Return the log of a child."""
        path = self.folder / "home" / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def ready(self) -> bool:
        """Whether every process has said that it is ready."""
        self.children()
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        return all(f"{name} ready" in self.log(file) for name, file in
                   (("daemon", "daemon"), ("worker", "worker-0"), ("worker", "reporter"), ("serve", "serve")))  # fmt: skip

    def stop(self, how: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code and what was said."""
        self.children()
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def remaining(self) -> list[psutil.Process]:
        """Return those of the processes ever seen that still run."""
        return [p for p in self.seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def until(found: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def roof(tmp_path: Path) -> Iterator[Callable[..., Roof]]:
    """Return a function that starts `cls up`; whatever a failed test leaves is killed."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    (tmp_path / "cls.toml").write_text(CONFIG.format(*(one.getsockname()[1] for one in sockets)))
    for listener in sockets:
        listener.close()
    started: list[Roof] = []

    def start(*options: str) -> Roof:
        started.append(Roof(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        if one.process.stderr is not None:
            one.process.stderr.close()
        for process in one.remaining():
            process.kill()


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cls.cli.main", "--config", str(folder / "cls.toml"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.chaos
@pytest.mark.slow
def test_everything_starts_heals_and_stops_on_sigterm(roof: Callable[..., Roof], tmp_path: Path) -> None:
    up = roof("--no-ui")
    until(up.ready)
    second = cli(tmp_path, "up", "--no-ui")
    assert second.returncode == 1
    assert f"as process {up.process.pid}" in second.stderr

    rows = tmp_path / "rows.csv"
    rows.write_text("id,at,distance\n" + "".join(f"r{i},2013-01-05T00:00:00Z,{i}\n" for i in range(20)))
    assert cli(tmp_path, "send", "flights", str(rows)).returncode == 0
    until(lambda: '"events": 20' in cli(tmp_path, "status", "--json").stdout)
    doctor = cli(tmp_path, "doctor")
    assert doctor.returncode == 0, doctor.stdout
    known = json.loads(cli(tmp_path, "status", "--json").stdout)["processes"]
    assert sorted(one["kind"] for one in known) == ["daemon", "reporter", "serve", "worker"]

    before = up.children()
    os.kill(before["daemon"], signal.SIGKILL)
    until(lambda: up.children().get("daemon", before["daemon"]) != before["daemon"])
    until(lambda: up.log("daemon").count("daemon ready") == 2)
    after = up.children()
    others = ("worker", "reporter", "serve")
    assert [after[name] for name in others] == [before[name] for name in others]
    assert '"events": 20' in cli(tmp_path, "status", "--json").stdout

    code, said = up.stop(signal.SIGTERM)
    assert code == 0
    assert "daemon was ended by a signal (Killed); starting it again" in said
    assert said.rstrip().endswith("everything was stopped")
    assert up.remaining() == []
    gone = cli(tmp_path, "status", "--json").stdout
    assert "worker@" not in gone  # they signed out
    assert "serve@" not in gone


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_roof_takes_everything_with_it(roof: Callable[..., Roof]) -> None:
    up = roof()
    until(up.ready)
    until(lambda: "Uvicorn running" in up.log("mlflow") or "Application startup complete" in up.log("mlflow"))
    up.stop(signal.SIGKILL)
    assert len(up.seen) >= 4
    until(lambda: up.remaining() == [], 60)


@pytest.mark.slow
def test_a_child_that_cannot_start_stops_everything_and_is_quoted(
    roof: Callable[..., Roof], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import sys\nif 'worker' in sys.orig_argv:\n    raise SystemExit('the worker is broken')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    up = roof("--no-ui")
    until(lambda: {"daemon", "serve"} <= set(up.children()))
    _, said = up.process.communicate(timeout=60)
    assert up.process.returncode == 1
    assert "worker-0 ended with code 1 and is given up" in said
    assert "the worker is broken" in said
    assert up.remaining() == []
