"""What Prometheus is told of the tables: single rows by index and short counts, so that a year of rows costs no more than a day. Reading only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, FromClause, bindparam, func, select, type_coerce

from cls.domain import Champion, JobState, Rollout
from storage import log, overview
from storage.db import database_now, read_clock
from storage.drift import live_episode
from storage.streams import list_processes, watermark
from storage.tables import (
    announcements,
    dead_letters,
    inbox,
    job_is_live,
    jobs,
    loss_window_is_open,
    loss_windows,
    outbox,
    pending_labels,
    segments,
    verdicts,
    webhooks,
)
from storage.versions import MOVING, champion, rollouts_in

MOST = 10_000  # no backlog is counted further
DETECTORS = ("kl", "sequential", "prediction", "label", "score")

_STREAM: Any = bindparam("stream")
_LAST_VERDICT = (  # walks the unique index backwards
    select(verdicts.c.nats, verdicts.c.baseline_nats, verdicts.c.p_value)
    .where(verdicts.c.stream == _STREAM, verdicts.c.detector == bindparam("detector"))
    .order_by(verdicts.c.promotion.desc(), verdicts.c.start.desc())
    .limit(1)
)
_LIVE_JOBS = select(jobs.c.kind, jobs.c.state).where(jobs.c.stream == _STREAM, job_is_live)
_LAST_LABELS = (
    select(segments.c.max_position)
    .where(segments.c.stream == _STREAM, segments.c.kind == "labels", segments.c.partition == log.PARTITION)
    .order_by(segments.c.start.desc())
    .limit(1)
)
_EVENTS_AT = (
    select(segments.c.time_to)
    .where(
        segments.c.stream == _STREAM,
        segments.c.kind == "events",
        segments.c.partition == log.PARTITION,
        segments.c.start <= bindparam("position"),
    )
    .order_by(segments.c.start.desc())
    .limit(1)
)
_OF_PROMOTION = (loss_windows.c.stream == _STREAM, loss_windows.c.promotion == bindparam("promotion"))
_FIRST_OPEN = (
    select(loss_windows.c.start)
    .where(*_OF_PROMOTION, loss_window_is_open)
    .order_by(loss_windows.c.start)
    .limit(1)
)
_LAST_BEFORE = (
    select(loss_windows)
    .where(*_OF_PROMOTION, loss_windows.c.start < bindparam("before"))
    .order_by(loss_windows.c.start.desc())
    .limit(1)
)
_WEBHOOKS = select(webhooks.c.name, webhooks.c.position).where(
    webhooks.c.name.in_(bindparam("names", expanding=True))
)
_END = 2**62


@dataclass(frozen=True)
class Backlog:
    """What waits, counted up to `MOST`, and for how long by the database's clock."""

    rows: int
    oldest_seconds: float


@dataclass(frozen=True)
class LossWindow:
    """The last window of predictions that labels have settled."""

    coverage: float  # share of its events whose label came
    loss: float | None  # mean over its labelled rows
    expected: float | None  # before labels landed


@dataclass(frozen=True)
class StreamFigures:
    """One stream as it stands."""

    time: datetime | None  # stream time
    events: int
    labels: int
    scored: int  # event position
    joined: int  # label position
    intake: Backlog
    early_labels: int  # whose event has not come
    dead_letters: int  # not sent in again, among the newest `MOST`
    label_lag_seconds: float | None  # stream time from the newest labelled event to now
    verdicts: dict[str, Any]  # the last one by detector: nats, baseline_nats, p_value
    episode: bool  # one is open
    settled: LossWindow | None
    jobs: list[tuple[str, str]]  # (kind, state) of those under way
    champion: Champion | None
    rollouts: list[Rollout]  # that are on their way, or watched


@dataclass(frozen=True)
class CommonFigures:
    """What belongs to no stream."""

    processes: dict[str, int]  # seen within some seconds, by kind
    leases: dict[str, int]  # running jobs by kind
    due: dict[str, float]  # seconds that the longest waiting due job has waited, by kind
    outbox: Backlog
    webhooks: dict[str, Backlog]  # by name


