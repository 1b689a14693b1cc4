"""How far each webhook has been told, and what comes next: one announcement at a time, held by one sender.

A webhook's row is moved by compare-and-set on (position, next_at), so that a sender whose hold ran out changes nothing. What happens
between delivery and commit repeats the same announcement, never skips one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, select, update

from cls.domain import Json
from cls.settings.http import WebhookConfig
from storage.db import database_now, read_clock, reading, transaction, upsert
from storage.measures import MOST
from storage.streams import write_ledger
from storage.tables import announcements, webhooks

PAUSED = datetime(9999, 1, 1, tzinfo=UTC)  # as next_at: until an operator resumes it
_LOOK = 500  # announcements looked through at once for one that matches
_NEWEST = select(func.max(announcements.c.id))


@dataclass(frozen=True)
class Announcement:
    """What one webhook is to be told, held by who took it."""

    webhook: str
    id: int
    stream: str
    kind: str
    payload: Json
    created_at: datetime  # database time
    attempts: int  # that failed
    after: int  # the webhook's position
    held_until: datetime  # database time


@dataclass(frozen=True)
class Standing:
    """How a webhook stands."""

    name: str
    position: int | None  # id of the last announcement dealt with; None before a reporter has seen it
    waiting: int  # announcements, counted among the next `MOST`
    attempts: int  # at the next one
    next_at: datetime | None  # database time; None while paused
    delivered_at: datetime | None  # database time
    error: str | None
    paused: bool


def matches(hook: WebhookConfig, stream: str, kind: str) -> bool:
    """Whether a webhook is to be told of that."""
    wanted = not hook.kinds or any(fnmatchcase(kind, pattern) for pattern in hook.kinds)
    return wanted and (not hook.streams or stream in hook.streams)


class SqlWebhooks:
    """The rows of the webhooks; one short transaction per call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, name: str) -> None:
        """Let a new webhook begin at the present end."""
        with transaction(self._engine) as connection:
            end = connection.execute(_NEWEST).scalar() or 0
            row = {"name": name, "position": end, "attempts": 0, "next_at": read_clock(connection)}
            connection.execute(upsert(connection, webhooks).values(row).on_conflict_do_nothing())

    def take(self, name: str, hook: WebhookConfig, hold: timedelta) -> Announcement | None:
        """Take the next announcement for a webhook, if its time has come and nobody holds it.

        Parameters
        ----------
        hold
            For how long it is the taker's: more than a delivery can take.
        """
        with reading(self._engine) as connection:
            row = _row(connection, name)
            if row is None or row.next_at > read_clock(connection):
                return None
            found = _after(connection, row.position, _LOOK)
        if not found:
            return None
        wanted = next((one for one in found if matches(hook, one.stream, one.kind)), None)
        with transaction(self._engine) as connection:
            if wanted is None:
                _move(connection, name, row.position, row.next_at, {"position": found[-1].id})
                return None
            until = read_clock(connection) + hold
            if not _move(connection, name, row.position, row.next_at, {"next_at": until}):
                return None
        return Announcement(
            name,
            wanted.id,
            wanted.stream,
            wanted.kind,
            wanted.payload,
            wanted.created_at,
            row.attempts,
            row.position,
            until,
        )

    def delivered(self, told: Announcement) -> None:
        """Note a delivery, unless the hold ran out and somebody else has it."""
        with transaction(self._engine) as connection:
            now = read_clock(connection)
            _settle(connection, told, position=told.id, attempts=0, next_at=now, delivered_at=now, error=None)

    def postponed(self, told: Announcement, error: str, delay: timedelta, *, counts: bool = True) -> None:
        """Note a failure; the next try is after `delay`. One that is not the receiver's fault does not count."""
        with transaction(self._engine) as connection:
            later = read_clock(connection) + delay
            _settle(connection, told, attempts=told.attempts + counts, next_at=later, error=error[:2000])

    def given_up(self, told: Announcement, error: str) -> None:
        """Leave an announcement out, and say so in the ledger; the next one follows."""
        with transaction(self._engine) as connection:
            now = read_clock(connection)
            if _settle(connection, told, position=told.id, attempts=0, next_at=now, error=error[:2000]):
                reason = f"webhook {told.webhook} was not told of {told.kind} (announcement {told.id}) after {told.attempts + 1} tries: {error}"
                write_ledger(connection, told.stream, "webhook", reason[:2000], at=None)

    def paused(self, told: Announcement, error: str) -> None:
        """Tell it nothing more until an operator resumes it; what it was not told waits."""
        with transaction(self._engine) as connection:
            if _settle(connection, told, next_at=PAUSED, error=error[:2000]):
                reason = f"webhook {told.webhook} is paused at announcement {told.id}: {error}"
                write_ledger(connection, told.stream, "webhook", reason[:2000], at=None)


