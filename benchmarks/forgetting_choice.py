"""How the hyper-parameters of benchmarks.forgetting were chosen: on other seeds, and on a part of their train rows.

    python -m benchmarks.forgetting_choice --data DIR [--peers PYTHON] [--seeds 100 101]

Prints the accuracy for every value tried; nothing is written.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from benchmarks import forgetting_peers as peers
from benchmarks.forgetting_figures import final
from benchmarks.forgetting_ours import learn as learn_ours
from benchmarks.forgetting_plain import Plain, Run
from benchmarks.forgetting_plain import learn as learn_plain
from benchmarks.forgetting_recipes import CLASSES, PERMUTED, PERMUTED_REMEMBERING, REGIMES
from benchmarks.scenarios import TUNING, Name, Scenario, read, scenario
from learners.recipe import Recipe

RECIPES: dict[Name, dict[str, Recipe]] = {
    "class": {
        f"distil_weight {weight}, {rows} in memory": replace(
            CLASSES, distil_weight=weight, memory_rows=rows, augment=True
        )
        for weight in (0.2, 0.5, 1.0)
        for rows in (200, 1000)
    },
    "domain": {
        f"distil_weight {weight}": replace(REGIMES, distil_weight=weight, memory_rows=200, augment=True)
        for weight in (0.2, 0.5, 1.0)
    },
    "permuted": {
        **{
            f"EWC, lambda {strength:g}, freeze {freeze:g}": replace(
                PERMUTED, ewc_lambda=strength, freeze=freeze
            )
            for strength, freeze in (
                *((0.02, 0.0), (0.03, 0.0), (0.1, 0.0)),
                *((0.021, 1.0), (0.021, 4.0), (0.005, 2.0), (0.06, 2.0)),
            )
        },
        **{
            f"EWC + DER++, lambda {strength:g}": replace(PERMUTED_REMEMBERING, ewc_lambda=strength)
            for strength in (0.005, 0.015, 0.05)
        },
    },
}
PLAIN_EWC: dict[Name, tuple[float, ...]] = {
    "domain": (1e4, 1e5, 1e6, 1e7, 1e8, 1e9),
    "permuted": (30.0, 100.0, 300.0),
}
AVALANCHE_EWC: dict[Name, tuple[float, ...]] = {
    "domain": (1e5, 1e6, 1e7, 1e8, 1e9),
    "permuted": (1e2, 1e4, 1e5),
}


def trials(told: Scenario, avalanche: str | None, scratch: Path) -> Iterator[tuple[str, Run]]:
    """Try every value on one scenario."""
    for label, recipe in RECIPES.get(told.name, {}).items():
        yield f"ours, {label}", learn_ours(told, recipe)
    for strength in PLAIN_EWC.get(told.name, ()):
        yield f"plain EWC, lambda {strength:g}", learn_plain(told, Plain("ewc", ewc_lambda=strength))
    if avalanche and told.name in AVALANCHE_EWC:
        strengths = AVALANCHE_EWC[told.name]
        settings = [{"ewc_lambda": strength} for strength in strengths]
        for strength, run in zip(
            strengths, peers.runs(avalanche, "avalanche", told, settings, scratch), strict=True
        ):
            yield f"Avalanche EWC, lambda {strength:g}", run


def main() -> None:
    """Try all, and print what each reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of mnist_test10k.parquet")
    parser.add_argument("--peers", help="interpreter that has Avalanche")
    parser.add_argument("--only", choices=tuple(RECIPES), nargs="+", default=tuple(RECIPES))
    parser.add_argument("--seeds", type=int, choices=TUNING, nargs="+", default=TUNING)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = read(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            reached: dict[str, list[float]] = {}
            for seed in arguments.seeds:
                for label, run in trials(scenario(name, digits, seed), arguments.peers, Path(scratch)):
                    reached.setdefault(label, []).append(final(run))
                    print(f"{name} {label}: {fmean(reached[label]):.2f} %", flush=True)


if __name__ == "__main__":
    main()
