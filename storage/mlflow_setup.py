"""How CLS wants MLflow: quiet, bounded in time, without pickle; and how a new SQLite file of its own is made."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from cls.errors import Unavailable

# An operator's own values stay. Two tries of four seconds bound a call to a server that swallows packets to about ten seconds.
ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def configure() -> None:
    """Set MLflow's environment; before its first import."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)


def prepare_sqlite(path: Path, uri: str, artifact_root: str | None) -> None:
    """Initialise or upgrade MLflow's SQLite file under a lock: MLflow itself breaks when several processes do it at once.

    Raises
    ------
    Unavailable
        At once, if the file cannot be opened; MLflow would try for more than a minute.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(sqlite3.connect(path, timeout=5)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            root = artifact_root or (path.absolute().parent / "mlartifacts").as_uri()
            store: Any = SqlAlchemyStore  # untyped
            store(uri, root)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"MLflow at {uri}: {error}") from error
