"""Let everything fail at random, for a long time, and check what must be true all the same.

    python -m benchmarks.soak --minutes 30 --seed 1 [--kinds serving rollouts] [--database postgresql+psycopg://...]

The time is shared by three kinds of rounds, each on a fresh home with real processes:

stream      ten faults hit a stream in lock-step: kill -9 of daemon, worker, reporter or serve, or a stop past the lease; it is compared with a run
            that nothing disturbed
serving     clients ask without pause while champions change, processes are killed or stopped, and the database and MLflow go away
rollouts    daemon and predictor are killed at random moments of rollouts, and an operator aborts, pauses and rolls back

Without --database a round runs on SQLite; with it, on a fresh database of that server, whose name the URL's only begins. Results of kinds that do
not run are kept, each with its own date and commit.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from benchmarks.report import COMMIT, RESULTS, Figure, write_results
from storage.db import open_database
from storage.schema import upgrade
from tests.chaos.harness import Feed, Killer, System, Watcher, check_whole, compare, facts, make_feed, running
from tests.chaos.rollout_round import Rollouts, rollout_round
from tests.chaos.serving_round import Round, serving_round

FAULTS = 10
STOP_SHARE = 0.25  # of the faults are stops past the lease instead of kills
PROCESSES = ("daemon", "worker-0", "serve", "reporter")
ROUND_SECONDS = 60.0  # of faults in a round of the other kinds
WHOLE = {
    "stream": "equal to an undisturbed run in everything that is kept",
    "serving": "each answer that of the version it names; refused only while the predictor is down; rows logged once; one champion; aliases agree",
    "rollouts": "each where it is by legal steps, each taken once; ledger, promotions and aliases agree; always a champion",
}


def main() -> int:
    """Run rounds until the time is over; returns 1 if one of them came to anything else than it should."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="for all kinds together; a round is finished"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server; default: SQLite")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results are written")
    options = parser.parse_args()
    fault = False
    for kind in options.kinds:
        until = time.monotonic() + 60 * options.minutes / len(options.kinds)
        rounds: list[dict[str, Any]] = []
        while not rounds or time.monotonic() < until:
            rounds.append(KINDS[kind](options.seed + len(rounds), options.database))
            print(_line(kind, rounds[-1]), flush=True)
        fault = fault or any(entry["fault"] for entry in rounds)
        _write(kind, rounds, options.database, options.out)
    return 1 if fault else 0


def _stream_round(seed: int, database: str) -> dict[str, Any]:
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


def _serving_round(seed: int, database: str) -> dict[str, Any]:
    result = Round()
    entry = _tried(
        seed, database, lambda folder, url: serving_round(folder, url, seed, ROUND_SECONDS, result)
    )
    asked = result.asked
    return entry | {
        "done": [fault.what for fault in result.faults] + ["MLflow away"],
        "looks": result.looks,
        "answers": len(asked.answers),
        "refused": sum(what[0].isdigit() for _, _, what in asked.troubles),
        "broken": asked.broken,
        "swaps": result.swaps,
        "lost": result.lost,
    }


def _rollout_round(seed: int, database: str) -> dict[str, Any]:
    result = Rollouts()
    entry = _tried(
        seed, database, lambda folder, url: rollout_round(folder, url, seed, ROUND_SECONDS, result)
    )
    return entry | {
        "done": [*sorted(result.killed.elements()), "MLflow away"],
        "looks": result.looks,
        "answers": result.answers,
        "rollouts": dict(result.ended),
        "asked": dict(result.asked),
    }


def _tried(seed: int, database: str, run: Callable[[Path, str], None]) -> dict[str, Any]:
    """Run a round on a fresh home; the next seed is tried whatever becomes of it."""
    entry: dict[str, Any] = {"seed": seed, "fault": ""}
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="cls-soak-") as folder, _fresh(database, Path(folder)) as url:
            run(Path(folder), url)
    except Exception as error:  # noqa: BLE001 - it is told
        entry["fault"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return entry | {"seconds": round(time.monotonic() - began, 1)}


KINDS = {"stream": _stream_round, "serving": _serving_round, "rollouts": _rollout_round}


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


def _line(kind: str, entry: dict[str, Any]) -> str:
    verdict = entry["fault"] or "as it should be"
    return f"{kind}, seed {entry['seed']}: {len(entry['done'])} faults in {entry['seconds']:.0f} s: {verdict}"


def _write(kind: str, rounds: list[dict[str, Any]], database: str, directory: Path) -> None:
    """Write a kind's results beside those of the other kinds."""
    kinds = _kept(directory)
    kinds[kind] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": COMMIT,
        "database": make_url(database).get_backend_name() if database else "sqlite",
        "rounds": rounds,
    }
    kinds = {name: kinds[name] for name in KINDS if name in kinds}
    write_results(
        "soak",
        dataset="generated: events with lagging labels and a change of regime",
        seeds=sorted({entry["seed"] for one in kinds.values() for entry in one["rounds"]}),
        figures=[figure for name, one in kinds.items() for figure in _figures(name, one["rounds"])],
        text="\n\n".join(_table(name, one) for name, one in kinds.items()),
        details={"kinds": kinds},
        directory=directory,
    )


def _kept(directory: Path) -> dict[str, Any]:
    """Return what was written of each kind before."""
    path = directory / "soak.json"
    return dict(json.loads(path.read_text())["details"].get("kinds", {})) if path.exists() else {}


def _figures(kind: str, rounds: list[dict[str, Any]]) -> list[Figure]:
    def total(name: str) -> int:
        return sum(entry[name] for entry in rounds)

    failed = sum(bool(entry["fault"]) for entry in rounds)
    done = Counter(name for entry in rounds for name in entry["done"])
    faults = ", ".join(f"{number} {name}" for name, number in sorted(done.items()))
    figures = [
        Figure(f"{kind}: rounds", len(rounds), "rounds"),
        Figure(f"{kind}: faults", sum(done.values()), "faults", note=faults),
        Figure(f"{kind}: rounds not as they should be", failed, "rounds", "0", failed == 0, WHOLE[kind]),
        Figure(f"{kind}: looks that found a champion", total("looks"), "looks"),
        Figure(f"{kind}: predictions answered beside the faults", total("answers"), "answers"),
    ]
    if kind == "serving":
        figures += [
            Figure("serving: refused with 429 or 503", total("refused"), "answers", note="all while the predictor was being restarted"),
            Figure("serving: without an answer", total("broken"), "requests", note="all while the predictor was dead"),
            Figure("serving: changes of the champion", total("swaps"), "swaps"),
            Figure("serving: answered rows that a kill took before they were logged", total("lost"), "rows"),
        ]  # fmt: skip
    if kind == "rollouts":
        ended = Counter[str]()
        for entry in rounds:
            ended.update(entry["rollouts"])
        states = ", ".join(f"{number} {state}" for state, number in sorted(ended.items()))
        figures.append(Figure("rollouts: rollouts", sum(ended.values()), "rollouts", note=states))
    return figures


def _table(kind: str, found: dict[str, Any]) -> str:
    lines = [f"## {kind}", "", f"{found['at']}, commit {found['commit']}, on {found['database']}."]
    lines += ["", "| seed | faults | seconds | verdict |", "| --- | --- | --- | --- |"]
    for entry in found["rounds"]:
        verdict = (entry["fault"] or "as it should be").splitlines()[0][:200].replace("|", "/")
        lines.append(f"| {entry['seed']} | {len(entry['done'])} | {entry['seconds']:.0f} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
