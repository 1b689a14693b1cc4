"""What operators ask of a stream, by command line or HTTP: checked, written down for the daemon, and in the audit."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, Engine

from cls.domain import Json
from cls.errors import NotFound, Refused
from cls.settings.faults import nearest
from learners.recipes import known
from storage.audit import ACTIONS, audited
from storage.db import reading
from storage.streams import add_trigger, show_trigger
from storage.versions import champion, read_version


def place(engine: Engine, stream: str, kind: str, arguments: Json, *, actor: str, origin: str) -> str:
    """Ask the daemon for something; returns the request's key.

    Parameters
    ----------
    kind
        "manual", "promote", "rollback", "pause", "resume", "approve" or "abort".
    arguments
        Of "manual" `strategy` and `full`, of "promote" `version`; otherwise none.
    actor, origin
        Who asks, and from where: see `storage.audit.record`.

    Raises
    ------
    NotFound, Refused
        If it can be seen at once that it cannot be done.
    """
    key = uuid.uuid4().hex
    noted = dict(arguments)
    with audited(
        engine,
        actor=actor,
        origin=origin,
        action=ACTIONS.get(kind, kind),
        stream=stream,
        arguments=noted,
        outcome="asked",
    ) as connection:
        asked = _completed(connection, stream, kind, arguments)
        add_trigger(connection, stream, kind, key, asked, actor[:255])
        noted |= asked | {"request": key}
    return key


def answer_to(engine: Engine, stream: str, key: str) -> str | None:
    """Return what the daemon answered to a request, None while it has not; a "no" begins with `storage.audit.REFUSED`.

    Raises
    ------
    NotFound
        If the stream has no such request.
    """
    with reading(engine) as connection:
        row = show_trigger(connection, key)
    if row is None or row.stream != stream:
        raise NotFound(f"stream {stream} has no request {key}")
    return None if row.consumed_at is None else str(row.outcome or "done")


def _completed(connection: Connection, stream: str, kind: str, arguments: Json) -> Json:
    """Return the arguments with what the state of the stream adds to them."""
    strategy = arguments.get("strategy")
    if kind == "manual" and strategy is not None and strategy not in known():
        raise NotFound(f"no recipe is called {strategy!r}{nearest(strategy, list(known()))}")
    if kind == "promote":
        read_version(connection, stream, arguments["version"])
    if kind == "rollback":
        serving = champion(connection, stream)
        if serving is None or serving.previous is None:
            raise Refused(f"stream {stream} has no previous version to go back to")
        return arguments | {"version": serving.previous}
    return arguments
