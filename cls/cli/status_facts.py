"""What `cls status` reads: one consistent look at streams, processes and the outbox, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cls.cli.output import plain, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from cls.config import Config, StreamConfig

LATE = 30.0  # seconds without a sign after which a process counts as gone
FORGOTTEN = 3600.0  # after which one that is gone, killed say, is told no more
JOB = ("id", "kind", "state", "attempt", "worker", "progress")
ROLLOUT = (
    "id", "version", "parent", "state", "step", "share", "light", "effective_at", "deadline_at", "paused_at",
    "approved", "paired_n", "reason",
)  # fmt: skip


def status_of(connection: Connection, config: Config, names: Sequence[str]) -> dict[str, Any]:
    """Return the state of some streams, of all processes and of the outbox."""
    from storage.overview import undelivered
    from storage.streams import list_processes

    return {
        "streams": [_stream(connection, name, config.streams[name]) for name in names],
        "processes": [_process(row) for row in list_processes(connection) if row.age_seconds < FORGOTTEN],
        "outbox": plain(undelivered(connection)),
    }


def _stream(connection: Connection, name: str, settings: StreamConfig) -> dict[str, Any]:
    from storage import log, overview
    from storage.drift import live_episode
    from storage.inbox import waiting
    from storage.streams import watermark
    from storage.versions import champion

    serving = champion(connection, name)
    events = log.next_position(connection, name, "events")
    labels = log.next_position(connection, name, "labels")
    tokens = overview.tokens(connection, name)
    scored, joined = _number(tokens.get("score")), _number(tokens.get("join"))
    return {
        "name": name,
        "task": settings.task,
        "priority": settings.priority,
        "champion": serving.version if serving else None,
        "previous": serving.previous if serving else None,
        "champion_since": serving.since if serving else None,
        "watermark": watermark(connection, name),
        "events": events,
        "labels": labels,
        "scored": scored,
        "joined": joined,
        "score_lag": max(events - scored, 0),
        "join_lag": max(labels - joined, 0),
        "inbox_waiting": waiting(connection, name, tokens.get("source", "")),
        "labels_waiting": overview.waiting_labels(connection, name),
        "dead_letters": overview.waiting_dead_letters(connection, name),
        "episode": live_episode(connection, name),
        "jobs": rows_of(overview.live_jobs(connection, name), JOB),
        "rollouts": _rollouts(connection, name, settings),
        "budget": _budget(connection, name, settings),
    }


def _number(token: str | None) -> int:
    return int(token) if token and token.isdigit() else 0


def _rollouts(connection: Connection, name: str, settings: StreamConfig) -> list[dict[str, Any]]:
    """Return the rollouts on their way and those that are watched, each with what it waits for."""
    from storage.evidence import health_of
    from storage.versions import MOVING, list_rollouts, rollout_of

    newest = [row for row in list_rollouts(connection, name, 10) if row.state in MOVING]
    found = []
    for row, shown in zip(newest, rows_of(newest, ROLLOUT), strict=True):
        health = health_of(connection, rollout_of(row), settings.rollout)
        found.append(shown | {"waits_for": _waits_for(row, health.reason)})
    return found[::-1]


def _waits_for(row: Any, evidence: str) -> str:
    if row.state == "waiting":
        return f"its time, {row.effective_at:%Y-%m-%d %H:%M}"
    if row.paused_at is not None:
        return "paused by an operator"
    if row.fault is not None:
        return f"until it can be loaded: {row.fault}"
    if row.reason.startswith("waits"):  # for its approval
        return str(row.reason).removeprefix("waits ")
    return evidence


def _budget(connection: Connection, name: str, settings: StreamConfig) -> dict[str, Any]:
    from datetime import timedelta

    from storage.job_rows import spent_seconds
    from storage.streams import allowance, watermark

    now, update = watermark(connection, name), settings.update
    per_day, days = update.budget_device_seconds_per_day, update.budget_burst_days
    return {
        "spent_device_seconds": 0.0
        if now is None
        else spent_seconds(connection, name, now - timedelta(days=1)),
        "left_device_seconds": per_day * days
        if now is None
        else allowance(connection, name, now, per_day, days),
        "device_seconds_per_day": per_day,
    }


def _process(row: Any) -> dict[str, Any]:
    age = float(row.age_seconds)
    return {
        "id": row.id,
        "kind": row.kind,
        "started_at": row.started_at,
        "seen_at": row.seen_at,
        "age_seconds": age,
        "state": "alive" if age < LATE else "gone",
        "details": row.details,
    }
