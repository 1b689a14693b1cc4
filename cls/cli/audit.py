"""`cls audit list`: which operator did what, and what came of it."""

from __future__ import annotations

from typing import Annotated

import typer

from cls.cli.home import known_stream, state
from cls.cli.output import AsJson, Limit, print_json, print_table, rows_of

ROW = ("id", "at", "actor", "origin", "action", "stream", "arguments", "outcome")

audit = typer.Typer(help="What operators did.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(audit, name="audit")


@audit.command("list")
def list_(
    context: typer.Context,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="STREAM", help="Only this stream.")
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List what operators did, by command line and over HTTP, the newest first; what was refused, too."""
    from storage.audit import list_audit

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(list_audit(connection, name, limit), ROW)
    if as_json:
        print_json(rows)
        return
    columns = {
        "id": "id",
        "at": "at",
        "actor": "who",
        "origin": "from",
        "action": "action",
        "stream": "stream",
    }
    print_table(
        rows, columns | {"arguments": "arguments", "outcome": "outcome"}, empty="nothing was done yet"
    )
