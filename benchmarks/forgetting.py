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
from benchmarks.forgetting_figures import (
    Runs,
    alternating_figures,
    goal_figures,
    permuted_figures,
    plot,
    tables,
)
from benchmarks.forgetting_goals import GOALS, PLAIN, SHOWN
from benchmarks.forgetting_ours import learn as learn_ours
from benchmarks.forgetting_plain import Run
from benchmarks.forgetting_plain import learn as learn_plain
from benchmarks.forgetting_recipes import OURS
from benchmarks.report import Figure, write_results
from benchmarks.scenarios import NAMES, REPORTED, Digits, Name, Scenario, read, scenario

PACKAGES = {"avalanche": "avalanche-lib", "capymoa": "capymoa"}
EXPLAINED = """Accuracy is the mean over all tasks after the last one; forgetting the mean over earlier tasks of what was lost since
each was learned. A step is 128 new rows, with 128 from memory for whoever has one. "shifted images" moves every image by up to one pixel
each way whenever it is learned, which an image may and a permuted one may not: joint training and the libraries that can are beside it
with the same. Outputs of DER++ are stored once, of the image as it is. CPU-seconds are of training alone, in one thread, on a machine that
had other work. CapyMOA's EWC, which squares batch means as Avalanche's does, is left out.

What was seen while choosing, on one or two other seeds (6,400 rows to learn from):

- Class-incremental, 200 in memory: ER 82.8; DER++ with a class-balanced memory 89.0. New rows that compete among the new classes alone
  (ER-ACE) need new rows in the replayed part too, or nothing tells new classes from old ones: 70 without them, 91.1 with them, 92.6 with
  shifted images. The squared distance must include the outputs of classes that are not learned yet: 90.0 without. Of DER++ alone,
  distil_weight 0.2, 0.5, 1, 3 reach 88.5, 89.3, 88.8, 86.4.
- What did not help there: cosine decay (-0.6 to -2.1), averaged iterates (-0.5 to -1), LwF beside it (-0.2 to -1.8), EWC beside it (+-0.2), a memory batch of
  384 (+0.2), logits corrected by class frequency (-0.2).
- Permuted, EWC alone: one lambda or another between 0.016 and 0.048, 92.6; moments of Adam that begin anew with each task 91.0; cosine 91.2;
  averaged iterates 92.0; LwF beside it 85.4; Fisher information of all rows instead of 1,000, 91.4 at a larger lambda. Elastic freezing by the same information
  +0.7 over the same seed without; four times stronger the same."""


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
            own |= {
                method: lambda it, recipe=recipe: learn_ours(it, recipe)
                for method, recipe in OURS[name].items()
            }
            for method, run in own.items():
                if (key := f"{name}/{seed}/{method}") not in finished:
                    finished.keep(key, run(told))
            for library, python in pythons.items():
                missing = {
                    f"{name}/{seed}/{peer.name}": peer.setting
                    for peer in peers.PEERS[name]
                    if peer.package == library and f"{name}/{seed}/{peer.name}" not in finished
                }
                if missing:
                    came = peers.runs(python, library, told, list(missing.values()), scratch)
                    for key, run_of_peer in zip(missing, came, strict=True):
                        finished.keep(key, run_of_peer)
    return finished


def runs_of(
    name: Name, seeds: tuple[int, ...], libraries: Mapping[str, str], finished: Finished
) -> dict[str, list[Run]]:
    """Return the runs of a scenario by method."""
    methods = [*PLAIN[name], *OURS[name]]
    methods += [peer.name for peer in peers.PEERS[name] if peer.package in libraries]
    return {method: [finished[f"{name}/{seed}/{method}"] for seed in seeds] for method in methods}


def figures_of(cells: Mapping[Name, Runs]) -> list[Figure]:
    """Return every figure with its target."""
    return [
        *(figure for goal in GOALS for figure in goal_figures(goal, cells[goal.scenario])),
        *permuted_figures("ours EWC + DER++ 500", "plain EWC", cells["permuted-6"]),
        *permuted_figures("ours EWC, freezing", "plain EWC", cells["permuted-6"]),
        *(
            figure
            for method in OURS["alternating"]
            for figure in alternating_figures(method, cells["alternating"])
        ),
    ]


def text_of(cells: Mapping[Name, Runs], versions: Mapping[str, str]) -> str:
    """Return what people read below the figures."""
    beside = ", ".join(f"{library} {version}" for library, version in versions.items()) or "no library"
    missing = [library for library in PACKAGES if library not in versions]
    return "\n".join(
        [
            f"Beside ours: {beside}" + (f"; not measured: {', '.join(missing)}" if missing else "") + ".",
            "",
            EXPLAINED,
            tables(cells),
            "",
            "![accuracy by task](forgetting.png)",
        ]
    )


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
    seeds, names = tuple(arguments.seeds), tuple(arguments.only)
    finished = measure(read(arguments.data), seeds, names, found, arguments.scratch)
    if (seeds, names) != (REPORTED, NAMES):
        return  # a part; the next whole run takes it from the scratch directory
    cells = {name: runs_of(name, seeds, found, finished) for name in names}
    versions = {library: peers.version_of(python, PACKAGES[library]) for library, python in found.items()}
    path = write_results(
        "forgetting",
        dataset="mnist_test10k, 8,000 to learn from and 2,000 to test on by seed",
        seeds=seeds,
        figures=figures_of(cells),
        text=text_of(cells, versions),
        details={
            "versions of peers": versions,
            "cells": {
                name: {method: [asdict(run) for run in runs] for method, runs in found.items()}
                for name, found in cells.items()
            },
        },
    )
    plot(cells, SHOWN, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
