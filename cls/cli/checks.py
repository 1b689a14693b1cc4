"""`cls doctor`: what may keep CLS from working."""

from __future__ import annotations

import typer

from cls.cli.exits import FAILED
from cls.cli.home import config_path
from cls.cli.output import AsJson, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(doctor)


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look at installation, configuration, disk, database, MLflow, ports and processes; say how to fix what is wrong."""
    from cls.doctor import examine

    found = list(examine(config_path(context)))
    if as_json:
        print_json(found)
    else:
        columns = {"state": "", "name": "check", "message": "found", "fix": "what to do"}
        print_table([{key: getattr(check, key) for key in columns} for check in found], columns)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(FAILED)
