"""Open windows, verdicts and episodes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Insert, Row, Table, bindparam, delete, insert, select, update

from cls.domain import Episode, EpisodeState, Json, Panes, RowWatch, Verdict
from detectors.sequential import State
from storage.db import upsert
from storage.statements import add_row, per_dialect
from storage.tables import episode_is_live, episodes, open_windows, row_watches, verdicts

_PANES = select(open_windows).where(open_windows.c.stream == bindparam("stream"))
_DROP_PANES = delete(open_windows).where(open_windows.c.stream == bindparam("stream"))
_ROW_WATCH = select(row_watches).where(row_watches.c.stream == bindparam("stream"))
_DROP_ROW_WATCH = delete(row_watches).where(row_watches.c.stream == bindparam("stream"))
_ADD_VERDICT = insert(verdicts)
_RECENT_NATS = (  # walks the unique index of verdicts backwards
    select(verdicts.c.start, verdicts.c.nats)
    .where(
        verdicts.c.stream == bindparam("stream"),
        verdicts.c.detector == bindparam("detector"),
        verdicts.c.promotion == bindparam("promotion"),
    )
    .order_by(verdicts.c.start.desc())
    .limit(bindparam("limit"))
)
_ADD_EPISODE = insert(episodes)
_LIVE_EPISODE = select(episodes).where(
    episodes.c.stream == bindparam("stream"),
    episode_is_live,
)


@per_dialect
def _keep_panes(connection: Connection) -> Insert:
    return _replacing(connection, open_windows)


@per_dialect
def _keep_row_watch(connection: Connection) -> Insert:
    return _replacing(connection, row_watches)


def _replacing(connection: Connection, table: Table) -> Insert:
    statement = upsert(connection, table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=["stream", "partition"], set_=changed)


def read_panes(connection: Connection, stream: str) -> Panes | None:
    """Return the window that is being filled, with the promotion whose reference it was begun against."""
    row = connection.execute(_PANES, {"stream": stream}).first()
    if row is None:
        return None
    times_us = np.frombuffer(row.times, "<i8").reshape(-1, 2)
    return Panes(
        row.start,
        row.stop,
        row.pane_rows,
        np.frombuffer(row.counts, "<i8").reshape(len(times_us), -1),
        np.frombuffer(row.baseline_counts, "<i8").reshape(len(times_us), -1),
        times_us,
        row.promotion,
    )


def keep_panes(connection: Connection, stream: str, promotion: int, panes: Panes | None) -> None:
    """Keep the window that is being filled; none if one closed exactly at the end of a batch."""
    if panes is None:
        connection.execute(_DROP_PANES, {"stream": stream})
        return
    values = {
        "stream": stream,
        "partition": 0,
        "promotion": promotion,
        "start": panes.start,
        "stop": panes.stop,
        "pane_rows": panes.pane_rows,
        "counts": panes.counts.astype("<i8").tobytes(),
        "baseline_counts": panes.baseline_counts.astype("<i8").tobytes(),
        "times": panes.times_us.astype("<i8").tobytes(),
    }
    connection.execute(_keep_panes(connection), values)


def read_row_watch(connection: Connection, stream: str) -> RowWatch | None:
    """Return where the sequential detector has come to, with the promotion whose reference it watches.

    What another release kept is forgotten: the detector begins anew.
    """
    row = connection.execute(_ROW_WATCH, {"stream": stream}).first()
    if row is None:
        return None
    try:
        return RowWatch(row.position, State.from_json(row.state), row.promotion)
    except (ValueError, KeyError, TypeError):
        return None


def keep_row_watch(connection: Connection, stream: str, promotion: int, watch: RowWatch | None) -> None:
    """Keep where the sequential detector has come to; none if there is none."""
    if watch is None:
        connection.execute(_DROP_ROW_WATCH, {"stream": stream})
        return
    values = {
        "stream": stream,
        "partition": 0,
        "promotion": promotion,
        "position": watch.position,
        "state": watch.state.to_json(),
    }
    connection.execute(_keep_row_watch(connection), values)


def add_verdict(connection: Connection, stream: str, promotion: int, verdict: Verdict) -> int:
    """Keep a verdict, unique by detector, window and reference; returns its id."""
    values = {"stream": stream, "promotion": promotion}
    values |= {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
    values["drift"] = None if verdict.drift is None else verdict.drift.to_json()
    values["losses"] = None if verdict.losses is None else verdict.losses.to_json()
    values["diagnosis"] = None if verdict.diagnosis is None else verdict.diagnosis.to_json()
    return add_row(connection, _ADD_VERDICT, values)


def list_verdicts(
    connection: Connection, stream: str | None = None, *, alarms: bool = False, limit: int = 100
) -> list[Row[Any]]:
    """Return the newest verdicts, newest first."""
    query = select(verdicts).order_by(verdicts.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(verdicts.c.stream == stream)
    if alarms:
        query = query.where(verdicts.c.alarm)
    return list(connection.execute(query))


def show_verdict(connection: Connection, verdict_id: int) -> Row[Any] | None:
    """Return one verdict."""
    return connection.execute(select(verdicts).where(verdicts.c.id == verdict_id)).first()


def verdicts_until(
    connection: Connection, stream: str, detector: str, verdict_id: int, limit: int
) -> list[Row[Any]]:
    """Return a detector's last verdicts up to one, in order."""
    query = (
        select(verdicts)
        .where(verdicts.c.stream == stream, verdicts.c.detector == detector, verdicts.c.id <= verdict_id)
        .order_by(verdicts.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(query))[::-1]


def recent_nats(
    connection: Connection, stream: str, promotion: int, limit: int, detector: str = "kl"
) -> list[tuple[int, float]]:
    """Return (first position, nats) of a detector's last windows since a promotion, in order."""
    where = {"stream": stream, "promotion": promotion, "limit": limit, "detector": detector}
    found = connection.execute(_RECENT_NATS, where)
    return [(int(start), float(nats)) for start, nats in found][::-1]


def open_episode(connection: Connection, stream: str, verdict_id: int, verdict: Verdict, at: datetime) -> int:
    """Begin an episode; a partial unique index holds that no other is live."""
    row = {
        "stream": stream,
        "state": EpisodeState.OPEN,
        "detector": verdict.detector,
        "onset": verdict.onset,
        "opened_at": at,
        "verdict_id": verdict_id,
    }
    return add_row(connection, _ADD_EPISODE, row)


def live_episode(connection: Connection, stream: str) -> Episode | None:
    """Return the stream's episode that is open or decided."""
    row = connection.execute(_LIVE_EPISODE, {"stream": stream}).first()
    if row is None:
        return None
    return Episode(
        row.id,
        row.stream,
        EpisodeState(row.state),
        row.detector,
        row.onset,
        row.opened_at,
        row.verdict_id,
        row.assessment,
    )


def assess_episode(connection: Connection, episode_id: int, assessment: Json | None) -> None:
    """Keep what an assess job found; None forgets it."""
    connection.execute(update(episodes).where(episodes.c.id == episode_id).values(assessment=assessment))


def move_episode(
    connection: Connection,
    episode_id: int,
    state: EpisodeState,
    *,
    at: datetime | None = None,
    outcome: str = "",
) -> None:
    """Move an episode on; closing it takes a time and an outcome."""
    values: dict[str, Any] = {"state": state}
    if state == EpisodeState.CLOSED:
        values |= {"closed_at": at, "outcome": outcome}
    connection.execute(update(episodes).where(episodes.c.id == episode_id).values(**values))


def list_episodes(connection: Connection, stream: str | None = None, limit: int = 50) -> list[Row[Any]]:
    """Return the newest episodes, newest first."""
    query = select(episodes).order_by(episodes.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(episodes.c.stream == stream)
    return list(connection.execute(query))


def episode_at(connection: Connection, stream: str, verdict_id: int) -> Row[Any] | None:
    """Return the episode that a verdict opened or fell into; one without an alarm may have come after it was closed."""
    query = (
        select(episodes)
        .where(episodes.c.stream == stream, episodes.c.verdict_id <= verdict_id)
        .order_by(episodes.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).first()
