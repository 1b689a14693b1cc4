"""`cls status`, `cls streams`, `cls ledger`: what goes on, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cls.cli.home import known_stream, state
from cls.cli.output import AsJson, Limit, OneStream, ago, print_json, print_pairs, print_table, rows_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cls.config import StreamConfig

LEDGER = (
    "id",
    "stream",
    "at",
    "recorded_at",
    "kind",
    "decision",
    "reason",
    "episode_id",
    "job_id",
    "version",
    "details",
)
LATE = 30.0  # seconds without a sign after which a process counts as gone


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(status)
    app.command("streams")(streams)
    app.command()(ledger)


def status(context: typer.Context, stream: OneStream = None, as_json: AsJson = False) -> None:
    """Show what serves each stream, what is under way, and who is alive."""
    from storage.overview import undelivered
    from storage.streams import list_processes

    with state(context) as (config, connection):
        names = list(config.streams) if stream is None else [known_stream(config, stream)]
        found = [_stream(connection, name, config.streams[name]) for name in names]
        alive = [_process(row) for row in list_processes(connection)]
        outbox = undelivered(connection)
    if as_json:
        print_json({"streams": found, "processes": alive, "outbox": outbox})
        return
    _print_streams(found)
    for one in found if stream is not None else ():
        _print_under_way(one)
    columns = {"kind": "process", "id": "id", "seen": "last seen", "state": "state"}
    print_table(
        [p | {"seen": f"{ago(p['age_seconds'])} ago"} for p in alive], columns, empty="no process is running"
    )
    if outbox.waiting:
        why = f": {outbox.error}" if outbox.error else ""
        typer.echo(
            f"outbox: {outbox.waiting} to deliver, the oldest since {ago(outbox.oldest_seconds or 0)}{why}"
        )


def _stream(connection: Connection, name: str, settings: StreamConfig) -> dict[str, Any]:
    from cls.domain import RolloutState
    from storage import log, overview
    from storage.drift import live_episode
    from storage.inbox import waiting
    from storage.streams import watermark
    from storage.versions import champion, rollouts_in

    serving, episode = champion(connection, name), live_episode(connection, name)
    events = log.next_position(connection, name, "events")
    labels = log.next_position(connection, name, "labels")
    tokens = overview.tokens(connection, name)
    scored, joined = _number(tokens.get("score")), _number(tokens.get("join"))
    rollouts = rollouts_in(connection, name, RolloutState.WAITING, RolloutState.SHADOW, RolloutState.WATCHING)
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
        "episode": episode,
        "jobs": rows_of(
            overview.live_jobs(connection, name), ("id", "kind", "state", "attempt", "worker", "progress")
        ),
        "rollouts": rows_of(
            rollouts, ("id", "version", "parent", "state", "light", "effective_at", "paired_n")
        ),
        "budget": _budget(connection, name, settings),
    }


def _number(token: str | None) -> int:
    return int(token) if token and token.isdigit() else 0


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


def _print_streams(found: list[dict[str, Any]]) -> None:
    columns = {
        "name": "stream",
        "champion": "champion",
        "watermark": "stream time",
        "events": "events",
        "score_lag": "to score",
        "labels": "labels",
        "join_lag": "to join",
        "drift": "drift",
        "work": "under way",
        "dead_letters": "dead letters",
        "spent": "device s, last day / left",
    }
    rows = []
    for one in found:
        episode, budget = one["episode"], one["budget"]
        work = [f"{job['kind']} {job['id']} {job['state']}" for job in one["jobs"]]
        work += [f"v{rollout['version']} {rollout['state']}" for rollout in one["rollouts"]]
        rows.append(
            one
            | {
                "drift": f"{episode.state} since event {episode.onset}" if episode else None,
                "work": ", ".join(work) or None,
                "spent": f"{budget['spent_device_seconds']:,.0f} / {budget['left_device_seconds']:,.0f}",
            }
        )
    print_table(rows, columns, empty="no streams in cls.toml: `cls stream infer DATA --write` adds one")


def _print_under_way(one: dict[str, Any]) -> None:
    for key in ("jobs", "rollouts"):
        for row in one[key]:
            print_pairs(row, title=f"{key[:-1]} {row['id']}")


def streams(context: typer.Context, as_json: AsJson = False) -> None:
    """List the configured streams."""
    from cls.cli.home import config_of

    listed = [
        {
            "name": name,
            "task": one.task,
            "priority": one.priority,
            "source": one.source.kind,
            "path": one.source.path,
            "features": len(one.columns.features),
            "target": one.columns.target,
            "model": one.model.name,
            "cadence": one.update.cadence,
            "recipe": one.update.recipe,
        }
        for name, one in config_of(context).streams.items()
    ]
    if as_json:
        print_json(listed)
    else:
        headings = {
            key: key
            for key in ("name", "task", "priority", "source", "features", "target", "model", "cadence")
        }
        print_table(
            listed, headings, empty="no streams in cls.toml: `cls stream infer DATA --write` adds one"
        )


def ledger(
    context: typer.Context, stream: OneStream = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """Tell why updates did and did not happen, the newest first."""
    from storage.streams import read_ledger

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(read_ledger(connection, name, limit), LEDGER)
    if as_json:
        print_json(rows)
        return
    columns = {"id": "id", "stream": "stream", "at": "stream time", "kind": "kind", "decision": "decision"}
    columns |= {"reason": "reason", "episode_id": "episode", "job_id": "job", "version": "version"}
    print_table(rows, columns, empty="the ledger is empty")
