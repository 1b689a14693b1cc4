"""From the outbox to the registry: in order, at least once, whatever is away or damaged meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update

from cls.domain import Job, JobInput, JobKind, ModelVersion, RolloutState
from cls.errors import Unavailable
from cls.ports import RunRecord
from cls.registry import deliver, reconcile
from cls.reporter import tell_registry
from storage import outbox, queue
from storage.artifacts import MemoryArtifacts
from storage.db import reading, transaction
from storage.lineage import SqlOutbox
from storage.memory_registry import MemoryRegistry
from storage.streams import ensure_stream, read_ledger
from storage.tables import outbox as outbox_table
from storage.versions import add_rollout, add_version, move_rollout, note_fault, promote, rollouts_in
from tests.conftest import BACKENDS

AT = datetime(2013, 2, 1, tzinfo=UTC)
GATE = {
    "verdict": "pass",
    "reason": "better on fresh rows",
    "slices": [
        {"name": "fresh", "rows": 1200, "champion_loss": 10.0, "candidate_loss": 8.5, "lower": -0.2, "upper": -0.1, "verdict": "pass"},
        {"name": "retained:5-7", "rows": 90, "champion_loss": 10.0, "candidate_loss": 10.5, "lower": 0.0, "upper": 0.1, "verdict": "pass"},
        {"name": "retained:7-9", "rows": 90, "champion_loss": 8.0, "candidate_loss": 8.25, "lower": 0.0, "upper": 0.1, "verdict": "pass"},
        {"name": "retained:0-5", "rows": 9, "champion_loss": None, "candidate_loss": 8.0, "lower": None, "upper": None, "verdict": "pass"},
    ],
}  # fmt: skip


class Away(MemoryRegistry):
    """A registry that does not answer."""

    def put_run(self, run: RunRecord) -> str:
        raise Unavailable("the server is away")

    def aliases(self, stream: str) -> dict[str, int]:
        raise Unavailable("the server is away")


class Broken(MemoryRegistry):
    """A registry with a fault that nobody foresaw."""

    def put_run(self, run: RunRecord) -> str:
        raise KeyError("surprise")


@pytest.fixture
def artifacts() -> MemoryArtifacts:
    return MemoryArtifacts()


def job_input(**changes: Any) -> JobInput:
    values: dict[str, Any] = {
        "strategy": "ewc",
        "label_from": 100,
        "label_to": 900,
        "event_to": 1000,
        "parent": None,
        "seed": 3,
        "threads": 1,
        "decided_at": AT,
        "effective_at": AT,
        "light": True,
        "reason": "wind has moved",
        "settings": {"recipe": {"rate": 0.001}, "gate": {"rows": 500}},
    }
    return JobInput(**values | changes)


def finish(engine: Engine, artifacts: MemoryArtifacts, *, stream: str = "flights") -> tuple[int, int]:
    """Do an update job, register its version and post both, as a worker does; returns (job, version)."""
    with transaction(engine) as connection:
        ensure_stream(connection, stream)
        queue.enqueue(connection, stream, JobKind.UPDATE, job_input(), 0)
        job = queue.claim(connection, "w", timedelta(minutes=1))
        assert isinstance(job, Job)
        result = {
            "curve": [[0, 2.0], [10, 1.0]],
            "metrics": {"rows": 800, "nested": {"mae": 7.5}, "none": None, "word": "x"},
            "gate": GATE,
            "files": {"plots/drift.png": artifacts.put(b"png")},
        }
        queue.succeed(connection, job, result, charged_seconds=1.5, passes=4000.0)
        files = {
            "model.json": artifacts.put(json.dumps({"spec": {"name": "tabular"}}).encode()),
            "model.safetensors": artifacts.put(b"weights"),
        }
        version = ModelVersion(stream, 0, "d" * 64, None, job.id, "ewc", 900, 0, 900, GATE, {}, AT, files)
        number = add_version(connection, version)
        outbox.post(connection, stream, "job", {"job_id": job.id})
        outbox.post(connection, stream, "version", {"number": number})
    return job.id, number


def make_champion(engine: Engine, version: int, expected: int | None) -> None:
    with transaction(engine) as connection:
        promote(
            connection,
            "flights",
            version,
            expected=expected,
            since=0,
            reference="r" * 64,
            at=AT,
            reason="test",
        )
        outbox.post(connection, "flights", "aliases", {})


def deliver_all(engine: Engine, registry: MemoryRegistry, artifacts: MemoryArtifacts) -> int:
    done = 0
    while deliver(SqlOutbox(engine), registry, artifacts):
        done += 1
    return done


def let_time_pass(engine: Engine) -> None:
    """Let every delay be over."""
    with transaction(engine) as connection:
        connection.execute(update(outbox_table).values(next_at=AT))


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def waiting(engine: Engine) -> int:
    with reading(engine) as connection:
        return outbox.undelivered(connection)


def test_a_job_becomes_a_run_with_its_lineage(engine: Engine, artifacts: MemoryArtifacts) -> None:
    job, number = finish(engine, artifacts)
    registry = MemoryRegistry()
    assert deliver_all(engine, registry, artifacts) == 2
    run = registry.runs["flights", job]
    assert not run.failed
    assert run.ended_at >= run.started_at
    assert run.params["strategy"] == "ewc"
    assert run.params["recipe.rate"] == "0.001"
    assert run.metrics[:2] == [("train_loss", 2.0, 0), ("train_loss", 1.0, 10)]
    assert {("champion_gate_loss", 10.0, 0), ("gain", 1.5, 0), ("forgetting", 0.375, 0)} <= set(run.metrics)
    assert {("nested.mae", 7.5, 0), ("charged_seconds", 1.5, 0), ("passes", 4000.0, 0)} <= set(run.metrics)
    assert run.files["plots/drift.png"] == b"png"
    assert json.loads(run.files["gate.json"]) == GATE
    assert "| fresh | 1,200 | 10 | 8.5 | -20.0% .. -10.0% | pass |" in run.files["gate.md"].decode()
    assert run.tags["cls.label_range"] == "100:900"
    assert run.tags["cls.version"] == str(number)
    assert run.tags["cls.reason"] == "wind has moved"
    assert "cls.parent" not in run.tags


def test_a_version_is_copied_whole_with_its_reader(engine: Engine, artifacts: MemoryArtifacts) -> None:
    job, number = finish(engine, artifacts)
    registry = MemoryRegistry()
    deliver_all(engine, registry, artifacts)
    version = registry.versions["flights", number]
    assert set(version.files) == {"model.json", "model.safetensors", "predict.py"}
    assert b"def load" in version.files["predict.py"]
    compile(version.files["predict.py"], "predict.py", "exec")
    assert version.tags["cls.job"] == str(job)
    assert version.tags["cls.learned_up_to"] == "900"


def test_aliases_follow_champion_and_shadow(engine: Engine, artifacts: MemoryArtifacts) -> None:
    numbers = [finish(engine, artifacts)[1] for _ in range(3)]
    assert numbers == [1, 2, 3]
    registry = MemoryRegistry()
    make_champion(engine, 1, None)
    deliver_all(engine, registry, artifacts)
    assert registry.aliases("flights") == {"champion": 1}
    make_champion(engine, 2, 1)
    with transaction(engine) as connection:
        add_rollout(connection, "flights", 3, parent=2, light=False, effective_at=AT, episode=None)
        [rollout] = rollouts_in(connection, "flights", RolloutState.WAITING)
        move_rollout(connection, rollout, RolloutState.SHADOW, at=AT, since=0)
    deliver_all(engine, registry, artifacts)
    assert registry.aliases("flights") == {"champion": 2, "previous": 1, "challenger": 3}
    served = {1: "served before", 2: "champion"}
    assert registry.standings("flights", [1, 2, 3]) == served | {3: "shadow"}
    with transaction(engine) as connection:
        [rollout] = rollouts_in(connection, "flights", RolloutState.SHADOW)
        note_fault(connection, rollout.id, "size mismatch " * 1_000)
    assert reconcile(SqlOutbox(engine), registry) == ["flights"]
    deliver_all(engine, registry, artifacts)
    said = registry.standings("flights", [3])[3]
    assert said.startswith("shadow: cannot be loaded: size mismatch")
    assert said.endswith("…")
    assert len(said) < 520
    assert reconcile(SqlOutbox(engine), registry) == []
    with transaction(engine) as connection:
        move_rollout(connection, rollout, RolloutState.CANARY, at=AT, share=0.25, reason="not worse")
    assert reconcile(SqlOutbox(engine), registry) == ["flights"]  # the alias is right, the tag is not
    deliver_all(engine, registry, artifacts)
    assert registry.aliases("flights") == {"champion": 2, "previous": 1, "challenger": 3}
    assert registry.standings("flights", [1, 2, 3]) == served | {3: "canary 25%: not worse"}
    with transaction(engine) as connection:
        [rollout] = rollouts_in(connection, "flights", RolloutState.CANARY)
        move_rollout(connection, rollout, RolloutState.REJECTED, at=AT)
    assert reconcile(SqlOutbox(engine), registry) == ["flights"]
    assert reconcile(SqlOutbox(engine), registry) == []  # asked for already
    deliver_all(engine, registry, artifacts)
    assert registry.aliases("flights") == {"champion": 2, "previous": 1}
    assert reconcile(SqlOutbox(engine), registry) == []


def test_a_registry_whose_database_was_replaced_gets_its_champion_back(
    engine: Engine, artifacts: MemoryArtifacts
) -> None:
    finish(engine, artifacts)
    make_champion(engine, 1, None)
    deliver_all(engine, MemoryRegistry(), artifacts)
    empty = MemoryRegistry()
    assert reconcile(SqlOutbox(engine), empty) == ["flights"]
    deliver_all(engine, empty, artifacts)
    assert empty.aliases("flights") == {"champion": 1}
    assert "model.safetensors" in empty.versions["flights", 1].files


@pytest.mark.parametrize("registry", [Away(), Broken()], ids=["away", "broken"])
def test_what_cannot_be_delivered_waits_in_order_and_raises_nothing(
    engine: Engine, artifacts: MemoryArtifacts, registry: MemoryRegistry
) -> None:
    finish(engine, artifacts)
    assert deliver(SqlOutbox(engine), registry, artifacts) is False
    assert waiting(engine) == 2
    with reading(engine) as connection:
        assert outbox.last_error(connection)
    assert (
        deliver(SqlOutbox(engine), MemoryRegistry(), artifacts) is False
    )  # its time has not come, and it holds back the others
    let_time_pass(engine)
    assert deliver_all(engine, MemoryRegistry(), artifacts) == 2


def test_a_message_is_held_by_one_reporter_at_a_time_and_again_free_when_that_one_dies(
    engine: Engine, artifacts: MemoryArtifacts
) -> None:
    finish(engine, artifacts)
    first = SqlOutbox(engine).next()
    assert first is not None
    assert SqlOutbox(engine).next() is None  # neither this one nor, out of order, the next
    with reading(engine) as connection:
        held = connection.execute(
            select(outbox_table.c.next_at - outbox_table.c.created_at).where(outbox_table.c.id == first.id)
        ).scalar_one()
        assert held >= outbox.HOLD / timedelta(microseconds=1)
    let_time_pass(engine)  # its holder was killed
    assert SqlOutbox(engine).next() == first
    SqlOutbox(engine).delivered(first)
    second = SqlOutbox(engine).next()
    assert second is not None
    assert second.id > first.id


@pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True)  # SQLite lets one writer in at a time anyway
def test_of_two_reporters_that_see_the_same_message_one_gets_it(
    engine: Engine, artifacts: MemoryArtifacts
) -> None:
    finish(engine, artifacts)
    taken: list[Any] = []

    def take() -> None:
        with transaction(engine) as connection:
            taken.append(outbox.take_message(connection))

    with transaction(engine) as connection:
        first = outbox.take_message(connection)
        other = Thread(target=take)
        other.start()  # reads the row as it was, and waits for this transaction to end
        other.join(0.5)
        assert other.is_alive()
    other.join(60)
    assert first is not None
    assert taken == [None]


def test_the_reporter_delivers_and_brings_moved_aliases_back(
    engine: Engine, artifacts: MemoryArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls.reporter.RECONCILE_SECONDS", 0.1)
    monkeypatch.setattr("cls.reporter.LOOK_SECONDS", 0.01)
    _, number = finish(engine, artifacts)
    make_champion(engine, number, None)
    registry, stop = MemoryRegistry(), Event()
    reporter = Thread(target=tell_registry, args=(engine, registry, artifacts, stop))
    reporter.start()
    try:
        until(lambda: registry.aliases("flights") == {"champion": number})
        registry.put_aliases("flights", {"champion": None})  # by somebody in the UI
        until(lambda: registry.aliases("flights") == {"champion": number})
    finally:
        stop.set()
        reporter.join(60)
    assert not reporter.is_alive()


def test_a_database_that_is_away_raises_nothing(engine: Engine, artifacts: MemoryArtifacts) -> None:
    with transaction(engine) as connection:
        connection.execute(text("ALTER TABLE outbox RENAME TO hidden"))

    class Gone(SqlOutbox):
        def next(self) -> None:
            raise Unavailable("database: gone")

    assert deliver(Gone(engine), MemoryRegistry(), artifacts) is False


def test_a_damaged_artifact_goes_into_the_ledger_and_holds_nobody_back(
    engine: Engine, artifacts: MemoryArtifacts
) -> None:
    finish(engine, artifacts)
    damaged = MemoryArtifacts()  # has none of the files
    registry = MemoryRegistry()
    assert deliver_all(engine, registry, damaged) == 2
    assert waiting(engine) == 0
    assert registry.versions == {}
    with reading(engine) as connection:
        entries = read_ledger(connection, "flights")
    assert [entry.kind for entry in entries] == ["registry", "registry"]
    assert "Corrupt" in entries[0].reason
    assert entries[0].version == 1


def test_a_crash_after_the_delivery_repeats_it(engine: Engine, artifacts: MemoryArtifacts) -> None:
    job, _ = finish(engine, artifacts)
    registry = MemoryRegistry()

    class Dies(SqlOutbox):
        def delivered(self, message: Any) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        deliver(Dies(engine), registry, artifacts)
    assert ("flights", job) in registry.runs
    let_time_pass(engine)
    assert deliver_all(engine, registry, artifacts) == 2
    assert len(registry.runs) == 1


def test_dead_and_cancelled_jobs_show_as_failed(engine: Engine, artifacts: MemoryArtifacts) -> None:
    with transaction(engine) as connection:
        ensure_stream(connection, "flights")
        cancelled = queue.enqueue(connection, "flights", JobKind.ASSESS, job_input(), 0)
        queue.cancel(connection, cancelled)
        outbox.post(connection, "flights", "job", {"job_id": cancelled})
        queue.enqueue(connection, "flights", JobKind.UPDATE, job_input(), 0)
        job = queue.claim(connection, "w", timedelta(minutes=1))
        assert job is not None
        queue.fail(connection, job, "no such column", queue.Limits(), permanent=True)
        outbox.post(connection, "flights", "job", {"job_id": job.id})
    registry = MemoryRegistry()
    assert deliver_all(engine, registry, artifacts) == 2
    assert registry.runs["flights", cancelled].failed
    assert registry.runs["flights", cancelled].tags["cls.state"] == "cancelled"
    assert "no such column" in registry.runs["flights", job.id].tags["mlflow.note.content"]


def test_an_unknown_kind_is_given_up(engine: Engine, artifacts: MemoryArtifacts) -> None:
    with transaction(engine) as connection:
        outbox.post(connection, "flights", "telegram", {})
    assert deliver_all(engine, MemoryRegistry(), artifacts) == 1
    with reading(engine) as connection:
        assert connection.execute(select(outbox_table.c.done_at)).scalar_one() is not None
