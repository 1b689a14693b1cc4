"""A small stream through real processes that can be killed one by one, and what must be true of it afterwards.

The feed is generated from a seed and sent in lock-step: each batch is acknowledged and digested before the next one is sent. What a
kill changes is then how long it takes; `facts` of a disturbed run must equal those of an undisturbed one.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, select

from cls.config import Config, load_config
from cls.demo.feed import Feeder, quiet
from cls.demo.running import free_address
from cls.domain import Json
from cls.errors import CLSError, Unavailable
from cls.settings.toml_text import toml_key, toml_value
from cls.supervise import Child, Patience
from cls.up import programs_of
from storage.db import open_database, reading
from storage.segments import digest
from storage.tables import (
    champions,
    dead_letters,
    episodes,
    inbox,
    jobs,
    ledger,
    promotions,
    score_panes,
    segments,
    verdicts,
    versions,
)

STREAM = "tide"
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
SERVICE: dict[str, Any] = {
    "lease_seconds": 1.5,
    "heartbeat_seconds": 0.3,
    "poll_seconds": 0.05,
    "checkpoint_seconds": 0.1,
    "max_crashes": 1000,  # a run of kills must not make a job dead
    "retry_delay_seconds": 0.1,
}
TABLES: dict[str, dict[str, Any]] = {
    "schema": {
        "numeric": ["a", "b", "c"],
        "categorical": ["kind"],
        "key": "id",
        "event_time": "at",
        "target": "y",
        "label_time": "known",
    },
    "model": {"arguments": {"hidden": [16], "embedding_bins": 8}},
    "detect": {
        "window_rows": 400,
        "reference_rows": 1000,
        "bins": 8,
        "score_pane_rows": 100,
        "report": False,
        "label_deadline": "1d",
    },
    "update": {
        "cadence": "every",
        "every_rows": 1000,
        "cooldown": "2h",
        "bootstrap_rows": 1000,
        "latency": "30m",
        "device_seconds_per_1k_passes": 0.1,
        "bootstrap_overrides": {"epochs": 8.0},
        "overrides": {"epochs": 8.0, "batch_rows": 64, "fisher_rows": 128},
    },
    "gate": {"fresh_rows": 1000, "retained_rows": 400, "retained_slices": 0, "min_rows": 10, "margin": 0.5},
    "rollout": {"watch_rows": 200},
}
Changes = Mapping[str, Mapping[str, Any]]


def eventually(found: Callable[[], Any], seconds: float = 120.0, what: str = "it") -> Any:
    """Wait until `found` returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)
    return value


