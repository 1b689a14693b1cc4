"""`cls serve` under fire: killed under load, clients that stall, ten times too much, everything around it gone. It goes on answering."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import httpx
import pytest

from storage.home import Home
from tests.chaos.harness import STREAM, System, eventually
from tests.chaos.serving import (
    READY_SECONDS,
    ROW,
    clients,
    flood,
    half_body,
    half_header,
    hung_up,
    is_ready,
    large_answer,
    logged,
    memory,
    predicted,
    serving,
    stall,
    trained,
)
from tests.chaos.test_database_away import Server

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
OUTAGE_SECONDS = 2.0


def test_killed_under_load_it_comes_back_with_the_same_champion_and_logs_nothing_twice(
    tmp_path: Path, sqlite_url: str
) -> None:
    expected, random = predicted(trained()), Random(5)
    with serving(tmp_path / "run", sqlite_url) as (system, home):
        with clients(system, expected) as asked:
            time.sleep(random.uniform(0.5, 1.0))  # the moment of the kill, not a wait for anything
            before, killed = system.pid("serve"), time.monotonic()
            assert system.signal("serve")
            eventually(partial(comes_back, system, before), READY_SECONDS, "serve to come back")
            answered = asked.statuses[200]
            eventually(lambda: asked.statuses[200] > answered + 20)
        assert (set(asked.statuses), asked.wrong) == ({200}, [])
        assert asked.broken > 0  # the kill was noticed
        assert system.champion() == 1
        eventually(lambda: {k for k, at in asked.kept.items() if at > killed + 1.0} <= keys_of(system, home))
        rows = Counter(row["id"] for row in logged(system, home))
        assert max(rows.values()) == 1
        # a row is on its way to the disk for a moment; what was answered before that is there
        lost = [killed - at for key, at in asked.kept.items() if key not in rows]
        assert all(seconds < 1.5 for seconds in lost), lost


def comes_back(system: System, before: int | None) -> bool:
    """Whether another process is ready."""
    return system.pid("serve") != before and is_ready(system)


def keys_of(system: System, home: Home) -> set[str]:
    """Return the keys in the inbox."""
    return {row["id"] for row in logged(system, home)}


def test_clients_that_stall_keep_nobody_from_being_answered_and_are_hung_up_on(
    tmp_path: Path, sqlite_url: str
) -> None:
    with (
        serving(tmp_path / "run", sqlite_url, body_seconds=2.0, queue_rows=200_000) as (system, _),
        ExitStack() as stack,
    ):
        address, before = system.config.http.serve, memory(system)
        stalled = stall(address, half_header(address), 70) + stall(address, half_body(address), 70)
        stalled += stall(address, large_answer(address, 2_000), 60)  # nobody reads these answers
        for one in stalled:
            stack.callback(one.close)
        with clients(system, predicted(trained()), 2) as asked:
            eventually(lambda: asked.statuses[200] >= 100)
            ended = eventually(
                lambda: (n := hung_up(stalled[:140])) == 140 and n, 20.0, "the stalled to be hung up on"
            )
        assert (set(asked.statuses), asked.broken, asked.wrong) == ({200}, 0, [])
        assert ended == 140
        assert memory(system) - before < 200 << 20
        assert system.exits == []


def test_ten_times_too_much_is_shed_at_once_and_the_rest_answered_in_time(
    tmp_path: Path, sqlite_url: str
) -> None:
    limits = {"batch_rows": 32, "queue_rows": 400, "deadline_ms": 400.0, "runtime": "eager"}
    with serving(tmp_path / "run", sqlite_url, (1024, 1024, 1024), **limits) as (system, _):
        address = system.config.http.serve
        body = json.dumps({"rows": [ROW] * 100, "log": False}).encode()
        capacity = closed_loop(address, body, 1.5)
        found = asyncio.run(flood(address, body, 10 * capacity, 3.0))
        statuses = Counter(status for status, _, _ in found)
        good = sorted(seconds for status, seconds, _ in found if status == 200)
        shed = sorted(seconds for status, seconds, _ in found if status in (429, 503))
        assert set(statuses) <= {200, 429, 503}, statuses
        assert all("retry-after" in headers for status, _, headers in found if status != 200)
        assert len(good) >= 0.3 * capacity * 3.0, (statuses, capacity)
        assert good[int(0.99 * len(good))] < 2.0
        assert len(shed) > len(good)
        assert shed[len(shed) // 2] < 0.5
        began = time.monotonic()
        assert (
            httpx.post(f"http://{address}/v1/streams/{STREAM}/predict", json=ROW, timeout=5.0).status_code
            == 200
        )
        assert time.monotonic() - began < 1.0
        assert system.exits == []


def closed_loop(address: str, body: bytes, seconds: float) -> float:
    """Return how many requests are answered per second, one after the other."""
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=f"http://{address}", headers=headers, timeout=10.0) as client:
        began, answered = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            assert client.post(f"/v1/streams/{STREAM}/predict", content=body).status_code == 200
            answered += 1
        return answered / (time.monotonic() - began)


@contextmanager
def away(backend: str, database_url: str) -> Iterator[None]:
    """Keep everybody from the database while the block runs."""
    if backend == "sqlite":
        blocker = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None, timeout=10.0)
        blocker.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
        return
    server = Server(database_url)
    server.allow(False)
    try:
        server.terminate()
        yield
    finally:
        server.allow(True)


def test_without_its_database_it_answers_on_and_logs_everything_afterwards(
    tmp_path: Path, database_url: str, backend: str
) -> None:
    with serving(tmp_path / "run", database_url) as (system, home):
        home.engine.dispose()
        with clients(system, predicted(trained()), 2) as asked:
            eventually(lambda: asked.statuses[200] > 10)
            with away(backend, database_url):
                before = asked.statuses[200]
                time.sleep(OUTAGE_SECONDS)  # the outage, not a wait for anything
                assert asked.statuses[200] > before + 50
                assert is_ready(system)
        assert (set(asked.statuses), asked.broken, asked.wrong) == ({200}, 0, [])
        assert asked.worst(0.99) < 0.5
        eventually(lambda: asked.kept.keys() <= keys_of(system, home))
        assert max(Counter(row["id"] for row in logged(system, home)).values()) == 1
        assert system.exits == []


def test_without_its_artifacts_it_answers_on(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path / "run", sqlite_url) as (system, _):
        shutil.rmtree(system.config.home / "artifacts")
        with clients(system, predicted(trained()), 2) as asked:
            eventually(lambda: asked.statuses[200] > 200)
        assert (set(asked.statuses), asked.broken, asked.wrong) == ({200}, 0, [])
        assert is_ready(system)
        assert system.exits == []
