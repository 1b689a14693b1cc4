"""Versions, promotions and rollouts: who serves a stream, who served it before, and who is on the way."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, Connection, Row, Select, bindparam, false, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from cls.domain import Champion, Json, ModelVersion, Rollout, RolloutState
from cls.errors import NotFound, Refused
from detectors.dependence import Dependence
from storage.db import database_now, upsert
from storage.statements import add_row
from storage.tables import champions, promotions, rollouts, streams, versions

LIVE = (RolloutState.WAITING, RolloutState.SHADOW, RolloutState.CANARY)
MOVING = (*LIVE, RolloutState.WATCHING)
ENDED = (RolloutState.DONE, RolloutState.REJECTED, RolloutState.ROLLED_BACK)

_VERSION = select(versions).where(
    versions.c.stream == bindparam("stream"), versions.c.number == bindparam("number")
)
_LEARNED_ENDS = select(versions.c.learned_up_to).where(versions.c.stream == bindparam("stream")).distinct()
_CHAMPION = select(champions).where(champions.c.stream == bindparam("stream"))

_ADD_PROMOTION = insert(promotions)
_OF_STREAM = promotions.c.stream == bindparam("stream")
_PROMOTIONS = select(promotions).where(_OF_STREAM).order_by(promotions.c.id)
_NEWEST_PROMOTIONS = (
    select(promotions).where(_OF_STREAM).order_by(promotions.c.id.desc()).limit(bindparam("newest"))
)
_IN_FORCE = (  # the promotion that serves a position
    select(promotions.c.id)
    .where(_OF_STREAM, promotions.c.since <= bindparam("position"))
    .order_by(promotions.c.since.desc(), promotions.c.id.desc())
    .limit(1)
    .scalar_subquery()
)
_COVERING = select(promotions).where(_OF_STREAM, promotions.c.id >= _IN_FORCE).order_by(promotions.c.id)
_FIRST_REFERENCE = select(promotions.c.reference).where(_OF_STREAM).order_by(promotions.c.id).limit(1)

_ADD_ROLLOUT = insert(rollouts)
_SHOWN = [column for column in rollouts.c if column.name != "paired_neighbours"]  # hundreds of numbers
_SHADOWED = (  # rollouts with two versions side by side
    select(rollouts.c.since, rollouts.c.state, rollouts.c.version, rollouts.c.parent)
    .where(
        rollouts.c.stream == bindparam("stream"),
        or_(
            *(
                rollouts.c.state == state
                for state in (RolloutState.SHADOW, RolloutState.CANARY, RolloutState.WATCHING)
            )
        ),
        rollouts.c.since.is_not(None),
    )
    .order_by(rollouts.c.id)
)
_NEIGHBOURS = (
    select(rollouts.c.paired_neighbours).where(rollouts.c.id == bindparam("of_id")).with_for_update()
)
_ADD_PAIRED = (
    update(rollouts)
    .where(rollouts.c.id == bindparam("of_id"))
    .values(
        paired_n=rollouts.c.paired_n + bindparam("n"),
        paired_total=rollouts.c.paired_total + bindparam("total"),
        paired_squares=rollouts.c.paired_squares + bindparam("squares"),
        paired_dependence=bindparam("dependence"),
        paired_neighbours=bindparam("neighbours", type_=JSON),
        base_loss=rollouts.c.base_loss + bindparam("base"),
    )
)


@lru_cache
def _rollouts_in(states: tuple[RolloutState, ...]) -> Select[Any]:
    """Build a query for a few states: cheaper to run than a list that is expanded each time."""
    one = or_(false(), *(rollouts.c.state == state for state in states))
    return select(*_SHOWN).where(rollouts.c.stream == bindparam("stream"), one).order_by(rollouts.c.id)


def add_version(connection: Connection, version: ModelVersion) -> int:
    """Register a version under the stream's next number; returns the number."""
    statement = (
        update(streams)
        .where(streams.c.name == version.stream)
        .values(next_version=streams.c.next_version + 1)
        .returning(streams.c.next_version)
    )
    number = int(connection.execute(statement).scalar_one()) - 1
    values = {field.name: getattr(version, field.name) for field in fields(version)}
    values |= {"number": number, "created_at": database_now(connection)}
    connection.execute(insert(versions).values(**values))
    return number


def read_version(connection: Connection, stream: str, number: int) -> ModelVersion:
    """Return a version; raises `NotFound`."""
    row = connection.execute(_VERSION, {"stream": stream, "number": number}).first()
    if row is None:
        raise NotFound(f"stream {stream} has no version {number}")
    return ModelVersion(**row._mapping)


def list_versions(connection: Connection, stream: str, limit: int = 50) -> list[ModelVersion]:
    """Return the newest versions, newest first."""
    query = (
        select(versions).where(versions.c.stream == stream).order_by(versions.c.number.desc()).limit(limit)
    )
    return [ModelVersion(**row._mapping) for row in connection.execute(query)]