def flip(path: Path) -> None:
    """Turn over one bit of a file; doing it again mends it."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


# -- the feed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Feed:
    """Batches in the order in which they are sent: ("events" | "labels", table)."""

    batches: Sequence[tuple[str, pa.Table]]

    @property
    def keys(self) -> list[str]:
        """The keys of all events, in order."""
        return [key for kind, table in self.batches if kind == "events" for key in table["id"].to_pylist()]


def make_feed(rows: int = 5000, seed: int = 11, slice_rows: int = 250) -> Feed:
    """Return a regression stream of one event a minute whose regime changes half-way and whose labels lag by hours."""
    rng = np.random.default_rng(seed)
    late = np.arange(rows) >= rows // 2
    a, b, c = rng.normal(size=rows) + 1.5 * late, rng.normal(size=rows), rng.gamma(2.0, size=rows)
    kind = rng.integers(0, 4, rows)
    y = np.where(late, -2.0, 3.0) * a + b * c + np.array([0.0, 1.0, -2.0, 4.0])[kind] + rng.normal(size=rows)
    minute = np.arange(rows)
    known = minute + 1 + rng.exponential(90.0, rows)
    at = [BEGIN + timedelta(minutes=int(m)) for m in minute]
    landed = [BEGIN + timedelta(seconds=round(60 * float(k))) for k in known]
    table = pa.table(
        {
            "id": [f"e{i:06d}" for i in range(rows)],
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "a": a,
            "b": b,
            "c": c,
            "kind": np.array(["north", "east", "south", "west"])[kind].tolist(),
            "y": y,
            "known": pa.array(landed, pa.timestamp("us", "UTC")),
        }
    )
    batches: list[tuple[str, pa.Table]] = []
    order = np.argsort(known, kind="stable")
    sent = 0
    for start in range(0, rows, slice_rows):
        stop = min(start + slice_rows, rows)
        batches.append(("events", table.slice(start, stop - start).drop(["y", "known"])))
        upto = int(np.searchsorted(known[order], stop - 1, side="right")) if stop < rows else rows
        if upto > sent:
            batches.append(("labels", table.take(order[sent:upto]).select(["id", "y", "known"])))
            sent = upto
    return Feed(batches)


# -- the processes ----------------------------------------------------------------------------------------------------


class System:
    """Processes as `cls up` starts them, on a home of their own; a dead one is started again at once.

    Parameters
    ----------
    folder
        Where cls.toml, the home and the logs go.
    database_url
        A migrated database.
    changes
        Fields of the stream's tables to change.
    worker
        Fields of [worker] to change.
    top
        Further keys at the top of cls.toml.
    serve
        Fields of [serve] to change.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        changes: Changes | None = None,
        worker: Mapping[str, Any] | None = None,
        top: Mapping[str, Any] | None = None,
        serve: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "cls.toml"
        values = {"home": str(folder / "home"), "database_url": database_url, **(top or {})}
        values.setdefault("mlflow_uri", f"http://{free_address()}")  # nobody there: the outbox waits
        tables = {
            name: {**TABLES.get(name, {}), **(changes or {}).get(name, {})}
            for name in {**TABLES, **(changes or {})}
        }
        _write_config(self.path, values, SERVICE | dict(worker or {}), serve or {}, tables)
        self.config: Config = load_config(self.path)
        self.engine: Engine = open_database(self.config.database)
        self.client = httpx.Client(base_url=f"http://{self.config.http.ingest}", timeout=60.0)
        self.feeder = Feeder(self.client, STREAM, "chaos")
        self.exits: list[tuple[str, int]] = []
        self._logs = self.config.home / "logs"
        patience = Patience(young_seconds=0.0, first_delay=0.0)
        programs = {program.name: program for program in programs_of(self.config, self.path, ui=False)}
        self._children = {n: Child(p, self._logs / f"{n}.log", patience) for n, p in programs.items()}
        self._wanted: list[str] = []
        self._held: set[str] = set()
        self._lock = Lock()
        self._closing = Event()
        self._keeper: Thread | None = None
        self._broken: BaseException | None = None

    @property
    def names(self) -> list[str]:
        """The names of all processes."""
        return list(self._children)

    def start(self, *names: str) -> None:
        """Start processes, all of them by default, and wait until they say that they are ready."""
        if self._keeper is None:  # one thread starts all: the kernel ends the children of a thread that ends
            self._keeper = Thread(target=self._keep, name="keeper", daemon=True)
            self._keeper.start()
        chosen = names or tuple(self._children)
        with self._lock:
            self._held -= set(chosen)
            self._wanted += chosen
        for name in chosen:
            eventually(lambda name=name: " ready" in self.log(name), what=f"{name} to be ready")  # type: ignore[misc]

    def _keep(self) -> None:
        try:
            while not self._closing.wait(0.02):
                with self._lock:
                    while self._wanted:
                        self._children[self._wanted.pop(0)].start()
                    for name, child in self._children.items():
                        code = None if name in self._held else child.look()
                        if code is not None:
                            self.exits.append((name, code))
        except BaseException as error:  # noqa: BLE001 - shown by `close`
            self._broken = error
        finally:
            for child in reversed(self._children.values()):
                child.ask()
            for child in reversed(self._children.values()):
                child.end(10.0)

    def pid(self, name: str) -> int | None:
        """Return the process id, None while it is not running."""
        with self._lock:
            process = self._children[name].process
            return None if process is None else process.pid

    def signal(self, name: str, what: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal; returns False if the process is not there."""
        with self._lock:
            process = self._children[name].process
            if process is None or process.poll() is not None:
                return False
            process.send_signal(what)
            return True

    def log(self, name: str) -> str:
        """Return what a process has said."""
        path = self._logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Stop everything."""
        for name in self.names:
            self.signal(name, signal.SIGCONT)
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join(60)
        self.client.close()
        self.engine.dispose()
        if self._broken is not None:
            raise self._broken

    # -- looking ------------------------------------------------------------------------------------------------------

    def rows(self, query: Any) -> list[Any]:
        """Return the rows of a query."""
        with reading(self.engine) as connection:
            return list(connection.execute(query))

    def jobs(self, *states: str) -> list[Any]:
        """Return the update jobs in some states, all by default, oldest first."""
        found = self.rows(select(jobs).where(jobs.c.kind == "update").order_by(jobs.c.id))
        return [row for row in found if not states or row.state in states]

    def champion(self) -> int | None:
        """Return the champion's version."""
        found = self.rows(select(champions.c.version).where(champions.c.stream == STREAM))
        return int(found[0].version) if found else None

    def predict(self, rows: list[Json] | None = None) -> httpx.Response:
        """Ask for predictions that are not logged."""
        rows = rows or [{"a": 0.5, "b": 0.1, "c": 1.0, "kind": "north"}]
        url = f"http://{self.config.http.serve}/v1/streams/{STREAM}/predict"
        return httpx.post(url, json={"rows": rows, "log": False}, timeout=10.0)

    def feed(self, feed: Feed, before: Callable[[int], None] | None = None) -> None:
        """Send all batches, each once the one before is digested."""
        for number, (kind, table) in enumerate(feed.batches):
            if before is not None:
                before(number)
            self.feeder.send(kind, table)
            self.settle()

    def settle(self, seconds: float = 180.0) -> Json:
        """Wait until the stream is quiet."""
        return dict(eventually(self._quiet, seconds, "the stream to come to rest"))

    def _quiet(self) -> Json | None:
        progress = self.feeder.progress()
        return progress if progress is not None and quiet(progress) else None


@contextmanager
def running(system: System, *names: str) -> Iterator[System]:
    """Hold a system while the block runs."""
    try:
        system.start(*names)
        yield system
    finally:
        system.close()


def _write_config(
    path: Path,
    top: Mapping[str, Any],
    worker: Mapping[str, Any],
    serve: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
) -> None:
    lines = [f"{name} = {toml_value(value)}" for name, value in top.items() if not isinstance(value, Mapping)]
    lines += ["", "[http]"] + [f'{name} = "{free_address()}"' for name in ("ingest", "serve", "mlflow")]
    lines += ["", "[worker]"] + [f"{name} = {toml_value(value)}" for name, value in worker.items()]
    lines += ["", "[serve]"] + [f"{name} = {toml_value(value)}" for name, value in serve.items()]
    lines += ["", f"[streams.{STREAM}]", 'task = "regression"']
    for name, fields in tables.items():
        lines += ["", f"[streams.{STREAM}.{name}]"]
        lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in fields.items()]
    path.write_text("\n".join(lines) + "\n")


