"""`cls serve` as a whole: real HTTP, a real home on SQLite, tiny trained models."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from cls.checkpoints import pack, restore
from cls.config import Config
from cls.domain import Batch, ModelVersion
from cls.layout import MODEL, SPEC
from cls.serve import serve
from cls.times import EPOCH
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import manifest_digest
from storage.db import transaction
from storage.home import Home
from storage.inbox import InboxSource
from storage.log import record_segment, write_events
from storage.schema import upgrade
from storage.streams import ensure_stream
from storage.versions import add_version, champion, promote

ROW = {"id": "a", "at": "2013-01-01T00:00:00Z", "x": 0.5, "c": "u"}


def trained(slope: float, classes: tuple[str, ...] = ()) -> Checkpoint:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    target = (x > 0).astype(np.float64) if classes else slope * x
    rows = Rows({"x": x, "c": Categorical.of(rng.choice(["u", "v"], 400).tolist())}, target, np.arange(400))
    task: Any = "classification" if classes else "regression"
    training = start(None, rows, Recipe(epochs=4), schema=Schema(("x",), ("c",), task, classes))
    while not training.done:
        training.step()
    return training.finish()


CHECKPOINTS = {slope: trained(slope) for slope in (1.0, -3.0)}
CLASSIFIER = trained(1.0, ("no", "yes"))


def config_of(home: Path, port: int) -> Config:
    columns = {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"}
    flights = {"task": "regression", "schema": columns}
    churn = {"task": "classification", "schema": columns | {"classes": ["no", "yes"]}}
    return Config.model_validate(
        {
            "home": str(home),
            "http": {"serve": f"127.0.0.1:{port}"},
            "streams": {"flights": flights, "churn": churn},
        },
        by_alias=True,
        by_name=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    config: Config
    home: Home
    client: httpx.Client
    stop: threading.Event
    thread: threading.Thread
    sha256: dict[int, dict[str, str]] = field(default_factory=dict)

    def publish(self, checkpoint: Checkpoint, stream: str = "flights", *, promoted: bool = True) -> int:
        files = {name: self.home.artifacts.put(data) for name, data in pack(checkpoint).items()}
        version = ModelVersion(
            stream, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files
        )
        with transaction(self.home.engine) as connection:
            number = add_version(connection, version)
        self.sha256[number] = files
        if promoted:
            self.promote(number, stream)
        return number

    def promote(self, version: int, stream: str = "flights") -> None:
        with transaction(self.home.engine) as connection:
            now = champion(connection, stream)
            expected = None if now is None else now.version
            promote(
                connection, stream, version, expected=expected, since=0, reference="r", at=None, reason="test"
            )

    def predict(self, body: Any, stream: str = "flights", **settings: Any) -> httpx.Response:
        return self.client.post(f"/v1/streams/{stream}/predict", json=body, **settings)

    def serving(self, version: int, stream: str = "flights") -> None:
        def now() -> bool:
            found = self.client.get("/v1/streams").json()["streams"]
            return any(one["stream"] == stream and one["serving"] == version for one in found)

        eventually(now)

    def logged(self, rows: int, stream: str = "flights") -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            source, token, found = InboxSource(self.home.engine, self.home.inbox, stream), "", []
            while (batch := source.read(token)) is not None:
                found += batch.table.to_pylist()
                token = batch.token
            return found

        eventually(lambda: len(read()) >= rows)
        return read()


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    config = config_of(tmp_path / "home", port)
    from storage.db import open_database

    engine = open_database(config.database)
    upgrade(engine)
    engine.dispose()
    home = Home.open(config)
    with transaction(home.engine) as connection:
        for name in config.streams:
            ensure_stream(connection, name)
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(config, stop))
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:

        def answers() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                assert thread.is_alive()
                return False

        eventually(answers, 30.0)
        yield Running(config, home, client, stop, thread)
    stop.set()
    thread.join(20.0)
    assert not thread.is_alive()
    home.engine.dispose()


def test_before_a_champion_it_says_so_and_then_answers_as_the_model_does(running: Running) -> None:
    early = running.predict(ROW)
    assert (early.status_code, early.headers["Retry-After"]) == (503, "1")
    version = running.publish(CHECKPOINTS[1.0])
    running.serving(version)
    rows = [ROW, {"x": None, "c": None}, {"x": "0.5", "c": "never seen"}]
    answer = running.predict(rows).json()
    model = restore(CHECKPOINTS[1.0])
    expected = model.predict(
        {"x": np.array([0.5, np.nan, 0.5]), "c": Categorical.of(["u", None, "never seen"])}
    )
    assert answer["version"] == version
    assert [one["prediction"] for one in answer["predictions"]] == pytest.approx(expected.tolist())
    assert [one.get("key") for one in answer["predictions"]] == ["a", None, None]
    assert (answer["logged"], answer["not_logged"]) == (1, "rows without 'id' or 'at'")

    as_arrow = pa.Table.from_pylist([{"x": 0.5, "c": "u"}])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, as_arrow.schema) as writer:
        writer.write_table(as_arrow)
    same = running.client.post(
        "/v1/streams/flights/predict",
        content=sink.getvalue().to_pybytes(),
        headers={"Content-Type": "application/vnd.apache.arrow.stream"},
    ).json()
    assert same["predictions"][0]["prediction"] == pytest.approx(expected[0])


def test_a_classification_answers_with_the_class_and_logs_its_index(running: Running) -> None:
    version = running.publish(CLASSIFIER, "churn")
    running.serving(version, "churn")
    answer = running.predict(ROW | {"x": 2.0}, "churn").json()["predictions"][0]
    assert answer["prediction"] == "yes"
    assert set(answer["probabilities"]) == {"no", "yes"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
    assert running.logged(1, "churn")[0]["cls_prediction"] == 1.0


@pytest.mark.parametrize(
    ("body", "status", "field", "row"),
    [
        ([{"x": 1}], 422, "c", None),
        ([{"x": 1, "c": "u"}, {"x": "far", "c": "u"}], 422, "x", 1),
        ([{"x": [1], "c": "u"}], 422, "x", 0),
        ([{"x": 1e999, "c": "u"}], 422, "x", 0),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_field_and_row(
    running: Running, body: Any, status: int, field: str, row: int | None
) -> None:
    running.serving(running.publish(CHECKPOINTS[1.0]))
    content = json.dumps(body).replace("Infinity", "1e999")
    headers = {"Content-Type": "application/json"}
    answer = running.client.post("/v1/streams/flights/predict", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert (answer.json()["field"], answer.json()["row"]) == (field, row)


def test_unknown_streams_and_foreign_hosts_are_refused(running: Running) -> None:
    assert running.predict(ROW, "trains").status_code == 404
    assert running.client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_predictions_come_back_as_events_once_and_with_their_version(running: Running) -> None:
    version = running.publish(CHECKPOINTS[1.0])
    running.serving(version)
    keys = [f"k{i}" for i in range(120)]
    bodies: list[Any] = [
        {"rows": [ROW | {"id": key} for key in keys[:60]]},
        *(ROW | {"id": key} for key in keys[60:]),
    ]
    served: dict[str, float] = {}
    for body in bodies:
        answer = running.predict(body).json()
        served |= {one["key"]: one["prediction"] for one in answer["predictions"]}
        assert answer["logged"] == len(answer["predictions"])
    assert running.predict({"rows": [ROW], "log": False}).json()["logged"] == 0
    assert running.predict(ROW, params={"log": "false"}).json()["logged"] == 0
    assert running.predict(ROW | {"id": {"no": "key"}}).json()["logged"] == 0
    assert running.predict(ROW, params={"log": "maybe"}).status_code == 422
    running.stop.set()
    running.thread.join(20.0)
    rows = running.logged(len(keys))
    assert {row["id"]: row["cls_prediction"] for row in rows} == served
    assert len(rows) == len(keys)
    assert {row["cls_version"] for row in rows} == {version}
    assert {(row["x"], row["c"], row["at"]) for row in rows} == {(0.5, "u", ROW["at"])}


def test_a_hot_swap_fails_no_request_and_every_answer_is_its_versions_own(running: Running) -> None:
    first = running.publish(CHECKPOINTS[1.0])
    second = running.publish(CHECKPOINTS[-3.0], promoted=False)
    running.serving(first)
    probe: Columns = {"x": np.array([0.5]), "c": Categorical.of(["u"])}
    expected = {
        first: restore(CHECKPOINTS[1.0]).predict(probe)[0],
        second: restore(CHECKPOINTS[-3.0]).predict(probe)[0],
    }
    done = threading.Event()

    def ask() -> list[tuple[int, int, float]]:
        found = []
        with httpx.Client(base_url=running.client.base_url, timeout=10.0) as client:
            while not done.is_set():
                answer = client.post("/v1/streams/flights/predict", json={"rows": [ROW], "log": False})
                body = answer.json()
                found.append((answer.status_code, body["version"], body["predictions"][0]["prediction"]))
        return found

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        for version in (second, first, second, first, second):
            running.promote(version)
            running.serving(version)
            time.sleep(0.1)
        done.set()
        answers = [answer for one in asked for answer in one.result()]
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {first, second}
    assert all(prediction == pytest.approx(expected[version]) for _, version, prediction in answers)


def test_a_damaged_champion_is_refused_while_the_old_one_serves_and_taken_once_it_is_mended(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.serving.follow.RETRY_SECONDS", 0.2)
    first = running.publish(CHECKPOINTS[1.0])
    running.serving(first)
    second = running.publish(CHECKPOINTS[-3.0], promoted=False)
    root = running.config.home / "artifacts"
    path = next(root.rglob(running.sha256[second][MODEL]))
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    running.promote(second)
    known = {"serving": first, "champion": second}
    eventually(lambda: known.items() <= running.client.get("/readyz").json()["streams"]["flights"].items())
    assert running.predict(ROW).json()["version"] == first
    path.write_bytes(whole)
    running.serving(second)
    assert SPEC in running.sha256[second]


def test_it_answers_on_while_the_database_is_away(running: Running) -> None:
    version = running.publish(CHECKPOINTS[1.0])
    running.serving(version)
    database = running.config.home / "cls.db"
    running.home.engine.dispose()
    import sqlite3

    blocker = sqlite3.connect(database, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        answers = [running.predict(ROW | {"id": f"k{i}"}) for i in range(20)]
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert {answer.status_code for answer in answers} == {200}
    assert len(running.logged(20)) == 20


def test_events_without_a_prediction_are_scored(running: Running) -> None:
    version = running.publish(CHECKPOINTS[1.0])
    n = 7000
    zeros = np.zeros(n, np.int64)
    columns: Columns = {"x": np.linspace(-1, 1, n), "c": Categorical.of(["u"] * n)}
    batch = Batch(
        columns, [str(i) for i in range(n)], zeros, zeros.astype(np.int8), np.full(n, np.nan), zeros
    )
    segment = write_events(running.home.segments, "flights", 0, batch)
    with transaction(running.home.engine) as connection:
        record_segment(connection, segment)
    eventually(lambda: len(running.home.log.predictions("flights", 0, n)) == n)
    scores = running.home.log.predictions("flights", 0, n)
    assert set(scores.version.tolist()) == {version}
    assert scores.prediction == pytest.approx(restore(CHECKPOINTS[1.0]).predict(columns))
