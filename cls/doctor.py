"""`cls doctor`: what may keep CLS from working, each check with its fix."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from cls.config import Config, read_config
from cls.doors.addresses import is_loopback
from cls.doors.calling import trust_of, url_of
from cls.errors import CLSError
from cls.logging import redact
from cls.settings.check import check_config, open_doors
from cls.up import answers, ui_is_ours
from storage import overview
from storage.db import open_database, read_clock, reading, transaction
from storage.schema import FIX, current, head
from storage.streams import list_processes
from storage.tokens import usable_tokens
from storage.webhooks import Standing, standings

State = Literal["ok", "warn", "fail"]
DISTRIBUTION = "cls-continual"
LITTLE_DISK, NO_DISK = 5 * 2**30, 2**29  # bytes free below which to warn, and to fail
ROLES = {
    "daemon": "cls daemon",
    "worker": "cls worker",
    "reporter": "cls worker --reports",
    "serve": "cls serve",
}
SILENT = 60.0  # seconds without a sign from a process
EXPIRES_SOON = 7 * 86_400.0  # seconds before a token's end at which to warn
STUCK = 300.0  # seconds that a message or a due job may wait
SKEW_WARN, SKEW_FAIL = 2.0, 60.0  # seconds between this machine's clock and the database's


@dataclass(frozen=True)
class Check:
    """What one look found."""

    name: str
    state: State
    message: str
    fix: str = ""


def examine(path: Path | None) -> Iterator[Check]:
    """Look at everything in turn; a check that itself fails is a failed check.

    Parameters
    ----------
    path
        The configuration; None for the default one.
    """
    yield from _guarded("installation", installation)
    yield from _guarded("configuration", lambda: configuration(path))
    config = read_config(path)[0]
    if config is None:
        return
    yield from _guarded("home", lambda: home(config))
    yield from _guarded("doors", lambda: doors(config))
    yield from _guarded("ports", lambda: ports(config))
    yield from _guarded("mlflow", lambda: mlflow_store(config))
    yield from _guarded("database", lambda: database(config))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - the doctor reports what it meets, and goes on
        yield Check(name, "fail", redact(f"{type(error).__name__}: {error}"))


def installation() -> Iterator[Check]:
    """Look at Python and at the versions of what CLS depends on."""
    from packaging.requirements import Requirement

    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("python", "ok" if good else "fail", version, "" if good else "install Python 3.11 or later")
    wrong, seen = [], []
    for line in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, wanted {wanted.specifier}")
        elif wanted.name in ("torch", "mlflow", "sqlalchemy", "evidently"):
            seen.append(f"{wanted.name} {found}")
    if wrong:
        yield Check("packages", "fail", "; ".join(wrong), "pip install -r requirements.txt")
    else:
        yield Check("packages", "ok", f"cls {metadata.version(DISTRIBUTION)}, {', '.join(seen)}")


def configuration(path: Path | None) -> Iterator[Check]:
    """Look for faults in the configuration."""
    faults = check_config(path)
    for fault in faults:
        yield Check("configuration", "fail", str(fault), "edit cls.toml; `cls config check` looks again")
    if not faults:
        config, _, document = read_config(path)
        number = 0 if config is None else len(config.streams)
        fix = "" if number else "`cls stream infer DATA --write` adds a stream"
        yield Check("configuration", "ok" if number else "warn", f"{document.path}: {number} streams", fix)


def home(config: Config) -> Iterator[Check]:
    """Look whether the home can be written, and at the free space on its disk."""
    try:
        config.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.home) as file:
            file.write(b"x")
    except OSError as error:
        yield Check(
            "home", "fail", f"{config.home}: {error.strerror}", "make it writable, or set home in cls.toml"
        )
        return
    yield Check("home", "ok", str(config.home))
    free = shutil.disk_usage(config.home).free
    state: State = "fail" if free < NO_DISK else "warn" if free < LITTLE_DISK else "ok"
    fix = "" if state == "ok" else "free some space: a full disk stops intake, and nothing is acknowledged"
    yield Check("disk", state, f"{free / 2**30:.1f} GiB free", fix)


def doors(config: Config) -> Iterator[Check]:
    """Look whether others reach what should be protected on its way."""
    for field, sentence in open_doors(config):
        yield Check(f"http.{field}", "warn", f"{getattr(config.http, field)}: {sentence}")


def ports(config: Config) -> Iterator[Check]:
    """Look whether each port answers as one of ours, or is free."""
    doors = [("ingest", config.http.ingest, "/healthz"), ("serve", config.http.serve, "/healthz")]
    if ui_is_ours(config):
        doors.append(("mlflow", config.http.mlflow, "/health"))
    for name, address, health in doors:
        if not answers(address):
            yield Check(f"port {name}", "ok", f"{address} is free: nothing listens there")
            continue
        door = f"http://{address}" if name == "mlflow" else url_of(config, address)
        ours = _get(f"{door}{health}", None if name == "mlflow" else trust_of(config))
        fix = "" if ours is None else f"stop that program, or set http.{name} in cls.toml"
        message = f"{address} is ours" if ours is None else f"{address} is taken by something else ({ours})"
        yield Check(f"port {name}", "fail" if ours else "ok", message, fix)


def mlflow_store(config: Config) -> Iterator[Check]:
    """Look whether MLflow can be reached. CLS goes on without it, so that this never fails."""
    uri = config.mlflow
    if uri.startswith(("http://", "https://")):
        reason = _get(f"{uri.rstrip('/')}/health")
        fix = "" if reason is None else "start the MLflow server; the outbox keeps what it must be told"
        yield Check(
            "mlflow", "warn" if reason else "ok", f"{redact(uri)}{f': {reason}' if reason else ''}", fix
        )
    elif uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            yield Check("mlflow", "ok", f"{file} is not there yet; the first run makes it")
            return
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            number = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        yield Check("mlflow", "ok", f"{file}: {number} runs")
    else:
        yield Check("mlflow", "ok", redact(uri))


def _get(url: str, trust: ssl.SSLContext | None = None) -> str | None:
    """Return why an address does not answer as it should, None if it does."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )
    try:
        with opener.open(url, timeout=3) as response:
            return None if response.status == 200 else f"answers {response.status}"
    except urllib.error.HTTPError as error:
        return f"answers {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def database(config: Config) -> Iterator[Check]:
    """Look at the database, and at what its rows tell about the processes."""
    url = make_url(config.database)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        yield Check(
            "database", "warn", f"{url.database} is not there yet", "run `cls up`, or `cls db upgrade`"
        )
        return
    engine = open_database(config.database)
    try:
        found, needed = current(engine), head()
    except CLSError as error:
        yield Check(
            "database", "fail", redact(f"{redact(config.database)}: {error}"), "start it, or set database_url"
        )
        return
    try:
        yield Check("database", "ok", redact(config.database))
        state: State = "ok" if found == needed else "fail"
        yield Check("schema", state, f"revision {found}, needed {needed}", "" if found == needed else FIX)
        if found == needed:
            yield from _life(engine, config)
    finally:
        engine.dispose()


