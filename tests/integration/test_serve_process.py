"""`cls serve` as a process: clients that dawdle, the canary of a rollout, the end, and the scoring process beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from cls.checkpoints import restore
from cls.config import Config
from cls.demo.running import free_address
from cls.domain import RolloutState
from cls.doors.server import HEADER_BYTES, HttpServer
from cls.scoring import ScoringProcess
from cls.serve import serve
from cls.serving.routing import in_canary
from cls.times import EPOCH
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from storage.db import reading, transaction
from storage.home import Home
from storage.inbox import InboxSource
from storage.served import read_served
from storage.versions import add_rollout, move_rollout, rollouts_in
from tests.publishing import new_home, publish

ARROW = "application/vnd.apache.arrow.stream"


def trained(slope: float, classes: tuple[str, ...] = ()) -> Checkpoint:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    target = (x > 0).astype(np.float64) if classes else slope * x
    rows = Rows({"x": x, "c": Categorical.of(rng.choice(["u", "v"], 400).tolist())}, target, np.arange(400))
    task: Any = "classification" if classes else "regression"
    training = start(None, rows, Recipe(epochs=2), schema=Schema(("x",), ("c",), task, classes))
    while not training.done:
        training.step()
    return training.finish()


ONE, OTHER, CLASSIFIER = trained(1.0), trained(-3.0), trained(1.0, ("no", "yes"))


def config_of(home: Path, **settings: Any) -> Config:
    columns = {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"}
    document = {
        "home": str(home),
        "http": {"serve": free_address()},
        "serve": {"runtime": "eager", **settings},
        "streams": {
            "flights": {"task": "regression", "schema": columns},
            "churn": {"task": "classification", "schema": columns | {"classes": ["no", "yes"]}},
        },
    }
    return Config.model_validate(document, by_alias=True, by_name=False)


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)
    return found


@contextmanager
def serving(config: Config) -> Iterator[tuple[httpx.Client, Callable[[], None]]]:
    """Serve in a thread; the second value stops it."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(config, stop))
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()

    try:
        with httpx.Client(base_url=f"http://{config.http.serve}", timeout=60) as client:
            eventually(lambda: answers(client) or not thread.is_alive())
            yield client, end
    finally:
        end()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = new_home(config_of(tmp_path / "home"))
    yield home
    home.engine.dispose()


def row(i: int) -> dict[str, Any]:
    return {"id": f"k{i}", "at": "2013-01-01T00:00:00Z", "x": i / 100, "c": "u"}


def logged(home: Home, stream: str = "flights") -> list[dict[str, Any]]:
    source, token, found = InboxSource(home.engine, home.inbox, stream), "", list[dict[str, Any]]()
    while (batch := source.read(token)) is not None:
        found += batch.table.to_pylist()
        token = batch.token
    return found


def roll_out(home: Home, first: int, second: int, *, share: float) -> int:
    """Let a version answer a share of the keys; returns the number of its rollout."""
    with transaction(home.engine) as connection:
        number = add_rollout(
            connection, "flights", second, parent=first, light=False, effective_at=EPOCH, episode=None
        )
        (rollout,) = rollouts_in(connection, "flights", RolloutState.WAITING)
        move_rollout(connection, rollout, RolloutState.SHADOW, at=EPOCH, since=0)
        (rollout,) = rollouts_in(connection, "flights", RolloutState.SHADOW)
        move_rollout(connection, rollout, RolloutState.CANARY, at=EPOCH, since=0, step=1, share=share)
    return number


