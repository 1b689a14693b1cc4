"""`make demo`: a real year through the real processes, accelerated, and what CLS made of it.

Starts `cls up` on a fresh home, trains the first model on January, replays the rest of 2013 over HTTP, shows month by month what the first
model would have done and what the champion did, and leaves nothing running.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
from rich.console import Console
from rich.live import Live

from cls.config import Config, load_config
from cls.demo.feed import Feeder
from cls.demo.flights import BOOTSTRAP_END, load_flights
from cls.demo.running import Memory, free_address, run_cli, services
from cls.demo.scoreboard import Scoreboard, month_table
from cls.demo.settings import STREAM, write_config
from cls.doors.calling import token_headers
from cls.errors import CLSError
from cls.recording import Recording, next_edge
from storage import outbox
from storage.db import reading

OUTBOX_SECONDS = 120.0


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cls.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--home", type=Path, default=Path(".demo"), help="directory to start afresh (default: .demo)"
    )
    parser.add_argument(
        "--until", default="2014-01", help="stop before this month (default: 2014-01, the whole year)"
    )
    parser.add_argument("--step-hours", type=float, default=6.0, help="stream time per slice (default: 6)")
    options = parser.parse_args()
    console = Console()
    try:
        _run(options.home, options.until, timedelta(hours=options.step_hours), console)
    except CLSError as error:
        console.print(f"the demo stopped: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    return 0


def _run(home: Path, until: str, step: timedelta, console: Console) -> None:
    began = time.perf_counter()
    if (home / "cls.toml").exists():
        shutil.rmtree(home)
    path = write_config(home, ingest=free_address(), serve=free_address())
    config = load_config(path)
    console.print("Flights out of New York in 2013: predict the time in the air before take-off.")
    console.print("The label lands with the plane; the jet stream is the drift. Loading ...")
    flights = load_flights()
    with services(path, config.http.ingest, config.http.serve) as memory:
        with httpx.Client(
            base_url=f"http://{config.http.ingest}", timeout=60.0, headers=token_headers()
        ) as client:
            board = Scoreboard(config)
            _replay(Feeder(client, STREAM, "demo"), flights, until, step, path, board, console)
        _await_outbox(board, console)
    _conclude(board, config, path, memory, time.perf_counter() - began, console)


def _replay(
    feeder: Feeder,
    flights: pa.Table,
    until: str,
    step: timedelta,
    path: Path,
    board: Scoreboard,
    console: Console,
) -> None:
    """Send the year slice by slice, and wait after each until CLS has digested it."""
    recording = Recording(flights, load_config(path).streams[STREAM])
    now, bootstrapped, shown = recording.start, False, time.monotonic()
    waiting: list[datetime] = []
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while now < recording.end:
            now = next_edge(now, step, waiting)
            if f"{now:%Y-%m}" >= until:
                break
            events, labels = recording.until(now)
            feeder.send("events", events)
            feeder.send("labels", labels)
            if now < BOOTSTRAP_END:
                continue
            progress = feeder.settle()
            if not bootstrapped:
                console.print(
                    f"January is in ({progress['events']:,} flights). Now: cls train {STREAM} --full"
                )
                run_cli(path, "train", STREAM, "--full", "--no-wait")
                progress, bootstrapped = feeder.settle(), True
            waiting = [datetime.fromisoformat(at) for at in progress["rollouts_waiting"]]
            if time.monotonic() - shown > 1.0:
                board.look()
                live.update(month_table(board.months()))
                shown = time.monotonic()
    board.look()


def _await_outbox(board: Scoreboard, console: Console) -> None:
    """Give the registry time to hear of everything: it lags on purpose."""
    until = time.monotonic() + OUTBOX_SECONDS
    with console.status("telling MLflow the rest ..."):
        while time.monotonic() < until:
            with reading(board.home.engine) as connection:
                if outbox.undelivered(connection) == 0:
                    return
            time.sleep(0.2)


def _conclude(
    board: Scoreboard, config: Config, path: Path, memory: Memory, seconds: float, console: Console
) -> None:
    console.print(month_table(board.months()))
    rows, frozen, champion = board.totals()
    console.print(
        f"{rows:,} labelled flights: the first model {frozen:.2f} minutes, CLS {champion:.2f} ({1 - champion / frozen:.0%} less)."
    )
    jobs = [job for job in run_cli(path, "jobs", "list", "--limit", "100000") if job["kind"] == "update"]
    why = Counter(job["reason"] for job in jobs)
    console.print("Updates, and why:")
    for reason, count in why.most_common():
        console.print(f"  {count:4d}  {reason}")
    passes = sum(job["passes"] or 0.0 for job in jobs)
    charged = sum(job["charged_seconds"] or 0.0 for job in jobs)
    console.print(
        f"Compute: {passes / 1e6:.2f} million sample passes, {charged:.0f} device-seconds on the budget."
    )
    peaks = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sorted(memory.peak.items()))
    console.print(f"Took {seconds / 60:.1f} minutes. Peak memory: {peaks}.")
    console.print(f"Why each update did or did not happen:  .venv/bin/cls --config {path} ledger")
    console.print(
        f"The MLflow UI on it:                    .venv/bin/cls --config {path} ui   (http://{config.http.mlflow})"
    )


if __name__ == "__main__":
    sys.exit(main())
