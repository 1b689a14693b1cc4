"""The daemon never holds torch, evidently or mlflow, neither when it is imported nor after work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.harness import System

HEAVY = ("torch", "evidently", "safetensors", "mlflow")
IMPORTED = f"import sys, cls.daemon; print([name for name in {HEAVY} if name in sys.modules])"
WORKED = f"""
import sys, threading, time
from pathlib import Path
import httpx
from cls.config import load_config
from cls.daemon import run

config, stop = load_config(Path(sys.argv[1])), threading.Event()

def work():
    url = f"http://{{config.http.ingest}}/v1/streams/tide"
    for kind, row in (("events", {{"id": "k", "at": "2020-01-01T00:00:00Z", "a": 1.0}}), ("labels", {{"id": "k", "y": 2.0}})):
        while True:
            try:
                assert httpx.post(f"{{url}}/{{kind}}", json=row).status_code == 202
                break
            except httpx.TransportError:
                time.sleep(0.05)
    while httpx.get(url).json()["labels"] < 1:
        time.sleep(0.02)
    stop.set()

thread = threading.Thread(target=work, daemon=True)
thread.start()
run(config, stop)
print([name for name in {HEAVY} if name in sys.modules])
"""


def printed(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout.strip().splitlines()[-1]


def test_importing_the_daemon_imports_nothing_heavy() -> None:
    assert printed(IMPORTED) == "[]"


@pytest.mark.chaos
def test_a_daemon_that_has_worked_holds_nothing_heavy(tmp_path: Path, sqlite_url: str) -> None:
    system = System(tmp_path / "run", sqlite_url)
    system.close()
    assert printed(WORKED, str(system.path)) == "[]"
