"""Open windows, verdicts and episodes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, delete, insert, select, update

from cls.domain import Episode, EpisodeState, Json, Verdict, Window
from storage.db import upsert
from storage.tables import episodes, open_windows, verdicts


def read_window(connection: Connection, stream: str) -> Window | None:
    """Return the window that is being filled, with the promotion whose reference it was begun against."""
    query = select(open_windows).where(open_windows.c.stream == stream)
    row = connection.execute(query).first()
    if row is None:
        return None
    return Window(
        row.start,
        row.stop,
        row.time_from,
        row.time_to,
        np.frombuffer(row.counts, "<i8"),
        np.frombuffer(row.baseline_counts, "<i8"),
        row.promotion,
    )


def keep_window(connection: Connection, stream: str, promotion: int, window: Window) -> None:
    """Keep the window that is being filled."""
    values = {
        "promotion": promotion,
        "start": window.start,
        "stop": window.stop,
        "time_from": window.time_from,
        "time_to": window.time_to,
        "counts": window.counts.astype("<i8").tobytes(),
        "baseline_counts": window.baseline_counts.astype("<i8").tobytes(),
    }
    statement = upsert(connection, open_windows).values(stream=stream, partition=0, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["stream", "partition"], set_=values))


def drop_window(connection: Connection, stream: str) -> None:
    """Forget the open window: it closed exactly at the end of a batch."""
    connection.execute(delete(open_windows).where(open_windows.c.stream == stream))


def add_verdict(connection: Connection, stream: str, promotion: int, verdict: Verdict) -> int:
    """Keep a verdict, unique by detector, window and reference; returns its id."""
    values = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
    values["drift"] = None if verdict.drift is None else verdict.drift.to_json()
    statement = insert(verdicts).values(stream=stream, promotion=promotion, **values)
    return int(connection.execute(statement).inserted_primary_key[0])


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


def recent_nats(connection: Connection, stream: str, promotion: int, limit: int) -> list[tuple[int, float]]:
    """Return (first position, nats) of the last KL windows since a promotion, in order."""
    query = (
        select(verdicts.c.start, verdicts.c.nats)
        .where(verdicts.c.stream == stream, verdicts.c.detector == "kl", verdicts.c.promotion == promotion)
        .order_by(verdicts.c.id.desc())
        .limit(limit)
    )
    return [(int(start), float(nats)) for start, nats in connection.execute(query)][::-1]


def open_episode(connection: Connection, stream: str, verdict_id: int, verdict: Verdict, at: datetime) -> int:
    """Begin an episode; a partial unique index holds that no other is live."""
    statement = insert(episodes).values(
        stream=stream,
        state=EpisodeState.OPEN,
        detector=verdict.detector,
        onset=verdict.onset,
        opened_at=at,
        verdict_id=verdict_id,
    )
    return int(connection.execute(statement).inserted_primary_key[0])


def live_episode(connection: Connection, stream: str) -> Episode | None:
    """Return the stream's episode that is open or decided."""
    query = select(episodes).where(episodes.c.stream == stream, episodes.c.state != EpisodeState.CLOSED)
    row = connection.execute(query).first()
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


def assess_episode(connection: Connection, episode_id: int, assessment: Json) -> None:
    """Keep what an assess job found."""
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
