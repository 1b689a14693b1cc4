"""The loop in one process: whatever crashes at whatever transaction, the log, windows, panes and jobs are those of a quiet run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Connection, Engine, select

import cls.act
import cls.join
import cls.scorer
import cls.stream
import cls.watch
from cls.config import StreamConfig
from cls.domain import JobInput, JobKind, RolloutState
from cls.errors import Permanent
from cls.jobs import Bench, NoControl, publish, run
from cls.ports import RawBatch
from cls.scorer import Scorer
from cls.serving.models import ModelCache
from cls.stream import Ports, StreamLoop
from storage import job_rows, queue, streams, tables
from storage import versions as version_store
from storage.artifacts import MemoryArtifacts
from storage.db import open_database, reading
from storage.db import transaction as real_transaction
from storage.log import Log, next_position
from storage.segments import MemorySegments

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
REFERENCES = {
    "promotion": tables.promotions,
    "job_id": tables.jobs,
    "episode_id": tables.episodes,
    "verdict_id": tables.verdicts,
    "rollout_id": tables.rollouts,
}
LEASE = timedelta(minutes=10)


def stream(**changes: dict[str, Any]) -> StreamConfig:
    values: dict[str, Any] = {
        "task": "regression",
        "schema": {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"},
        "model": {"arguments": {"hidden": [4], "embedding_bins": 2}},
        "detect": {
            "window_rows": 50,
            "slide_rows": 25,
            "sequential": True,
            "reference_rows": 200,
            "bins": 4,
            "score_pane_rows": 20,
            "report": False,
            "label_deadline": "48h",
        },
        "update": {
            "cadence": "every",
            "every_rows": 90,
            "bootstrap_rows": 90,
            "cooldown": "0s",
            "overrides": {"epochs": 1.0, "fisher_rows": 32},
            "bootstrap_overrides": {"epochs": 60.0, "learning_rate": 0.03},
            "device_seconds_per_1k_passes": 1.0,
            "budget_device_seconds_per_day": 1e6,
        },
        "gate": {"min_rows": 5, "fresh_rows": 300, "retained_rows": 100},
        "rollout": {"watch_rows": 60},
    }
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change
    return StreamConfig.model_validate(values)


def table(first: int, rows: int, *, shift: float = 0.0, noise: bool = False) -> pa.Table:
    """Return events whose values follow from their number: the target is 2 x, or has nothing to do with it."""
    rng = np.random.default_rng(1000 + first)
    x = rng.normal(shift, 1, rows)
    return pa.table(
        {
            "id": [f"k{i}" for i in range(first, first + rows)],
            "at": pa.array(
                [START + i * HOUR / 10 for i in range(first, first + rows)], pa.timestamp("us", tz="UTC")
            ),
            "x": x,
            "c": rng.choice(["a", "b"], rows).tolist(),
            "y": rng.standard_cauchy(rows) if noise else 2 * x + 1,
        }
    )


def labels_of(events: pa.Table, lag: timedelta) -> pa.Table:
    """Return their labels; every third one comes three hours later than the others."""
    whens = events.column("at").to_pylist()
    times = [time + lag + (3 * HOUR if i % 3 == 2 else 0 * HOUR) for i, time in enumerate(whens)]
    return pa.table(
        {
            "id": events.column("id"),
            "y": events.column("y"),
            "label_time": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )


class Source:
    """Batches by number; those not yet released are not there."""

    def __init__(self) -> None:
        self.batches: list[RawBatch] = []

    def push(self, kind: str, data: pa.Table | None, fault: str = "") -> None:
        number = len(self.batches) + 1
        self.batches.append(RawBatch(kind, data, str(number), f"test#{number}", fault))

    def read(self, token: str) -> RawBatch | None:
        at = int(token or 0)
        return self.batches[at] if at < len(self.batches) else None


@dataclass
class World:
    """Everything that outlives a crash."""

    engine: Engine
    settings: StreamConfig
    segments: MemorySegments = field(default_factory=MemorySegments)
    artifacts: MemoryArtifacts = field(default_factory=MemoryArtifacts)
    source: Source = field(default_factory=Source)
    clock: datetime = START + timedelta(days=30)
    fresh: bool = False

    def boot(self) -> None:
        """Start the processes; what they had in memory is gone."""
        self.log = Log(self.engine, self.segments, {"s": self.settings.columns.features})
        self.bench = Bench(self.engine, self.log, self.artifacts, {})
        ports = Ports(
            self.engine, self.log, self.segments, self.artifacts, {"source": self.source}, lambda: self.clock
        )
        self.loop = StreamLoop("s", self.settings, ports)
        cache = ModelCache(self.engine, self.artifacts, {}, 4)
        self.scorer = Scorer("s", self.engine, self.log, self.segments, cache)

    def settle(self, turns: int = 25) -> None:
        """Let everything happen that can happen now."""
        for _ in range(turns):
            moved = self.turn()
            moved |= self.scorer.step() > 0
            if not (self.work() or moved):
                return
        raise AssertionError(
            f"the loop does not come to rest: {[row.error for row in self.rows(tables.jobs)][-3:]}"
        )

    def turn(self) -> bool:
        """Take a turn of the loop; the first one after a start acts on what the last process had left undone."""
        fresh, self.fresh = self.fresh, False
        try:
            return self.loop.turn() or (fresh and self.loop.act(moved=True))
        except Crash:
            self.fresh = True
            raise

    def work(self) -> bool:
        with real_transaction(self.engine) as connection:
            job = queue.claim(connection, "w", LEASE)
        if job is None:
            return False
        try:
            outcome = run(job, self.bench, NoControl())
        except Permanent as error:
            with real_transaction(self.engine) as connection:
                queue.fail(connection, job, str(error), queue.Limits(), permanent=True)
        else:
            with real_transaction(self.engine) as connection:
                publish(connection, job, outcome)
        return True

    def feed(self, *batches: tuple[str, pa.Table]) -> None:
        for kind, data in batches:
            self.source.push(kind, data)
            self.settle()

    def rows(self, which: Any) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(select(which).order_by(*which.primary_key)))

    def champion(self) -> int | None:
        with reading(self.engine) as connection:
            found = version_store.champion(connection, "s")
        return None if found is None else found.version

    def watermark(self) -> datetime | None:
        with reading(self.engine) as connection:
            return streams.watermark(connection, "s")

    def picture(self) -> dict[str, Any]:
        """Return all that an undisturbed run would have, without database times and tokens."""
        drop = {
            "id",
            "payload",
            "created_at",
            "run_at",
            "started_at",
            "ended_at",
            "recorded_at",
            "received_at",
            "attempt",
        }
        drop |= {
            "crashes",
            "token",
            "lease_until",
            "worker",
            "error",
            "path",
            "sha256",
            "handled",
            "digest",
            "files",
        }
        drop |= {"reference", "next_at"}
        kept = (
            tables.positions,
            tables.event_keys,
            tables.pending_labels,
            tables.dead_letters,
            tables.open_windows,
            tables.row_watches,
            tables.verdicts,
            tables.score_panes,
            tables.output_windows,
            tables.loss_windows,
            tables.episodes,
            tables.jobs,
            tables.versions,
            tables.promotions,
            tables.champions,
            tables.rollouts,
            tables.ledger,
            tables.outbox,
            tables.streams,
            tables.segments,
        )
        rank: dict[str, dict[Any, int | None]] = {
            name: {None: None, 0: 0, **{row.id: i for i, row in enumerate(self.rows(which))}}
            for name, which in REFERENCES.items()
        }  # PostgreSQL leaves gaps in ids where a transaction was rolled back
        found: dict[str, Any] = {
            which.name: [
                {
                    name: rank[name][value] if name in rank else value
                    for name, value in row._mapping.items()
                    if name not in drop
                }
                for row in self.rows(which)
            ]
            for which in kept
        }
        waits = [row for row in found["ledger"] if row["decision"] == "defer"]
        found["ledger"] = [
            row for row in found["ledger"] if row not in waits
        ]  # asked more often, it waits more often
        for row in found["ledger"]:
            if "verdict" in row["details"]:
                row["details"] = row["details"] | {"verdict": rank["verdict_id"][row["details"]["verdict"]]}
        for job in found["jobs"]:
            job["input"] = job["input"] | {"episode": rank["episode_id"][job["input"]["episode"]]}
        with reading(self.engine) as connection:
            counts = {
                kind: next_position(connection, "s", kind) for kind in ("events", "labels", "predictions")
            }
        events = self.log.events("s", 0, counts["events"])
        scores = self.log.predictions("s", 0, counts["predictions"])
        position, value = self.log.labels("s", 0, counts["labels"])
        found["log"] = (
            np.asarray(events.columns["x"]).tolist(),
            events.role.tolist(),
            position.tolist(),
            value.tolist(),
            scores.version.tolist(),
            np.nan_to_num(scores.prediction, nan=-1).tolist(),
            np.nan_to_num(scores.shadow, nan=-1).tolist(),
        )
        return found


@pytest.fixture
def world(engine: Engine) -> World:
    made = World(engine, stream())
    made.boot()
    return made


class Crash(BaseException):
    """The process is gone."""


class Crashes:
    """Stands in for `transaction`: dies before or after the commit of transactions that a plan names.

    A plan is asked once per transaction, with how many have been begun so far.
    """

    def __init__(self, plan: Callable[[int], str]) -> None:
        self.plan, self.begun, self.armed, self.crashed = plan, 0, True, 0

    @contextmanager
    def __call__(self, engine: Engine) -> Iterator[Connection]:
        self.begun += self.armed
        when = self.plan(self.begun) if self.armed else ""
        with real_transaction(engine) as connection:
            yield connection
            if when == "before":
                self.crashed += 1
                raise Crash
        if when == "after":
            self.crashed += 1
            raise Crash


def schedule() -> list[tuple[str, pa.Table]]:
    """Return a small stream: labels in late batches, one before its events, a shift, a bad row, a key sent twice."""
    batches: list[tuple[str, pa.Table]] = []
    for first in range(0, 420, 60):
        events = table(first, 60, shift=1.5 if first >= 240 else 0.0)
        bare = events.drop_columns(["y"])
        labels = labels_of(events, HOUR)
        if first == 120:
            batches += [("labels", labels), ("events", bare)]
        else:
            batches += [("events", bare), ("labels", labels)]
    broken = table(420, 3).set_column(2, "x", pa.array(["1", "bad", "inf"]))
    batches += [("events", broken), ("events", table(0, 2)), ("labels", labels_of(table(10, 2), HOUR))]
    return batches


def reboot(world: World, crashes: Crashes) -> None:
    crashes.armed = False
    world.boot()
    world.fresh = True
    crashes.armed = True


def driven(world: World, crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for module in (cls.stream, cls.act, cls.join, cls.watch, cls.scorer):
        monkeypatch.setattr(module, "transaction", crashes)
    reboot(world, crashes)
    for kind, data in schedule():
        world.source.push(kind, data)
        for _ in range(200):
            try:
                world.settle()
                break
            except Crash:
                reboot(world, crashes)
        else:
            raise AssertionError("crashes without end")
    monkeypatch.undo()
    return world.picture()


@pytest.fixture(scope="module")
def quiet(sqlite_template: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """Return the picture of an undisturbed run on SQLite, and the number of its transactions."""
    path = tmp_path_factory.mktemp("quiet") / "cls.db"
    shutil.copyfile(sqlite_template, path)
    engine = open_database(f"sqlite:///{path}")
    crashes = Crashes(lambda _: "")
    with pytest.MonkeyPatch.context() as patch:
        picture = driven(World(engine, stream()), crashes, patch)
    engine.dispose()
    return picture, crashes.begun


def different(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [part for part, value in expected.items() if found[part] != value]


def test_a_quiet_run_goes_all_the_way_and_is_the_same_on_both_databases(
    engine: Engine, quiet: tuple[dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, begun = quiet
    assert different(driven(World(engine, stream()), Crashes(lambda _: ""), monkeypatch), picture) == []
    assert begun > 40
    assert [job["state"] for job in picture["jobs"]].count("succeeded") >= 3
    assert len(picture["promotions"]) >= 2
    assert any(verdict["alarm"] for verdict in picture["verdicts"])
    assert picture["log"][2] != sorted(picture["log"][2])  # labels land in another order than their events
    assert len(picture["log"][2]) == 421  # one came in an event
    assert len(picture["log"][0]) == 421  # 420, and the good row of the broken batch
    assert sorted(letter["reason"] for letter in picture["dead_letters"]) == sorted(
        ["feature 'x' is not a number", "feature 'x' is infinite"]
        + 4 * ["the event has a label already"]  # two of labels, two of events that came again with theirs
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_crashes_at_any_transaction_change_nothing(
    engine: Engine, seed: int, quiet: tuple[dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three transactions die, before their commit or right after it; each time new processes go on."""
    rng = np.random.default_rng(seed)
    crashes = Crashes(lambda _: ("before", "after", "")[rng.integers(3)])
    found = driven(World(engine, stream()), crashes, monkeypatch)
    assert crashes.crashed > 50
    assert different(found, quiet[0]) == []


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_wait_for_their_event_and_land_once(world: World) -> None:
    events = table(0, 4)
    bare, labels = events.drop_columns(["y"]), labels_of(events, HOUR)
    world.feed(
        ("events", bare.slice(0, 1)), ("labels", labels), ("events", bare.slice(1)), ("labels", labels)
    )
    position, value = world.log.labels("s", 0, 99)
    assert position.tolist() == [0, 1, 3, 2]  # the third became known three hours later
    assert value.tolist() == [events.column("y")[i].as_py() for i in position]
    letters = world.rows(tables.dead_letters)
    assert [row.reason for row in letters] == ["the event has a label already"] * 4
    assert world.rows(tables.pending_labels) == []


