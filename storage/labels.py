"""Keys, labels that wait for their event, and the score panes that labels fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Row,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from storage.db import upsert
from storage.statements import per_dialect
from storage.tables import event_keys, pane_is_open, pending_labels, score_panes

_CHUNK = 5_000

_FIND_KEYS = select(event_keys.c.key, event_keys.c.position, event_keys.c.labelled).where(
    event_keys.c.stream == bindparam("stream"), event_keys.c.key.in_(bindparam("keys", expanding=True))
)
_ADD_KEYS = insert(event_keys)
_MARK_LABELLED = (
    update(event_keys)
    .where(
        event_keys.c.stream == bindparam("of_stream"), event_keys.c.key.in_(bindparam("keys", expanding=True))
    )
    .values(labelled=True)
)
_FORGET_KEYS = delete(event_keys).where(
    event_keys.c.stream == bindparam("stream"), event_keys.c.position < bindparam("before")
)

_KEEP_PENDING = insert(pending_labels)
_LANDED = (
    select(
        pending_labels.c.id,
        pending_labels.c.key,
        pending_labels.c.value,
        pending_labels.c.time,
        event_keys.c.position,
        event_keys.c.labelled,
    )
    .join(
        event_keys,
        (event_keys.c.stream == pending_labels.c.stream) & (event_keys.c.key == pending_labels.c.key),
    )
    .where(pending_labels.c.stream == bindparam("stream"), pending_labels.c.time <= bindparam("now"))
    .order_by(pending_labels.c.time, pending_labels.c.id)
)
_DROP_PENDING = delete(pending_labels).where(pending_labels.c.id.in_(bindparam("ids", expanding=True)))
_PAST = (pending_labels.c.stream == bindparam("stream"), pending_labels.c.expires < bindparam("now"))
_EXPIRED = select(pending_labels).where(*_PAST).order_by(pending_labels.c.id)
_DROP_EXPIRED = delete(pending_labels).where(*_PAST)

_PANES = (score_panes.c.stream == bindparam("stream"), score_panes.c.promotion == bindparam("promotion"))
_NEXT_PANE = select(func.coalesce(func.max(score_panes.c.pane) + 1, 0)).where(
    score_panes.c.stream == bindparam("stream"),
    score_panes.c.promotion == bindparam("promotion"),
    score_panes.c.state != "open",
)
_OPEN_PANES = (
    select(
        score_panes.c.pane,
        score_panes.c.rows,
        score_panes.c.labelled,
        score_panes.c.loss,
        score_panes.c.time_to,
    )
    .where(*_PANES, pane_is_open)
    .order_by(score_panes.c.pane)
)
_CLOSE_PANE = (
    update(score_panes)
    .where(
        score_panes.c.stream == bindparam("of_stream"),
        score_panes.c.promotion == bindparam("of_promotion"),
        score_panes.c.pane == bindparam("of_pane"),
    )
    .values(state=bindparam("to"))
)
_PANE_SERIES = (
    select(score_panes.c.pane, score_panes.c.loss / score_panes.c.labelled)
    .where(*_PANES, score_panes.c.state == "covered")
    .order_by(score_panes.c.pane.desc())
    .limit(bindparam("limit"))
)


@per_dialect
def _add_to_panes(connection: Connection) -> Insert:
    statement = upsert(connection, score_panes)
    new = statement.excluded
    greatest = func.max if connection.dialect.name == "sqlite" else func.greatest
    return statement.on_conflict_do_update(
        index_elements=["stream", "promotion", "pane"],
        set_={
            "labelled": score_panes.c.labelled + new.labelled,
            "loss": score_panes.c.loss + new.loss,
            "time_to": greatest(score_panes.c.time_to, new.time_to),
        },
        where=score_panes.c.state == "open",
    )


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def find_keys(connection: Connection, stream: str, keys: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Return (event position, already labelled) by key, for the keys that have an event."""
    found: dict[str, tuple[int, bool]] = {}
    for chunk in _chunks(keys):
        for key, position, labelled in connection.execute(_FIND_KEYS, {"stream": stream, "keys": chunk}):
            found[key] = (position, labelled)
    return found


def add_keys(connection: Connection, stream: str, keys: Sequence[str], start: int) -> None:
    """Note where events lie: key i at position start + i."""
    rows = [
        {"stream": stream, "key": key, "position": start + i, "labelled": False} for i, key in enumerate(keys)
    ]
    if rows:
        connection.execute(_ADD_KEYS, rows)


def mark_labelled(connection: Connection, stream: str, keys: Sequence[str]) -> None:
    """Note that events have their label: a second one is a duplicate."""
    for chunk in _chunks(keys):
        connection.execute(_MARK_LABELLED, {"of_stream": stream, "keys": chunk})


def keep_pending(
    connection: Connection, stream: str, rows: Sequence[tuple[str, float, datetime, datetime]]
) -> None:
    """Keep labels whose event has not come: (key, value, time, expiry)."""
    if rows:
        connection.execute(
            _KEEP_PENDING,
            [{"stream": stream, "key": k, "value": v, "time": t, "expires": e} for k, v, t, e in rows],
        )


def take_landed(connection: Connection, stream: str, now: datetime) -> list[Row[Any]]:
    """Remove and return the kept labels that have landed by a stream time and whose event is there.

    Each is (id, key, value, time, position, labelled), in the order in which they landed.
    """
    landed: list[Row[Any]] = list(connection.execute(_LANDED, {"stream": stream, "now": now}))
    for chunk in _chunks([row.id for row in landed]):
        connection.execute(_DROP_PENDING, {"ids": chunk})
    return landed


def expire_pending(connection: Connection, stream: str, now: datetime) -> list[Row[Any]]:
    """Remove and return the labels that waited too long."""
    past = {"stream": stream, "now": now}
    expired = list(connection.execute(_EXPIRED, past))
    if expired:
        connection.execute(_DROP_EXPIRED, past)
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
    if gains:
        fresh = {"stream": stream, "promotion": promotion, "rows": rows, "state": "open"}
        connection.execute(_add_to_panes(connection), [fresh | gain.__dict__ for gain in gains])


def close_panes(
    connection: Connection, stream: str, promotion: int, *, coverage: float, deadline: datetime
) -> list[tuple[int, float]]:
    """Close panes in order and return the newly covered ones as (pane, mean loss).

    A pane closes covered once `coverage` of its rows are labelled, uncovered once its latest event lies before `deadline`; an open
    pane holds back those behind it, so that the series is in order and never compares half-covered with covered panes.
    """
    closed = []
    following = connection.execute(_NEXT_PANE, {"stream": stream, "promotion": promotion}).scalar_one()
    for row in connection.execute(_OPEN_PANES, {"stream": stream, "promotion": promotion}).all():
        covered = row.labelled >= coverage * row.rows
        gap = row.pane > following  # a pane without any label yet
        if (gap or not covered) and row.time_to >= deadline:
            break
        following = row.pane + 1
        pane = {"of_stream": stream, "of_promotion": promotion, "of_pane": row.pane}
        connection.execute(_CLOSE_PANE, pane | {"to": "covered" if covered else "uncovered"})
        if covered:
            closed.append((int(row.pane), row.loss / row.labelled))
    return closed


def pane_series(connection: Connection, stream: str, promotion: int, limit: int) -> list[tuple[int, float]]:
    """Return the last covered panes since a promotion as (pane, mean loss), in order."""
    found = connection.execute(_PANE_SERIES, {"stream": stream, "promotion": promotion, "limit": limit})
    return [(int(pane), float(loss)) for pane, loss in found][::-1]
