"""Asking the daemon for something and waiting for its answer: a trigger row, and what came of it."""

from __future__ import annotations

import getpass
import socket
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.errors import Refused, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine

POLL_SECONDS = 0.1
REFUSED = "refused: "
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.0, help="Seconds to wait for the daemon's answer.")
]


def ask(engine: Engine, stream: str, kind: str, arguments: dict[str, Any], timeout: float) -> str:
    """Ask the daemon, and return its answer.

    Parameters
    ----------
    kind
        "manual", "promote" or "rollback".
    timeout
        Seconds to wait.

    Raises
    ------
    Refused
        If the daemon said no, with its reason.
    Unavailable
        If no daemon answered in time. The request stays: a daemon that starts later will act on it.
    """
    from storage.db import reading, transaction
    from storage.streams import add_trigger, show_trigger

    key = uuid.uuid4().hex
    with transaction(engine) as connection:
        add_trigger(connection, stream, kind, key, arguments, requester())
    until = time.monotonic() + timeout
    while True:
        with reading(engine) as connection:
            row = show_trigger(connection, key)
        if row is not None and row.consumed_at is not None:
            outcome = str(row.outcome or "done")
            if outcome.startswith(REFUSED):
                raise Refused(outcome.removeprefix(REFUSED))
            return outcome
        if time.monotonic() >= until:
            raise Unavailable(
                f"no daemon answered within {timeout:g} s; the request stays and is acted on when one does "
                "(is `cls up` or `cls daemon` running, and has the stream any events?)"
            )
        time.sleep(POLL_SECONDS)


def requester() -> str:
    """Return who asks: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
