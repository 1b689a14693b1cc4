"""Booleans, times, texts and embeddings from HTTP to the log, to `/predict` and back: one derivation everywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine
from starlette.testclient import TestClient

from cls.checkpoints import pack, unpack
from cls.config import Config, SchemaConfig
from cls.domain import JobInput, Role
from cls.intake import intake_app
from cls.serving.follow import Route
from cls.serving.predict import predict_app
from cls.serving.prediction_log import Answered, log_table, logged_names
from cls.stream import Ports, StreamLoop
from cls.train import schema_of, train
from detectors.columns import Categorical, Columns
from detectors.detector import KLDetector
from learners.schema import Schema
from storage.artifacts import MemoryArtifacts
from storage.db import open_database
from storage.inbox import Inbox, InboxSource
from storage.log import Log
from storage.segments import DiskSegments
from storage.tables import metadata

START = datetime(2013, 1, 1, tzinfo=UTC)
CONFIG = {
    "streams": {
        "tickets": {
            "task": "regression",
            "schema": {
                "numeric": ["x"],
                "categorical": ["c"],
                "boolean": ["urgent"],
                "timestamp": ["due"],
                "text": ["note"],
                "embedding": {"v": 12},
                "key": "id",
                "event_time": "at",
                "target": "y",
            },
        }
    }
}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


def tickets(rows: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    words = np.array(["invoice", "printer", "password", "delivery"])
    return [
        {
            "id": f"k{i}",
            "at": (START + timedelta(minutes=i)).isoformat(),
            "x": float(rng.normal()),
            "c": str(rng.choice(["u", "v"])),
            "urgent": bool(rng.random() < 0.3),
            "due": (START + timedelta(hours=float(rng.uniform(0, 300)))).isoformat(),
            "note": f"please see to the {rng.choice(words)} by {i}",
            "v": rng.normal(size=12).tolist(),
            "y": float(rng.normal()),
        }
        for i in range(rows)
    ]


def arrow(rows: list[dict[str, Any]]) -> bytes:
    """The rows in Arrow's own types."""
    table = pa.Table.from_pylist(rows)
    for name in ("at", "due"):
        times = pa.array([datetime.fromisoformat(row[name]) for row in rows], pa.timestamp("us", tz="UTC"))
        table = table.set_column(table.column_names.index(name), name, times)
    vectors = pa.array([row["v"] for row in rows], pa.list_(pa.float64(), 12))
    table = table.set_column(table.column_names.index("v"), "v", vectors)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@dataclass(eq=False)
class Spy:
    """A champion that keeps what it is asked, a follower that knows it, and a log that keeps what is offered."""

    schema: Schema
    settings: SchemaConfig
    stream: str = "tickets"
    version: int = 1
    target_location: float = 0.0
    target_scale: float = 1.0
    seen: list[Columns] = field(default_factory=list)
    offered: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, columns: Columns) -> NDArray[np.float64]:
        self.seen.append(columns)
        return np.zeros(len(next(iter(columns.values()))))

    def route(self, _stream: str) -> Route:
        model: Any = self
        return Route(model)

    def offer(self, _stream: str, rows: Answered) -> bool:
        self.offered += log_table([rows], logged_names(self.settings)).to_pylist()
        return True


@dataclass
class World:
    client: TestClient
    serve: TestClient
    spy: Spy
    loop: StreamLoop
    log: Log

    def events(self, start: int, stop: int) -> Columns:
        while self.loop.ingest():
            pass
        return self.log.events("tickets", start, stop).columns


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    config = Config.model_validate(CONFIG, by_alias=True, by_name=False)
    settings = config.streams["tickets"]
    engine: Engine = open_database(f"sqlite:///{tmp_path / 'cls.db'}")
    metadata.create_all(engine)
    inbox = Inbox(engine, tmp_path / "inbox")
    segments = DiskSegments(tmp_path / "segments")
    log = Log(engine, segments, {"tickets": settings.columns.features})
    source = InboxSource(engine, tmp_path / "inbox", "tickets")
    ports = Ports(
        engine, log, segments, MemoryArtifacts(), {"inbox": source}, lambda: START + timedelta(days=30)
    )
    spy = Spy(schema_of(settings), settings.columns)
    follower: Any = spy
    with (
        TestClient(
            intake_app(config, inbox, engine, lambda _: None), base_url="http://localhost:8710"
        ) as client,
        TestClient(predict_app(config, follower, spy), base_url="http://localhost:8720") as serve,
    ):
        yield World(client, serve, spy, StreamLoop("tickets", settings, ports), log)
    inbox.close()
    engine.dispose()


