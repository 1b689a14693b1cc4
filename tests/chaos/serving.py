"""`cls serve` as a process with a published model, clients that behave, and clients that do not."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import psutil

from cls.checkpoints import restore
from cls.domain import Json
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from storage.db import transaction
from storage.home import Home
from storage.inbox import InboxSource
from storage.streams import ensure_stream
from tests.chaos.harness import STREAM, System, eventually, running
from tests.publishing import publish

ROW: Json = {"at": "2020-01-01T00:00:00Z", "a": 0.5, "b": 0.1, "c": 1.0, "kind": "north"}
PATH = f"/v1/streams/{STREAM}/predict"
READY_SECONDS = 90.0  # on a busy machine


@cache
def trained(hidden: tuple[int, ...] = (16,)) -> Checkpoint:
    """Return a model of the harness's stream."""
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=300) for name in ("a", "b", "c")}
    columns: Columns = {**numbers, "kind": Categorical.of(rng.choice(["north", "east"], 300).tolist())}
    rows = Rows(columns, 3 * numbers["a"], np.arange(300))
    schema = Schema(("a", "b", "c"), ("kind",))
    training = start(None, rows, Recipe(epochs=1), schema=schema, config={"hidden": hidden})
    while not training.done:
        training.step()
    return training.finish()


def predicted(checkpoint: Checkpoint) -> float:
    """Return what a model predicts for `ROW`."""
    numbers = {name: np.array([ROW[name]]) for name in ("a", "b", "c")}
    return float(restore(checkpoint).predict({**numbers, "kind": Categorical.of([ROW["kind"]])})[0])


@contextmanager
def serving(
    folder: Path, database_url: str, hidden: tuple[int, ...] = (16,), **serve: Any
) -> Iterator[tuple[System, Home]]:
    """Hold `cls serve`, ready, with version 1 as the champion. MLflow is away: nobody listens on its address."""
    system = System(folder, database_url, serve=serve)
    home = Home.open(system.config)
    with transaction(home.engine) as connection:
        ensure_stream(connection, STREAM)
    publish(home, STREAM, trained(hidden))
    try:
        with running(system, "serve"):
            eventually(lambda: is_ready(system), READY_SECONDS, "serve to be ready")
            yield system, home
    finally:
        home.engine.dispose()


def is_ready(system: System) -> bool:
    """Whether /readyz says so."""
    try:
        return httpx.get(f"http://{system.config.http.serve}/readyz", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


def memory(system: System) -> int:
    """Return the resident bytes of the serving process."""
    pid = system.pid("serve")
    assert pid is not None
    return int(psutil.Process(pid).memory_info().rss)


def logged(system: System, home: Home) -> list[Json]:
    """Return all rows in the inbox."""
    source, token, found = InboxSource(home.engine, home.inbox, STREAM), "", list[Json]()
    while (batch := source.read(token)) is not None:
        found += batch.table.to_pylist()
        token = batch.token
    return found


# -- clients that behave ----------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)  # keys that were logged, by the time of their answer
    broken: int = 0  # connections that ended without an answer
    answers: dict[str, tuple[int, float]] = field(default_factory=dict)  # version and prediction, by key
    troubles: list[tuple[float, float, str]] = field(
        default_factory=list
    )  # begun, over: no answer, or another than 200

    def worst(self, share: float) -> float:
        """Return a quantile of the seconds."""
        return float(np.quantile(self.seconds, share)) if self.seconds else 0.0


class Clients:
    """Ask for single rows, each with a key of its own, one after the other, until they are told to stop.

    Parameters
    ----------
    expected
        What is to be predicted; None where it depends on the version that answers, and is judged afterwards.
    """

    def __init__(self, system: System, expected: float | None, number: int = 4) -> None:
        self.asked = Asked()
        self._expected = expected
        self._stop = Event()
        self._keys = count()
        self._url = f"http://{system.config.http.serve}{PATH}"
        self._threads = [Thread(target=self._ask, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=15.0) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    self._once(client, f"k{next(self._keys)}", began)
                except httpx.TransportError as error:
                    self.asked.broken += 1
                    self.asked.troubles.append((began, time.monotonic(), type(error).__name__))
                    time.sleep(0.02)

    def _once(self, client: httpx.Client, key: str, began: float) -> None:
        answer = client.post(self._url, json=ROW | {"id": key})
        now = time.monotonic()
        self.asked.seconds.append(now - began)
        self.asked.statuses[answer.status_code] += 1
        if answer.status_code != 200:
            self.asked.troubles.append((began, now, f"{answer.status_code} {answer.text[:200]}"))
            return
        body = answer.json()
        [one] = body["predictions"]
        self.asked.answers[key] = (one["version"], one["prediction"])
        unexpected = self._expected is not None and abs(one["prediction"] - self._expected) > 1e-3
        if one["key"] != key or unexpected:
            self.asked.wrong.append(body)
        if body["logged"]:
            self.asked.kept[key] = now

    def stop(self) -> Asked:
        """Stop, and return what they saw."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.asked


@contextmanager
def clients(system: System, expected: float, number: int = 4) -> Iterator[Asked]:
    """Hold clients while the block runs; what they saw is complete after it."""
    asking = Clients(system, expected, number)
    try:
        yield asking.asked
    finally:
        asking.stop()


async def flood(
    address: str, body: bytes, per_second: float, seconds: float
) -> list[tuple[int, float, Mapping[str, str]]]:
    """Send requests at a fixed pace, whatever becomes of them; returns (status, seconds, headers) of each; 0: no answer."""
    host, _, port = address.rpartition(":")
    head = f"POST {PATH}?log=false HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    found: list[tuple[int, float, Mapping[str, str]]] = []

    async def one() -> None:
        began = time.monotonic()
        status, headers = 0, dict[str, str]()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(20.0):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    writer.write(request)
                    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                    await reader.readexactly(int(headers["content-length"]))
                    status = int(lines[0].split()[1])
                finally:
                    writer.close()
        found.append((status, time.monotonic() - began, headers))

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            group.create_task(one())
    return found


# -- clients that do not ----------------------------------------------------------------------------------------------


def stall(address: str, sent: bytes, number: int) -> list[socket.socket]:
    """Open connections that send something and then neither send nor read any more."""
    host, _, port = address.rpartition(":")
    opened = []
    for _ in range(number):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect((host, int(port)))
        one.settimeout(5.0)
        one.sendall(sent)
        opened.append(one)
    return opened


def half_header(address: str) -> bytes:
    """Return the first lines of a request."""
    return f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Ty".encode()


def half_body(address: str) -> bytes:
    """Return a request that claims to be longer than it is."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: 200000\r\n\r\n".encode() + b'[{"a": 1,'


def large_answer(address: str, rows: int) -> bytes:
    """Return a whole request whose answer is large."""
    body = json.dumps({"rows": [ROW] * rows, "log": False}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def hung_up(sockets: Sequence[socket.socket]) -> int:
    """Return how many of the connections the server has ended by now."""
    ended = 0
    for one in sockets:
        one.settimeout(0.0)
        try:
            while one.recv(1 << 16):
                pass
            ended += 1
        except BlockingIOError:
            continue
        except OSError:
            ended += 1
    return ended
