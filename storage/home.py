"""Everything a process keeps things in, opened from the configuration.

<home>/cls.db       state, unless database_url says otherwise
<home>/segments/    the sample log's Parquet files
<home>/inbox/       requests not yet taken in
<home>/artifacts/   checkpoints, profiles and plots by their hash
<home>/jobs/        snapshots of running trainings
<home>/mlflow.db    MLflow, unless mlflow_uri says otherwise
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from cls.config import Config
from cls.errors import CLSError
from storage.artifacts import DiskArtifacts
from storage.db import open_database, transaction
from storage.log import Log
from storage.schema import check
from storage.segments import DiskSegments
from storage.streams import sign_out


@dataclass(frozen=True)
class Home:
    """The open stores of one process."""

    engine: Engine
    segments: DiskSegments
    artifacts: DiskArtifacts
    log: Log
    inbox: Path

    @classmethod
    def open(cls, config: Config) -> Home:
        """Open the stores; raises `Unavailable` if the database's schema is not this release's."""
        engine = open_database(config.database)
        check(engine)
        segments = DiskSegments(config.home / "segments")
        features = {name: stream.columns.features for name, stream in config.streams.items()}
        return cls(
            engine,
            segments,
            DiskArtifacts(config.home / "artifacts"),
            Log(engine, segments, features),
            config.home / "inbox",
        )

    def sign_out(self, process: str) -> None:
        """Note that a process ended; a database that is away does not keep it from ending."""
        try:
            with transaction(self.engine) as connection:
                sign_out(connection, process)
        except CLSError:
            return
