"""The queue on both databases: one job, one worker at a time, one result; order, backoff, death, cancel and retry."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update

from cls.domain import GateReport, GateVerdict, Job, JobInput, JobKind, JobState, SliceReport
from cls.errors import LeaseLost, NotFound, Refused
from cls.jobs import Outcome, publish
from storage import job_rows, queue
from storage.db import open_database, read_clock, reading, transaction
from storage.tables import jobs, outbox

AT = datetime(2013, 1, 1, tzinfo=UTC)
LEASE = timedelta(minutes=5)
NONE: Any = None
INPUT = JobInput("ewc", 1, 2, 3, None, 4, 1, AT, AT + timedelta(hours=1), True, "a test")


def add(engine: Engine, stream: str = "s", kind: JobKind = JobKind.UPDATE, priority: int = 100) -> int:
    with transaction(engine) as connection:
        return queue.enqueue(connection, stream, kind, INPUT, priority)


def claim(engine: Engine, lease: timedelta = LEASE, **options: Any) -> Job:
    with transaction(engine) as connection:
        job = queue.claim(connection, "w", lease, **options)
    assert job is not None
    return job


def nothing_due(engine: Engine) -> bool:
    with transaction(engine) as connection:
        return queue.claim(connection, "w", LEASE) is None


def do(engine: Engine, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with transaction(engine) as connection:
        return call(connection, *arguments, **options)


def shown(engine: Engine, job: int) -> Any:
    with reading(engine) as connection:
        return job_rows.show(connection, job)


def shift(engine: Engine, job: int, **by: timedelta) -> None:
    """Let database time pass for one job by moving its times back."""
    with transaction(engine) as connection:
        row = job_rows.show(connection, job)
        moved = {name: getattr(row, name) - delta for name, delta in by.items()}
        connection.execute(update(jobs).where(jobs.c.id == job).values(**moved))


def test_four_workers_claim_three_hundred_jobs_once_each(database_url: str) -> None:
    main = open_database(database_url)
    with transaction(main) as connection:
        for i in range(300):
            queue.enqueue(connection, f"s{i}", JobKind.UPDATE, replace(INPUT, seed=i), i % 3)
    barrier = Barrier(4)

    def work(name: str) -> list[tuple[int, str, int]]:
        engine = open_database(database_url)  # a pool of its own, as another process has
        barrier.wait()
        found: list[tuple[int, str, int]] = []
        while True:
            with transaction(engine) as connection:
                job = queue.claim(connection, name, LEASE)
            if job is None:
                engine.dispose()
                return found
            found.append((job.id, job.token, job.input.seed))
            with transaction(engine) as connection:
                queue.succeed(connection, job, {"by": name}, charged_seconds=1.0, passes=2.0)

    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(work, [f"w{i}" for i in range(4)]))
    everything = [row for found in each for row in found]
    assert len(everything) == 300
    assert len({job for job, _, _ in everything}) == 300
    assert len({token for _, token, _ in everything}) == 300
    assert sorted(seed for _, _, seed in everything) == list(range(300))
    with reading(main) as connection:
        rows = connection.execute(select(jobs)).all()
    assert {(row.state, row.attempt) for row in rows} == {("succeeded", 1)}
    by = {job: f"w{i}" for i, found in enumerate(each) for job, _, _ in found}
    assert all(row.result == {"by": by[row.id]} == {"by": row.worker} for row in rows)
    main.dispose()


def test_of_many_who_enqueue_the_same_kind_one_succeeds(database_url: str) -> None:
    barrier = Barrier(4)

    def enqueue(_: int) -> bool:
        engine = open_database(database_url)
        barrier.wait()
        try:
            with transaction(engine) as connection:
                queue.enqueue(connection, "s", JobKind.UPDATE, INPUT, 0)
        except Refused:
            return False
        finally:
            engine.dispose()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(enqueue, range(4))) == [False, False, False, True]


def test_one_live_job_for_each_stream_and_kind(engine: Engine) -> None:
    first = add(engine)
    with transaction(engine) as connection:
        with pytest.raises(Refused, match="live update job"):
            queue.enqueue(connection, "s", JobKind.UPDATE, INPUT, 0)
        queue.enqueue(connection, "s", JobKind.ASSESS, INPUT, 0)  # the transaction has survived the refusal
        queue.enqueue(connection, "t", JobKind.UPDATE, INPUT, 0)
    job = claim(engine)
    assert job.id == first
    with transaction(engine) as connection, pytest.raises(Refused):
        queue.enqueue(connection, "s", JobKind.UPDATE, INPUT, 0)
    do(engine, queue.succeed, job, {}, charged_seconds=0, passes=0)
    assert add(engine) != first
    with reading(engine) as connection:
        live = job_rows.live(connection, "s", JobKind.UPDATE)
    assert live is not None
    assert live.id != first


def test_a_worker_that_lost_its_lease_changes_nothing(engine: Engine) -> None:
    add(engine)
    old = claim(engine)
    shift(engine, old.id, lease_until=2 * LEASE)
    calls: list[tuple[Any, ...]] = [
        (queue.heartbeat, LEASE, {"step": 9}),
        (queue.release,),
        (queue.cancelled,),
    ]

    def refused(job: Job) -> None:
        before = tuple(shown(engine, job.id))
        for call, *rest in calls:
            with pytest.raises(LeaseLost):
                do(engine, call, job, *rest)
        with pytest.raises(LeaseLost):
            do(engine, queue.succeed, job, {"stale": True}, charged_seconds=1, passes=1)
        with pytest.raises(LeaseLost):
            do(engine, queue.fail, job, "stale", queue.Limits(), permanent=True)
        with pytest.raises(LeaseLost):
            do(engine, publish, job, Outcome({"stale": True}))
        assert tuple(shown(engine, job.id)) == before

    refused(old)  # expired, though nobody has noticed
    assert do(engine, queue.reap, queue.Limits()) == [old.id]
    refused(old)  # taken back
    new = claim(engine)
    assert (new.id, new.attempt) == (old.id, 2)
    refused(old)  # somebody else's
    do(engine, queue.succeed, new, {"ok": 1}, charged_seconds=3.0, passes=4.0)
    refused(old)
    refused(new)  # a result is published once
    with reading(engine) as connection:
        assert connection.execute(select(outbox)).all() == []  # the dropped publications told nobody


def test_a_heartbeat_keeps_the_lease_and_carries_progress(engine: Engine) -> None:
    add(engine)
    job = claim(engine, lease=timedelta(seconds=30))
    first = shown(engine, job.id).lease_until
    assert do(engine, queue.heartbeat, job, LEASE, {"step": 3}) is False
    row = shown(engine, job.id)
    assert row.lease_until > first
    assert row.progress == {"step": 3}
    do(engine, queue.heartbeat, job, LEASE, None)
    assert shown(engine, job.id).progress == {"step": 3}
    assert do(engine, queue.reap, queue.Limits()) == []


def test_failures_wait_longer_each_time_and_then_are_dead(engine: Engine) -> None:
    job_id = add(engine)
    limits = queue.Limits(max_failures=4, retry_delay=timedelta(seconds=60))
    for failure, seconds in enumerate((60, 120, 240), start=1):
        assert do(engine, queue.fail, claim(engine), f"fault {failure}", limits, permanent=False) == "queued"
        with reading(engine) as connection:
            row, now = job_rows.show(connection, job_id), read_clock(connection)
        assert row.failures == failure
        assert row.error == f"fault {failure}"
        assert timedelta(seconds=seconds - 20) < row.run_at - now <= timedelta(seconds=seconds)
        assert nothing_due(engine)
        shift(engine, job_id, run_at=timedelta(seconds=seconds))
    assert do(engine, queue.fail, claim(engine), "the last", limits, permanent=False) == "dead"
    row = shown(engine, job_id)
    assert (row.state, row.attempt, row.ended_at is not None) == ("dead", 4, True)
    assert nothing_due(engine)


def test_what_no_retry_can_mend_is_dead_at_once_and_backoff_is_bounded(engine: Engine) -> None:
    add(engine)
    assert do(engine, queue.fail, claim(engine), "no such rows", queue.Limits(), permanent=True) == "dead"
    add(engine)
    long = queue.Limits(max_failures=99, retry_delay=timedelta(hours=5))
    job = claim(engine)
    do(engine, queue.fail, job, "x", long, permanent=False)
    with reading(engine) as connection:
        assert job_rows.show(connection, job.id).run_at - read_clock(connection) <= queue.BACKOFF_LIMIT


def test_a_job_that_takes_its_workers_down_is_given_up(engine: Engine) -> None:
    job_id = add(engine)
    limits = queue.Limits(max_crashes=3)
    for crash in (1, 2, 3):
        claim(engine)
        assert do(engine, queue.reap, limits) == []
        shift(engine, job_id, lease_until=2 * LEASE)
        assert do(engine, queue.reap, limits) == [job_id]
        row = shown(engine, job_id)
        assert (row.crashes, row.state, row.failures) == (crash, "dead" if crash == 3 else "queued", 0)
    row = shown(engine, job_id)
    assert "died again and again" in row.error
    assert row.ended_at is not None
    assert nothing_due(engine)


def test_a_job_given_up_after_crashes_is_told_to_the_registry(engine: Engine) -> None:
    job_id = add(engine)
    claim(engine)
    shift(engine, job_id, lease_until=2 * LEASE)
    do(engine, queue.reap, queue.Limits(max_crashes=1))
    with reading(engine) as connection:
        assert [row.payload for row in connection.execute(select(outbox))] == [{"job_id": job_id}]


def test_a_worker_that_stops_gives_its_job_back_without_blame(engine: Engine) -> None:
    add(engine)
    job = claim(engine)
    do(engine, queue.release, job)
    row = shown(engine, job.id)
    assert (row.state, row.failures, row.crashes, row.token) == ("queued", 0, 0, None)
    assert claim(engine).id == job.id


def test_cancel_ends_a_queued_job_and_asks_a_running_one(engine: Engine) -> None:
    queued, running = add(engine, "a"), add(engine, "b", priority=500)
    job = claim(engine)
    assert job.id == running
    assert do(engine, queue.cancel, queued) == JobState.CANCELLED
    assert do(engine, queue.cancel, running) == JobState.RUNNING
    assert do(engine, queue.heartbeat, job, LEASE, None) is True
    do(engine, queue.cancelled, job)
    assert [shown(engine, i).state for i in (queued, running)] == ["cancelled", "cancelled"]
    assert nothing_due(engine)
    for ended in (queued, running):
        with transaction(engine) as connection, pytest.raises(Refused, match="has ended"):
            queue.cancel(connection, ended)
    with transaction(engine) as connection, pytest.raises(NotFound):
        queue.cancel(connection, 10**6)


def test_a_cancelled_job_whose_worker_died_is_not_run_again(engine: Engine) -> None:
    job_id = add(engine)
    claim(engine)
    do(engine, queue.cancel, job_id)
    shift(engine, job_id, lease_until=2 * LEASE)
    do(engine, queue.reap, queue.Limits())
    assert shown(engine, job_id).state == "cancelled"


def test_retry_starts_a_dead_or_cancelled_job_anew_once(engine: Engine) -> None:
    job_id = add(engine)
    with transaction(engine) as connection, pytest.raises(Refused, match="only dead and cancelled"):
        queue.retry(connection, job_id)
    do(engine, queue.fail, claim(engine), "fault", queue.Limits(), permanent=True)
    with reading(engine) as connection:
        assert [row.id for row in job_rows.unhandled(connection, "s")] == [job_id]
    do(engine, job_rows.mark_handled, job_id)
    do(engine, queue.retry, job_id)
    row = shown(engine, job_id)
    assert (row.state, row.failures, row.crashes, row.handled, row.ended_at) == ("queued", 0, 0, False, None)
    job = claim(engine)
    assert (job.id, job.input) == (job_id, INPUT)
    do(engine, queue.fail, job, "fault", queue.Limits(), permanent=True)
    add(engine)
    with transaction(engine) as connection:
        with pytest.raises(Refused, match="live update job"):
            queue.retry(connection, job_id)
        assert job_rows.show(connection, job_id).state == "dead"
    with transaction(engine) as connection, pytest.raises(NotFound):
        queue.retry(connection, 10**6)


def test_urgent_first_then_the_one_that_waits_longest_and_nobody_starves(engine: Engine) -> None:
    low, high, normal = (add(engine, name, priority=p) for name, p in (("l", 0), ("h", 200), ("n", 100)))
    assert [claim(engine).id for _ in range(3)] == [high, normal, low]
    waiting, urgent = add(engine, "w", priority=0), add(engine, "u", priority=200)
    shift(engine, waiting, run_at=queue.AGEING * 199)
    assert claim(engine).id == urgent
    second = add(engine, "v", priority=200)
    shift(engine, waiting, run_at=queue.AGEING * 2)
    assert claim(engine).id == waiting
    assert claim(engine).id == second
    first, later = add(engine, "1", priority=7), add(engine, "2", priority=7)
    shift(engine, later, run_at=queue.AGEING / 2)  # half a step is a step's half, on both databases
    assert [claim(engine).id for _ in range(2)] == [later, first]


def test_a_report_never_goes_before_an_update_however_long_it_waits(engine: Engine) -> None:
    report = add(engine, "r", JobKind.REPORT, priority=10_000)
    shift(engine, report, run_at=timedelta(days=300))
    update_, assess = add(engine, "u", priority=-5_000), add(engine, "a", JobKind.ASSESS, priority=-9_000)
    assert [claim(engine).id for _ in range(3)] == [update_, assess, report]


def test_a_worker_takes_its_kinds_only(engine: Engine) -> None:
    report, update_ = add(engine, "r", JobKind.REPORT), add(engine, "u")
    assert claim(engine, kinds=(JobKind.REPORT,)).id == report
    with transaction(engine) as connection:
        assert queue.claim(connection, "w", LEASE, (JobKind.REPORT,)) is None
    assert claim(engine, kinds=(JobKind.UPDATE, JobKind.ASSESS)).id == update_


def near(price: job_rows.Price | None, fixed: float, label: float) -> bool:
    return price is not None and (price.fixed, price.label) == pytest.approx((fixed, label))


def test_the_next_update_is_priced_by_the_last_one_of_a_champion(engine: Engine) -> None:
    def done(charged: float, overhead: float = 0.0, **changes: Any) -> None:
        with transaction(engine) as connection:
            queue.enqueue(connection, "s", JobKind.UPDATE, replace(INPUT, **changes), 0)
        result = {"overhead": overhead}
        do(engine, queue.succeed, claim(engine), result, charged_seconds=charged, passes=0)

    done(90.0, label_from=0, label_to=10)  # the first model
    assert do(engine, job_rows.last_price, "s") is None
    done(6.0, parent=1, label_from=10, label_to=30)
    assert near(do(engine, job_rows.last_price, "s"), 0.0, 0.3)
    done(8.0, 0.25, parent=1, label_from=10, label_to=30, effort=0.5)
    assert near(do(engine, job_rows.last_price, "s"), 2.0, 0.6)
    done(0.1, parent=1, label_from=10, label_to=30, redeploy=1)  # nothing was learned
    assert near(do(engine, job_rows.last_price, "s"), 2.0, 0.6)
    assert do(engine, job_rows.last_price, "t") is None


def test_the_gate_report_of_a_candidate_that_answers_nan_is_published(engine: Engine) -> None:
    job_id = add(engine)
    part = SliceReport("fresh", 400, 9.0, None, None, None, GateVerdict.FAIL)
    report = GateReport(GateVerdict.FAIL, "worse", (part,))
    result = {"gate": {"verdict": str(report.verdict), "slices": [part.__dict__]}, "version": None}
    do(engine, publish, claim(engine), Outcome(result))
    assert shown(engine, job_id).state == "succeeded"


instants = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the bounds of aware ones


@given(
    st.builds(
        JobInput,
        strategy=st.text(max_size=5),
        label_from=st.integers(0, 2**60),
        label_to=st.integers(0, 2**60),
        event_to=st.integers(0, 2**60),
        parent=st.none() | st.integers(1, 99),
        seed=st.integers(0, 2**60),
        threads=st.integers(1, 8),
        decided_at=instants,
        effective_at=instants,
        light=st.booleans(),
        reason=st.text(max_size=5),
        onset=st.none() | st.integers(0, 9),
        versions=st.lists(st.integers(1, 9), max_size=3).map(tuple),
        retained=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
        settings=st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=3),
    )
)
def test_a_frozen_input_survives_its_row(value: JobInput) -> None:
    import json

    assert job_rows.input_from_json(json.loads(json.dumps(job_rows.input_to_json(value)))) == value