def learned_ends(connection: Connection, stream: str) -> list[int]:
    """Return the label positions that the stream's versions had learned up to, in order, each once."""
    return sorted(int(end) for (end,) in connection.execute(_LEARNED_ENDS, {"stream": stream}))


def champion(connection: Connection, stream: str) -> Champion | None:
    """Return who serves a stream, None before its first promotion."""
    row = connection.execute(_CHAMPION, {"stream": stream}).first()
    return (
        None
        if row is None
        else Champion(row.stream, row.version, row.previous, row.since, row.promotion, row.reference)
    )


def promote(
    connection: Connection,
    stream: str,
    version: int,
    *,
    expected: int | None,
    since: int,
    reference: str,
    at: datetime | None,
    reason: str,
    previous: int | Literal["replaced"] | None = "replaced",
    rollout_id: int | None = None,
) -> Champion:
    """Make a version the champion by one compare-and-set on the version that it replaces.

    Parameters
    ----------
    expected
        The version that must be champion now; None if there must be none.
    since
        First event position that the new champion serves.
    reference
        SHA-256 of the reference profile that is in force from now on.
    previous
        The version to roll back to; by default the one that is replaced.

    Raises
    ------
    Refused
        If another version is champion by now.
    """
    previous = expected if previous == "replaced" else previous
    row = {
        "stream": stream,
        "version": version,
        "previous": previous,
        "since": since,
        "reference": reference,
        "at": at,
        "reason": reason,
        "rollout_id": rollout_id,
    }
    promotion = add_row(connection, _ADD_PROMOTION, row)
    values = {
        "promotion": promotion,
        "version": version,
        "previous": previous,
        "since": since,
        "reference": reference,
    }
    if expected is None:
        done = connection.execute(
            upsert(connection, champions).values(stream=stream, **values).on_conflict_do_nothing()
        )
    else:
        where = (champions.c.stream == stream, champions.c.version == expected)
        done = connection.execute(update(champions).where(*where).values(**values))
    if done.rowcount != 1:
        raise Refused(
            f"stream {stream}: version {expected} is no longer champion; {version} was not promoted"
        )
    return Champion(stream, version, previous, since, promotion, reference)


def list_promotions(connection: Connection, stream: str, *, newest: int | None = None) -> list[Row[Any]]:
    """Return who served from which position on, oldest first; only the `newest` last ones if given."""
    if newest is None:
        return list(connection.execute(_PROMOTIONS, {"stream": stream}))
    return list(connection.execute(_NEWEST_PROMOTIONS, {"stream": stream, "newest": newest}))[::-1]


def promotions_covering(connection: Connection, stream: str, position: int) -> list[Row[Any]]:
    """Return the promotion in force at a position and all later ones, oldest first."""
    return list(connection.execute(_COVERING, {"stream": stream, "position": position}))


def first_reference(connection: Connection, stream: str) -> str:
    """Return the SHA-256 of the stream's first reference profile: the fixed baseline of cumulative drift."""
    return str(connection.execute(_FIRST_REFERENCE, {"stream": stream}).scalar_one())


def add_rollout(
    connection: Connection,
    stream: str,
    version: int,
    *,
    parent: int | None,
    light: bool,
    effective_at: datetime,
    episode: int | None,
) -> int:
    """Begin a rollout.

    Raises
    ------
    Refused
        If the stream has one on the way: one rollout per stream.
    """
    row = {
        "stream": stream,
        "version": version,
        "parent": parent,
        "state": RolloutState.WAITING,
        "light": light,
        "effective_at": effective_at,
        "episode_id": episode,
    }
    try:
        with connection.begin_nested():
            return add_row(connection, _ADD_ROLLOUT, row)
    except IntegrityError as error:
        raise Refused(f"stream {stream} already has a rollout on the way") from error


def rollouts_in(connection: Connection, stream: str, *states: RolloutState) -> list[Rollout]:
    """Return the stream's rollouts in some states, oldest first."""
    return [rollout_of(row) for row in connection.execute(_rollouts_in(states), {"stream": stream})]


def rollout_of(row: Row[Any]) -> Rollout:
    """Return a row of the table as a value."""
    return Rollout(
        row.id,
        row.stream,
        row.version,
        row.parent,
        RolloutState(row.state),
        row.light,
        row.effective_at,
        row.started_at,
        row.paired_n,
        row.paired_total,
        row.paired_squares,
        row.base_loss,
        row.episode_id,
        row.since,
        row.step,
        row.share,
        row.step_at,
        row.step_n,
        row.deadline_at,
        row.slow_us,
        row.paused_at,
        row.approved,
        row.paired_dependence,
    )


