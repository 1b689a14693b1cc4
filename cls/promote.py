"""Promote: rollouts take their steps, champions change by compare-and-set, references move. The ledger says why, every time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from cls.columns.outputs import Floats
from cls.config import StreamConfig
from cls.domain import Champion, Episode, EpisodeState, Json, Rollout, RolloutState
from cls.errors import Refused
from cls.health import Health, slow_threshold
from cls.layout import PROFILE
from cls.ports import ArtifactStore, SampleLog
from cls.rebase import Predict, Rows, recent_reference
from cls.rollout import Next, Stage, Step, following, next_step, resumed
from storage import drift as drift_store
from storage import log as log_store
from storage import outbox
from storage import streams as stream_store
from storage import versions as version_store
from storage.announcements import announce
from storage.evidence import health_of
from storage.served import read_served


class Promoter:
    """Changes who serves a stream, inside the caller's transaction."""

    def __init__(self, name: str, settings: StreamConfig, log: SampleLog, artifacts: ArtifactStore) -> None:
        self.name = name
        self.settings = settings
        self.log = log
        self.artifacts = artifacts

    def roll(self, connection: Connection, now: datetime) -> None:
        """Let every rollout take its next step; those that are watched go first, for they make way."""
        moving = version_store.rollouts_in(connection, self.name, *version_store.MOVING)
        for rollout in sorted(moving, key=lambda rollout: rollout.state != RolloutState.WATCHING):
            champion = version_store.champion(connection, self.name)
            serving = None if champion is None else champion.version
            health = health_of(connection, rollout, self.settings.rollout)
            watched = bool(version_store.rollouts_in(connection, self.name, RolloutState.WATCHING))
            step = next_step(rollout, serving, now, self.settings.rollout, health, watched=watched)
            if step.step != Step.STAY:
                self._step(connection, rollout, champion, step, now, health)
            elif step.held and version_store.note_rollout(connection, rollout.id, step.reason):
                self._tell(connection, rollout, "held", step.reason)

    def _step(
        self,
        connection: Connection,
        rollout: Rollout,
        champion: Champion | None,
        step: Next,
        now: datetime,
        health: Health,
    ) -> None:
        since = log_store.next_position(connection, self.name, "events")
        settings = self.settings.rollout
        match step.step:
            case Step.SHADOW:
                deadline = now + settings.deadline
                self._move(
                    connection,
                    rollout,
                    RolloutState.SHADOW,
                    step.reason,
                    now,
                    since=since,
                    deadline_at=deadline,
                )
            case Step.CANARY:
                share = settings.canary_steps[step.canary_step]
                slow = rollout.slow_us or slow_threshold(
                    read_served(connection, self.name, rollout.id), rollout.parent, settings.latency_margin
                )
                self._move(
                    connection,
                    rollout,
                    RolloutState.CANARY,
                    f"{step.reason}; answers {share:.0%} of the keys",
                    now,
                    step=step.canary_step,
                    share=share,
                    slow_us=slow,
                )
            case Step.PROMOTE:
                self.promote(connection, rollout.version, champion, now, step.reason, rollout.id)
                self._move(connection, rollout, RolloutState.WATCHING, step.reason, now, since=since)
            case Step.REJECT:
                self._move(connection, rollout, RolloutState.REJECTED, step.reason, now)
                self.note(
                    connection,
                    "rejection",
                    step.reason,
                    now,
                    version=rollout.version,
                    episode=rollout.episode,
                    details=health.measures,
                )
                self.reopen(connection)
            case Step.FINISH:
                self._move(connection, rollout, RolloutState.DONE, step.reason, now)
            case Step.ROLL_BACK:
                self._move(connection, rollout, RolloutState.ROLLED_BACK, step.reason, now)
                self.roll_back(
                    connection, champion, now, step.reason, to=rollout.parent, details=health.measures
                )

    def _move(
        self,
        connection: Connection,
        rollout: Rollout,
        state: RolloutState,
        reason: str,
        now: datetime,
        **values: Any,
    ) -> None:
        version_store.move_rollout(connection, rollout, state, at=now, reason=reason, **values)
        if state in (
            RolloutState.SHADOW,
            RolloutState.CANARY,
            RolloutState.REJECTED,
        ):  # promotions post by themselves
            outbox.post(connection, self.name, "aliases", {})
        kind = "promoted" if state == RolloutState.WATCHING else state.value
        self._tell(connection, rollout, kind, reason, share=values.get("share"))

    def _tell(self, connection: Connection, rollout: Rollout, kind: str, reason: str, **more: Any) -> None:
        payload = {"version": rollout.version, "parent": rollout.parent, "rollout": rollout.id}
        payload |= {"reason": reason} | {name: value for name, value in more.items() if value is not None}
        announce(connection, self.name, f"rollout.{kind}", payload)

    def hold(self, connection: Connection, kind: str, now: datetime, by: str) -> str:
        """Do what an operator asks about the rollout on its way: pause, resume, approve or abort; returns what came of it.

        A pause stops the rollout's clock: its deadline, and the time that its stage takes, move on by as much.

        Raises
        ------
        Refused
            If there is no such rollout, or it is so already.
        """
        moving = version_store.rollouts_in(connection, self.name, *version_store.MOVING)
        if not moving:
            raise Refused(f"stream {self.name} has no rollout on its way")
        rollout = next((one for one in moving if one.state != RolloutState.WATCHING), moving[-1])
        changed, reason = self._held(connection, rollout, kind, now, by)
        if changed is None:
            self._move(connection, rollout, RolloutState.REJECTED, reason, now)
            self.reopen(connection)
        else:
            version_store.hold_rollout(
                connection,
                rollout,
                paused_at=changed.paused_at,
                step_at=changed.step_at,
                deadline_at=changed.deadline_at,
                approved=changed.approved,
                reason=reason,
            )
        self.note(
            connection, f"rollout {kind}", reason, now, version=rollout.version, episode=rollout.episode
        )
        return f"version {rollout.version}: {reason}"

    def _held(
        self, connection: Connection, rollout: Rollout, kind: str, now: datetime, by: str
    ) -> tuple[Rollout | None, str]:
        """Return the rollout as an operator wants it, None to end it, and a reason for the ledger."""
        if rollout.state == RolloutState.WATCHING:
            wish = "cls rollback" if kind == "abort" else "nothing to do"
            raise Refused(f"version {rollout.version} is champion already, and watched: {wish}")
        match kind:
            case "pause" if rollout.paused_at is not None:
                raise Refused(f"the rollout of version {rollout.version} is paused already")
            case "pause":
                return replace(rollout, paused_at=now), f"paused {by}"
            case "resume" if rollout.paused_at is None:
                raise Refused(f"the rollout of version {rollout.version} is not paused")
            case "resume":
                return resumed(rollout, now), f"resumed {by}"
            case "approve":
                stage = self._asked_for(connection, rollout, now)
                return replace(rollout, approved=stage), f"approved as {stage} {by}"
            case "abort":
                return None, f"aborted {by}"
            case other:
                raise Refused(f"a rollout cannot be asked to {other!r}")

    def _asked_for(self, connection: Connection, rollout: Rollout, now: datetime) -> Stage:
        """Return the stage that a rollout waits to be approved for; raises `Refused` if it waits for no approval."""
        settings, health = self.settings.rollout, health_of(connection, rollout, self.settings.rollout)
        champion = version_store.champion(connection, self.name)
        serving = None if champion is None else champion.version
        step = next_step(rollout, serving, now, settings, health)
        if not step.held or rollout.paused_at is not None:
            raise Refused(
                f"version {rollout.version} does not wait to be approved (rollout.approval is {settings.approval!r}): {step.reason or 'its time has not come'}"
            )
        return (
            "champion" if rollout.state == RolloutState.WAITING else following(rollout, settings, health)[0]
        )

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
        outbox.post(connection, self.name, "aliases", {})
        episode = drift_store.live_episode(connection, self.name)
        if episode is not None:
            self.close_episode(connection, episode, now, f"version {version} was promoted")

    def promote_by_hand(
        self, connection: Connection, version: int, champion: Champion | None, now: datetime, reason: str
    ) -> None:
        """Make a version champion for an operator; a rollout of it that is on its way is watched from here."""
        self.promote(connection, version, champion, now, reason)
        since = log_store.next_position(connection, self.name, "events")
        for rollout in version_store.rollouts_in(connection, self.name, *version_store.LIVE):
            if rollout.version == version:
                self._move(connection, rollout, RolloutState.WATCHING, reason, now, since=since)

    def roll_back(
        self,
        connection: Connection,
        champion: Champion | None,
        now: datetime,
        reason: str,
        *,
        to: int | None = None,
        details: Json | None = None,
    ) -> int:
        """Let the previous version (or `to`) serve again, with its own reference; returns it. Raises `Refused` without one."""
        back = to if champion is None or to is not None else champion.previous
        if champion is None or back is None:
            raise Refused(f"stream {self.name} has no previous version to go back to")
        self.promote(connection, back, champion, now, reason, back=True)
        self.note(connection, "rollback", reason, now, version=champion.version, details=details)
        return back

    def roll_back_by_hand(
        self, connection: Connection, champion: Champion | None, now: datetime, reason: str
    ) -> int:
        """Go back for an operator; if the champion is watched, that is how its rollout ends."""
        back = self.roll_back(connection, champion, now, reason)
        for rollout in version_store.rollouts_in(connection, self.name, RolloutState.WATCHING):
            if champion is not None and rollout.version == champion.version:
                self._move(connection, rollout, RolloutState.ROLLED_BACK, reason, now)
        return back

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
                prediction[known] = found.of(version)
                uncertainty[known] = np.where(found.version == version, found.uncertainty, np.nan)
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
        details: Json | None = None,
    ) -> None:
        """Write what happened to a version to the ledger."""
        stream_store.write_ledger(
            connection, self.name, kind, reason, at=now, version=version, episode=episode, details=details
        )
