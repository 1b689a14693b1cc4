"""`cls up`: everything that CLS needs on one machine, under one roof: daemon, workers, reporter, serve and the MLflow UI."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from cls.config import Config
from cls.doors.calling import url_of
from cls.errors import Refused, Unavailable
from cls.supervise import Patience, Program, supervise

READY_SECONDS = 60.0
_UI = """
import os, sys
from storage.mlflow_registry import MlflowRegistry
MlflowRegistry(os.environ["MLFLOW_BACKEND_STORE_URI"]).prepare()  # under a lock: MLflow's own way breaks beside another process
os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *sys.argv[1:]])
"""
MLFLOW_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a few hundred MB
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def up(
    config: Config,
    path: Path | None,
    stop: Event,
    report: Callable[[str], None],
    *,
    ui: bool = True,
    patience: Patience | None = None,
    hurry: Event | None = None,
) -> None:
    """Run all processes until told to stop; when this returns or raises, none is left.

    Parameters
    ----------
    path
        Of the configuration, for the children; None for the default one.
    stop
        Set to end everything.
    report
        Takes a line for people.
    ui
        Whether to start the MLflow UI.
    patience
        How often to start a dying process again.
    hurry
        Set it, too, to kill at once what has not ended yet.

    Raises
    ------
    Refused
        If another `cls up` runs on this home, a port is taken, or a process keeps dying.
    Unavailable
        If the database cannot be upgraded.
    """
    programs = programs_of(config, path, ui=ui)
    with only_one(config.home):
        addresses = {"daemon": config.http.ingest, "serve": config.http.serve}
        if any(program.name == "mlflow" for program in programs):
            addresses["mlflow"] = config.http.mlflow
        for name, address in addresses.items():
            refuse_taken(name, address)
        _upgrade(path)
        pages = {"mlflow": ui_url(config)}
        pages |= {name: url_of(config, addresses[name]) for name in ("daemon", "serve")}
        report(f"home {config.home}, logs in {config.home / 'logs'}")
        Thread(
            target=_announce,
            args=(addresses, pages, stop, report),
            name="announce",
            daemon=True,
        ).start()
        supervise(programs, config.home / "logs", stop, report, patience, hurry)


def programs_of(config: Config, path: Path | None, *, ui: bool) -> list[Program]:
    """Return what `cls up` starts, in order."""
    programs = [Program("daemon", command(path, "daemon"))]
    programs += [
        Program(f"worker-{slot}", command(path, "worker", "--slot", str(slot)))
        for slot in range(config.worker.slots)
    ]
    programs.append(Program("reporter", command(path, "worker", "--reports"), needed=False))
    programs.append(Program("serve", command(path, "serve")))
    if ui and ui_is_ours(config):
        # SIGTERM, not SIGKILL: the mlflow command passes it on to the server that it starts
        programs.append(
            Program(
                "mlflow", ui_command(config), ui_environment(config), needed=False, end_with=signal.SIGTERM
            )
        )
    return programs


def command(path: Path | None, *arguments: str) -> tuple[str, ...]:
    """Return a command line of `cls` for a child process."""
    chosen = () if path is None else ("--config", str(path.absolute()))
    return (sys.executable, "-m", "cls.cli.main", *chosen, *arguments)


def ui_is_ours(config: Config) -> bool:
    """Whether MLflow's store is a database that a UI can be started on, not a server that has one."""
    return not config.mlflow.startswith(("http://", "https://", "databricks"))


def ui_url(config: Config) -> str:
    """Return where people look: MLflow opens on traces of language models unless told otherwise."""
    return f"http://{config.http.mlflow}/#/experiments?workflowType=machine_learning"


def is_mlflow(address: str) -> bool:
    """Whether what answers at an address is an MLflow server."""
    import httpx

    try:
        return httpx.get(f"http://{address}/health", timeout=2.0).text == "OK"
    except httpx.HTTPError:
        return False


def ui_command(config: Config) -> tuple[str, ...]:
    """Return the command of the MLflow UI; the store's URL is in the environment, where `ps` does not show it."""
    host, _, port = config.http.mlflow.rpartition(":")
    artifacts = str(config.home / "mlartifacts")
    return (
        *(sys.executable, "-c", _UI, "--workers", "1", "--host", host.strip("[]"), "--port", port),
        *("--artifacts-destination", artifacts),
    )


def ui_environment(config: Config) -> dict[str, str]:
    """Return what the MLflow UI needs beside the environment of this process."""
    return MLFLOW_ENVIRONMENT | {
        "MLFLOW_BACKEND_STORE_URI": config.mlflow,
        "MLFLOW_TRACKING_URI": config.mlflow,
    }


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home for one `cls up`. Raises `Refused` if another one runs, `Unavailable` if it cannot be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "up.lock").open("a+")
    except OSError as error:
        raise Unavailable(f"cannot write to {home}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise Refused(
                f"`cls up` runs on {home} already, as process {lock.read().strip() or '?'}"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def answers(address: str, seconds: float = 0.5) -> bool:
    """Whether somebody listens there; an address of all interfaces is asked on the loopback."""
    host, port = split(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not bound
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def refuse_taken(name: str, address: str) -> None:
    """Raise `Refused` if somebody listens on an address that a process of ours is to have."""
    if answers(address):
        key = {"daemon": "ingest"}.get(name, name)
        raise Refused(
            f"{address} is taken by another program: stop it, or give {name} another address (http.{key} in cls.toml)"
        )


def _upgrade(path: Path | None) -> None:
    """Upgrade the database, in a process of its own: this one stays small."""
    done = subprocess.run(  # noqa: S603 - a command of ours, no shell
        command(path, "db", "upgrade"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-5:]).removeprefix("cls: ")
        raise Unavailable(f"the database cannot be upgraded: {reason}")


def _announce(
    addresses: dict[str, str], pages: dict[str, str], stop: Event, report: Callable[[str], None]
) -> None:
    """Say when each process begins to answer, and where it has a page for people."""
    waiting = dict(addresses)
    until = time.monotonic() + READY_SECONDS
    while waiting and time.monotonic() < until and not stop.wait(0.2):
        for name, address in list(waiting.items()):
            if answers(address):
                report(f"{name} answers on {pages[name]}")
                del waiting[name]
    if not waiting:
        report("ready; Ctrl-C stops everything")
