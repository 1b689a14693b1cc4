"""Whether a hot swap hurts anybody: requests over HTTP while versions change, each answer held to the version that it names.

    python -m benchmarks.hot_swaps [--requests 10000] [--swaps 50] [--connections 16] [--runtime auto]

`cls serve` is a real process on a temporary home. Every version predicts something else for every row, known beforehand from its weights
here, so that an answer by another version than it names, or by one that is half there, is seen. Every fifth swap goes back to the
predecessor; all others load a version that was never loaded before. Prediction logging is on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import torch

from benchmarks.report import Figure, write_results
from cls.checkpoints import pack
from cls.config import load_config
from cls.demo.running import free_address
from cls.domain import ModelVersion
from cls.golden import make_golden
from cls.layout import GOLDEN
from cls.times import EPOCH
from detectors.columns import Categorical, Column, Columns, rows_of
from learners.checkpoint import Checkpoint, prefixed
from learners.models.tabular import TabularNetwork
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import manifest_digest
from storage.db import open_database, transaction
from storage.home import Home
from storage.schema import upgrade
from storage.streams import ensure_stream
from storage.versions import add_version, champion, promote

SEED = 0
ROWS = 64  # different ones that are asked about
NUMERIC = tuple(f"x{i}" for i in range(9))
CATEGORICAL = ("carrier", "dest")
STREAM = "flights"
BACK = 5  # every so many swaps one goes back
SECONDS = 300.0  # for all of it
EQUAL = 1e-4  # of the answers, in scales of the target: ONNX Runtime rounds otherwise than torch
CONFIG = """home = "."

[http]
serve = "{serve}"

[serve]
runtime = "{runtime}"

[streams.flights]
task = "regression"