def assert_same(mine: Columns, theirs: Columns) -> None:
    assert set(mine) == set(theirs)
    for name, column in mine.items():
        other = theirs[name]
        if isinstance(column, Categorical):
            assert isinstance(other, Categorical)
            assert [column.vocabulary[code] for code in column.codes] == [
                other.vocabulary[code] for code in other.codes
            ], name
        else:
            assert column == pytest.approx(other, rel=1e-12, abs=1e-12), name


def test_every_type_flows_from_http_to_the_log_and_predict_reads_the_same_columns(world: World) -> None:
    rows = tickets(40)
    assert world.client.post("/v1/streams/tickets/events", json=rows[:20]).status_code == 202
    answer = world.client.post("/v1/streams/tickets/events", content=arrow(rows[20:]), headers=ARROW)
    assert answer.status_code == 202, answer.text
    logged = world.events(0, 40)
    schema = world.spy.schema
    assert tuple(logged) == schema.features  # derived columns, and nothing of the raw ones

    unlabelled = [{name: value for name, value in row.items() if name != "y"} for row in rows]
    assert world.serve.post("/v1/streams/tickets/predict", json=unlabelled).json()["logged"] == 40
    answer = world.serve.post("/v1/streams/tickets/predict", content=arrow(unlabelled), headers=ARROW)
    assert answer.status_code == 200, answer.text
    for seen in world.spy.seen:
        assert_same(seen, logged)

    again = [row | {"id": f"again {row['id']}"} for row in world.spy.offered[:40]]
    assert "v" in again[0]  # predictions are logged raw, and derived by ingest
    assert world.client.post("/v1/streams/tickets/events", json=again).status_code == 202
    assert_same(world.events(40, 80), logged)


def test_a_wrong_value_of_a_type_is_named_by_both_doors(world: World) -> None:
    good, bad = tickets(2)
    bad["v"] = [1.0, 2.0]
    assert world.client.post("/v1/streams/tickets/events", json=[good, bad]).status_code == 202
    assert len(world.events(0, 9)["v.norm"]) == 1
    answer = world.serve.post("/v1/streams/tickets/predict", json=[good, bad])
    assert answer.status_code == 422
    assert answer.json()["field"] == "v"
    assert answer.json()["row"] == 1
    assert "list of 12 finite numbers" in answer.json()["error"]


def test_what_is_derived_is_learned_from_and_watched(world: World, tmp_path: Path) -> None:
    world.client.post("/v1/streams/tickets/events", json=tickets(400))
    logged = world.events(0, 400)
    profile = KLDetector().profile(logged)
    assert tuple(bins.name for bins in profile.features) == world.spy.schema.features
    assert not KLDetector().compare(profile, profile.count(logged)).alarm
    job = JobInput("replay", 0, 300, 400, None, 0, 1, START, START, light=True, reason="first model")
    settings = world.loop.settings
    trained = train(job, "tickets", settings, world.log, None, None, lambda *_: None, {}, tmp_path)
    assert trained.train_rows == int((world.log.events("tickets", 0, 300).role == Role.TRAIN).sum())
    assert tuple(trained.checkpoint.spec["numeric"]) == schema_of(settings).numeric
    parent = unpack(pack(trained.checkpoint))  # its memory of derived columns, from disk
    again = replace(job, label_from=300, label_to=400, parent=1)
    assert (
        train(again, "tickets", settings, world.log, parent, None, lambda *_: None, {}, tmp_path).train_rows
        > 0
    )
