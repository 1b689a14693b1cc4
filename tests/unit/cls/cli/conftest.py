"""A home with everything in it that the command line shows, made through the storage functions, without any process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from cls.cli.main import app
from cls.domain import Batch, JobInput, JobKind, ModelVersion, Verdict
from detectors.detector import KLDetector
from storage import drift, log, outbox, queue, streams, versions
from storage.db import open_database, transaction
from storage.segments import DiskSegments

T0 = datetime(2013, 1, 1, tzinfo=UTC)
CONFIG = """\
home = "home"

[http]
ingest = "127.0.0.1:{ingest}"
serve = "127.0.0.1:{serve}"
mlflow = "127.0.0.1:{mlflow}"

[streams.flights]
task = "regression"

[streams.flights.schema]
numeric = ["distance"]
categorical = ["carrier"]
key = "id"
event_time = "at"
target = "air_time"

[streams.quiet]
task = "regression"
priority = "low"

[streams.quiet.schema]
numeric = ["x"]
key = "id"
event_time = "at"
target = "y"
"""


@dataclass(frozen=True)
class Cli:
    """The command line on one configuration."""

    config: Path

    def __call__(self, *arguments: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, ["--config", str(self.config), *arguments])

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command and parse what it printed, which must be JSON and nothing else."""
        result = self(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def cli(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Cli:
    """Return the command line on a configuration whose home is still empty."""
    path = tmp_path / "cls.toml"
    ingest, serve, mlflow = free_ports(3)
    path.write_text(CONFIG.format(ingest=ingest, serve=serve, mlflow=mlflow))
    return Cli(path)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Return a function that finds ports which nobody listens on."""
    import socket

    def find(number: int) -> list[int]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return ports

    return find


@pytest.fixture
def state(cli: Cli, sqlite_template: str) -> Iterator[Engine]:
    """Return the database behind `cli`: the schema is there, nothing else."""
    folder = cli.config.parent / "home"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "cls.db")
    engine = open_database(f"sqlite:///{folder / 'cls.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(name="job_input")
def make_job_input() -> Callable[..., JobInput]:
    """Return a function that makes a job's input."""
    return job_input


def job_input(label_to: int = 100, **changes: Any) -> JobInput:
    values: dict[str, Any] = {
        "strategy": "ewc+replay",
        "label_from": 0,
        "label_to": label_to,
        "event_to": 200,
        "parent": None,
        "seed": 0,
        "threads": 1,
        "decided_at": T0,
        "effective_at": T0,
        "light": True,
        "reason": "first model",
    }
    return JobInput(**values | changes)


def version(number: int, parent: int | None, job: int) -> ModelVersion:
    slices = [
        {"name": "fresh", "rows": 90, "champion_loss": 9.0, "candidate_loss": 8.0, "lower": -0.2, "upper": -0.1,
         "verdict": "pass"}
    ]  # fmt: skip
    return ModelVersion(
        stream="flights",
        number=number,
        digest=f"{number:064x}",
        parent=parent,
        job_id=job,
        strategy="ewc+replay",
        learned_up_to=100 * number,
        reference_from=0,
        reference_to=100 * number,
        gate={"verdict": "pass", "reason": "no slice is worse", "slices": slices},
        metrics={"loss": 9.0 - number},
        created_at=T0,
        files={"profile.json": "p" * 64},
    )


@pytest.fixture
def full(state: Engine, cli: Cli) -> Engine:
    """Return the database with a stream that has lived: two versions, an alarm, jobs, dead letters."""
    store = DiskSegments(cli.config.parent / "home" / "segments")
    rng = np.random.default_rng(0)
    detector = KLDetector()
    profile = detector.profile({"distance": rng.normal(1000, 100, 2000)})
    moved = detector.compare(profile, profile.count({"distance": rng.normal(1200, 100, 500)}))
    batch = Batch(
        {"distance": rng.normal(1000, 100, 50)},
        [f"k{i}" for i in range(50)],
        np.arange(50, dtype=np.int64),
        np.zeros(50, np.int8),
        np.full(50, np.nan),
        np.zeros(50, np.int64),
    )
    segment = log.write_events(store, "flights", 0, batch)
    with transaction(state) as connection:
        for name in ("flights", "quiet"):
            streams.ensure_stream(connection, name)
        log.record_segment(connection, segment)
        streams.raise_watermark(connection, "flights", T0 + timedelta(days=3))
        streams.advance(connection, "flights", "score", "", "30")
        promotion = 0
        for number, parent in ((1, None), (2, 1)):
            job = queue.enqueue(connection, "flights", JobKind.UPDATE, job_input(100 * number), priority=0)
            assert versions.add_version(connection, version(number, parent, job)) == number
            claimed = queue.claim(connection, "worker@here:1", timedelta(seconds=60))
            assert claimed is not None
            likeness = {"similarity": {"kind": "far", "distance": 0.75}, "effort": 1.41} if parent else {}
            result = {"version": number} | likeness
            queue.succeed(connection, claimed, result, charged_seconds=4.0, passes=1000.0)
            serving = versions.promote(
                connection,
                "flights",
                number,
                expected=parent,
                since=0,
                reference="p" * 64,
                at=T0,
                reason="better",
            )
            promotion = serving.promotion
        calm, alarm = (
            Verdict(
                "kl", start, start + 500, T0, T0 + timedelta(days=1), start > 0, moved.p_value, moved.nats, 0.1, 480,
                moved, "distance moved up",
            )
            for start in (0, 500)
        )  # fmt: skip
        drift.add_verdict(connection, "flights", promotion, calm)
        found = drift.add_verdict(connection, "flights", promotion, alarm)
        drift.open_episode(connection, "flights", found, alarm, T0)
        streams.write_ledger(
            connection, "flights", "decision", "too few labels", at=T0, decision="defer", episode=1
        )
        streams.write_ledger(connection, "quiet", "decision", "no drift", at=None, decision="skip")
        queue.enqueue(connection, "flights", JobKind.ASSESS, job_input(versions=(1, 2)), priority=0)
        letters: list[tuple[str, dict[str, Any]]] = [
            ("'id' is empty", {"id": None, "distance": 1.0, "at": "2013-01-01"}),
            (
                "feature 'distance' is not a number",
                {"id": "k77", "distance": "[bold]far", "at": "2013-01-01"},
            ),
        ]
        streams.add_dead_letters(connection, "flights", "events", letters)
        streams.add_dead_letters(connection, "flights", "source", [("line 3: not JSON", {"line": 3})])
        streams.sign_in(connection, "daemon@here:1", "daemon", {"http": "127.0.0.1:1"})
        outbox.post(connection, "flights", "aliases", {})
        outbox.postponed(connection, 1, 1, "MLflow does not answer")
    return state
