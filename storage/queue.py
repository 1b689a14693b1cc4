"""The job queue: one table, claimed with one statement, leased and fenced.

queued -> running -> succeeded
             |-> queued again, after a failure (backoff) or an expired lease (a crash)
             |-> dead, after `max_attempts` failures or `max_crashes` crashes: the job itself may be the killer
queued | running -> cancelled

Jobs are executed at least once; their effects happen once, because every write of a worker carries the token of its lease and a
token that is no longer the row's changes nothing. Leases use the database's clock only.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Insert,
    Update,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError

from cls.domain import Job, JobInput, JobKind, JobState, Json
from cls.errors import LeaseLost, Refused
from cls.times import MICROSECOND
from storage.db import database_now, read_clock
from storage.job_rows import input_from_json, input_to_json, show
from storage.outbox import post
from storage.statements import add_row, per_dialect
from storage.tables import Instant, jobs

LIVE = (JobState.QUEUED, JobState.RUNNING)
AGEING = timedelta(minutes=10)  # a job gains one priority step per this much waiting, so that none starves
BACKOFF_LIMIT = timedelta(minutes=10)

_WAITING = (
    select(jobs.c.id)
    .where(jobs.c.state == JobState.QUEUED, jobs.c.kind.in_(bindparam("kinds", expanding=True)))
    .limit(1)
)


@per_dialect
def _enqueue(connection: Connection) -> Insert:
    now = database_now(connection)
    return insert(jobs).values(state=JobState.QUEUED, created_at=now, run_at=now)


@per_dialect
def _claim(connection: Connection) -> Update:
    """Build the one statement that takes the most urgent due job; never the same job twice."""
    now = database_now(connection)
    now_us = type_coerce(now, BigInteger)
    waited = (now_us - type_coerce(jobs.c.run_at, BigInteger)) / (AGEING // MICROSECOND)
    candidate = (
        select(jobs.c.id)
        .where(
            jobs.c.state == JobState.QUEUED,
            jobs.c.run_at <= now,
            jobs.c.kind.in_(bindparam("kinds", expanding=True)),
        )
        .order_by(
            case((jobs.c.kind == JobKind.REPORT, 1), else_=0),  # a report never delays an update
            (jobs.c.priority + waited).desc(),
            jobs.c.id,
        )
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return (
        update(jobs)
        .where(jobs.c.id == candidate, jobs.c.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            worker=bindparam("by"),
            token=bindparam("lease_token"),
            attempt=jobs.c.attempt + 1,
            lease_until=type_coerce(now_us + bindparam("lease_us", type_=BigInteger), Instant()),
            started_at=func.coalesce(jobs.c.started_at, now),
            error=None,
        )
        .returning(jobs.c.id, jobs.c.stream, jobs.c.kind, jobs.c.input, jobs.c.attempt)
    )


@dataclass(frozen=True)
class Limits:
    """How often a job may fail or take its worker down before it is given up."""

    max_failures: int = 3
    max_crashes: int = 3
    retry_delay: timedelta = timedelta(seconds=5)


def enqueue(connection: Connection, stream: str, kind: JobKind, job_input: JobInput, priority: int) -> int:
    """Insert a job and return its id.

    Raises
    ------
    Refused
        If the stream has a live job of this kind.
    """
    job = {
        "stream": stream,
        "kind": kind,
        "priority": priority,
        "input": input_to_json(job_input),
        "decided_at": job_input.decided_at,
    }
    try:
        with connection.begin_nested():
            return add_row(connection, _enqueue(connection), job)
    except IntegrityError as error:
        raise Refused(f"stream {stream} already has a live {kind} job") from error


def claim(
    connection: Connection, worker: str, lease: timedelta, kinds: tuple[str, ...] = tuple(JobKind)
) -> Job | None:
    """Take the most urgent due job, or None. One statement; never the same job twice."""
    token = secrets.token_hex(16)
    terms = {"kinds": kinds, "by": worker, "lease_token": token, "lease_us": lease // MICROSECOND}
    row = connection.execute(_claim(connection), terms).first()
    if row is None:
        return None
    return Job(row.id, row.stream, JobKind(row.kind), input_from_json(row.input), row.attempt, token)


def heartbeat(connection: Connection, job: Job, lease: timedelta, progress: Json | None) -> bool:
    """Renew the lease and report progress; returns whether a cancellation was asked for.

    Raises
    ------
    LeaseLost
        If the lease ran out or the job was given to another worker.
    """
    values: dict[str, Any] = {"lease_until": _after(connection, lease)}
    if progress is not None:
        values["progress"] = progress
    _fenced(connection, job, values)
    query = select(jobs.c.cancel_requested).where(jobs.c.id == job.id)
    return bool(connection.execute(query).scalar_one())


def succeed(connection: Connection, job: Job, result: Json, *, charged_seconds: float, passes: float) -> None:
    """End a job; belongs into the transaction that publishes its result. Raises `LeaseLost`."""
    _fenced(
        connection,
        job,
        {
            "state": JobState.SUCCEEDED,
            "result": result,
            "charged_seconds": _charged(charged_seconds),
            "passes": passes,
            "ended_at": database_now(connection),
            "lease_until": None,
        },
    )


def fail(
    connection: Connection,
    job: Job,
    error: str,
    limits: Limits,
    *,
    permanent: bool,
    charged_seconds: float = 0.0,
) -> JobState:
    """Report a failure, and what it cost: back to the queue with growing delay, or dead. Raises `LeaseLost`."""
    failures = int(connection.execute(select(jobs.c.failures).where(jobs.c.id == job.id)).scalar_one()) + 1
    dead = permanent or failures >= limits.max_failures
    delay = min(limits.retry_delay * 2 ** (failures - 1), BACKOFF_LIMIT)
    now = database_now(connection)
    state = JobState.DEAD if dead else JobState.QUEUED
    _fenced(
        connection,
        job,
        {
            "state": state,
            "failures": failures,
            "error": error,
            "charged_seconds": _charged(charged_seconds),
            "run_at": now if dead else _after(connection, delay),
            "ended_at": now if dead else None,
            "token": None,
            "lease_until": None,
        },
    )
    return state


def release(connection: Connection, job: Job, charged_seconds: float = 0.0) -> None:
    """Give a job back unfinished (the worker stops): no failure, no delay. Raises `LeaseLost`."""
    charged = _charged(charged_seconds)
    _fenced(
        connection,
        job,
        {"state": JobState.QUEUED, "charged_seconds": charged, "token": None, "lease_until": None},
    )


def cancelled(connection: Connection, job: Job, charged_seconds: float = 0.0) -> None:
    """Confirm a cancellation from the worker. Raises `LeaseLost`."""
    _fenced(
        connection,
        job,
        {
            "state": JobState.CANCELLED,
            "charged_seconds": _charged(charged_seconds),
            "ended_at": database_now(connection),
            "token": None,
            "lease_until": None,
        },
    )


def reap(connection: Connection, limits: Limits) -> list[int]:
    """Take jobs back from workers whose lease ran out; returns their ids. A repeated killer becomes dead."""
    now = database_now(connection)
    died = jobs.c.crashes + 1 >= limits.max_crashes
    statement = (
        update(jobs)
        .where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now)
        .values(
            state=case(
                (jobs.c.cancel_requested, JobState.CANCELLED.value),
                (died, JobState.DEAD.value),
                else_=JobState.QUEUED.value,
            ),
            crashes=jobs.c.crashes + 1,
            error=case(
                (died, "gave up: its worker died again and again"), else_="its worker stopped answering"
            ),
            ended_at=case((or_(died, jobs.c.cancel_requested), now), else_=None),
            token=None,
            lease_until=None,
        )
        .returning(jobs.c.id, jobs.c.stream, jobs.c.state)
    )
    reaped = connection.execute(statement).all()
    for row in reaped:
        if row.state not in LIVE:
            post(connection, row.stream, "job", {"job_id": row.id})
    return [row.id for row in reaped]


def cancel(connection: Connection, job_id: int) -> JobState:
    """Cancel a queued job at once, ask a running one to stop; returns the state it is in now.

    Raises
    ------
    NotFound, Refused
        If there is no such job, or it has ended.
    """
    row = show(connection, job_id)
    if row.state == JobState.QUEUED:
        statement = (
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
            .values(state=JobState.CANCELLED, cancel_requested=True, ended_at=database_now(connection))
        )
        if connection.execute(statement).rowcount == 1:
            return JobState.CANCELLED
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING)
        .values(cancel_requested=True)
    )
    if connection.execute(statement).rowcount == 1:
        return JobState.RUNNING
    raise Refused(f"job {job_id} has ended: {show(connection, job_id).state}")


def retry(connection: Connection, job_id: int) -> None:
    """Queue a dead or cancelled job again, its counters at zero.

    Raises
    ------
    NotFound, Refused
        If there is no such job, it did not fail, or its stream has a live job of its kind.
    """
    row = show(connection, job_id)
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_((JobState.DEAD, JobState.CANCELLED)))
        .values(
            state=JobState.QUEUED,
            failures=0,
            crashes=0,
            cancel_requested=False,
            handled=False,
            charged_seconds=None,  # the budget has paid for the attempts so far
            ended_at=None,
            run_at=database_now(connection),
        )
    )
    try:
        with connection.begin_nested():
            done = connection.execute(statement).rowcount == 1
    except IntegrityError as error:
        raise Refused(f"job {job_id}: stream {row.stream} already has a live {row.kind} job") from error
    if not done:
        raise Refused(f"job {job_id} is {row.state}: only dead and cancelled jobs can be retried")


def waiting(connection: Connection, kinds: tuple[str, ...] = tuple(JobKind)) -> bool:
    """Whether a job of these kinds is queued: a look that takes no lock."""
    return connection.execute(_WAITING, {"kinds": kinds}).first() is not None


def _charged(seconds: float) -> Any:
    """Return what a job has been charged by now: every attempt counts."""
    return func.coalesce(jobs.c.charged_seconds, 0.0) + seconds


def _fenced(connection: Connection, job: Job, values: dict[str, Any]) -> None:
    """Write to a job's row as the holder of its lease, or not at all."""
    statement = (
        update(jobs)
        .where(jobs.c.id == job.id, jobs.c.token == job.token, jobs.c.state == JobState.RUNNING)
        .where(jobs.c.lease_until >= database_now(connection))
        .values(**values)
    )
    if connection.execute(statement).rowcount != 1:
        raise LeaseLost(f"job {job.id}: the lease of this worker has ended; its result is dropped")


def _after(connection: Connection, delay: timedelta) -> datetime:
    return read_clock(connection) + delay
