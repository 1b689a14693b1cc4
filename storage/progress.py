"""How far a stream has come, for those who feed it; and what became of a request."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from cls.domain import Json, RolloutState
from storage import job_rows, overview
from storage.inbox import waiting
from storage.log import next_position
from storage.streams import watermark
from storage.tables import inbox
from storage.versions import champion, rollouts_in


def progress(connection: Connection, stream: str) -> Json:
    """Return a stream's positions and what is under way, as JSON.

    It is quiet when nothing waits in the inbox, every event is scored and watched, every landed label joined, and no job and no rollout is left.
    """
    tokens = overview.tokens(connection, stream)
    serving, now = champion(connection, stream), watermark(connection, stream)
    rollouts = rollouts_in(connection, stream, RolloutState.WAITING)
    return {
        "stream": stream,
        "inbox_waiting": waiting(connection, stream, tokens.get("source", "")),
        "events": next_position(connection, stream, "events"),
        "labels": next_position(connection, stream, "labels"),
        "scored": int(tokens.get("score") or 0),
        "watched": int(tokens.get("watch") or 0),
        "joined": int(tokens.get("join") or 0),
        "watermark": None if now is None else now.isoformat(),
        "champion": None if serving is None else serving.version,
        "live_jobs": len(overview.live_jobs(connection, stream)),
        "unhandled_jobs": len(job_rows.unhandled(connection, stream)),
        "rollouts_waiting": [rollout.effective_at.isoformat() for rollout in rollouts],
    }


def request_of(connection: Connection, stream: str, producer: str, sequence: int) -> Row[Any] | None:
    """Return the inbox's row of a request."""
    query = select(inbox).where(
        inbox.c.stream == stream, inbox.c.producer == producer, inbox.c.sequence == sequence
    )
    return connection.execute(query).first()
