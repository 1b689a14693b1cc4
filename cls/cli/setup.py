"""`cls init`, `cls stream infer`, `cls config check|show`, `cls db upgrade|check`: before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.exits import NOT_FOUND, USAGE, end, say
from cls.cli.home import config_of, config_path
from cls.cli.output import AsJson, print_json, print_table
from cls.errors import Refused
from detectors.derivation import KINDS

if TYPE_CHECKING:
    from cls.infer import InferredStream
    from cls.settings.faults import Fault

stream = typer.Typer(help="Describe a stream.", no_args_is_help=True, rich_markup_mode=None)
config = typer.Typer(help="The configuration, cls.toml.", no_args_is_help=True, rich_markup_mode=None)
db = typer.Typer(help="The database's schema.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.add_typer(stream, name="stream")
    app.add_typer(config, name="config")
    app.add_typer(db, name="db")


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")] = Path(),
) -> None:
    """Write a commented cls.toml. An existing one is left alone."""
    from cls.settings.template import config_template

    path = directory / "cls.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(config_template())
    except FileExistsError:
        raise Refused(f"{path} exists already; it was left as it is") from None
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"wrote {path}")
    say("next: cls stream infer DATA --write, then cls config check, then cls up")


@stream.command()
def infer(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Parquet, CSV or NDJSON, or a directory of them.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the stream. [default: that of the file]", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Append it to cls.toml instead of printing it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Propose a stream's schema from a file, with a reason for every column."""
    from cls.infer import infer_schema
    from cls.settings.file import read_document

    proposal = infer_schema(data.absolute())
    name = name or _name_of(data)
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        end(f"{name!r} is no name for a stream: small letters, digits, - and _, a letter first", USAGE)
    text = proposal.to_toml(name)
    if write:
        document = read_document(config_path(context))
        if document.faults:
            end(str(document.faults[0]), USAGE)
        if name in document.values.get("streams", {}):
            raise Refused(f"{document.path} has a stream {name!r} already; choose another --name")
        with document.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")
        say(f"added stream {name!r} to {document.path}; look at the reasons there, then: cls config check")
    if as_json:
        print_json(_proposal(name, proposal) | {"toml": text})
    elif not write:
        typer.echo(text, nl=False)


_ROLES = ("key", "event_time", "target", "label_time", "classes")


def _proposal(name: str, proposal: InferredStream) -> dict[str, Any]:
    return {
        "name": name,
        "path": proposal.path,
        "rows": proposal.rows,
        "task": proposal.task,
        "schema": {field: getattr(proposal, field) for field in ("numeric", "categorical", *KINDS, *_ROLES)},
        "reasons": proposal.reasons,
    }


def _name_of(data: Path) -> str:
    stem = data.absolute().name.split(".")[0].lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"[^a-z0-9_-]+", "-", stem))[:63].rstrip("-") or "stream"


@config.command("check")
def check_config_(context: typer.Context, as_json: AsJson = False) -> None:
    """Tell every fault at once, with its place and line, and warn of what cannot work or is not safe."""
    from cls.settings.check import advise, check_config

    path = config_path(context)
    faults, warnings = check_config(path), advise(path)
    if as_json:
        print_json([_fault(fault) for fault in faults] + [_warning(warning) for warning in warnings])
    else:
        columns = {"line": "line", "place": "place"}
        if faults:
            print_table([_fault(fault) for fault in faults], columns | {"message": "what is wrong"})
        if warnings:
            print_table(
                [_warning(warning) for warning in warnings],
                columns | {"message": "what cannot work, or is not safe"},
            )
        if not faults:
            number = len(warnings)
            typer.echo(f"no fault, {number} warning{'s' if number > 1 else ''}" if number else "no fault")
    if faults:
        raise typer.Exit(USAGE)


def _fault(fault: Fault) -> dict[str, Any]:
    return {"place": fault.place, "line": fault.line, "message": fault.message}


def _warning(warning: Fault) -> dict[str, Any]:
    return _fault(warning) | {"level": "warning"}


@config.command("show")
def show_config(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the configuration in force, defaults and environment included; passwords and paths of webhooks are left out."""
    from cls.logging import redact
    from cls.settings.webhooks import shown

    found = config_of(context)
    values = found.model_dump(mode="json", by_alias=True)
    values |= {"database_url": redact(found.database), "mlflow_uri": redact(found.mlflow)}
    for hook in values["webhooks"].values():
        hook["url"] = shown(hook["url"])
    if as_json:
        print_json(values)
    else:
        print_table(
            [{"name": name, "value": value} for name, value in _flat(values)],
            {"name": "name", "value": "value"},
        )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else [(prefix + name, value)]
        )
    return flat


@db.command("upgrade")
def upgrade_database(context: typer.Context) -> None:
    """Bring the database to the newest schema, from empty or from any earlier release."""
    from cls.logging import redact
    from storage.db import open_database
    from storage.schema import current, head, upgrade

    found = config_of(context)
    engine = open_database(found.database)
    try:
        before = current(engine)
        upgrade(engine)
    finally:
        engine.dispose()
    what = "is up to date" if before == head() else f"upgraded from {before or 'empty'} to {head()}"
    typer.echo(f"{redact(found.database)}: {what}")


@db.command("check")
def check_database(context: typer.Context, as_json: AsJson = False) -> None:
    """Tell whether the database has the schema that this release needs."""
    from cls.cli.home import database
    from storage.schema import FIX, current, head

    with database(config_of(context)) as engine:
        found, needed = current(engine), head()
    if as_json:
        print_json({"current": found, "needed": needed, "ok": found == needed})
    elif found == needed:
        typer.echo(f"the schema is up to date: revision {found}")
    if found != needed:
        end(f"the schema is at revision {found or 'none'}, this release needs {needed}: {FIX}", NOT_FOUND)
