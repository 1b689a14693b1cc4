"""`cls`: the admin command line. Each group of commands is one file beside this one; heavy imports wait for their command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cls.cli import (
    audit,
    backtest,
    checks,
    drift,
    jobs,
    letters,
    models,
    processes,
    rollout,
    send,
    setup,
    status,
    token,
    train,
    webhook,
)
from cls.cli.exits import EPILOG, Root

app = typer.Typer(
    cls=Root,
    name="cls",
    help="CLS keeps a deployed model accurate while the world under it changes.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cls {version('cls-continual')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="PATH", help="The configuration. [default: $CLS_CONFIG, or ./cls.toml]"
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - acted on by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """CLS keeps a deployed model accurate while the world under it changes."""
    context.obj = config


for group in (
    setup,
    processes,
    status,
    drift,
    jobs,
    models,
    rollout,
    train,
    letters,
    send,
    backtest,
    checks,
    webhook,
    token,
    audit,
):
    group.register(app)


def main() -> None:
    """Run the command line.

    Linear algebra on small matrices takes one thread, in this process and in those that it starts: more wait for each other longer
    than they work. Numpy reads the variable when it is first imported, by a command; trainings set their own threads (`update.threads`).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app()


if __name__ == "__main__":
    main()
