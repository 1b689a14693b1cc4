"""The demo's processes: `cls up` as a user would start it, its memory watched, and its end awaited."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import psutil

from cls.errors import Unavailable

READY_SECONDS = 120.0


@dataclass
class Memory:
    """Peak resident memory by process, in bytes."""

    peak: dict[str, int] = field(default_factory=dict)

    def look(self, root: psutil.Process) -> None:
        """Look at every process below `root`."""
        for process in root.children(recursive=True):
            try:
                words, size = process.cmdline(), process.memory_info().rss
            except psutil.Error:
                continue
            name = _name(words)
            if name:
                self.peak[name] = max(self.peak.get(name, 0), size)


def _name(words: list[str]) -> str | None:
    if "mlflow" in words or any("mlflow.server" in word or word.endswith("mlflow") for word in words):
        return "mlflow ui"
    for name in ("daemon", "worker", "serve"):
        if name in words:
            return "reporter" if "--reports" in words else name
    return None


def free_address() -> str:
    """Return a loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def cls_command(config: Path, *arguments: str) -> list[str]:
    """Return a `cls` command line on a configuration."""
    return [sys.executable, "-m", "cls.cli.main", "--config", str(config), *arguments]


def run_cli(config: Path, *arguments: str) -> Any:
    """Run a `cls` command with --json and return what it printed; raises `Unavailable` with its last words if it fails."""
    done = subprocess.run(  # noqa: S603 - a command of ours, no shell
        [*cls_command(config, *arguments), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"cls {' '.join(arguments)} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


@contextmanager
def services(config: Path, ingest: str, serve: str) -> Iterator[Memory]:
    """Hold `cls up` while the block runs; nothing of it is left afterwards."""
    process = subprocess.Popen(  # noqa: S603 - a command of ours, no shell
        cls_command(config, "up", "--no-ui"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    memory, done = Memory(), Event()
    watcher = Thread(target=_watch, args=(process.pid, memory, done), daemon=True)
    try:
        _await_ready(process, (ingest, serve))
        watcher.start()
        yield memory
    finally:
        done.set()
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _watch(pid: int, memory: Memory, done: Event) -> None:
    try:
        root = psutil.Process(pid)
        while not done.wait(0.5):
            memory.look(root)
    except psutil.Error:
        return


def _await_ready(process: subprocess.Popen[str], addresses: tuple[str, ...]) -> None:
    until = time.monotonic() + READY_SECONDS
    for address in addresses:
        while True:
            if process.poll() is not None:
                raise Unavailable(f"cls up ended: {process.stdout.read() if process.stdout else ''}")
            try:
                if httpx.get(f"http://{address}/healthz", timeout=2.0).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                raise Unavailable(f"nothing answers on {address}; see the logs under the demo's home")
            time.sleep(0.1)
