"""What the registry is told, as the stage that tells it sees the state: messages, ended jobs, and the port to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cls.domain import JobInput, JobKind, JobState, Json, ModelVersion


@dataclass(frozen=True)
class Message:
    """One undelivered message of the outbox."""

    id: int
    stream: str
    kind: str  # "job", "version" or "aliases"
    payload: Json
    attempts: int  # deliveries that failed


@dataclass(frozen=True)
class EndedJob:
    """A job with what came of it and what it came from."""

    id: int
    stream: str
    kind: JobKind
    state: JobState
    input: JobInput
    attempt: int
    started_at: datetime  # database time; when it was created, if it never started
    ended_at: datetime  # database time
    charged_seconds: float | None
    passes: float | None
    error: str | None
    result: Json
    version: int | None  # registered by it
    verdict: int | None  # that opened its episode


class Outbox(Protocol):
    """Undelivered messages in order, and the facts that they point at."""

    def next(self) -> Message | None:
        """Take the oldest undelivered message if its time has come; until it is dealt with, nobody else gets one."""
        ...

    def delivered(self, message: Message) -> None:
        """Note a delivery."""
        ...

    def postponed(self, message: Message, error: str) -> None:
        """Note a failed delivery, to be tried again later."""
        ...

    def given_up(self, message: Message, reason: str) -> None:
        """Take a message that can never be delivered out of the way of those behind it, and say so in the ledger."""
        ...

    def job(self, job_id: int) -> EndedJob:
        """Return a job; raises `NotFound`."""
        ...

    def version(self, stream: str, number: int) -> ModelVersion:
        """Return a version; raises `NotFound`."""
        ...

    def aliases(self, stream: str) -> dict[str, int | None]:
        """Return where champion, previous and challenger must point; None for an alias that must not exist."""
        ...

    def standings(self, stream: str) -> dict[int, str]:
        """Return how far the newest versions have come on their way to users, and why: "state" or "state: reason"."""
        ...

    def streams(self) -> list[str]:
        """Return the streams that have a champion."""
        ...

    def post_aliases(self, stream: str) -> bool:
        """Ask for the aliases to be written anew; returns False if that is waiting already."""
        ...
