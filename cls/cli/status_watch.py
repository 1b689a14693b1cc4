"""`cls status --watch`: on a terminal one screen that is drawn anew, elsewhere one snapshot after the other."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cls.cli.exits import say
from cls.cli.home import database
from cls.cli.output import clean, console, print_json
from cls.cli.status_view import view
from cls.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from cls.config import Config

Look = dict[str, Any]


def watch_status(
    config: Config, look: Callable[[Connection], Look], interval: float, *, details: bool, as_json: bool
) -> None:
    """Show the state every `interval` seconds until interrupted; a database that goes away is waited for.

    Raises
    ------
    Unavailable
        If the database does not answer at the first look.
    """
    screen = sys.stdout.isatty() and not as_json
    with database(config) as engine, _drawn(details) if screen else _listed(details, as_json) as show:
        known: Look | None = None
        while True:
            fault = ""
            try:
                known = _read(engine, look)
            except Unavailable as error:
                if known is None:
                    raise
                fault = str(error)
            show(known, fault)
            time.sleep(interval)


def _read(engine: Engine, look: Callable[[Connection], Look]) -> Look:
    from storage.db import reading

    with reading(engine) as connection:
        return {"at": datetime.now(UTC)} | look(connection)


@contextmanager
def _drawn(details: bool) -> Iterator[Callable[[Look, str], None]]:
    """Draw each look over the one before; what was seen last stays on the screen."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show(found: Look, fault: str) -> None:
            head = Text(f"{found['at']:%Y-%m-%d %H:%M:%S} UTC; Ctrl-C ends it", style="dim")
            foot = [Text(f"{clean(fault)}; above is how it was before", style="bold")] if fault else []
            live.update(Group(head, *view(found, details=details), *foot), refresh=True)

        yield show


@contextmanager
def _listed(details: bool, as_json: bool) -> Iterator[Callable[[Look, str], None]]:
    """Print each look below the one before, as tables or as a line of JSON."""

    def show(found: Look, fault: str) -> None:
        if fault:
            say(f"cls: {fault}")
        elif as_json:
            print_json(found, line=True)
        else:
            print(f"--- {found['at']:%Y-%m-%d %H:%M:%S} UTC")
            for piece in view(found, details=details):
                console().print(piece)
            sys.stdout.flush()

    yield show