def _life(engine: Engine, config: Config) -> Iterator[Check]:
    """Look at processes, leases, outbox and clocks."""
    with transaction(engine) as connection:  # that it can be written matters, too
        skew = abs((read_clock(connection) - datetime.now(UTC)).total_seconds())
    state: State = "fail" if skew > SKEW_FAIL else "warn" if skew > SKEW_WARN else "ok"
    fix = "" if state == "ok" else "synchronise the clocks (NTP)"
    yield Check("clock", state, f"{skew:.1f} s between this machine and the database", fix)
    with reading(engine) as connection:
        processes = list_processes(connection)
        orphans = overview.orphaned(connection, timedelta(seconds=config.worker.lease_seconds))
        waits = [wait for wait in overview.job_waits(connection) if wait[2] > STUCK]
        outbox = overview.undelivered(connection)
        hooks = standings(connection, config.webhooks)
        expiries = [token.expires - read_clock(connection).timestamp() for token in usable_tokens(connection)]
    yield from _processes(processes)
    yield from _webhooks(hooks)
    if config.http.require_tokens or not all(map(is_loopback, (config.http.ingest, config.http.serve))):
        yield _tokens([seconds for seconds in expiries if seconds > 0])
    if orphans:
        ids = ", ".join(str(row.id) for row in orphans)
        yield Check(
            "leases", "warn", f"nobody works on running jobs {ids}", "start `cls daemon`: it takes them back"
        )
    else:
        yield Check("leases", "ok", "every running job has a living worker")
    if waits:
        yield Check(
            "queue", "warn", f"job {waits[0][0]} has waited {waits[0][2]:.0f} s", "start a `cls worker`"
        )
    else:
        yield Check("queue", "ok", "no job waits for a worker")
    late = outbox.waiting > 0 and ((outbox.oldest_seconds or 0) > STUCK or outbox.error is not None)
    why = f": {outbox.error}" if outbox.error else ""
    fix = "see the checks of mlflow and of the reporter; delivery is tried again by itself" if late else ""
    yield Check("outbox", "warn" if late else "ok", redact(f"{outbox.waiting} messages wait{why}"), fix)


def _tokens(seconds: list[float]) -> Check:
    """Say how many tokens are valid where they are needed, by the seconds until each expires."""
    if not seconds:
        return Check(
            "tokens", "fail", "tokens are needed, and none is valid", "`cls token create NAME --scope SCOPE`"
        )
    soon = sum(1 for left in seconds if left < EXPIRES_SOON)
    message = f"{len(seconds)} are valid" + (f", {soon} for less than a week" if soon else "")
    fix = "make new ones with `cls token create`; see `cls token list`" if soon else ""
    return Check("tokens", "warn" if soon else "ok", message, fix)


def _webhooks(hooks: list[Standing]) -> Iterator[Check]:
    for hook in hooks:
        if hook.paused or hook.attempts:
            name, why = f"webhook {hook.name}", f"{hook.waiting} messages wait: {hook.error}"
            fix = f"`cls webhook {'resume' if hook.paused else 'test'} {hook.name}`"
            yield Check(name, "warn", redact(why), fix)


def _processes(rows: list[Any]) -> Iterator[Check]:
    alive = [str(row.kind) for row in rows if row.age_seconds < SILENT]
    for kind, command in ROLES.items():
        number = alive.count(kind)
        fix = "" if number else f"start `cls up`, or `{command}`"
        yield Check(kind, "ok" if number else "warn", f"{number} alive", fix)
    here = f"@{socket.gethostname()}:"
    for row in rows:
        pid = row.id.rpartition(":")[2]
        if row.age_seconds >= SILENT and row.age_seconds < 86_400:
            running = here in row.id and pid.isdigit() and _runs(int(pid))
            message = f"{row.id} has given no sign for {row.age_seconds:.0f} s"
            fix = (
                "it hangs: kill it, and start it again"
                if running
                else "it ended without signing out; nothing to do"
            )
            yield Check(row.kind, "warn", message, fix)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
