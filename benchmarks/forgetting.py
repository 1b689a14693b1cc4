"""What is left of earlier tasks: five scenarios on MNIST, ours beside Avalanche, CapyMOA and plain torch.

    python -m benchmarks.forgetting --data DIR [--peers PYTHON] [--capymoa PYTHON] [--scratch DIR]

PYTHON is the interpreter of an environment that has the library; benchmarks/requirements-continual.txt says how to make them.
Everyone trains the same network, 784-400-400-K with ReLU, by Adam at 1e-3, on batches of 128 new rows; whoever remembers adds a
batch of 128 from memory. One thread each. What is finished stays in the scratch directory, and the next run goes on from there.

Hyper-parameters of ours and of the peers' EWC were chosen by benchmarks.forgetting_choice, on seeds that are not reported here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import forgetting_peers as peers
from benchmarks.forgetting_plain import Plain, Run
from benchmarks.forgetting_plain import learn as learn_plain
from benchmarks.scenarios import NAMES, REPORTED, Digits, Name, Scenario, read, scenario

PLAIN: Mapping[Name, Mapping[str, Plain]] = {
    "class": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "plain ER 200": Plain("er", memory_rows=200),
        "plain ER 1000": Plain("er", memory_rows=1000),
    },
    "domain": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "plain ER 200": Plain("er", memory_rows=200),
        "plain EWC": Plain("ewc", ewc_lambda=10.0),
    },
    "permuted": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "plain ER 500": Plain("er", memory_rows=500),
        "plain EWC": Plain("ewc", ewc_lambda=10.0),
    },
    "permuted-6": {
        "plain naive": Plain("naive"),
        "plain EWC": Plain("ewc", ewc_lambda=10.0),
    },
    "alternating": {
        "plain naive": Plain("naive"),
        "joint": Plain("joint"),
        "plain ER 500": Plain("er", memory_rows=500),
        "plain EWC": Plain("ewc", ewc_lambda=10.0),
    },
}


class Finished:
    """Cells that are kept between runs, one file each: several runs may share the directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "cells"
        self.directory.mkdir(exist_ok=True)

    def path(self, key: str) -> Path:
        """Return where a cell is kept."""
        return self.directory / f"{key.replace('/', '-').replace(' ', '_')}.json"

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    def __getitem__(self, key: str) -> Run:
        return Run(**json.loads(self.path(key).read_text()))

    def keep(self, key: str, run: Run) -> None:
        """Keep a cell."""
        self.path(key).write_text(json.dumps(asdict(run)))
        reached = " ".join(f"{value:.1f}" for value in run.accuracy[-1])
        print(f"{key}: {reached}, {run.cpu_seconds:.1f} CPU s", flush=True)


def measure(
    digits: Digits, seeds: tuple[int, ...], names: tuple[Name, ...], pythons: Mapping[str, str], scratch: Path
) -> Finished:
    """Run every cell that is not finished yet, and return them all."""
    finished = Finished(scratch)
    for seed in seeds:
        for name in names:
            told = scenario(name, digits, seed)
            own: dict[str, Callable[[Scenario], Run]] = {
                method: lambda it, plain=plain: learn_plain(it, plain)
                for method, plain in PLAIN[name].items()
            }
            for method, run in own.items():
                if (key := f"{name}/{seed}/{method}") not in finished:
                    finished.keep(key, run(told))
            for library, python in pythons.items():
                missing = {
                    f"{name}/{seed}/{peer.name}": peer.setting
                    for peer in peers.PEERS[name]
                    if peer.library == library and f"{name}/{seed}/{peer.name}" not in finished
                }
                if missing:
                    came = peers.runs(python, library, told, list(missing.values()), scratch)
                    for key, run_of_peer in zip(missing, came, strict=True):
                        finished.keep(key, run_of_peer)
    return finished


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of mnist_test10k.parquet")
    parser.add_argument("--peers", help="interpreter that has Avalanche")
    parser.add_argument("--capymoa", help="interpreter that has CapyMOA")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "forgetting")
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=REPORTED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    pythons = {"avalanche": arguments.peers, "capymoa": arguments.capymoa}
    found = {library: python for library, python in pythons.items() if python}
    measure(read(arguments.data), tuple(arguments.seeds), tuple(arguments.only), found, arguments.scratch)


if __name__ == "__main__":
    main()