def shadow_plan(connection: Connection, stream: str) -> list[tuple[int, int]]:
    """Return (first event position, version) of the versions scored beside the champion, in the order of their rollouts.

    In shadow and canary that is the challenger; while a new champion is watched, its predecessor.
    """
    found = [
        (row.since, row.parent if row.state == RolloutState.WATCHING else row.version)
        for row in connection.execute(_SHADOWED, {"stream": stream})
    ]
    return [(int(since), int(version)) for since, version in found if version is not None]


def move_rollout(
    connection: Connection,
    rollout: Rollout,
    state: RolloutState,
    *,
    at: datetime | None,
    since: int | None = None,
    deadline_at: datetime | None = None,
    step: int = 0,
    share: float = 0.0,
    slow_us: int | None = None,
    reason: str = "",
) -> None:
    """Move a rollout on by compare-and-set on its state and step.

    A canary goes on with its shadow's paired record: it is the same comparison. Elsewhere the record starts anew.

    Parameters
    ----------
    at
        Stream time.
    since
        First event position that both versions score.
    deadline_at
        Stream time after which it goes back if it is undecided.
    step, share, slow_us
        Of a canary; see the columns.

    Raises
    ------
    Refused
        If it has moved meanwhile.
    """
    values: Json = {"state": state, "reason": reason, "fault": None}
    if state in ENDED:
        values["ended_at"] = at
    elif state == RolloutState.CANARY:
        values |= {"step": step, "share": share, "step_at": at, "step_n": rollout.paired_n}
        values["slow_us"] = slow_us
    else:
        values |= dict.fromkeys(("paired_n", "step_n", "step"), 0)
        values |= dict.fromkeys(("paired_total", "paired_squares", "base_loss", "share"), 0.0)
        values |= {"paired_dependence": 1.0, "paired_neighbours": None}
        values |= {"started_at": at, "step_at": at, "since": since, "deadline_at": deadline_at}
    where = (
        rollouts.c.id == rollout.id,
        rollouts.c.state == rollout.state,
        rollouts.c.step == rollout.step,
    )
    if connection.execute(update(rollouts).where(*where).values(**values)).rowcount != 1:
        raise Refused(f"rollout {rollout.id} has moved on")


def hold_rollout(
    connection: Connection,
    rollout: Rollout,
    *,
    paused_at: datetime | None,
    step_at: datetime | None,
    deadline_at: datetime | None,
    approved: str,
    reason: str,
) -> None:
    """Write what operators said about a rollout: pause (with the times that it shifts) and approval. Raises `Refused`."""
    values = {"paused_at": paused_at, "step_at": step_at, "deadline_at": deadline_at, "approved": approved}
    values["reason"] = reason
    where = (rollouts.c.id == rollout.id, rollouts.c.state == rollout.state)
    if connection.execute(update(rollouts).where(*where).values(**values)).rowcount != 1:
        raise Refused(f"rollout {rollout.id} has moved on")


def note_rollout(connection: Connection, rollout_id: int, reason: str) -> bool:
    """Write what a rollout waits for, for people; returns whether that is news."""
    where = (rollouts.c.id == rollout_id, rollouts.c.reason != reason)
    return connection.execute(update(rollouts).where(*where).values(reason=reason)).rowcount == 1


def note_fault(connection: Connection, rollout_id: int, fault: str | None) -> None:
    """Write why a shadow cannot be loaded; None if it can. Its reason is another matter: that is the promoter's and the operators'."""
    where = (rollouts.c.id == rollout_id, rollouts.c.fault.is_distinct_from(fault))
    connection.execute(update(rollouts).where(*where).values(fault=fault))


def add_paired(
    connection: Connection, rollout_id: int, differences: NDArray[np.float64], base_loss: float
) -> None:
    """Add paired losses to a rollout's record; the caller's transaction must be a writing one (`storage.db.transaction`).

    Parameters
    ----------
    differences
        loss(version) - loss(other) by row, in the order of time.
    base_loss
        Sum of the other's losses over these rows.
    """
    kept = connection.execute(_NEIGHBOURS, {"of_id": rollout_id}).scalar() or {}
    neighbours = Dependence(**{name: tuple(values) for name, values in kept.items()}).add(differences)
    gain = {
        "of_id": rollout_id,
        "n": len(differences),
        "total": float(differences.sum()),
        "squares": float(differences @ differences),
        "base": base_loss,
        "dependence": neighbours.factor,
        "neighbours": asdict(neighbours),
    }
    connection.execute(_ADD_PAIRED, gain)


def list_rollouts(connection: Connection, stream: str | None = None, limit: int = 50) -> list[Row[Any]]:
    """Return the newest rollouts, newest first."""
    query = select(*_SHOWN).order_by(rollouts.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(rollouts.c.stream == stream)
    return list(connection.execute(query))
