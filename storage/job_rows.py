"""Jobs as rows: what the daemon and people read of them, and a job's input as plain JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from cls.domain import JobInput, JobKind, JobState, Json
from cls.errors import NotFound
from cls.times import from_us, to_us
from storage.tables import job_is_live, job_is_unhandled, jobs

_OF_STREAM = jobs.c.stream == bindparam("stream")
_JOB = select(jobs).where(jobs.c.id == bindparam("id"))
_LIVE_JOB = select(jobs).where(_OF_STREAM, jobs.c.kind == bindparam("kind"), job_is_live)
_UNHANDLED = select(jobs).where(_OF_STREAM, ~job_is_live, job_is_unhandled).order_by(jobs.c.id)
_MARK_HANDLED = update(jobs).where(jobs.c.id == bindparam("of_id")).values(handled=True)
_SPENT = select(func.sum(jobs.c.charged_seconds)).where(_OF_STREAM, jobs.c.decided_at > bindparam("since"))
_CHARGES = (  # of the last finished updates
    select(jobs.c.charged_seconds, jobs.c.input, jobs.c.result)
    .where(_OF_STREAM, jobs.c.kind == JobKind.UPDATE, jobs.c.state == JobState.SUCCEEDED)
    .order_by(jobs.c.id.desc())
    .limit(5)
)


def show(connection: Connection, job_id: int) -> Row[Any]:
    """Return a job's row; raises `NotFound`."""
    row = connection.execute(_JOB, {"id": job_id}).first()
    if row is None:
        raise NotFound(f"no job {job_id}")
    return row


def listing(connection: Connection, stream: str | None = None, limit: int = 50) -> list[Row[Any]]:
    """Return the newest jobs, newest first."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(jobs.c.stream == stream)
    return list(connection.execute(query))


def live(connection: Connection, stream: str, kind: JobKind) -> Row[Any] | None:
    """Return the stream's live job of a kind."""
    return connection.execute(_LIVE_JOB, {"stream": stream, "kind": kind}).first()


def report_of(connection: Connection, stream: str, episode: int) -> Row[Any] | None:
    """Return the job that reports on an episode."""
    query = (
        select(jobs)
        .where(_OF_STREAM, jobs.c.kind == JobKind.REPORT, jobs.c.input["episode"].as_integer() == episode)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    return connection.execute(query, {"stream": stream}).first()


def unhandled(connection: Connection, stream: str) -> list[Row[Any]]:
    """Return ended jobs that the daemon has not acted on, oldest first."""
    return list(connection.execute(_UNHANDLED, {"stream": stream}))


def mark_handled(connection: Connection, job_id: int) -> None:
    """Note that the daemon has acted on a job's end."""
    connection.execute(_MARK_HANDLED, {"of_id": job_id})


def spent_seconds(connection: Connection, stream: str, since: datetime) -> float:
    """Return the device-seconds charged to jobs decided after a stream time."""
    return float(connection.execute(_SPENT, {"stream": stream, "since": since}).scalar() or 0.0)


@dataclass(frozen=True)
class Price:
    """What an update is charged, by the last one: device-seconds."""

    fixed: float  # whatever its size: Fisher and gate
    label: float  # per new label, at full effort


def last_price(connection: Connection, stream: str) -> Price | None:
    """Return the price of updates by the last one of a champion, None before the first."""
    for row in connection.execute(_CHARGES, {"stream": stream}):
        labels = row.input["label_to"] - row.input["label_from"]
        if row.input["parent"] is not None and row.input["redeploy"] is None and labels > 0:
            fixed = float(row.charged_seconds * row.result.get("overhead", 0.0))
            effort = row.result.get("effort", row.input["effort"])  # a recipe that adapts takes its own
            return Price(fixed, (float(row.charged_seconds) - fixed) / (labels * effort))
    return None


def input_to_json(value: JobInput) -> Json:
    """Turn a job's input into plain JSON; times become microseconds."""
    return asdict(value) | {
        "decided_at": to_us(value.decided_at),
        "effective_at": to_us(value.effective_at),
        "versions": list(value.versions),
        "retained": [list(pair) for pair in value.retained],
    }


def input_from_json(value: Json) -> JobInput:
    """Restore a job's input."""
    return JobInput(
        **value
        | {
            "decided_at": from_us(value["decided_at"]),
            "effective_at": from_us(value["effective_at"]),
            "versions": tuple(value["versions"]),
            "retained": tuple((low, high) for low, high in value["retained"]),
        }
    )