def test_a_dead_label_can_be_sent_again_as_it_is(world: World) -> None:
    from cls.ingest import take_labels

    events = table(0, 1)
    world.feed(("events", events), ("labels", labels_of(events, HOUR)))
    (letter,) = world.rows(tables.dead_letters)
    labels, dead = take_labels(pa.Table.from_pylist([letter.record]), world.settings, 0, 2**62)
    assert (labels.key, labels.value.tolist(), dead) == (["k0"], events.column("y").to_pylist(), [])


def test_a_label_without_an_event_is_kept_until_the_deadline_and_not_longer(world: World) -> None:
    orphan = labels_of(table(9_000, 1), -900 * HOUR)  # known an hour after the stream's begin
    world.feed(("events", table(0, 1)), ("labels", orphan))
    (pending,) = world.rows(tables.pending_labels)
    assert pending.expires == pending.time + 48 * HOUR
    world.feed(("events", table(470, 10)))  # the stream's time is 47.9 h
    assert len(world.rows(tables.pending_labels)) == 1
    world.feed(("events", table(495, 10)))
    assert world.rows(tables.pending_labels) == []
    (letter,) = world.rows(tables.dead_letters)
    assert letter.reason == "no event with this key came within 2 days, 0:00:00"
    assert letter.record["id"] == "k9000"


