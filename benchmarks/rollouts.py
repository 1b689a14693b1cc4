"""How often rollouts send back versions that are as good, and how soon those that are worse, beside a t-test that is repeated.

    python -m benchmarks.rollouts --data DIR [--runs 1000] [--scratch DIR]

Real predictions and losses (benchmarks/rollouts_versions.py), drawn row by row into rollouts that the service's own code judges and moves
on (benchmarks/rollouts_run.py), with the default settings. Every hundred rows somebody looks. What is finished stays in the scratch
directory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.report import RESULTS, write_results
from benchmarks.rollouts_figures import TARGET_TURNS, draw, figures, text
from benchmarks.rollouts_order import in_turns, truth, two_sided
from benchmarks.rollouts_run import HORIZON, LOOK_ROWS, Fault, Simulation, Traffic
from benchmarks.rollouts_versions import Contest, contests
from cls.config import RolloutConfig
from detectors.anytime import Paired, excess
from detectors.dependence import Dependence

DATA = {"bike_sharing": "regression", "elec2": "classification"}
LEVELS = (0.05, 0.1, 0.3)
EQUALS = 2
FAULTS = (
    Fault("nothing"),
    Fault("1% errors", error_rate=0.01),
    Fault("5% errors", error_rate=0.05),
    Fault("1% NaN", nonfinite_rate=0.01),
    Fault("twice as slow", slowness=2.0),
    Fault("four times as slow", slowness=4.0),
    Fault("half a scale off, or half of the answers the first class", shift=0.5),
)
T_LEVELS = (0.05, 0.01)
TURNS = {f"turns of {block} rows": block for block in (25, 50, 100)}
MORE_ROWS = {"shadow_rows": 2000, "step_rows": 2000, "watch_rows": 10_000}
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """Many rollouts of one contest."""

    kind: str  # labels | in order | turns of N rows | guardrails | guardrails, more rows
    contest: Contest
    fault: Fault
    runs: int


def at_random(random: np.random.Generator, pool: int, rows: int) -> Iterator[Rows]:
    """Yield looks of rows drawn from the pool."""
    while True:
        yield random.integers(0, pool, rows)


def in_order(random: np.random.Generator, pool: int, rows: int) -> Iterator[Rows]:
    """Yield looks of neighbouring rows of the pool from a random one on, round and round."""
    at = int(random.integers(pool))
    while True:
        yield (at + np.arange(rows)) % pool
        at += rows


def settings_of(kind: str) -> RolloutConfig:
    """Return the settings that a kind of rollouts runs with."""
    more: dict[str, Any] = {"evidence": "guardrails"} if kind.startswith("guardrails") else {}
    if kind.endswith("more rows"):
        more |= MORE_ROWS
    return RolloutConfig.model_validate(more)


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Run a case; returns how every rollout ended, and when tests at each look would have called the version worse."""
    random = np.random.default_rng(seed)
    traffic, settings = Traffic(case.contest, case.fault, random), settings_of(case.kind)
    scale = 10 if case.kind.endswith("more rows") else 1
    ended, called = [], []
    for _ in range(case.runs):
        looks = _looks(case, random, scale * LOOK_ROWS)
        seen: list[Rows] = []
        done = Simulation(traffic, settings, scale * HORIZON).run(_kept(looks, seen))
        ended.append(asdict(done))
        if case.kind == "in order" and done.outcome == "worse":
            ended[-1] |= truth(case.contest, np.concatenate(seen)[-done.compared :])
        if case.kind == "labels" or case.kind in TURNS:
            while len(seen) * LOOK_ROWS < HORIZON:
                seen.append(next(looks))
            called.append(first_calls(case.contest, np.concatenate(seen)[:HORIZON]))
    return {
        "kind": case.kind,
        "version": case.contest.name,
        "fault": case.fault.name,
        "excess": case.contest.excess,
        "ended": ended,
        "called": called,
    }


def _looks(case: Case, random: np.random.Generator, rows: int) -> Iterator[Rows]:
    pool = len(case.contest.mine_N)
    if case.kind in TURNS:
        return in_turns(random, pool, rows, TURNS[case.kind])
    return in_order(random, pool, rows) if case.kind == "in order" else at_random(random, pool, rows)


