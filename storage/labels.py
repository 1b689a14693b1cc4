"""Keys, labels that wait for their event, and the score panes that labels fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from storage.db import upsert
from storage.tables import event_keys, pending_labels, score_panes

_CHUNK = 5_000


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def find_keys(connection: Connection, stream: str, keys: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Return (event position, already labelled) by key, for the keys that have an event."""
    found: dict[str, tuple[int, bool]] = {}
    for chunk in _chunks(keys):
        query = select(event_keys.c.key, event_keys.c.position, event_keys.c.labelled).where(
            event_keys.c.stream == stream, event_keys.c.key.in_(chunk)
        )
        for key, position, labelled in connection.execute(query):
            found[key] = (position, labelled)
    return found


def add_keys(connection: Connection, stream: str, keys: Sequence[str], start: int) -> None:
    """Note where events lie: key i at position start + i."""
    rows = [
        {"stream": stream, "key": key, "position": start + i, "labelled": False} for i, key in enumerate(keys)
    ]
    if rows:
        connection.execute(insert(event_keys), rows)


def mark_labelled(connection: Connection, stream: str, keys: Sequence[str]) -> None:
    """Note that events have their label: a second one is a duplicate."""
    for chunk in _chunks(keys):
        connection.execute(
            update(event_keys)
            .where(event_keys.c.stream == stream, event_keys.c.key.in_(chunk))
            .values(labelled=True)
        )


def forget_keys(connection: Connection, stream: str, before_position: int) -> None:
    """Drop the keys of events so old that no label is awaited and no duplicate expected."""
    connection.execute(
        delete(event_keys).where(event_keys.c.stream == stream, event_keys.c.position < before_position)
    )


def keep_pending(
    connection: Connection, stream: str, rows: Sequence[tuple[str, float, datetime, datetime]]
) -> None:
    """Keep labels whose event has not come: (key, value, time, expiry)."""
    if rows:
        connection.execute(
            insert(pending_labels),
            [{"stream": stream, "key": k, "value": v, "time": t, "expires": e} for k, v, t, e in rows],
        )


def take_landed(connection: Connection, stream: str, now: datetime) -> list[Row[Any]]:
    """Remove and return the kept labels that have landed by a stream time and whose event is there: (id, key, value, time, position, labelled), in the order in which they landed."""
    query = (
        select(pending_labels, event_keys.c.position, event_keys.c.labelled)
        .join(
            event_keys,
            (event_keys.c.stream == pending_labels.c.stream) & (event_keys.c.key == pending_labels.c.key),
        )
        .where(pending_labels.c.stream == stream, pending_labels.c.time <= now)
        .order_by(pending_labels.c.time, pending_labels.c.id)
    )
    landed = list(connection.execute(query))
    for chunk in _chunks([row.id for row in landed]):
        connection.execute(delete(pending_labels).where(pending_labels.c.id.in_(chunk)))
    return landed


def expire_pending(connection: Connection, stream: str, now: datetime) -> list[Row[Any]]:
    """Remove and return the labels that waited too long."""
    where = (pending_labels.c.stream == stream, pending_labels.c.expires < now)
    expired = list(connection.execute(select(pending_labels).where(*where).order_by(pending_labels.c.id)))
    if expired:
        connection.execute(delete(pending_labels).where(*where))
    return expired


@dataclass(frozen=True)
class PaneGain:
    """What a batch of labels adds to one pane."""

    pane: int
    labelled: int
    loss: float
    time_to: datetime  # latest event time among them


def add_to_panes(
    connection: Connection, stream: str, promotion: int, rows: int, gains: Sequence[PaneGain]
) -> None:
    """Add labelled rows to panes of `rows` events each, counted from a promotion; a pane already closed is left as it was."""
    for gain in gains:
        statement = upsert(connection, score_panes).values(
            stream=stream, promotion=promotion, rows=rows, state="open", **gain.__dict__
        )
        latest = statement.excluded.time_to
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["stream", "promotion", "pane"],
                set_={
                    "labelled": score_panes.c.labelled + gain.labelled,
                    "loss": score_panes.c.loss + gain.loss,
                    "time_to": _greatest(connection, score_panes.c.time_to, latest),
                },
                where=score_panes.c.state == "open",
            )
        )


def _greatest(connection: Connection, one: Any, other: Any) -> Any:
    return func.max(one, other) if connection.dialect.name == "sqlite" else func.greatest(one, other)


def close_panes(
    connection: Connection, stream: str, promotion: int, *, coverage: float, deadline: datetime
) -> list[tuple[int, float]]:
    """Close panes in order and return the newly covered ones as (pane, mean loss).

    A pane closes covered once `coverage` of its rows are labelled, uncovered once its latest event lies before `deadline`; an open
    pane holds back those behind it, so that the series is in order and never compares half-covered with covered panes.
    """
    query = (
        select(score_panes)
        .where(
            score_panes.c.stream == stream,
            score_panes.c.promotion == promotion,
            score_panes.c.state == "open",
        )
        .order_by(score_panes.c.pane)
    )
    closed = []
    for row in connection.execute(query).all():
        covered = row.labelled >= coverage * row.rows
        if not covered and row.time_to >= deadline:
            break
        connection.execute(
            update(score_panes)
            .where(
                score_panes.c.stream == stream,
                score_panes.c.promotion == promotion,
                score_panes.c.pane == row.pane,
            )
            .values(state="covered" if covered else "uncovered")
        )
        if covered:
            closed.append((int(row.pane), row.loss / row.labelled))
    return closed


def pane_series(connection: Connection, stream: str, promotion: int, limit: int) -> list[tuple[int, float]]:
    """Return the last covered panes since a promotion as (pane, mean loss), in order."""
    query = (
        select(score_panes.c.pane, score_panes.c.loss / score_panes.c.labelled)
        .where(score_panes.c.stream == stream, score_panes.c.promotion == promotion)
        .where(score_panes.c.state == "covered")
        .order_by(score_panes.c.pane.desc())
        .limit(limit)
    )
    return [(int(pane), float(loss)) for pane, loss in connection.execute(query)][::-1]
