"""How long the loop takes around its training: from a drifted window to a claimed job, and from decision to promotion.

    python -m benchmarks.latency [--postgres URL]

Real processes (`cls up`), on SQLite and on PostgreSQL. Times are differences of the database's own clock: of the request that closed the
drifted window, of the job's start, of the ledger's entries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
from sqlalchemy import Engine, create_engine, select, text

from benchmarks.report import Figure, write_results
from cls.demo.feed import Feeder
from cls.demo.running import free_address, services
from storage.db import open_database, reading
from storage.tables import inbox, jobs, ledger

SEED = 0
UPDATES = 12  # light updates that are measured
REGIMES = (2.0, -2.0, 1.0, -1.0, 2.0, -2.0)  # one after the other; each raises an alarm
REGIME_BATCHES = 4
BATCH = 500
START = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = """home = "."
database_url = "{database}"

[http]
ingest = "{ingest}"
serve = "{serve}"

[streams.s]
task = "regression"

[streams.s.schema]
numeric = ["a", "b", "c"]
categorical = ["d"]
key = "id"
event_time = "time"
target = "y"

[streams.s.detect]
window_rows = 500
reference_rows = 4000
report = false

[streams.s.update]
{cadence}
min_rows = 200
cooldown = "0s"
bootstrap_rows = 4000

[streams.s.gate]
fresh_rows = 1000
"""


CADENCES = {"drift": 'cadence = "drift"', "every": 'cadence = "every"\nevery_rows = 500'}


def rows(number: int, count: int, shift: float) -> pa.Table:
    """Return events with their labels, `shift` standard deviations away from where the stream began."""
    rng = np.random.default_rng((SEED, number))
    a, b, c = rng.normal(shift, 1, count), rng.normal(0, 1, count), rng.normal(0, 1, count)
    d = rng.choice(["x", "y", "z"], count)
    times = [START + timedelta(minutes=number * BATCH + i) for i in range(count)]
    y = 3 * a * (1 if shift == 0 else -1) + b + (d == "x") + rng.normal(0, 0.3, count)
    ids = [f"{number}-{i}" for i in range(count)]
    return pa.table(
        {
            "id": ids,
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "a": a,
            "b": b,
            "c": c,
            "d": d,
            "y": y,
        }
    )


@contextmanager
def postgres(url: str) -> Iterator[str]:
    """Hold a fresh database on a server."""
    name = f"cls_latency_{uuid.uuid4().hex[:8]}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def measure(database: str, cadence: str) -> tuple[list[float], list[float]]:
    """Return (seconds from a drifted window's request to each claimed job, overheads of light updates in seconds)."""
    with tempfile.TemporaryDirectory() as directory:
        ingest, serve = free_address(), free_address()
        path = Path(directory) / "cls.toml"
        path.write_text(
            CONFIG.format(database=database, ingest=ingest, serve=serve, cadence=CADENCES[cadence])
        )
        url = database or f"sqlite:///{directory}/cls.db"
        with services(path, ingest, serve), httpx.Client(base_url=f"http://{ingest}", timeout=60) as client:
            feeder = Feeder(client, "s", "latency")
            engine = open_database(url)
            for number in range(9):
                feeder.send("events", rows(number, BATCH, 0.0))
            feeder.settle()
            shifts = [0.0] * UPDATES if cadence == "every" else np.repeat(REGIMES, REGIME_BATCHES).tolist()
            for number, shift in enumerate(shifts, 9):
                feeder.send("events", rows(number, BATCH, shift))
                feeder.settle()
            try:
                return claims(engine), overheads(engine)
            finally:
                engine.dispose()


def claims(engine: Engine) -> list[float]:
    """Return the time from the request that raised the alarm to the start of the first job after it."""
    with reading(engine) as connection:
        alarms = connection.execute(
            select(ledger).where(ledger.c.kind == "alarm").order_by(ledger.c.id)
        ).all()
        requests = connection.execute(select(inbox.c.received_at).order_by(inbox.c.id)).scalars().all()
        starts = connection.execute(select(jobs.c.started_at).order_by(jobs.c.started_at)).scalars().all()
    found = []
    for alarm in alarms:
        asked = max(at for at in requests if at <= alarm.recorded_at)
        later = [at for at in starts if at is not None and at >= alarm.recorded_at]
        if later:
            found.append((later[0] - asked).total_seconds())
    return found


def overheads(engine: Engine) -> list[float]:
    """Return, per light update, the time from its decision to its promotion less what its job was measured to take."""
    with reading(engine) as connection:
        decisions = connection.execute(select(ledger).where(ledger.c.decision == "update")).all()
        promotions = connection.execute(select(ledger).where(ledger.c.kind == "promotion")).all()
        rows = connection.execute(select(jobs).where(jobs.c.state == "succeeded")).all()
    by_id = {row.id: row for row in rows}
    at = {row.version: row.recorded_at for row in promotions}
    found = []
    for decision in decisions:
        job = by_id.get(decision.job_id)
        version = None if job is None else (job.result or {}).get("version")
        if job is not None and version in at and job.input["parent"] is not None:
            found.append((at[version] - decision.recorded_at).total_seconds() - job.charged_seconds)
    return found


def help_seconds(times: int = 7) -> float:
    """Return the median time of `cls --help`."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cls.cli.main", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    default = os.environ.get("CLS_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
    parser.add_argument(
        "--postgres", default=default, help="URL of a server on which databases may be created"
    )
    options = parser.parse_args()
    figures = []

    def add(name: str, values: list[float], limit: float) -> None:
        value = float(np.median(values)) if values else None
        note = f"median of {len(values)}" + (f", worst {max(values):.2f}" if values else "")
        figures.append(
            Figure(name, value, "s", f"< {limit:g}", None if value is None else value < limit, note)
        )

    with postgres(options.postgres) as drift_url, postgres(options.postgres) as light_url:
        for name, drift, light in (("SQLite", "", ""), ("PostgreSQL", drift_url, light_url)):
            add(f"drifted window to claimed job, {name}", measure(drift, "drift")[0], 1.0)
            add(f"light update, decision to promoted less its job, {name}", measure(light, "every")[1], 2.0)
    taken = help_seconds()
    figures.append(Figure("cls --help", taken, "s", "< 0.5", taken < 0.5, "median of 7"))
    write_results(
        "latency", dataset="generated: three numbers, one category", seeds=[SEED], figures=figures, text=""
    )


if __name__ == "__main__":
    main()
