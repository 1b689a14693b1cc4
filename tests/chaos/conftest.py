"""The undisturbed run that disturbed ones are compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Feed, System, check_whole, facts, make_feed, running


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: str) -> str:
    """Return the URL of a fresh SQLite database, for what does not depend on the kind."""
    shutil.copyfile(sqlite_template, tmp_path / "cls.db")
    return f"sqlite:///{tmp_path / 'cls.db'}"


@pytest.fixture(scope="session")
def feed() -> Feed:
    """Return the stream of all runs that are compared."""
    return make_feed()


@pytest.fixture(scope="session")
def undisturbed(feed: Feed, sqlite_template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the facts of a run that nothing disturbed."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    shutil.copyfile(sqlite_template, folder / "cls.db")
    with running(System(folder, f"sqlite:///{folder / 'cls.db'}")) as system:
        system.feed(feed)
        check_whole(system, feed)
        return facts(system)
