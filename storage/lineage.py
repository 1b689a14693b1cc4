"""The outbox with everything its messages point at: jobs, the versions they made, the verdicts they answer."""

from __future__ import annotations

from sqlalchemy import Engine, select

from cls.domain import JobKind, JobState, ModelVersion, Rollout, RolloutState
from cls.lineage import EndedJob, Message
from cls.registry_text import shortened
from storage import outbox as messages
from storage.db import reading, transaction
from storage.job_rows import input_from_json, show
from storage.streams import write_ledger
from storage.tables import champions, episodes, outbox, versions
from storage.versions import champion, list_promotions, list_rollouts, read_version, rollout_of, rollouts_in

NEWEST = (
    4  # rollouts and promotions whose versions the registry is told of; what was said of earlier ones stays
)


REASON = 500  # characters of a reason that the registry is told; an error's text may be kilobytes


class SqlOutbox:
    """The port `cls.lineage.Outbox` on the database; one short transaction per call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def next(self) -> Message | None:
        """Take the oldest undelivered message if its time has come."""
        with reading(self._engine) as connection:
            if not messages.due(connection):
                return None
        with transaction(self._engine) as connection:
            row = messages.take_message(connection)
        return None if row is None else Message(row.id, row.stream, row.kind, row.payload, row.attempts)

    def delivered(self, message: Message) -> None:
        """Note a delivery."""
        with transaction(self._engine) as connection:
            messages.delivered(connection, message.id)

    def postponed(self, message: Message, error: str) -> None:
        """Note a failed delivery, to be tried again later."""
        with transaction(self._engine) as connection:
            messages.postponed(connection, message.id, message.attempts, error)

    def given_up(self, message: Message, reason: str) -> None:
        """Drop a message and write into the ledger why."""
        with transaction(self._engine) as connection:
            messages.delivered(connection, message.id)
            write_ledger(
                connection,
                message.stream,
                "registry",
                f"not shown in MLflow: {message.kind} {message.payload}: {reason}",
                at=None,
                job=message.payload.get("job_id"),
                version=message.payload.get("number"),
            )

    def job(self, job_id: int) -> EndedJob:
        """Return a job with the version it made and the verdict it answers; raises `NotFound`."""
        with reading(self._engine) as connection:
            row = show(connection, job_id)
            job_input = input_from_json(row.input)
            made = connection.execute(select(versions.c.number).where(versions.c.job_id == job_id)).scalar()
            verdict = connection.execute(
                select(episodes.c.verdict_id).where(episodes.c.id == job_input.episode)
            ).scalar()
        started = row.started_at or row.created_at
        return EndedJob(
            row.id,
            row.stream,
            JobKind(row.kind),
            JobState(row.state),
            job_input,
            row.attempt,
            started,
            row.ended_at or started,
            row.charged_seconds,
            row.passes,
            row.error,
            row.result or {},
            made,
            verdict,
        )

    def version(self, stream: str, number: int) -> ModelVersion:
        """Return a version; raises `NotFound`."""
        with reading(self._engine) as connection:
            return read_version(connection, stream, number)

    def aliases(self, stream: str) -> dict[str, int | None]:
        """Return where the aliases must point: the champion's row and the rollout that is compared with it."""
        with reading(self._engine) as connection:
            now = champion(connection, stream)
            rivals = rollouts_in(connection, stream, RolloutState.SHADOW, RolloutState.CANARY)
        return {
            "champion": None if now is None else now.version,
            "previous": None if now is None else now.previous,
            "challenger": rivals[0].version if rivals else None,
        }

    def standings(self, stream: str) -> dict[int, str]:
        """Return how far the newest versions have come on their way to users, and why."""
        with reading(self._engine) as connection:
            now = champion(connection, stream)
            rollouts = list_rollouts(connection, stream, NEWEST)
            promotions = list_promotions(connection, stream, newest=NEWEST)
        serving = None if now is None else now.version
        standing: dict[int, str] = {}
        for row in rollouts:  # the newest of a version counts
            state = _standing(rollout_of(row), serving)
            reason = row.reason if row.fault is None else f"cannot be loaded: {row.fault}"
            standing.setdefault(row.version, f"{state}: {shortened(reason, REASON)}" if reason else state)
        for row in reversed(
            promotions
        ):  # some were promoted without a rollout: the first, and what operators chose
            standing.setdefault(row.version, "champion" if row.version == serving else "served before")
        return standing

    def streams(self) -> list[str]:
        """Return the streams that have a champion."""
        with reading(self._engine) as connection:
            return list(connection.execute(select(champions.c.stream).order_by(champions.c.stream)).scalars())

    def post_aliases(self, stream: str) -> bool:
        """Ask for the aliases to be written anew; returns False if that is waiting already."""
        waiting = select(outbox.c.id).where(
            outbox.c.stream == stream, outbox.c.kind == "aliases", outbox.c.done_at.is_(None)
        )
        with transaction(self._engine) as connection:
            if connection.execute(waiting.limit(1)).first() is not None:
                return False
            messages.post(connection, stream, "aliases", {})
            return True


def _standing(rollout: Rollout, serving: int | None) -> str:
    if rollout.version == serving:
        return "champion, watched" if rollout.state == RolloutState.WATCHING else "champion"
    if rollout.state == RolloutState.CANARY:
        return f"canary {rollout.share:.0%}"
    return "served before" if rollout.state == RolloutState.DONE else rollout.state.value.replace("_", " ")
