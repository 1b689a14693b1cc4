"""Versions without a training service: what tests of serving publish by hand."""

from __future__ import annotations

from cls.checkpoints import pack
from cls.config import Config
from cls.domain import ModelVersion
from cls.times import EPOCH
from learners.checkpoint import Checkpoint
from storage.artifacts import manifest_digest
from storage.db import open_database, transaction
from storage.home import Home
from storage.schema import upgrade
from storage.streams import ensure_stream
from storage.versions import add_version, champion, promote


def new_home(config: Config) -> Home:
    """Return a home with a migrated database and all streams of the configuration."""
    engine = open_database(config.database)
    upgrade(engine)
    engine.dispose()
    home = Home.open(config)
    with transaction(home.engine) as connection:
        for name in config.streams:
            ensure_stream(connection, name)
    return home


def publish(home: Home, stream: str, checkpoint: Checkpoint, *, promoted: bool = True) -> int:
    """Add a version, and make it the champion; returns its number."""
    files = {name: home.artifacts.put(data) for name, data in pack(checkpoint).items()}
    version = ModelVersion(stream, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files)
    with transaction(home.engine) as connection:
        number = add_version(connection, version)
    if promoted:
        crown(home, stream, number)
    return number


def crown(home: Home, stream: str, version: int) -> None:
    """Make a version the champion."""
    with transaction(home.engine) as connection:
        now = champion(connection, stream)
        expected = None if now is None else now.version
        promote(
            connection, stream, version, expected=expected, since=0, reference="r", at=None, reason="test"
        )
