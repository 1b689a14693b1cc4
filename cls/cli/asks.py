"""Asking the daemon for something and waiting for its answer; and who asks, for the audit."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.errors import Permanent, Refused, Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

POLL_SECONDS = 0.1
ORIGIN = "cli"
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.0, help="Seconds to wait for the daemon's answer.")
]


def ask(engine: Engine, stream: str, kind: str, arguments: dict[str, Any], timeout: float) -> str:
    """Ask the daemon, and return its answer.

    Parameters
    ----------
    kind
        See `cls.asking.place`.
    timeout
        Seconds to wait.

    Raises
    ------
    NotFound, Refused
        If it cannot be done, or the daemon said no, with the reason.
    Unavailable
        If no daemon answered in time. The request stays: a daemon that starts later will act on it.
    """
    from cls.asking import answer_to, place
    from storage.audit import REFUSED

    key = place(engine, stream, kind, arguments, actor=requester(), origin=ORIGIN)
    until = time.monotonic() + timeout
    while True:
        outcome = answer_to(engine, stream, key)
        if outcome is not None:
            if outcome.startswith(REFUSED):
                raise Refused(outcome.removeprefix(REFUSED))
            return outcome
        if time.monotonic() >= until:
            raise Unavailable(
                f"no daemon answered within {timeout:g} s; the request stays and is acted on when one does "
                "(is `cls up` or `cls daemon` running, and has the stream any events?)"
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def acting(
    engine: Engine, action: str, arguments: dict[str, Any], stream: str | None = None, outcome: str = "done"
) -> Iterator[Connection]:
    """Hold the transaction of what a command does itself; the audit gets its row, also if it is refused.

    Parameters
    ----------
    action
        As "jobs.cancel".
    arguments
        Never a secret; the block may add to them.
    """
    from storage.audit import audited

    with audited(
        engine,
        actor=requester(),
        origin=ORIGIN,
        action=action,
        stream=stream,
        arguments=arguments,
        outcome=outcome,
    ) as connection:
        yield connection


@contextmanager
def noting(
    engine: Engine, action: str, arguments: dict[str, Any], stream: str | None = None
) -> Iterator[None]:
    """Run what may take long, outside of any transaction; then the audit gets its row, also if it was refused."""
    try:
        yield
    except Permanent:
        with acting(engine, action, arguments, stream):
            raise
    with acting(engine, action, arguments, stream):
        pass


def requester() -> str:
    """Return who asks: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
