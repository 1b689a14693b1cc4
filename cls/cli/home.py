"""What most commands begin with: the configuration, the database behind it, a stream that exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cls.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from cls.config import Config

NOT_SET_UP = "has no CLS tables yet: run `cls up`, or `cls db upgrade`"


def config_path(context: typer.Context) -> Path | None:
    """Return what --config said."""
    found = context.find_root().obj
    return found if isinstance(found, Path) else None


def config_of(context: typer.Context) -> Config:
    """Load the configuration. Raises `ConfigError` with all its faults."""
    from cls.config import load_config

    return load_config(config_path(context))


def known_stream(config: Config, name: str) -> str:
    """Return a stream's name if it is configured; raises `NotFound` with the nearest right one."""
    if name not in config.streams:
        from cls.settings.faults import nearest

        raise NotFound(f"no stream is called {name!r}{nearest(name, list(config.streams))}")
    return name


@contextmanager
def database(config: Config) -> Iterator[Engine]:
    """Open the database for one command.

    Raises
    ------
    NotFound
        If nothing was set up in it.
    Unavailable
        If it does not answer.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ProgrammingError

    from storage.db import open_database

    url = make_url(config.database)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise NotFound(f"{url.database} is not there yet: run `cls up`, or `cls db upgrade`")
    engine = open_database(config.database)
    try:
        yield engine
    except Unavailable as error:
        if "no such table" in str(error) or "no such column" in str(error):
            raise NotFound(f"the database {NOT_SET_UP}") from error
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") in ("42P01", "42703"):  # undefined table, undefined column
            raise NotFound(f"the database {NOT_SET_UP}") from error
        raise
    finally:
        engine.dispose()


@contextmanager
def state(context: typer.Context) -> Iterator[tuple[Config, Connection]]:
    """Hold one consistent read of the state, with the configuration beside it."""
    from storage.db import reading

    config = config_of(context)
    with database(config) as engine, reading(engine) as connection:
        yield config, connection
