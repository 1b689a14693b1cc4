"""The servers that are measured: each a process group of its own, stopped (SIGSTOP) while another one is under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

ROOT = Path(__file__).parent.parent
READY_SECONDS = 90.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where mlflow looks for uvicorn
}
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Interface:
    """How a server is asked."""

    one: str  # path for a single row
    many: str  # path for a list of rows
    wrapper: str | None  # of a list of rows; None: the bare list
    wrap_one: bool = False  # single rows are lists of one

    def path(self, rows: Rows) -> str:
        """Return where some rows are sent."""
        return self.one if len(rows) == 1 else self.many

    def body(self, rows: Rows) -> bytes:
        """Return the request that asks for some rows."""
        if len(rows) == 1 and not self.wrap_one:
            return orjson.dumps(rows[0])
        return orjson.dumps(list(rows) if self.wrapper is None else {self.wrapper: list(rows)})


class Server:
    """A process that answers on a loopback port.

    Parameters
    ----------
    name
        For people.
    command
        What is run.
    log
        Where what it says goes.
    """

    def __init__(self, name: str, port: int, command: Sequence[str], interface: Interface, log: Path) -> None:
        self.name, self.port, self.interface = name, port, interface
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process that was started; others may be below it."""
        return self._process.pid

    def await_ready(self, rows: Rows) -> None:
        """Wait until it answers; raises `SystemExit` with its last words if it ends before."""
        until = time.monotonic() + READY_SECONDS
        url = f"http://127.0.0.1:{self.port}{self.interface.path(rows)}"
        headers = {"Content-Type": "application/json"}
        while True:
            try:
                answer = httpx.post(url, content=self.interface.body(rows), headers=headers, timeout=10.0)
                if answer.status_code == 200:
                    return
                last = answer.text
            except httpx.TransportError as error:
                last = str(error)
            if self._process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.name} does not answer ({last}):\n{self._log.read_text()[-3000:]}")
            time.sleep(0.2)

    def said(self, words: str) -> int:
        """Return how often its log has some words."""
        return self._log.read_text(errors="replace").count(words)

    def await_words(self, words: str, times: int = 1) -> None:
        """Wait until its log has some words so often; raises `SystemExit` if they do not come."""
        until = time.monotonic() + READY_SECONDS
        while self.said(words) < times:
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not say {words!r}:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    def pause(self) -> None:
        """Stop all its processes: while another server is measured, they take nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them run again."""
        os.killpg(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """End them all."""
        with suppress(ProcessLookupError):
            self.go_on()
            os.killpg(self.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def cls_server(port: int, config: Path, log: Path) -> Server:
    """Start `cls serve`."""
    path = "/v1/streams/flights/predict"
    command = [sys.executable, "-m", "cls.cli.main", "--config", str(config), "serve"]
    return Server("CLS", port, command, Interface(path, path, "rows"), log)


def fastapi_server(port: int, network: Path, log: Path) -> Server:
    """Start plain FastAPI."""
    command = [sys.executable, "-m", "benchmarks.serving_fastapi", str(network), str(port)]
    return Server("plain FastAPI", port, command, Interface("/predict", "/predict_many", None), log)


def litserve_server(python: str, port: int, network: Path, log: Path) -> Server:
    """Start LitServe in its own environment."""
    command = [python, "-m", "benchmarks.serving_litserve", str(network), str(port)]
    return Server("LitServe", port, command, Interface("/predict", "/predict", "rows"), log)


def mlflow_server(port: int, network: Path, log: Path) -> Server:
    """Save the network as a model of MLflow and start `mlflow models serve` on it."""
    model = network / "mlflow"
    command = [sys.executable, "-m", "benchmarks.serving_mlflow", str(network), str(model)]
    subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, check=True, capture_output=True)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    interface = Interface("/invocations", "/invocations", "dataframe_records", wrap_one=True)
    return Server("mlflow models serve", port, command, interface, log)