# -- the faults -------------------------------------------------------------------------------------------------------


class Killer:
    """Kills processes at random moments: most workers in the middle of a job, the others some time after a batch is sent."""

    def __init__(
        self, system: System, seed: int, batches: int, kills: Sequence[str], stop_share: float = 0.0
    ) -> None:
        self._system = system
        self._random = Random(seed)
        self._plan: dict[int, list[str]] = {}
        for name in kills:  # several at once, too
            self._plan.setdefault(self._random.randrange(2, batches - 1), []).append(name)
        self._stop_share = stop_share
        self._threads: list[Thread] = []
        self.done: list[str] = []

    def before(self, batch: int) -> None:
        """Arrange for the kill that belongs to a batch."""
        for name in self._plan.get(batch, ()):
            delay, stops = self._random.uniform(0.0, 0.5), self._random.random() < self._stop_share
            thread = Thread(target=self._strike, args=(name, delay, stops), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _strike(self, name: str, delay: float, stops: bool) -> None:
        if name.startswith("worker"):
            with suppress(AssertionError):  # none may come any more
                eventually(self._busy, 3.0)
        time.sleep(delay)  # the moment of the kill, not a wait for anything
        if stops:
            if self._system.signal(name, signal.SIGSTOP):
                time.sleep(2 * SERVICE["lease_seconds"])
                self._system.signal(name, signal.SIGCONT)
                self.done.append(f"{name} stopped")
            return
        eventually(lambda: self._system.signal(name), 30.0, f"{name} to run")
        self.done.append(name)

    def _busy(self) -> bool:
        try:
            return bool(self._system.jobs("running"))
        except CLSError:
            return False

    def join(self) -> None:
        """Wait until the last kill is done."""
        for thread in self._threads:
            thread.join()


class Watcher:
    """Looks all the time whether there is a champion, and asks it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stop = Event()
        self.faults: list[str] = []
        self.looks = 0
        self.answers = 0
        self.refused = 0  # requests that nobody took
        self._thread = Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        crowned = False
        while not self._stop.wait(0.03):
            try:
                champion = self._system.champion()
            except Unavailable:
                continue
            if champion is None and crowned:
                self.faults.append("no champion")
            if champion is None:
                continue
            self.looks += 1
            try:
                answer = self._system.predict()
            except httpx.TransportError:  # being restarted
                self.refused += 1
                continue
            if answer.status_code == 200:
                self.answers += 1
            elif crowned:
                self.faults.append(f"{answer.status_code} {answer.text}")
            crowned = crowned or answer.status_code == 200

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()


# -- what must be true ------------------------------------------------------------------------------------------------


def facts(system: System) -> dict[str, Any]:
    """Return everything about the stream that a disturbance must not change."""
    crowned = {
        row.id: number for number, row in enumerate(system.rows(select(promotions).order_by(promotions.c.id)))
    }
    log = {kind: _log(system, kind) for kind in ("events", "labels", "predictions")}
    return {
        "events": log["events"],
        "labels": log["labels"],
        "predictions": log["predictions"],
        "verdicts": [
            (row.detector, row.start, row.stop, row.alarm, row.nats, row.baseline_nats, row.p_value, row.onset, crowned[row.promotion])
            for row in system.rows(select(verdicts).order_by(verdicts.c.start, verdicts.c.detector, verdicts.c.promotion))
        ],
        "panes": sorted(
            (crowned[row.promotion], row.pane, row.rows, row.labelled, row.loss, row.state, row.time_to)
            for row in system.rows(select(score_panes))
        ),
        "episodes": [(row.detector, row.onset, row.state) for row in system.rows(select(episodes).order_by(episodes.c.id))],
        "versions": [
            (row.number, row.digest, row.parent, row.strategy, row.learned_up_to, row.reference_from, row.reference_to)
            for row in system.rows(select(versions).order_by(versions.c.number))
        ],
        "promotions": [
            (row.version, row.previous, row.since, row.reference)
            for row in system.rows(select(promotions).order_by(promotions.c.id))
        ],
        "jobs": [(row.state, row.passes, row.charged_seconds, row.decided_at, row.handled) for row in system.jobs()],
        "ledger": [
            (row.kind, row.decision, row.reason, row.version) for row in system.rows(select(ledger).order_by(ledger.c.id))
        ],
        "dead letters": [(row.kind, row.reason) for row in system.rows(select(dead_letters).order_by(dead_letters.c.id))],
    }  # fmt: skip


def _log(system: System, kind: str) -> dict[str, list[Any]]:
    """Read a log straight from its files: the manifest has no gap and no overlap, every file is what its row says."""
    rows = system.rows(select(segments).where(segments.c.kind == kind).order_by(segments.c.start))
    tables, at = [], 0
    for row in rows:
        assert row.start == at, f"{kind}: a gap or an overlap at {at}: {row}"
        data = (system.config.home / "segments" / row.path).read_bytes()
        assert digest(data) == row.sha256
        tables.append(pq.read_table(pa.BufferReader(data)))
        assert tables[-1].num_rows == row.stop - row.start
        at = row.stop
    if not tables:
        return {}
    columns = pa.concat_tables(tables).to_pydict()
    return {
        name: [None if isinstance(v, float) and math.isnan(v) else v for v in values]
        for name, values in columns.items()
    }


def check_whole(system: System, feed: Feed) -> None:
    """Check what must be true of every run, disturbed or not."""
    found = facts(system)
    assert found["events"]["cls:key"] == feed.keys  # once, and in order
    labelled = found["labels"]["cls:position"]
    assert sorted(labelled) == list(range(len(feed.keys)))
    requests = system.rows(select(inbox.c.producer, inbox.c.sequence))
    assert len(requests) == len(set(requests)) == len(feed.batches)
    by_job = [
        row.job_id for row in system.rows(select(versions.c.job_id).where(versions.c.job_id.is_not(None)))
    ]
    assert len(by_job) == len(set(by_job))
    assert set(by_job) <= {row.id for row in system.jobs("succeeded")}
    crowned = [(row.since, row.version) for row in system.rows(select(promotions).order_by(promotions.c.id))]
    served = found["predictions"]["cls:version"]
    assert len(served) == len(feed.keys)
    first = crowned[0][1]
    for position, version in enumerate(served):
        due = next((v for since, v in reversed(crowned) if since <= position), 0)
        assert version == due, f"position {position}: scored by {version}, not {due} (first {first})"


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that two runs came to the same, naming the first part in which they differ."""
    causes_first = ("events", "labels", "jobs", "versions", "promotions")
    for name in dict.fromkeys((*causes_first, *expected)):
        if found[name] != expected[name]:
            raise AssertionError(f"{name} differ: {_difference(found[name], expected[name])}")


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict):
        name = next(name for name in expected if found.get(name) != expected[name])
        return f"{name}: {_difference(found.get(name, []), expected[name])}"
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"at {number}: {one}, not {other}"
    return f"{len(found)} instead of {len(expected)}"