def stream_figures(connection: Connection, stream: str) -> StreamFigures:
    """Return a stream's figures."""
    tokens = overview.tokens(connection, stream)
    serving = champion(connection, stream)
    of = {"stream": stream}
    found = {d: connection.execute(_LAST_VERDICT, of | {"detector": d}).first() for d in DETECTORS}
    now = watermark(connection, stream)
    waits = inbox.c.stream == stream, inbox.c.id > int(tokens.get("source") or 0)
    return StreamFigures(
        now,
        log.next_position(connection, stream, "events"),
        log.next_position(connection, stream, "labels"),
        int(tokens.get("score") or 0),
        int(tokens.get("join") or 0),
        _backlog(connection, inbox, inbox.c.received_at, *waits),
        _count(connection, pending_labels, pending_labels.c.stream == stream),
        _dead_letters(connection, stream),
        _label_lag(connection, stream, now),
        {detector: row for detector, row in found.items() if row is not None},
        live_episode(connection, stream) is not None,
        None if serving is None else _settled(connection, stream, serving.promotion),
        [(row.kind, row.state) for row in connection.execute(_LIVE_JOBS, of)],
        serving,
        rollouts_in(connection, stream, *MOVING),
    )


def common_figures(connection: Connection, hooks: Iterable[str], seen_seconds: float) -> CommonFigures:
    """Return what belongs to no stream.

    Parameters
    ----------
    hooks
        Names of the webhooks that are configured.
    seen_seconds
        A process counts as alive if it was seen within these.
    """
    processes: dict[str, int] = {}
    for row in list_processes(connection):
        if row.age_seconds <= seen_seconds:
            processes[row.kind] = processes.get(row.kind, 0) + 1
    now, run_at = (type_coerce(time, BigInteger) for time in (database_now(connection), jobs.c.run_at))
    queued = (jobs.c.state == JobState.QUEUED, jobs.c.run_at <= database_now(connection))
    longest = select(jobs.c.kind, func.max((now - run_at) / 1_000_000.0)).where(*queued).group_by(jobs.c.kind)
    running = select(jobs.c.kind, func.count()).where(jobs.c.state == JobState.RUNNING).group_by(jobs.c.kind)
    return CommonFigures(
        processes,
        {kind: int(number) for kind, number in connection.execute(running)},
        {kind: float(seconds) for kind, seconds in connection.execute(longest)},
        _backlog(connection, outbox, outbox.c.created_at, outbox.c.done_at.is_(None)),
        {
            row.name: _backlog(
                connection, announcements, announcements.c.created_at, announcements.c.id > row.position
            )
            for row in connection.execute(_WEBHOOKS, {"names": list(hooks)})
        },
    )


def _count(connection: Connection, table: FromClause, *where: Any) -> int:
    some = select(table.c.id).where(*where).limit(MOST).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def _backlog(connection: Connection, table: FromClause, since: Any, *where: Any) -> Backlog:
    first = connection.execute(select(since).where(*where).order_by(table.c.id).limit(1)).scalar()
    if first is None:
        return Backlog(0, 0.0)
    age = (read_clock(connection) - first).total_seconds()
    return Backlog(_count(connection, table, *where), max(age, 0.0))


def _dead_letters(connection: Connection, stream: str) -> int:
    newest = (
        select(dead_letters.c.replayed_at)
        .where(dead_letters.c.stream == stream)
        .order_by(dead_letters.c.id.desc())
        .limit(MOST)
        .subquery()
    )
    query = select(func.count()).select_from(newest).where(newest.c.replayed_at.is_(None))
    return int(connection.execute(query).scalar_one())


def _label_lag(connection: Connection, stream: str, now: datetime | None) -> float | None:
    position = connection.execute(_LAST_LABELS, {"stream": stream}).scalar()
    if position is None or now is None:
        return None
    time = connection.execute(_EVENTS_AT, {"stream": stream, "position": position}).scalar()
    return None if time is None else max((now - time).total_seconds(), 0.0)


def _settled(connection: Connection, stream: str, promotion: int) -> LossWindow | None:
    """Return the window before the first that waits for labels: they are settled in order."""
    of = {"stream": stream, "promotion": promotion}
    first = connection.execute(_FIRST_OPEN, of).scalar()
    row = connection.execute(_LAST_BEFORE, of | {"before": _END if first is None else first}).first()
    if row is None:
        return None
    loss = row.loss / row.labelled if row.labelled else None
    expected = None if row.estimate is None else float(row.estimate["mean"])
    return LossWindow(row.labels / max(row.stop - row.start, 1), loss, expected)
