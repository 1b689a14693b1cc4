"""A job comes to one result, whatever becomes of its worker."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine, select

from cls.domain import Job, JobInput, JobKind, ModelVersion
from cls.errors import LeaseLost
from cls.jobs import Bench, NoControl, Outcome, publish, run
from cls.layout import MODEL
from cls.times import EPOCH
from storage import job_rows, queue
from storage.db import reading, transaction
from storage.home import Home
from storage.streams import ensure_stream
from storage.tables import ledger, outbox, versions
from tests.chaos.harness import Feed, System, eventually, flip, running

LONG = {"update": {"bootstrap_overrides": {"epochs": 60.0}}}


def step_of(system: System) -> int:
    found = system.jobs("running")
    return int((found[0].progress or {}).get("step", 0)) if found else 0


def name_of(system: System, worker: str) -> str:
    """Return our name of a worker by what it calls itself."""
    return next(name for name in system.names if str(system.pid(name)) == worker.rpartition(":")[2])


def numbers(system: System) -> list[tuple[int, int]]:
    return [tuple(row) for row in system.rows(select(versions.c.number, versions.c.job_id))]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_stopped_past_its_lease_cannot_publish(tmp_path: Path, sqlite_url: str, feed: Feed) -> None:
    system = System(tmp_path / "run", sqlite_url, LONG, {"slots": 2})
    with running(system, "daemon", "worker-0", "worker-1"):
        _feed_until_a_job(system, feed)
        eventually(lambda: step_of(system) > 20, what="the training to be under way")
        [job] = system.jobs("running")
        stopped = name_of(system, job.worker)
        assert system.signal(stopped, signal.SIGSTOP)
        eventually(lambda: system.jobs("succeeded"), what="another worker to finish the job")
        [done] = system.jobs()
        assert (done.attempt, done.crashes) == (2, 1)
        assert name_of(system, done.worker) != stopped
        assert numbers(system) == [(1, job.id)]

        system.signal(stopped, signal.SIGCONT)
        said = ("worker ends itself", "result dropped")
        eventually(lambda: any(word in system.log(stopped) for word in said), what="it to notice")
        eventually(lambda: (stopped, 75) in system.exits or "result dropped" in system.log(stopped))
        system.settle()
        assert numbers(system) == [(1, job.id)]
        assert "job done" not in system.log(stopped)
        assert system.champion() is None or system.champion() == 1


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_a_killed_training_resumes_and_ends_with_the_same_weights(
    tmp_path: Path, sqlite_url: str, feed: Feed, damaged: bool
) -> None:
    system = System(
        tmp_path / "run", sqlite_url, LONG, {"checkpoint_seconds": 0.05, "heartbeat_seconds": 0.05}
    )
    with running(system, "daemon", "worker-0"):
        _feed_until_a_job(system, feed)
        latest = system.config.home / "jobs" / str(system.jobs()[0].id) / "latest"
        eventually(lambda: step_of(system) > 150 and latest.exists(), what="a snapshot")
        assert system.signal("worker-0")
        snapshot = latest.parent / latest.read_text().split()[0]
        kept, last = int(snapshot.name.removeprefix("step-")), step_of(system)
        if damaged:
            flip(snapshot / MODEL)
        seen: set[int] = set()

        def ended() -> bool:
            [job] = system.jobs()
            if job.attempt == 2 and job.state == "running" and job.progress["step"] != last:
                seen.add(job.progress["step"])
            return bool(job.state == "succeeded")

        eventually(ended, what="the job to end")
        assert seen
        assert (min(seen) < kept) if damaged else (min(seen) >= kept)
        assert ("snapshot dropped" in system.log("worker-0")) == damaged
        [row] = system.rows(select(versions))
        [done] = system.jobs()
        home = Home.open(system.config)
        torch.set_num_threads(1)
        job = Job(done.id, done.stream, JobKind.UPDATE, job_rows.input_from_json(done.input), 1, "")
        uninterrupted = run(job, Bench(home.engine, home.log, home.artifacts, {}), NoControl())
        home.engine.dispose()
        assert uninterrupted.version is not None
        assert uninterrupted.version.files == row.files
        assert uninterrupted.version.digest == row.digest
        assert not latest.parent.exists()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_kills_its_workers_becomes_dead_and_the_stream_goes_on(
    tmp_path: Path, sqlite_url: str, feed: Feed
) -> None:
    system = System(tmp_path / "run", sqlite_url, LONG, {"max_crashes": 2, "lease_seconds": 0.7})
    with running(system, "daemon", "worker-0"):
        sent = _feed_until_a_job(system, feed)
        killed: set[int] = set()

        def dead() -> bool:
            [job] = system.jobs()
            if job.state == "running" and job.attempt not in killed and system.signal("worker-0"):
                killed.add(job.attempt)
            return bool(job.state == "dead")

        eventually(dead, what="the job to be given up")
        [job] = system.jobs()
        assert (job.crashes, killed) == (2, {1, 2})
        assert job.error == "gave up: its worker died again and again"
        assert job.id not in {made_by for _, made_by in numbers(system)}

        system.settle()
        rejection = system.rows(select(ledger).where(ledger.c.kind == "rejection"))[0]
        assert (rejection.job_id, rejection.reason) == (job.id, f"job {job.id} is dead: {job.error}")
        told = system.rows(select(outbox.c.payload).where(outbox.c.kind == "job").order_by(outbox.c.id))
        assert told[0].payload == {"job_id": job.id}
        for kind, table in feed.batches[sent : sent + 2]:
            system.feeder.send(kind, table)
        eventually(lambda: system.jobs("succeeded"), what="the next job to succeed")
        first, second, *_ = system.jobs()
        assert (first.state, second.state) == ("dead", "succeeded")
        assert numbers(system)[0] == (1, second.id)


def test_what_was_computed_under_a_lost_lease_is_not_published(engine: Engine) -> None:
    job_input = JobInput("s", 0, 10, 10, None, 1, 1, EPOCH, EPOCH, light=True, reason="r")
    files = {MODEL: "a" * 64}
    version = ModelVersion("s", 0, "d", None, None, "s", 10, 0, 10, {}, {}, EPOCH, files)
    with transaction(engine) as connection:
        ensure_stream(connection, "s")
        queue.enqueue(connection, "s", JobKind.UPDATE, job_input, 0)
    with transaction(engine) as connection:
        first = queue.claim(connection, "one", timedelta(seconds=-1))
        assert first is not None
    with transaction(engine) as connection:
        assert queue.reap(connection, queue.Limits()) == [first.id]
        second = queue.claim(connection, "two", timedelta(minutes=1))
        assert second is not None
    outcome = Outcome({"version": None}, version=replace(version, job_id=first.id))
    with pytest.raises(LeaseLost), transaction(engine) as connection:
        publish(connection, first, outcome)
    assert _published(engine) == ([], [])
    with transaction(engine) as connection:
        publish(connection, second, outcome)
    assert _published(engine) == ([first.id], ["job", "version"])


def _published(engine: Engine) -> tuple[list[Any], list[str]]:
    with reading(engine) as connection:
        made = list(connection.execute(select(versions.c.job_id)).scalars())
        return made, list(connection.execute(select(outbox.c.kind).order_by(outbox.c.id)).scalars())


def _feed_until_a_job(system: System, feed: Feed) -> int:
    """Send batches until the first job is decided; returns how many were sent."""
    for number, (kind, table) in enumerate(feed.batches, 1):
        system.feeder.send(kind, table)
        eventually(lambda: (system.feeder.progress() or {"inbox_waiting": 1})["inbox_waiting"] == 0)
        if system.jobs():
            return number
    raise AssertionError("nothing called for a job")