[streams.flights.schema]
numeric = [{numeric}]
categorical = ["carrier", "dest"]
key = "id"
event_time = "at"
target = "y"
"""


@dataclass
class Answer:
    """What came back for a row, and how long it took."""

    row: int
    at: float  # monotonic seconds
    seconds: float
    status: int
    version: int = 0
    prediction: float = np.nan


@dataclass
class Traffic:
    """Connections that ask one after the other until they are told to stop."""

    address: str
    connections: int
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self, bodies: list[bytes]) -> threading.Thread:
        """Begin in a thread of its own."""
        thread = threading.Thread(target=lambda: asyncio.run(self._all(bodies)))
        thread.start()
        return thread

    async def _all(self, bodies: list[bytes]) -> None:
        await asyncio.gather(*(self._one(bodies, number) for number in range(self.connections)))

    async def _one(self, bodies: list[bytes], number: int) -> None:
        host, port = self.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        row = number
        while not self.stop.is_set():
            row = (row + 1) % len(bodies)
            begun = time.monotonic()
            try:
                writer.write(self._request(bodies[row]))
                status, body = await asyncio.wait_for(_response(reader), 30)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                self.failures.append(repr(error))
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
                continue
            now = time.monotonic()
            answer = Answer(row, now, now - begun, status)
            if status == 200:
                document = orjson.loads(body)
                answer.version = document["version"]
                answer.prediction = document["predictions"][0]["prediction"]
            else:
                self.failures.append(f"{status}: {body[:200]!r}")
            self.answers.append(answer)
        writer.close()

    def _request(self, body: bytes) -> bytes:
        head = f"POST /v1/streams/{STREAM}/predict HTTP/1.1\r\nhost: {self.address}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = int(head.split(b" ", 2)[1]), 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, await reader.readexactly(length)


def data(rng: np.random.Generator, count: int) -> dict[str, Column]:
    """Return rows like those of flights: nine numbers, a carrier and a destination."""
    columns: dict[str, Column] = {name: rng.normal(size=count) for name in NUMERIC}
    columns["carrier"] = Categorical.of([f"c{i}" for i in rng.integers(0, 16, count)])
    columns["dest"] = Categorical.of([f"d{i}" for i in rng.integers(0, 100, count)])
    return columns


def version_of(base: TabularNetwork, number: int) -> TabularNetwork:
    """Return a network of other weights than the others, whose predictions lie a scale away from theirs."""
    torch.manual_seed(number)
    model = TabularNetwork.from_spec(base.spec()).eval()
    for name, tensor in base.state_dict().items():
        if not tensor.dtype.is_floating_point or name.startswith(("numeric", "target")):
            model.get_buffer(name).copy_(tensor)
    model.target_location.fill_(10.0 * number)
    return model


def publish(
    home: Home, model: TabularNetwork, columns: Columns, golden_of: TabularNetwork | None = None
) -> int:
    """Store a version; returns its number."""
    packed = pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {}))
    packed[GOLDEN] = make_golden(golden_of or model, columns, SEED).to_json()
    files = {name: home.artifacts.put(content) for name, content in packed.items()}
    version = ModelVersion(STREAM, 0, manifest_digest(files), None, None, "s", 0, 0, 0, {}, {}, EPOCH, files)
    with transaction(home.engine) as connection:
        return add_version(connection, version)


def make_champion(home: Home, version: int) -> float:
    """Promote a version; returns when, in monotonic seconds."""
    with transaction(home.engine) as connection:
        now = champion(connection, STREAM)
        expected = None if now is None else now.version
        promote(
            connection, STREAM, version, expected=expected, since=0, reference="r", at=None, reason="swap"
        )
    return time.monotonic()


def swap(home: Home, traffic: Traffic, versions: list[int], each: int, begun: float) -> list[float]:
    """Promote one version after the other under traffic; returns the seconds from each promotion to the first answer by it."""
    delays, serving, before, fresh = [], versions[0], versions[0], iter(versions[1:])
    for number in range(1, len(versions)):
        chosen = before if number % BACK == 0 else next(fresh)
        seen = len(traffic.answers)
        promoted = make_champion(home, chosen)
        before, serving = serving, chosen
        while not (first := [one.at for one in traffic.answers[seen:] if one.version == serving]):
            time.sleep(0.002)
            if time.monotonic() - begun > SECONDS:
                raise TimeoutError(f"version {serving} never answered: {traffic.failures[:3]}")
        delays.append(first[0] - promoted)
        while len(traffic.answers) - seen < each:
            time.sleep(0.002)
    return delays


def judged(answers: list[Answer], expected: dict[int, Any], scale: float) -> int:
    """Return how many answers are not exactly of the version that they name."""
    return sum(
        not abs(one.prediction - expected[one.version][one.row]) <= EQUAL * scale
        for one in answers
        if one.status == 200
    )


@contextmanager
def serving(
    directory: Path, runtime: str, versions: Callable[[Home], list[int]]
) -> Iterator[tuple[Home, str]]:
    """Run `cls serve` on a new home with some versions, of which the first is champion; gives the home and the address."""
    path, address = directory / "cls.toml", free_address()
    numeric = ", ".join(f'"{name}"' for name in NUMERIC)
    path.write_text(CONFIG.format(serve=address, runtime=runtime, numeric=numeric))
    config = load_config(path)
    engine = open_database(config.database)
    upgrade(engine)
    with transaction(engine) as connection:
        ensure_stream(connection, STREAM)
    engine.dispose()
    home = Home.open(config)
    make_champion(home, versions(home)[0])
    command = [sys.executable, "-m", "cls.cli.main", "--config", str(path), "serve"]
    with (directory / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_ready(address, server, Path(log.name))
            yield home, address
        finally:
            server.terminate()
            server.wait(30)
            home.engine.dispose()


def records_of(rows: Columns) -> list[bytes]:
    """Return each row as the body of a request."""
    named = {
        name: [column.vocabulary[code] for code in column.codes]
        if isinstance(column, Categorical)
        else column.tolist()
        for name, column in rows.items()
    }
    return [
        orjson.dumps({"id": f"r{i}", "at": "2013-01-01T00:00:00Z"} | {n: c[i] for n, c in named.items()})
        for i in range(ROWS)
    ]


def measure(requests: int, swaps: int, connections: int, runtime: str) -> dict[str, Any]:
    """Run `cls serve`, ask without swaps and with them; returns what was seen."""
    rng = np.random.default_rng(SEED)
    train, rows = data(rng, 4000), data(rng, ROWS)
    base = first_network(train)
    models = [version_of(base, number) for number in range(1, swaps + 2)]
    published: list[int] = []

    def versions(home: Home) -> list[int]:
        published.extend(publish(home, model, train) for model in models)
        return published

    bodies = records_of(rows)
    with tempfile.TemporaryDirectory() as directory:
        with serving(Path(directory), runtime, versions) as (home, address):
            ask(address, connections, bodies, requests // 5)  # until it is warm
            quiet = ask(address, connections, bodies, requests // 2)
            traffic = Traffic(address, connections)
            thread, begun = traffic.start(bodies), time.monotonic()
            try:
                delays = swap(home, traffic, published, requests // swaps + 1, begun)
            finally:
                traffic.stop.set()
                thread.join()
            after = ask(address, connections, bodies, requests // 2)
        chosen = (Path(directory) / "serve.log").read_text(errors="replace").count("runtime chosen")
    expected = {v: model.predict(rows) for v, model in zip(published, models, strict=True)}
    failures = traffic.failures + quiet.failures + after.failures
    return {
        "answers": len(traffic.answers),
        "failed": len(failures),
        "failures": failures[:5],
        "wrong": judged(traffic.answers + quiet.answers + after.answers, expected, base.target_scale.item()),
        "versions": len({one.version for one in traffic.answers}),
        "delays": delays,
        "quiet": milliseconds(quiet.answers + after.answers),
        "swapping": milliseconds(traffic.answers),
        "quiet_per_second": (per_second(quiet.answers) + per_second(after.answers)) / 2,
        "swapping_per_second": per_second(traffic.answers),
        "runtimes_chosen": chosen,
    }


def first_network(train: Columns) -> TabularNetwork:
    """Return the network that all versions are built like."""
    count, schema = rows_of(train), Schema(NUMERIC, CATEGORICAL)
    target = np.random.default_rng(SEED).normal(size=count)
    return TabularNetwork.fit_preprocessing(None, schema, Rows(train, target, np.arange(count)))


def wait_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server is ready; raises `TimeoutError` with the end of its log."""
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"http://{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"cls serve did not become ready: {log.read_text()[-2000:]}")


