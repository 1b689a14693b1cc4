"""What a step, a consolidation and an endless stream of small updates cost, in CPU-seconds of one thread.

    python -m benchmarks.learning_cost --data DIR [--peers PYTHON] [--capymoa PYTHON] [--scratch DIR]

PYTHON is the interpreter of an environment that has the library; benchmarks/requirements-continual.txt says how to make them.
Everyone trains 784-400-400-10 on batches of 128 new rows, one permutation of MNIST learned before, a second one going on; ours with
the recipes of benchmarks/forgetting_recipes.py. Contenders take turns of 40 steps, in another order each round, and are compared with
the bare loop of torch in the same round. Then a stream of 100,000 rows is learned ten at a time. What is finished stays in the
scratch directory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cost_stream
from benchmarks.cost_figures import draw, figures_of_steps, figures_of_stream, text
from benchmarks.cost_steps import (
    HALF,
    OURS,
    PEERS,
    Round,
    bare,
    ours,
    peer,
    rows_of_digits,
    second_task,
    two_tasks,
)
from benchmarks.forgetting_peers import ROOT, version_of
from benchmarks.report import write_results
from benchmarks.scenarios import Digits, Scenario, read, save
from learners.fisher import diagonal_fisher
from learners.learn import start

FISHER_TIMES = 15
STREAM_CPU_SECONDS = 90.0  # what Avalanche may spend on the stream


def measure_steps(
    scenario: Scenario, pythons: Mapping[str, str], scratch: Path, rounds: int, seed: int
) -> dict[str, list[float]]:
    """Return the CPU-seconds of every round of each contender."""
    path = scratch / "two_tasks.safetensors"
    save(scenario, path)
    contenders: dict[str, Round] = {
        "bare loop": bare(scenario),
        "bare loop, fused Adam": bare(scenario, fused=True),
        "bare loop, 256 rows": bare(scenario, batch_rows=256),
    }
    contenders |= {name: ours(scenario, recipe) for name, recipe in (OURS | HALF).items()}
    spent: dict[str, list[float]] = {}
    with ExitStack() as stack:
        for name, (library, setting) in PEERS.items():
            if library in pythons:
                contenders[name] = stack.enter_context(peer(pythons[library], library, path, setting))
        random = np.random.default_rng(seed)
        for number in range(rounds + 1):
            for name in random.permutation(list(contenders)):
                seconds = contenders[name]()
                if number:  # the first warms up
                    spent.setdefault(str(name), []).append(seconds)
            print(f"round {number} of {rounds}", flush=True)
    return {name: spent[name] for name in contenders}


def measure_fisher(scenario: Scenario) -> dict[str, list[float]]:
    """Return the CPU-seconds of the Fisher information of 1,000 rows, and of what else an update of 5,120 rows costs beside its steps."""
    training = second_task(scenario, OURS["ours EWC"])
    inputs = tuple(tensor[:1000] for tensor in training.train.inputs)
    found: dict[str, list[float]] = {"exact": [], "sampled": [], "start": [], "conclude": []}
    rows = rows_of_digits(scenario.train[1], 100_000)
    for _ in range(FISHER_TIMES):
        for kind in ("exact", "sampled"):
            began = time.process_time()
            diagonal_fisher(training.model, inputs, "classification", kind)
            found[kind].append(time.process_time() - began)
        began = time.process_time()
        learner = training.conclude()
        found["conclude"].append(time.process_time() - began)
        began = time.process_time()
        training = start(learner, rows, OURS["ours EWC"])
        found["start"].append(time.process_time() - began)
    return found


def measure_stream(digits: Digits, seed: int, rows: int) -> dict[str, Any]:
    """Return what every period of the stream cost, and what updates consist of."""
    found: dict[str, Any] = {"periods": [], "counts": []}
    for told in cost_stream.periods(digits, seed, rows):
        if isinstance(told, cost_stream.Period):
            found["periods"].append(asdict(told))
            if len(found["periods"]) % 20 == 0:
                print(f"stream: {told.after_rows:,} rows, {told.ours:.1f} ms an update", flush=True)
        else:
            found["counts"] += [asdict(count) for count in told]
    return found


def measure_peer_stream(python: str, digits: Digits, scratch: Path) -> list[float]:
    """Return the CPU-seconds of Avalanche's experiences of ten rows, as many as its time allows."""
    path = scratch / "stream.safetensors"
    save(Scenario("permuted", 0, 10, 1, (digits,), ()), path)
    setting = {
        "memory_rows": cost_stream.RECIPE.memory_rows,
        "replayed": cost_stream.REPLAYED,
        "cpu_seconds": STREAM_CPU_SECONDS,
    }
    command = [python, "-m", "benchmarks.cost_peer", "stream", str(path), json.dumps(setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    said = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    spent: list[float] = json.loads(said.stdout.splitlines()[-1])
    return spent


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of mnist_test10k.parquet")
    parser.add_argument("--peers", help="interpreter that has Avalanche")
    parser.add_argument("--capymoa", help="interpreter that has CapyMOA")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "learning_cost")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--rows", type=int, default=100_000, help="of the stream")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    pythons = {"avalanche": arguments.peers, "capymoa": arguments.capymoa}
    pythons = {library: python for library, python in pythons.items() if python}
    digits = read(arguments.data)
    scenario = two_tasks(digits, arguments.seed)
    parts = {
        "fisher": lambda: measure_fisher(scenario),
        "steps": lambda: measure_steps(
            scenario, pythons, arguments.scratch, arguments.rounds, arguments.seed
        ),
        "stream": lambda: measure_stream(digits, arguments.seed, arguments.rows),
    }
    if "avalanche" in pythons:
        parts["avalanche_stream"] = lambda: measure_peer_stream(
            pythons["avalanche"], digits, arguments.scratch
        )
    found: dict[str, Any] = {}
    for name, measure in parts.items():
        path = arguments.scratch / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measure()))
        found[name] = json.loads(path.read_text())
    packages = {"avalanche": "avalanche-lib", "capymoa": "capymoa"}
    versions = {library: version_of(python, packages[library]) for library, python in pythons.items()}
    draw(found)
    write_results(
        "learning_cost",
        dataset="mnist_test10k",
        seeds=[arguments.seed],
        figures=[*figures_of_steps(found["steps"], found["fisher"]), *figures_of_stream(found)],
        text=text(found, versions),
        details={**found, "versions of peers": versions},
    )


if __name__ == "__main__":
    main()