def resume(connection: Connection, name: str) -> bool:
    """Try a webhook again at once, paused or waiting; returns False if no reporter has seen it yet."""
    statement = update(webhooks).where(webhooks.c.name == name)
    values = {"next_at": database_now(connection), "attempts": 0, "error": None}
    return connection.execute(statement.values(values)).rowcount == 1


def standings(connection: Connection, hooks: Mapping[str, WebhookConfig]) -> list[Standing]:
    """Return how each configured webhook stands, by name."""
    found = []
    for name in sorted(hooks):
        row = _row(connection, name)
        if row is None:
            found.append(Standing(name, None, 0, 0, None, None, None, paused=False))
            continue
        heads = (
            select(announcements.c.stream, announcements.c.kind)
            .where(announcements.c.id > row.position)
            .order_by(announcements.c.id)
            .limit(MOST)
        )
        waiting = sum(matches(hooks[name], one.stream, one.kind) for one in connection.execute(heads))
        paused = row.next_at >= PAUSED
        due = None if paused else row.next_at
        found.append(
            Standing(
                name, row.position, waiting, row.attempts, due, row.delivered_at, row.error, paused=paused
            )
        )
    return found


def drop_announcements(
    engine: Engine,
    configured: Mapping[str, WebhookConfig],
    keep: timedelta = timedelta(days=3),
    longest: timedelta = timedelta(days=30),
) -> int:
    """Drop announcements that all configured webhooks are past, and any that is too old; returns how many.

    The newest one always stays: its id is where the next one's begins. The ledger says what a webhook was not told.

    Parameters
    ----------
    keep
        Age below which nothing is dropped.
    longest
        Age beyond which an announcement is dropped even if a webhook (paused, or away for that long) was not told of it.
    """
    with transaction(engine) as connection:
        rows = connection.execute(select(webhooks.c.name, webhooks.c.position)).all()
        passed = [row.position for row in rows if row.name in configured]
        now, newest = read_clock(connection), connection.execute(_NEWEST).scalar() or 0
        told = announcements.c.created_at < now - keep
        if passed:
            told &= announcements.c.id <= min(passed)
        old = announcements.c.created_at < now - longest
        for row in rows:
            if row.name in configured:
                lost = (announcements.c.id > row.position, announcements.c.id < newest, old)
                _tell_ledger(connection, row.name, configured[row.name], *lost)
        return connection.execute(
            delete(announcements).where(announcements.c.id < newest, told | old)
        ).rowcount


def _tell_ledger(connection: Connection, name: str, hook: WebhookConfig, *lost: Any) -> None:
    """Say in each stream's ledger what a webhook will never be told."""
    heads = select(announcements.c.id, announcements.c.stream, announcements.c.kind).where(*lost)
    missed: dict[str, list[int]] = {}
    for one in connection.execute(heads.order_by(announcements.c.id)):
        if matches(hook, one.stream, one.kind):
            missed.setdefault(one.stream, []).append(one.id)
    for stream, ids in missed.items():
        what = (
            f"announcement {ids[0]}" if len(ids) == 1 else f"{len(ids)} announcements, {ids[0]} to {ids[-1]}"
        )
        reason = f"webhook {name} was not told of {what}: nobody took it for too long"
        write_ledger(connection, stream, "webhook", reason, at=None)


def _row(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(webhooks).where(webhooks.c.name == name)).first()


def _after(connection: Connection, position: int, limit: int) -> list[Row[Any]]:
    query = select(announcements).where(announcements.c.id > position).order_by(announcements.c.id)
    return list(connection.execute(query.limit(limit)))


def _settle(connection: Connection, told: Announcement, **values: Any) -> bool:
    return _move(connection, told.webhook, told.after, told.held_until, values)


def _move(connection: Connection, name: str, position: int, next_at: datetime, values: Json) -> bool:
    """Change a row that is as it was seen; returns False if it is not."""
    seen = (webhooks.c.name == name, webhooks.c.position == position, webhooks.c.next_at == next_at)
    return connection.execute(update(webhooks).where(*seen).values(values)).rowcount == 1