def test_a_label_never_lands_before_its_time(world: World) -> None:
    settings = stream(schema={"label_time": "landed"})
    late = World(world.engine, settings)
    late.boot()
    events = table(0, 10)
    landed = pa.array(
        [START + 5 * HOUR + i * HOUR / 60 for i in range(10)][::-1], pa.timestamp("us", tz="UTC")
    )
    late.feed(("events", events.append_column("landed", landed)))
    assert len(late.log.labels("s", 0, 99)[0]) == 0
    late.feed(("events", table(50, 1).drop_columns(["y"])))  # 5 h: one has landed
    assert late.log.labels("s", 0, 99)[0].tolist() == [9]
    late.feed(("events", table(60, 1).drop_columns(["y"])))
    assert late.log.labels("s", 0, 99)[0].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]  # as they became known


def test_labels_before_the_first_event_do_not_move_the_streams_time_into_the_future(world: World) -> None:
    world.feed(("labels", pa.table({"id": ["k0"], "y": [1.0]})), ("events", table(0, 1).drop_columns(["y"])))
    watermark = world.watermark()
    assert watermark is not None
    assert watermark <= world.clock


def test_an_absurd_label_time_does_not_stop_the_stream(world: World) -> None:
    absurd = World(world.engine, stream(schema={"label_time": "landed"}, detect={"label_deadline": "72h"}))
    absurd.boot()
    landed = pa.array([datetime(9999, 12, 29, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    absurd.feed(("events", table(0, 1).append_column("landed", landed)))
    assert absurd.rows(tables.event_keys) == []
    assert [row.reason for row in absurd.rows(tables.dead_letters)] == ["'landed' is not a time"]


def test_what_cannot_be_read_becomes_dead_letters_and_the_stream_goes_on(world: World) -> None:
    world.source.push("events", None, fault="file a.parquet is truncated")
    world.source.push("events", pa.table({"id": ["a"], "at": [None], "x": [1.0]}))
    world.settle()
    world.feed(("events", table(0, 2)))
    reasons = [(row.kind, row.reason) for row in world.rows(tables.dead_letters)]
    assert reasons[0] == ("source", "file a.parquet is truncated")
    assert len(reasons) == 2
    assert len(world.log.events("s", 0, 9)) == 2


# -- what must not go round in circles --------------------------------------------------------------------------------


def learned(world: World, rows: int = 240) -> None:
    """Bring a world to its first champions."""
    for first in range(0, rows, 60):
        events = table(first, 60)
        world.feed(("events", events.drop_columns(["y"])), ("labels", labels_of(events, HOUR)))
    assert world.champion() is not None


def test_a_decision_that_a_crash_cut_off_is_taken_by_the_next_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = table(0, 120)
    world.feed(("events", events.drop_columns(["y"])))
    world.source.push("labels", labels_of(events, HOUR))
    crashes = Crashes(lambda n: "after" if n == 1 else "")
    monkeypatch.setattr(cls.stream, "transaction", crashes)
    with pytest.raises(Crash):
        world.loop.turn()
    monkeypatch.undo()
    world.boot()
    for _ in range(5):
        world.loop.turn()
    assert [row.kind for row in world.rows(tables.jobs)] == ["update"]


def test_a_first_model_that_the_gate_rejects_is_not_trained_again_without_new_labels(world: World) -> None:
    hopeless = World(
        world.engine,
        stream(update={"bootstrap_overrides": {"epochs": 1.0, "learning_rate": 1e-9, "max_steps": 1}}),
    )
    hopeless.boot()
    rng = np.random.default_rng(0)
    noise = table(0, 600).set_column(4, "y", pa.array(np.exp(rng.normal(0, 0.01, 600)) * 100))
    hopeless.source.push("events", noise)
    hopeless.settle()
    assert len(hopeless.rows(tables.jobs)) == 1


def test_an_update_that_the_gate_rejects_is_not_trained_again_without_new_labels(world: World) -> None:
    learned(world)
    before = len(world.rows(tables.jobs))
    ruin = {"overrides": {"learning_rate": 1.0, "epochs": 4.0, "average_share": 0.0, "clip_norm": 0.0}}
    ruining = World(world.engine, stream(update=ruin), world.segments, world.artifacts, world.source)
    ruining.boot()
    events = table(240, 120)
    ruining.feed(("events", events.drop_columns(["y"])), ("labels", labels_of(events, HOUR)))
    jobs = ruining.rows(tables.jobs)[before:]
    assert 1 <= len(jobs) <= 2
    assert all(row.result["version"] is None for row in jobs)


def test_an_assessment_that_died_is_not_repeated_without_end(world: World) -> None:
    drifting = World(world.engine, stream(update={"cadence": "drift", "min_rows": 20}))
    drifting.boot()
    learned(drifting)
    (first,) = [row for row in drifting.rows(tables.versions) if row.number == 1]
    whole = dict(drifting.artifacts._data)
    assert "golden.json" in first.files  # what a worker makes comes with rows to be tried on
    for sha256 in first.files.values():
        del drifting.artifacts._data[sha256]
    cached = first.files.get("profile.json")
    if cached:
        drifting.artifacts._data[cached] = whole[cached]
    moved = table(240, 120, shift=4.0)
    drifting.feed(("events", moved.drop_columns(["y"])), ("labels", labels_of(moved, HOUR)))
    assert sum(row.kind == "assess" for row in drifting.rows(tables.jobs)) <= 3


def test_a_retried_update_that_ends_during_a_rollout_does_not_block_the_stream(world: World) -> None:
    learned(world)
    champion = world.champion()
    assert champion is not None
    with real_transaction(world.engine) as connection:
        settings = world.settings.model_dump(mode="json", by_alias=True)
        old = JobInput(
            "ewc+replay",
            0,
            100,
            100,
            champion,
            1,
            1,
            START,
            START,
            True,
            "retried by an operator",
            settings=settings,
        )
        version_store.add_rollout(
            connection,
            "s",
            champion,
            parent=champion,
            light=False,
            effective_at=START + 999 * HOUR,
            episode=None,
        )
        queue.enqueue(connection, "s", JobKind.UPDATE, old, 0)
        job = queue.claim(connection, "w", LEASE)
        assert job is not None
        result = {"version": champion, "light": True, "gate": {"verdict": "pass", "reason": "", "slices": []}}
        queue.succeed(connection, job, result, charged_seconds=0.0, passes=0.0)
    world.loop.act(moved=True)
    with reading(world.engine) as connection:
        assert job_rows.unhandled(connection, "s") == []
        assert len(version_store.rollouts_in(connection, "s", RolloutState.WAITING)) == 1


def test_score_panes_close_in_order_even_if_the_first_label_comes_late(engine: Engine) -> None:
    from storage import labels as label_store

    gain = label_store.PaneGain
    with real_transaction(engine) as connection:

        def close() -> list[tuple[int, float]]:
            return label_store.close_panes(connection, "s", 1, coverage=0.9, deadline=START - 48 * HOUR)

        label_store.add_to_panes(connection, "s", 1, 10, [gain(1, 10, 50.0, START + HOUR)])
        early = close()
        label_store.add_to_panes(connection, "s", 1, 10, [gain(0, 10, 20.0, START)])
        assert early + close() == [(0, 2.0), (1, 5.0)]


def test_panes_hold_sums_close_by_coverage_or_deadline_and_never_mix(engine: Engine) -> None:
    from storage import labels as label_store

    gain = label_store.PaneGain
    with real_transaction(engine) as connection:

        def close(deadline: datetime = START - 48 * HOUR) -> list[tuple[int, float]]:
            return label_store.close_panes(connection, "s", 1, coverage=0.9, deadline=deadline)

        label_store.add_to_panes(
            connection,
            "s",
            1,
            10,
            [gain(0, 5, 10.0, START), gain(1, 10, 30.0, START + HOUR), gain(2, 1, 9.0, START + HOUR)],
        )
        assert close() == []  # pane 0 is half covered and holds back pane 1
        label_store.add_to_panes(connection, "s", 1, 10, [gain(0, 4, 17.0, START - HOUR)])
        assert close() == [(0, 3.0), (1, 3.0)]
        label_store.add_to_panes(connection, "s", 1, 10, [gain(0, 1, 999.0, START)])  # too late: closed
        label_store.add_to_panes(connection, "s", 1, 10, [gain(3, 10, 40.0, START + 3 * HOUR)])
        assert close(START + HOUR) == []
        assert close(START + 2 * HOUR) == [(3, 4.0)]  # pane 2 is given up, uncovered
        assert label_store.pane_series(connection, "s", 1, 99) == [(0, 3.0), (1, 3.0), (3, 4.0)]
        assert label_store.pane_series(connection, "s", 2, 99) == []


def asked(world: World, kind: str, **arguments: Any) -> str:
    """Ask for something as an operator does; returns the answer."""
    with real_transaction(world.engine) as connection:
        streams.add_trigger(
            connection, "s", kind, f"{kind}-{len(world.rows(tables.triggers))}", arguments, "me@here"
        )
    world.settle()
    return str(world.rows(tables.triggers)[-1].outcome)


def test_a_rollback_goes_back_and_never_forward_again(world: World) -> None:
    learned(world)
    while world.champion() == 1:
        events = table(len(world.rows(tables.event_keys)), 60)
        world.feed(("events", events.drop_columns(["y"])), ("labels", labels_of(events, HOUR)))
    bad = world.champion()
    assert bad is not None
    assert "serves again" in asked(world, "rollback")
    good = world.champion()
    assert good is not None
    assert good < bad
    while "refused" not in asked(world, "rollback"):  # until there is no older one
        now = world.champion()
        assert now is not None
        assert now < good
        good = now
    assert world.champion() == good


def test_what_is_asked_of_a_stream_without_events_is_refused_at_once(world: World) -> None:
    assert asked(world, "manual") == "refused: the stream has no events yet"


def test_labels_that_come_in_a_batch_longer_than_the_deadline_are_not_late(engine: Engine) -> None:
    settings = stream(
        detect={"label_deadline": "1h", "window_rows": 50, "slide_rows": None},
        update={"cadence": "never", "bootstrap_rows": 90},
    )
    world = World(engine, settings)
    world.boot()
    learned(world)
    world.feed(("events", table(240, 400)))  # forty hours in one batch, each event with its label
    windows = [row for row in world.rows(tables.loss_windows) if row.complete and row.start >= 240]
    assert len(windows) >= 6
    assert {row.state for row in windows} == {"covered"}
    (since,) = {row.since for row in world.rows(tables.champions)}
    panes = [row for row in world.rows(tables.score_panes) if since + row.pane * 20 >= 240]
    assert len(panes) >= 15
    assert "uncovered" not in {pane.state for pane in panes}


def test_one_change_seen_row_by_row_is_one_alarm(world: World) -> None:
    learned(world)
    world.feed(("events", table(240, 200, shift=4.0).drop_columns(["y"])))
    found = [row for row in world.rows(tables.verdicts) if row.detector == "sequential"]
    assert len(found) <= len(world.rows(tables.episodes))