def test_a_canary_answers_its_keys_and_both_are_logged_and_counted_by_version(
    home: Home, tmp_path: Path
) -> None:
    first, second = publish(home, "flights", ONE), publish(home, "flights", OTHER, promoted=False)
    number = roll_out(home, first, second, share=0.25)
    rows = [row(i) for i in range(300)]
    with serving(config_of(tmp_path / "home")) as (client, stop):
        eventually(lambda: client.get("/v1/streams").json()["streams"][0].get("share") == 0.25)
        url = "/v1/streams/flights/predict"
        whole = client.post(url, json=rows).json()
        single = [client.post(url, json={"rows": [r], "log": False}).json() for r in rows[:40]]
        table = pa.Table.from_pylist(rows[:100])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        headers = {"Content-Type": ARROW, "Accept": ARROW}
        content = sink.getvalue().to_pybytes()
        answer = client.post(f"{url}?log=false", content=content, headers=headers)
        stop()
    mine = [second if in_canary(number, r["id"], 0.25) else first for r in rows]
    assert [one["version"] for one in whole["predictions"]] == mine
    assert [one["predictions"][0]["version"] for one in single] == mine[:40]
    assert 0.15 < mine.count(second) / 300 < 0.35
    assert whole["version"] == first
    columns: Columns = {"x": np.array([r["x"] for r in rows]), "c": Categorical.of(["u"] * 300)}
    expected = np.where(
        np.equal(mine, second), restore(OTHER).predict(columns), restore(ONE).predict(columns)
    )
    assert [one["prediction"] for one in whole["predictions"]] == pytest.approx(expected, abs=1e-5)
    assert answer.headers["content-type"] == ARROW
    back = pa.ipc.open_stream(answer.content).read_all()
    assert back["key"].to_pylist() == [r["id"] for r in rows[:100]]
    assert back["version"].to_pylist() == mine[:100]
    assert back["prediction"].to_pylist() == pytest.approx(expected[:100], abs=1e-5)
    assert {r["id"]: r["cls_version"] for r in logged(home)} == {
        r["id"]: v for r, v in zip(rows, mine, strict=True)
    }
    with reading(home.engine) as connection:
        served = read_served(connection, "flights", number)
    canary, champion = served["canary-1", second], served["canary-1", first]
    assert canary.rows == 300 * mine.count(second) // 300 + mine[:40].count(second) + mine[:100].count(second)
    assert canary.rows + champion.rows == 440
    assert canary.latency.sum() == canary.batches
    assert (canary.errors, canary.nonfinite) == (0, 0)


def test_classes_come_as_arrow_with_a_column_of_probabilities_each(home: Home, tmp_path: Path) -> None:
    publish(home, "churn", CLASSIFIER)
    with serving(config_of(tmp_path / "home")) as (client, _):
        url, rows = "/v1/streams/churn/predict", [row(-200), row(200), {"x": None, "c": "new"}]
        plain = client.post(url, json=rows).json()
        answer = client.post(url, json=rows, headers={"Accept": ARROW})
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["key", "version", "prediction", "probability.no", "probability.yes"]
    assert table["key"].to_pylist() == ["k-200", "k200", None]
    assert table["prediction"].to_pylist() == [one["prediction"] for one in plain["predictions"]]
    yes = [one["probabilities"]["yes"] for one in plain["predictions"]]
    assert table["probability.yes"].to_pylist() == pytest.approx(yes, abs=1e-6)
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert (metadata["logged"], metadata["stream"]) == ("2", "churn")


def test_the_end_answers_what_is_in_flight_and_loses_no_row_of_the_log(home: Home, tmp_path: Path) -> None:
    publish(home, "flights", ONE)
    config = config_of(tmp_path / "home", batch_delay_ms=800, deadline_ms=30_000)
    found: list[httpx.Response] = []
    with serving(config) as (client, stop):
        asked = threading.Thread(
            target=lambda: found.append(client.post("/v1/streams/flights/predict", json=[row(1), row(2)]))
        )
        asked.start()
        time.sleep(0.3)
        stop()
        asked.join()
    assert found[0].status_code == 200
    assert found[0].json()["logged"] == 2
    assert sorted(r["id"] for r in logged(home)) == ["k1", "k2"]