def _kept(looks: Iterator[Rows], seen: list[Rows]) -> Iterator[Rows]:
    for drawn in looks:
        seen.append(drawn)
        yield drawn


def first_calls(contest: Contest, rows: Rows) -> dict[str, int | None]:
    """Return at how many rows one-sided tests at every look first say worse: paired t-tests by their level, and our bound at 1%.

    `blind` is the same bound if it took rows for independent of each other.
    """
    difference = contest.loss_mine_N[rows] - contest.loss_theirs_N[rows]
    n = np.arange(LOOK_ROWS, len(rows) + 1, LOOK_ROWS)
    total, squares = np.cumsum(difference)[n - 1], np.cumsum(difference**2)[n - 1]
    deviation = np.sqrt(np.maximum(squares - total**2 / n, 1e-300) / (n - 1))
    p_value = student.sf(total / np.sqrt(n) / deviation, n - 1)
    said = {f"t-test {level:g}": p_value < level for level in T_LEVELS}
    sums = [Paired(*one) for one in zip(n.tolist(), total.tolist(), squares.tolist(), strict=True)]
    said["blind 0.01"] = np.array([excess(one, 0.01) > 0 for one in sums])
    kept = Dependence()
    said["bound 0.01"] = np.zeros(len(n), bool)
    for i, (one, part) in enumerate(zip(sums, np.split(difference, n)[: len(n)], strict=True)):
        kept = kept.add(part)
        said["bound 0.01"][i] = excess(replace(one, dependence=kept.factor), 0.01) > 0
    found = {name: np.flatnonzero(worse) for name, worse in said.items()}
    return {name: int(n[first[0]]) if len(first) else None for name, first in found.items()}


def cases(directory: Path, name: str, runs: int, seed: int) -> list[Case]:
    """Return all cases of a data set."""
    made = contests(directory, name, LEVELS, EQUALS, seed)
    equal = [contest for contest in made if contest.name.startswith("equal")]
    few = max(runs // 4, 50)
    found = [Case("labels", one, Fault(), -(-runs // EQUALS) if one in equal else few) for one in made]
    found += [Case("in order", one, Fault(), -(-runs // EQUALS)) for one in equal]
    for kind in TURNS:
        often = -(-runs // EQUALS) if kind == TARGET_TURNS else few
        found += [Case(kind, two_sided(one), Fault(), often) for one in equal]
    for kind in ("guardrails", "guardrails, more rows"):
        for fault in FAULTS:
            if fault.shift and kind != "guardrails":
                continue  # found in the shadow anyway
            often = runs if fault.name == "nothing" and kind == "guardrails" else few
            found.append(Case(kind, equal[0], fault, often))
    worse = next(contest for contest in made if contest.name.startswith("5%"))
    found.append(Case("guardrails", worse, Fault(), few))
    return found


def parts_of(contest: Contest) -> list[float]:
    """Return by how much the version is worse in each sixth of the pool's time, relative to the champion's loss."""
    base = contest.loss_theirs_N.mean()
    return [
        float(part.mean() / base) for part in np.array_split(contest.loss_mine_N - contest.loss_theirs_N, 6)
    ]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="directory of bike_sharing.parquet and elec2.parquet"
    )
    parser.add_argument(
        "--runs", type=int, default=1000, help="rollouts of equal versions; a quarter of each worse one"
    )
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "rollouts")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in DATA:
        made = cases(arguments.data, name, arguments.runs, arguments.seed)
        found[name] = []
        for i, case in enumerate(made):
            path = arguments.scratch / f"{name}_{arguments.runs}_{arguments.seed}_{i}.json"
            if not path.exists():
                began = time.monotonic()
                path.write_text(json.dumps(measure(case, arguments.seed + i)))
                took = time.monotonic() - began
                print(
                    f"{name}: {case.kind}, {case.contest.name}, {case.fault.name}: {took:.0f} s", flush=True
                )
            found[name].append(json.loads(path.read_text()) | {"parts": parts_of(case.contest)})
    draw(found, RESULTS / "rollouts.png")
    write_results(
        "rollouts",
        dataset=", ".join(f"{name} ({task})" for name, task in DATA.items()),
        seeds=[arguments.seed],
        figures=figures(found),
        text=text(found),
        details={"look_rows": LOOK_ROWS, "horizon": HORIZON},
    )


if __name__ == "__main__":
    main()
