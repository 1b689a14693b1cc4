"""Kill and stop processes at random, for a long time, and compare every run with one that nothing disturbed.

    python -m benchmarks.soak --minutes 30 --seed 1 [--database postgresql+psycopg://...]

Each round feeds a stream of its own seed to real processes on a fresh home; ten faults hit it: kill -9 of daemon, worker, reporter or serve, or a stop
past the lease. Without --database a round runs on SQLite; with it, on a fresh database of that server, whose name the URL's only begins.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from benchmarks.report import Figure, write_results
from storage.db import open_database
from storage.schema import upgrade
from tests.chaos.harness import Feed, Killer, System, Watcher, check_whole, compare, facts, make_feed, running

FAULTS = 10
STOP_SHARE = 0.25  # of the faults are stops past the lease instead of kills
PROCESSES = ("daemon", "worker-0", "serve", "reporter")


def main() -> int:
    """Run rounds until the time is over; returns 1 if one of them came to anything else than it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server; default: SQLite")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    rounds: list[dict[str, Any]] = []
    while not rounds or time.monotonic() < until:
        rounds.append(_round(options.seed + len(rounds), options.database))
        print(_line(rounds[-1]), flush=True)
    _write(rounds, options.seed, options.database)
    return 1 if any(entry["fault"] for entry in rounds) else 0


def _round(seed: int, database: str) -> dict[str, Any]:
    """Run a stream twice, disturbed the second time."""
    feed = make_feed(seed=seed)
    kills = Random(seed).choices(PROCESSES, k=FAULTS)
    entry: dict[str, Any] = {"seed": seed, "done": [], "fault": "", "seconds": 0.0, "looks": 0, "answers": 0}
    try:
        expected, undisturbed_seconds = _run(feed, database)
        entry["undisturbed_seconds"] = undisturbed_seconds
        found, entry["seconds"] = _run(feed, database, Disturbance(seed, kills, entry))
        compare(found, expected)
    except Exception as error:  # noqa: BLE001 - the next seed is tried all the same
        entry["fault"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return entry


class Disturbance:
    """Faults for one run."""

    def __init__(self, seed: int, kills: list[str], entry: dict[str, Any]) -> None:
        self.seed = seed
        self.kills = kills
        self.entry = entry


def _run(feed: Feed, database: str, disturbance: Disturbance | None = None) -> tuple[dict[str, Any], float]:
    with tempfile.TemporaryDirectory(prefix="cls-soak-") as folder, _fresh(database, Path(folder)) as url:
        system = System(Path(folder) / "run", url)
        with running(system):
            began = time.monotonic()
            if disturbance is None:
                system.feed(feed)
            else:
                _disturb(system, feed, disturbance)
            check_whole(system, feed)
            return facts(system), round(time.monotonic() - began, 1)


def _disturb(system: System, feed: Feed, disturbance: Disturbance) -> None:
    killer = Killer(system, disturbance.seed, len(feed.batches), disturbance.kills, STOP_SHARE)
    watcher = Watcher(system)
    try:
        system.feed(feed, killer.before)
        killer.join()
        system.settle()
    finally:
        watcher.close()
        entry = disturbance.entry
        entry["done"], entry["looks"], entry["answers"] = killer.done, watcher.looks, watcher.answers
    if watcher.faults:
        raise AssertionError(f"without a champion: {watcher.faults[:3]}")


@contextmanager
def _fresh(database: str, folder: Path) -> Iterator[str]:
    """Hold a migrated database."""
    url, name = f"sqlite:///{folder / 'cls.db'}", f"cls_soak_{secrets.token_hex(6)}"
    server = create_engine(make_url(database), isolation_level="AUTOCOMMIT") if database else None
    if server is not None:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        url = make_url(database).set(database=name).render_as_string(hide_password=False)
    try:
        engine = open_database(url)
        upgrade(engine)
        engine.dispose()
        yield url
    finally:
        if server is not None:
            with server.connect() as connection:
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            server.dispose()


def _line(entry: dict[str, Any]) -> str:
    verdict = entry["fault"] or "equal"
    return f"seed {entry['seed']}: {len(entry['done'])} faults in {entry['seconds']:.0f} s: {verdict}"


def _write(rounds: list[dict[str, Any]], seed: int, database: str) -> None:
    differ = sum(bool(entry["fault"]) for entry in rounds)
    done = Counter(name for entry in rounds for name in entry["done"])
    figures = [
        Figure("rounds", len(rounds), "rounds", note="each with its own stream and faults"),
        Figure("faults", sum(done.values()), "faults", note=", ".join(f"{n} {name}" for name, n in sorted(done.items()))),
        Figure("rounds that differ from an undisturbed run", differ, "rounds", "0", differ == 0),
        Figure("looks that found a champion", sum(entry["looks"] for entry in rounds), "looks", note="of all after its first promotion"),
        Figure("predictions answered beside the faults", sum(entry["answers"] for entry in rounds), "answers"),
    ]  # fmt: skip
    kind = make_url(database).get_backend_name() if database else "sqlite"
    lines = ["| seed | faults | seconds | undisturbed | verdict |", "| --- | --- | --- | --- | --- |"]
    for entry in rounds:
        quiet_seconds = entry.get("undisturbed_seconds", 0.0)
        verdict = (entry["fault"] or "equal").splitlines()[0][:200].replace("|", "/")
        lines.append(
            f"| {entry['seed']} | {len(entry['done'])} | {entry['seconds']:.0f} | {quiet_seconds:.0f} | {verdict} |"
        )
    write_results(
        "soak",
        dataset=f"generated: 5,000 events with lagging labels and a change of regime, on {kind}",
        seeds=[seed + number for number in range(len(rounds))],
        figures=figures,
        text="\n".join(lines),
        details={"database": kind, "rounds": rounds},
    )


if __name__ == "__main__":
    sys.exit(main())
