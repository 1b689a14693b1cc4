"""Versions change under traffic: `cls serve` as a process of its own, over HTTP, on a real home."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.hot_swaps import (
    STREAM,
    data,
    first_network,
    make_champion,
    measure,
    publish,
    records_of,
    serving,
    version_of,
)
from cls.layout import MODEL
from storage.db import reading
from storage.home import Home
from storage.versions import read_version

RNG = np.random.default_rng(0)
TRAIN, ROWS = data(RNG, 500), data(RNG, 64)
MODELS = {number: version_of(first_network(TRAIN), number) for number in (1, 2, 3)}
BODY = records_of(ROWS)[0]


def test_across_hot_swaps_no_request_fails_and_each_answer_is_of_the_version_that_it_names() -> None:
    seen = measure(requests=600, swaps=6, connections=8, runtime="eager")
    assert (seen["failures"], seen["failed"], seen["wrong"]) == ([], 0, 0)
    assert seen["answers"] >= 600
    assert len(seen["delays"]) == 6


@dataclass
class Served:
    home: Home
    address: str
    directory: Path

    def answer(self) -> tuple[int, float]:
        found = httpx.post(f"http://{self.address}/v1/streams/{STREAM}/predict", content=BODY).json()
        return found["version"], found["predictions"][0]["prediction"]

    def serving(self) -> int:
        return int(httpx.get(f"http://{self.address}/v1/streams").json()["streams"][0]["serving"])

    def log(self) -> str:
        return (self.directory / "serve.log").read_text()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, "eager", lambda home: [publish(home, MODELS[1], TRAIN)]) as (home, address):
        yield Served(home, address, tmp_path)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def test_bad_champions_are_refused_by_name_while_the_old_one_serves_and_going_back_needs_no_store(
    served: Served,
) -> None:
    first = MODELS[1].predict(ROWS)[0]
    deceitful = publish(served.home, MODELS[2], TRAIN, golden_of=MODELS[3])
    make_champion(served.home, deceitful)
    eventually(lambda: f"version {deceitful}: golden.json: row" in served.log())
    assert served.answer()[0] == 1
    damaged = publish(served.home, MODELS[3], TRAIN)
    with reading(served.home.engine) as connection:
        sha256 = read_version(connection, STREAM, damaged).files[MODEL]
    path = served.directory / "artifacts" / sha256[:2] / sha256
    path.write_bytes(path.read_bytes()[:-9])
    make_champion(served.home, damaged)
    eventually(lambda: f"version {damaged}: artifact" in served.log())
    version, prediction = served.answer()
    assert version == 1
    assert prediction == pytest.approx(first, rel=1e-6)
    assert served.log().count("version refused") == 2  # once each, however often it is tried
    whole = publish(served.home, MODELS[2], TRAIN)
    make_champion(served.home, whole)
    eventually(lambda: served.serving() == whole)
    assert served.answer()[1] == pytest.approx(MODELS[2].predict(ROWS)[0], rel=1e-6)
    make_champion(served.home, 1)
    eventually(lambda: served.serving() == 1)
    make_champion(served.home, whole)
    eventually(lambda: served.serving() == whole)
    shutil.rmtree(served.directory / "artifacts")
    make_champion(served.home, 1)
    eventually(lambda: served.serving() == 1)
    version, prediction = served.answer()
    assert version == 1
    assert prediction == pytest.approx(first, rel=1e-6)
