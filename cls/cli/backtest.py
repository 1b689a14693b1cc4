"""`cls backtest DATA --stream NAME`: the same stages over a recorded stream, in simulated time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from cls.cli.exits import USAGE, end, say
from cls.cli.home import config_of, config_path, known_stream
from cls.cli.output import AsJson, plain, print_json, print_pairs, print_table
from cls.errors import NotFound


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(backtest)


def backtest(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="The recorded stream: Parquet, CSV or NDJSON.")
    ],
    stream: Annotated[str, typer.Option("--stream", metavar="NAME", help="Whose schema and policy to use.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the result here as JSON.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the stream: update.cadence=every."
        ),
    ] = None,
    step: Annotated[str, typer.Option("--step", help="Simulated time between two turns.")] = "6h",
    as_json: AsJson = False,
) -> None:
    """Run a recorded stream through the loop in simulated time, late labels included."""
    if not data.exists():
        raise NotFound(f"there is no {data}")
    with _overridden(stream, settings or []):
        config = config_of(context)
        name = known_stream(config, stream)
        _refuse_faults(context, name)
    every = _duration(step)
    path = None if out is None else out / f"backtest-{name}.json"
    if path is not None:  # not after an hour
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    from cls.backtest import run_backtest

    result = run_backtest(config, name, data, step=every, progress=say)
    document = plain(result.to_json())
    if path is not None:
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")
        say(f"wrote {path}")
    if as_json:
        print_json(document)
    else:
        _print(name, document)


def _refuse_faults(context: typer.Context, name: str) -> None:
    """Refuse what `cls config check` finds in the stream; its source is not read."""
    from cls.config import ConfigError
    from cls.settings.check import check_config

    mine, source = f"streams.{name}.", f"streams.{name}.source."
    faults = [fault for fault in check_config(config_path(context)) if fault.place.startswith(mine)]
    if faults := [fault for fault in faults if not fault.place.startswith(source)]:
        raise ConfigError(faults)


def _print(name: str, document: dict[str, Any]) -> None:
    nested = (dict, list)
    print_pairs({k: v for k, v in document.items() if not isinstance(v, nested)}, title=f"backtest of {name}")
    months = [{"month": month, "loss": loss} for month, loss in document.get("by_month", {}).items()]
    print_table(months, {"month": "month", "loss": "mean loss"}, empty="no labelled rows were served")
    for key in ("updates", "promotions"):
        rows = document.get(key, [])
        columns = {
            column: column for row in rows[:1] for column in row if not isinstance(row[column], nested)
        }
        print_table([{c: row.get(c) for c in columns} for row in rows], columns, title=key, empty="none")


def _duration(text: str) -> timedelta:
    from cls.settings.toml_text import parse_duration

    try:
        found = parse_duration(text)
    except ValueError as error:
        end(f"--step: {error}", USAGE)
    assert isinstance(found, timedelta), "text becomes a duration, or is refused"
    if found <= timedelta():
        end("--step: must be longer than nothing, as 6h", USAGE)
    return found


@contextmanager
def _overridden(stream: str, settings: list[str]) -> Iterator[None]:
    """Lay settings over the configuration, by the environment variables that do the same."""
    before = dict(os.environ)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            end(f"--set {setting}: must be KEY=VALUE, like update.cadence=every", USAGE)
        path = "__".join(("CLS", "STREAMS", stream.replace("-", "_"), *key.strip().split(".")))
        os.environ[path.upper()] = value.strip()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
