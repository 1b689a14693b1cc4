"""`cls status`, `cls streams`, `cls ledger`: what goes on, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.home import config_of, known_stream, state
from cls.cli.output import AsJson, Limit, OneStream, console, print_json, print_table, rows_of
from cls.cli.status_view import view

if TYPE_CHECKING:
    from sqlalchemy import Connection

LEDGER = (
    "id",
    "stream",
    "at",
    "recorded_at",
    "kind",
    "decision",
    "reason",
    "episode_id",
    "job_id",
    "version",
    "details",
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(status)
    app.command("streams")(streams)
    app.command()(ledger)


def status(
    context: typer.Context,
    stream: OneStream = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, help="Seconds between two looks of --watch.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show what serves each stream, what is under way and what it waits for, and who is alive."""
    from cls.cli.status_facts import status_of

    config = config_of(context)
    names = list(config.streams) if stream is None else [known_stream(config, stream)]

    def look(connection: Connection) -> dict[str, Any]:
        return status_of(connection, config, names)

    if watch:
        from cls.cli.status_watch import watch_status

        watch_status(config, look, interval, details=stream is not None, as_json=as_json)
        return
    with state(context) as (_, connection):
        found = look(connection)
    if as_json:
        print_json(found)
        return
    for piece in view(found, details=stream is not None):
        console().print(piece)


def streams(context: typer.Context, as_json: AsJson = False) -> None:
    """List the configured streams."""
    listed = [
        {
            "name": name,
            "task": one.task,
            "priority": one.priority,
            "source": one.source.kind,
            "path": one.source.path,
            "features": len(one.columns.features),
            "target": one.columns.target,
            "model": one.model.name,
            "cadence": one.update.cadence,
            "recipe": one.update.recipe,
        }
        for name, one in config_of(context).streams.items()
    ]
    if as_json:
        print_json(listed)
    else:
        headings = {
            key: key
            for key in ("name", "task", "priority", "source", "features", "target", "model", "cadence")
        }
        print_table(
            listed, headings, empty="no streams in cls.toml: `cls stream infer DATA --write` adds one"
        )


def ledger(
    context: typer.Context, stream: OneStream = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """Tell why updates did and did not happen, the newest first."""
    from storage.streams import read_ledger

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(read_ledger(connection, name, limit), LEDGER)
    if as_json:
        print_json(rows)
        return
    columns = {"id": "id", "stream": "stream", "at": "stream time", "kind": "kind", "decision": "decision"}
    columns |= {"reason": "reason", "episode_id": "episode", "job_id": "job", "version": "version"}
    print_table(rows, columns, empty="the ledger is empty")