def test_clients_that_dawdle_are_answered_408_and_headers_without_end_431() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    server = HttpServer(app, address := free_address(), request_seconds=0.5)
    server.start()
    host, _, port = address.rpartition(":")

    def said(*pieces: bytes, pause: float = 0.0) -> bytes:
        with socket.create_connection((host, int(port)), timeout=60) as client:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            received = b""
            while (data := client.recv(65536)) and b"ok" not in data:
                received += data
            return received + data

    try:
        assert b" 200 " in said(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 408 " in said(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert b" 408 " in said(b"GET / HTTP/1.1\r\nHo")
        assert b" 408 " in said(b"")
        assert b" 431 " in said(b"GET / HTTP/1.1\r\nA: ", *[b"a" * 50_000] * 2)
        fine = b"x" * (HEADER_BYTES * 2)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(fine)
        assert b" 200 " in said(head + fine)
    finally:
        server.stop()


HANGING = """
import sys, threading
import cls.serve, cls.serving.batcher
from cls.cli.main import app
from cls.serving.models import LoadedModel
path, version = sys.argv[1], int(sys.argv[2])
predict = LoadedModel.predict
def hang(self, columns):
    if self.version == version and threading.current_thread().name != "load-version":
        threading.Event().wait()
    return predict(self, columns)
LoadedModel.predict = hang
cls.serve.STUCK_LOOKS, cls.serve.LOOK_SECONDS, cls.serving.batcher._UNKNOWN_SECONDS = 2, 0.2, 0.05
app(["--config", path, "serve"])
"""
TOML = """
home = "{home}"
http.serve = "{address}"
serve = {{runtime = "eager", deadline_ms = 200}}
[streams.flights]
task = "regression"
schema = {{numeric = ["x"], categorical = ["c"], key = "id", event_time = "at", target = "y"}}
"""


@contextmanager
def hanging(tmp_path: Path, version: int) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run `cls serve` as a process in which a version hangs."""
    path, address = tmp_path / "cls.toml", free_address()
    path.write_text(TOML.format(home=tmp_path / "home", address=address))
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(path), str(version)])
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            eventually(lambda: answers(client) or process.poll() is not None)
            yield process, client
    finally:
        process.kill()
        process.wait()


def test_a_process_whose_champion_hangs_ends_by_itself_and_not_well(home: Home, tmp_path: Path) -> None:
    version = publish(home, "flights", ONE)
    with hanging(tmp_path, version) as (process, client):
        assert client.post("/v1/streams/flights/predict", json=row(1)).status_code == 504
        assert process.wait(30) == 1


def test_a_process_in_which_a_canary_hangs_ends_when_told(home: Home, tmp_path: Path) -> None:
    first, second = publish(home, "flights", ONE), publish(home, "flights", OTHER, promoted=False)
    roll_out(home, first, second, share=1.0)
    with hanging(tmp_path, second) as (process, client):
        eventually(lambda: client.get("/v1/streams").json()["streams"][0].get("share") == 1.0)
        answer = client.post("/v1/streams/flights/predict", json=row(1))
        assert (answer.status_code, answer.json()["predictions"][0]["version"]) == (200, first)
        process.terminate()
        assert process.wait(30) == 0
    assert [r["id"] for r in logged(home)] == ["k1"]


def test_the_scoring_process_comes_back_when_it_dies_and_stops_when_told(home: Home, tmp_path: Path) -> None:
    scoring = ScoringProcess(config_of(tmp_path / "home"))
    scoring.start()
    try:
        first = eventually(lambda: scoring.pid)
        assert eventually(lambda: psutil.Process(first).nice() == 10)
        os.kill(first, signal.SIGKILL)
        second = eventually(lambda: scoring.pid if scoring.pid != first else None)
    finally:
        scoring.stop()
    assert scoring.pid is None
    assert not psutil.pid_exists(second)


PARENT = """
import sys
from cls.config import Config
from cls.scoring import ScoringProcess
scoring = ScoringProcess(Config.model_validate_json(sys.argv[1], by_alias=True, by_name=False))
scoring.start()
while scoring.pid is None: pass
print(scoring.pid, flush=True)
scoring.join()
"""


def test_the_scoring_process_ends_with_its_parent_even_after_kill_9(home: Home, tmp_path: Path) -> None:
    text = config_of(tmp_path / "home").model_dump_json(by_alias=True)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, text], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
    eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert json.loads(text)["streams"]
