"""Fixtures that all tests share: a fresh database of each kind, a home directory, and which machines a test can run on.

PostgreSQL is looked for at $CLS_TEST_POSTGRES (a SQLAlchemy URL of a role that may create databases). Where none answers, its tests are
skipped; under CI=true they fail instead, so that nobody mistakes silence for success.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import URL, make_url
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from storage.db import open_database
from storage.schema import upgrade

POSTGRES = os.environ.get("CLS_TEST_POSTGRES") or "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
WHOLE_SYSTEMS = {
    f"tests/integration/test_{name}.py" for name in ("hot_swaps", "prometheus", "serve_process", "up")
}
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def scope_of(nodeid: str) -> str:
    """Return what a test may not be parted from: its file; whole systems, and what measures seconds, follow one another."""
    file = nodeid.partition("::")[0]
    return "whole systems" if file.startswith("tests/chaos/") or file in WHOLE_SYSTEMS else file


class ByFile(LoadScopeScheduling):
    """Gives workers whole files, and one of them all whole systems; xdist's own groups are lost on pytest 9.2 and later."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Tell xdist what may run beside what."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole systems, which take longest, and skip what needs a GPU where there is none.

    torch is imported only if such a test was collected.
    """
    items.sort(key=lambda item: scope_of(item.nodeid) != "whole systems")
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty directory to keep everything in."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Run a test once per kind of database."""
    return str(request.param)


@pytest.fixture
def empty_database_url(backend: str, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a database without any tables."""
    with _fresh(backend, tmp_path, None) as url:
        yield url


@pytest.fixture
def database_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of a fresh database with the newest schema."""
    with _fresh(backend, tmp_path, request.getfixturevalue(f"{backend}_template")) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an engine on a fresh database with the newest schema."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "cls.db"
    _migrate(f"sqlite:///{path}")
    return str(path)


@pytest.fixture(scope="session")
def postgresql_template() -> Iterator[str]:
    """Return the name of a migrated PostgreSQL database, to be copied."""
    with _postgres_database("cls_test_template_", None) as url:
        _migrate(url.render_as_string(hide_password=False))
        assert url.database is not None
        yield url.database


@contextmanager
def _fresh(backend: str, folder: Path, template: str | None) -> Iterator[str]:
    if backend == "sqlite":
        path = folder / "cls.db"
        if template is not None:
            shutil.copyfile(template, path)
        yield f"sqlite:///{path}"
    else:
        with _postgres_database("cls_test_", template) as url:
            yield url.render_as_string(hide_password=False)


@contextmanager
def _postgres_database(prefix: str, template: str | None) -> Iterator[URL]:
    fault = _postgres_fault()
    if fault:
        reason = f"no PostgreSQL at {make_url(POSTGRES)!r} (CLS_TEST_POSTGRES): {fault}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    name = sql.Identifier(database := prefix + secrets.token_hex(6))
    with psycopg.connect(_dsn(), autocommit=True) as admin:
        copied = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name) + copied)
        try:
            yield make_url(POSTGRES).set(database=database)
        finally:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


@cache
def _postgres_fault() -> str:
    try:
        psycopg.connect(_dsn(), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        return str(error).strip()
    return ""


def _dsn() -> str:
    return make_url(POSTGRES).set(drivername="postgresql").render_as_string(hide_password=False)


def _migrate(url: str) -> None:
    engine = open_database(url)
    upgrade(engine)
    engine.dispose()
