"""`cls train STREAM`: ask for an update, and watch it to its end."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import Timeout, ask
from cls.cli.exits import FAILED, say
from cls.cli.home import config_of, database, known_stream
from cls.cli.output import AsJson, Stream, print_json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cls.config import StreamConfig

POLL_SECONDS = 0.2


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(train)


@dataclass(frozen=True)
class Look:
    """How far an update has come."""

    job: str  # state of its job
    version: int | None
    rollout: str | None  # state of its rollout
    progress: dict[str, Any] | None
    reason: str | None
    ended: bool

    @property
    def serves(self) -> bool:
        """Whether its version became champion."""
        return self.rollout in ("watching", "done")


def train(
    context: typer.Context,
    stream: Stream,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", metavar="RECIPE", help="A recipe other than the configured one."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Learn from all labelled history, not only what is new.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it serves, or came to nothing.")
    ] = True,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask for an update now. Ctrl-C stops the waiting, not the update."""
    config = config_of(context)
    name = known_stream(config, stream)
    with database(config) as engine:
        arguments = {"strategy": strategy or config.streams[name].update.recipe, "full": full}
        outcome = ask(engine, name, "manual", arguments, timeout)
        found = re.search(r"\bjob (\d+)", outcome)
        if found is None or not wait:
            if as_json:
                print_json({"stream": name, "job": int(found[1]) if found else None, "outcome": outcome})
            else:
                typer.echo(f"{name}: {outcome}")
            return
        job = int(found[1])
        say(f"{name}: {outcome}; `cls jobs cancel {job}` stops it")
        last = _watch(engine, name, job)
    _end(name, job, last, config.streams[name], as_json=as_json)


def _watch(engine: Engine, stream: str, job: int) -> Look:
    """Show an update's progress on stderr until it has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("queued", total=None, loss="")
        while True:
            look = look_at(engine, stream, job)
            at = look.progress or {}
            loss = f"loss {at['loss']:.4g}" if isinstance(at.get("loss"), int | float) else ""
            text = f"version {look.version}: {look.rollout}" if look.rollout else f"job {job}: {look.job}"
            bar.update(task, description=text, total=at.get("steps"), completed=at.get("step", 0), loss=loss)
            if look.ended:
                return look
            time.sleep(POLL_SECONDS)


def look_at(engine: Engine, stream: str, job: int) -> Look:
    """Return how far a job and its rollout have come."""
    from storage import job_rows, queue
    from storage.db import reading
    from storage.versions import list_rollouts

    with reading(engine) as connection:
        row = job_rows.show(connection, job)
        version = (row.result or {}).get("version")
        mine = list_rollouts(connection, stream) if row.handled else []  # before, an older one of the version
        rollout = next((r for r in mine if r.version == version), None)
    over = row.state not in queue.LIVE
    if rollout is not None:
        ended = rollout.state in ("watching", "done", "rejected", "rolled_back")
        return Look(row.state, version, rollout.state, row.progress, rollout.reason or None, ended)
    gate = (row.result or {}).get("gate") or {}
    reason = row.error or (
        f"the gate said {gate['verdict']}: {gate.get('reason')}" if gate.get("verdict") else None
    )
    # a job that succeeded with a version gets its rollout when the daemon handles it
    ended = over and (row.state != "succeeded" or version is None or row.handled)
    return Look(row.state, version, None, row.progress, reason, ended)


def _end(stream: str, job: int, last: Look, settings: StreamConfig, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "stream": stream,
                "job": job,
                "state": last.job,
                "version": last.version,
                "rollout": last.rollout,
                "champion": last.serves,
                "reason": last.reason,
            }
        )
    elif last.serves:
        watched = (
            f", watched for {settings.rollout.watch_rows} labelled rows" if last.rollout == "watching" else ""
        )
        typer.echo(f"{stream}: version {last.version} is champion{watched}")
    elif last.rollout:
        typer.echo(
            f"{stream}: version {last.version} was {last.rollout.replace('_', ' ')}: {last.reason or '-'}"
        )
    else:
        typer.echo(f"{stream}: job {job} {last.job}, no new champion: {last.reason or '-'}")
    if not last.serves:
        raise typer.Exit(FAILED)