def ask(address: str, connections: int, bodies: list[bytes], requests: int) -> Traffic:
    """Ask without swaps."""
    traffic = Traffic(address, connections)
    thread = traffic.start(bodies)
    while len(traffic.answers) < requests and thread.is_alive():
        time.sleep(0.01)
    traffic.stop.set()
    thread.join()
    return traffic


def per_second(answers: list[Answer]) -> float:
    """Return answers per second."""
    return len(answers) / (answers[-1].at - answers[0].at)


def milliseconds(answers: list[Answer]) -> dict[str, float]:
    """Return quantiles of the answers' times."""
    taken = np.array([one.seconds for one in answers]) * 1e3
    return {name: float(np.quantile(taken, q)) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--out", type=Path, default=None, help="where results are written, instead of here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    seen = measure(chosen.requests, chosen.swaps, chosen.connections, chosen.runtime)
    delays, quiet, swapping = np.array(seen["delays"]), seen["quiet"], seen["swapping"]
    figures = [
        Figure("requests across the swaps", seen["answers"], "", f">= {chosen.requests}", seen["answers"] >= chosen.requests),
        Figure("hot swaps", len(delays), "", f"{chosen.swaps}", len(delays) == chosen.swaps),
        Figure("failed requests", seen["failed"], "", "0", seen["failed"] == 0, "; ".join(seen["failures"])),
        Figure("wrong answers", seen["wrong"], "", "0", seen["wrong"] == 0, "not of the version that they name, or of none"),
        Figure("versions that answered", seen["versions"], ""),
        Figure("promotion to first answer, median", float(np.median(delays)), "s", "", None, "of it 0 to 0.1 s until it is looked for"),
        Figure("promotion to first answer, worst", float(delays.max()), "s"),
        Figure("p50 without swaps", quiet["p50"], "ms"),
        Figure("p50 during swaps", swapping["p50"], "ms"),
        Figure("p99 without swaps", quiet["p99"], "ms"),
        Figure("p99 during swaps", swapping["p99"], "ms"),
        Figure("requests/s without swaps", seen["quiet_per_second"], "1/s"),
        Figure("requests/s during swaps", seen["swapping_per_second"], "1/s"),
    ]  # fmt: skip
    text = (
        f"{chosen.connections} connections, one row each, the client on the same machine; runtime {chosen.runtime}. Every fifth swap goes "
        "back to the predecessor, which is resident; the others fetch, verify, try and warm up a version first. "
        "What is without swaps was asked before them and after them. Load average of the machine meanwhile: "
        f"{os.getloadavg()[0]:.0f}; times are of a busy machine where that is above 3."
    )
    where = {} if chosen.out is None else {"directory": chosen.out}
    path = write_results(
        "hot_swaps",
        dataset="synthetic rows of nine numbers and two categories, network [128, 128]",
        seeds=[SEED],
        figures=figures,
        text=text,
        details=seen,
        **where,
    )
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
