"""The configuration: one `cls.toml`, checked as a whole, then frozen.

Durations are written "30m", "6h", "3d"; relative paths are relative to the file. Environment variables override:
`CLS_HOME`, `CLS_DATABASE_URL`, `CLS_MLFLOW_URI`, and for anything else the path of the field in capitals,
`CLS__STREAMS__FLIGHTS__UPDATE__COOLDOWN=30m`.

This module reads and judges values. What needs the disk or the names of models and recipes is in `config_check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from cls.settings.faults import ConfigError, Fault
from cls.settings.file import Document, read_document
from cls.settings.http import HttpConfig, ServeConfig, WebhookConfig
from cls.settings.rules import cross_faults
from cls.settings.stream import (
    DetectConfig,
    GateConfig,
    ModelConfig,
    RolloutConfig,
    SchemaConfig,
    SourceConfig,
    StreamConfig,
    UpdateConfig,
)
from cls.settings.tables import Count, Duration, Name, Seconds, Table, hours

__all__ = [
    "Config",
    "ConfigError",
    "DetectConfig",
    "Fault",
    "GateConfig",
    "HttpConfig",
    "ModelConfig",
    "RetentionConfig",
    "RolloutConfig",
    "SchemaConfig",
    "ServeConfig",
    "SourceConfig",
    "StreamConfig",
    "UpdateConfig",
    "WebhookConfig",
    "WorkerConfig",
    "load_config",
    "read_config",
]


class WorkerConfig(Table):
    """How jobs are worked on."""

    slots: Count = Field(1, description="worker processes that `cls up` starts")
    lease_seconds: Seconds = Field(
        30.0, description="seconds without a heartbeat after which a job is taken back"
    )
    heartbeat_seconds: Seconds = Field(5.0, description="seconds between two heartbeats")
    poll_seconds: Seconds = Field(0.2, description="seconds between two looks into an empty queue")
    checkpoint_seconds: Seconds = Field(10.0, description="seconds between two checkpoints of a training")
    max_attempts: Count = Field(3, description="failures after which a job is dead")
    max_crashes: Count = Field(3, description="crashes of its worker after which a job is dead")
    retry_delay_seconds: Seconds = Field(
        5.0, description="seconds before the first retry; doubles with each one"
    )


class RetentionConfig(Table):
    """How long things are kept that nothing refers to."""

    orphan_grace: Duration = Field(
        hours(1), description="age at which a file that no row names is removed (duration)"
    )
    dead_letter_days: Count = Field(90, description="days for which a dead letter is kept")


class Config(Table):
    """The whole of `cls.toml`."""

    home: Annotated[Path, Field(strict=False)] = Field(
        Path(".cls"), description="directory of everything CLS keeps"
    )
    database_url: str = Field("", description="SQLAlchemy URL of the state; empty: an SQLite file in home")
    mlflow_uri: str = Field("", description="MLflow tracking URI; empty: an SQLite file in home")
    http: HttpConfig = Field(default_factory=HttpConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    models: dict[str, str] = Field(
        default_factory=dict, description='names of your models: name = "package.module:Class"'
    )
    webhooks: dict[Name, WebhookConfig] = Field(default_factory=dict)
    streams: dict[Name, StreamConfig] = Field(default_factory=dict)

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the state."""
        return self.database_url or f"sqlite:///{self.home / 'cls.db'}"

    @property
    def mlflow(self) -> str:
        """MLflow tracking URI."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"


def read_config(path: Path | None = None) -> tuple[Config | None, list[Fault], Document]:
    """Read a configuration as far as possible.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.

    Returns
    -------
    The configuration with its faulty keys left out (None when not even that can be built), every fault, and the
    document, which knows the line of each key.
    """
    document = read_document(path)
    faults = list(document.faults)
    values = document.values
    for _ in range(3):  # a repaired key may uncover one more fault beside it
        try:
            config = Config.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as error:
            found, values = document.judge(Config, error, values)
            faults += [fault for fault in found if all(fault.place != other.place for other in faults)]
        else:
            faults += [
                fault for fault in cross_faults(config, document.fault) if not document.covers(faults, fault)
            ]
            return config, faults, document
    return None, faults, document


def load_config(path: Path | None = None) -> Config:
    """Read the configuration that a process runs on.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.

    Raises
    ------
    ConfigError
        With every fault that is in it.
    """
    config, faults, _ = read_config(path)
    if faults or config is None:
        raise ConfigError(faults)
    return config
