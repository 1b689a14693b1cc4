"""Promote: rollouts take their steps, champions change by compare-and-set, references move. The ledger says why, every time."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from sqlalchemy import Connection

from cls.config import StreamConfig
from cls.domain import Champion, Episode, EpisodeState, Rollout, RolloutState
from cls.errors import Refused
from cls.layout import PROFILE
from cls.outputs import Floats
from cls.ports import ArtifactStore, SampleLog
from cls.rebase import Predict, Rows, recent_reference
from cls.rollout import Next, Step, next_step
from storage import drift as drift_store
from storage import log as log_store
from storage import outbox
from storage import streams as stream_store
from storage import versions as version_store


class Promoter:
    """Changes who serves a stream, inside the caller's transaction."""

    def __init__(self, name: str, settings: StreamConfig, log: SampleLog, artifacts: ArtifactStore) -> None:
        self.name = name
        self.settings = settings
        self.log = log
        self.artifacts = artifacts

    def roll(self, connection: Connection, now: datetime) -> None:
        """Let every rollout take its next step; those that are watched go first, for they make way."""
        moving = version_store.rollouts_in(
            connection, self.name, RolloutState.WATCHING, RolloutState.WAITING, RolloutState.SHADOW
        )
        for rollout in sorted(moving, key=lambda rollout: rollout.state != RolloutState.WATCHING):
            champion = version_store.champion(connection, self.name)
            serving = None if champion is None else champion.version
            step = next_step(rollout, serving, now, self.settings.rollout)
            if step.step != Step.STAY:
                self._step(connection, rollout, champion, step, now)

    def _step(
        self, connection: Connection, rollout: Rollout, champion: Champion | None, step: Next, now: datetime
    ) -> None:
        since = log_store.next_position(connection, self.name, "events")
        match step.step:
            case Step.SHADOW:
                version_store.move_rollout(
                    connection, rollout, RolloutState.SHADOW, at=now, since=since, reason=step.reason
                )
            case Step.PROMOTE:
                self.promote(connection, rollout.version, champion, now, step.reason, rollout.id)
                version_store.move_rollout(
                    connection, rollout, RolloutState.WATCHING, at=now, since=since, reason=step.reason
                )
            case Step.REJECT:
                version_store.move_rollout(
                    connection, rollout, RolloutState.REJECTED, at=now, reason=step.reason
                )
                self.note(
                    connection,
                    "rejection",
                    step.reason,
                    now,
                    version=rollout.version,
                    episode=rollout.episode,
                )
                self.reopen(connection)
            case Step.FINISH:
                version_store.move_rollout(connection, rollout, RolloutState.DONE, at=now, reason=step.reason)
                return
            case Step.ROLL_BACK:
                version_store.move_rollout(
                    connection, rollout, RolloutState.ROLLED_BACK, at=now, reason=step.reason
                )
                self.roll_back(connection, champion, now, step.reason)
        outbox.post(connection, self.name, "aliases", {})

    def promote(
        self,
        connection: Connection,
        version: int,
        champion: Champion | None,
        now: datetime,
        reason: str,
        rollout_id: int | None = None,
        *,
        back: bool = False,
    ) -> None:
        """Make a version champion, with its own reference; the episode that called for it is answered.

        Going `back`, the version to roll back to next is its own predecessor: never the one that was just rolled back.
        """
        chosen = version_store.read_version(connection, self.name, version)
        version_store.promote(
            connection,
            self.name,
            version,
            expected=None if champion is None else champion.version,
            since=log_store.next_position(connection, self.name, "events"),
            reference=chosen.files[PROFILE],
            at=now,
            reason=reason,
            rollout_id=rollout_id,
            previous=chosen.parent if back else "replaced",
        )
        self.note(connection, "promotion", reason, now, version=version)
        episode = drift_store.live_episode(connection, self.name)
        if episode is not None:
            self.close_episode(connection, episode, now, f"version {version} was promoted")

    def promote_by_hand(
        self, connection: Connection, version: int, champion: Champion | None, now: datetime, reason: str
    ) -> None:
        """Make a version champion for an operator; a rollout of it that is on its way is watched from here."""
        self.promote(connection, version, champion, now, reason)
        since = log_store.next_position(connection, self.name, "events")
        for rollout in version_store.rollouts_in(
            connection, self.name, RolloutState.WAITING, RolloutState.SHADOW
        ):
            if rollout.version == version:
                version_store.move_rollout(
                    connection, rollout, RolloutState.WATCHING, at=now, since=since, reason=reason
                )

    def roll_back(self, connection: Connection, champion: Champion | None, now: datetime, reason: str) -> int:
        """Let the previous version serve again, with its own reference; returns it. Raises `Refused` without one."""
        if champion is None or champion.previous is None:
            raise Refused(f"stream {self.name} has no previous version to go back to")
        self.promote(connection, champion.previous, champion, now, reason, back=True)
        self.note(connection, "rollback", reason, now, version=champion.version)
        return champion.previous

    def rebase(self, connection: Connection, episode: Episode, now: datetime, reason: str) -> None:
        """Move the champion's reference to the new regime: explicitly, and in the ledger."""
        champion = version_store.champion(connection, self.name)
        if champion is None:
            return
        stop = log_store.next_position(connection, self.name, "events")
        scored = int(stream_store.position(connection, self.name, "score") or 0)
        reference = recent_reference(
            self.log,
            self.name,
            self.settings,
            episode.onset,
            stop,
            label_stop=log_store.next_position(connection, self.name, "labels"),
            labels_since=episode.onset,
            predict=self._logged(champion.version, scored),
            seed=self.settings.update.seed,
        )
        version_store.promote(
            connection,
            self.name,
            champion.version,
            expected=champion.version,
            previous=champion.previous,
            since=stop,
            reference=self.artifacts.put(reference),
            at=now,
            reason=f"rebased: {reason}",
        )
        self.note(connection, "rebase", reason, now, version=champion.version, episode=episode.id)
        self.close_episode(connection, episode, now, reason)

    def _logged(self, version: int, scored: int) -> Predict:
        """Look predictions of a version up in the log, which holds them for positions below `scored`."""

        def predict(rows: Rows) -> tuple[Floats, Floats]:
            position = rows.position
            prediction, uncertainty = np.full((2, len(position)), np.nan)
            known = np.flatnonzero(position < scored)
            if len(known):
                low = int(position[known].min())
                found = self.log.predictions(self.name, low, int(position[known].max()) + 1)
                found = found.take(position[known] - low)
                own = found.version == version
                prediction[known[own]], uncertainty[known[own]] = (
                    found.prediction[own],
                    found.uncertainty[own],
                )
            return prediction, uncertainty

        return predict

    def close_episode(self, connection: Connection, episode: Episode, now: datetime, outcome: str) -> None:
        """End an episode with its answer."""
        drift_store.move_episode(connection, episode.id, EpisodeState.CLOSED, at=now, outcome=outcome)
        stream_store.write_ledger(
            connection, self.name, "episode closed", outcome, at=now, episode=episode.id
        )

    def reopen(self, connection: Connection) -> None:
        """An update came to nothing: the episode that called for it is decided again."""
        episode = drift_store.live_episode(connection, self.name)
        fault = episode is not None and "fault" in (
            episode.assessment or {}
        )  # stays until the data are whole
        if episode is not None and episode.state == EpisodeState.DECIDED and not fault:
            drift_store.move_episode(connection, episode.id, EpisodeState.OPEN)
            drift_store.assess_episode(connection, episode.id, None)  # on newer rows, the next time

    def note(
        self,
        connection: Connection,
        kind: str,
        reason: str,
        now: datetime,
        *,
        version: int,
        episode: int | None = None,
    ) -> None:
        """Write what happened to a version to the ledger."""
        stream_store.write_ledger(
            connection, self.name, kind, reason, at=now, version=version, episode=episode
        )
