"""Act: what follows from ended jobs, running rollouts, requests and the policy. One transaction a turn.

Everything that CLS does to a stream by itself or for an operator is done here, and every time the ledger says why.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from cls.config import StreamConfig
from cls.decide import Request, Situation, decide
from cls.domain import (
    Champion,
    Defer,
    Episode,
    EpisodeState,
    JobInput,
    JobKind,
    JobState,
    Rollout,
    RolloutState,
    Skip,
    Update,
    Verdict,
)
from cls.errors import CLSError, Refused
from cls.layout import PROFILE
from cls.ports import ArtifactStore, SampleLog
from cls.rebase import recent_profile
from cls.rollout import Next, Step, next_step
from cls.schedule import last_fire
from cls.times import from_us, to_us
from storage import drift as drift_store
from storage import log as log_store
from storage import outbox, queue
from storage import streams as stream_store
from storage import versions as version_store
from storage.db import reading, transaction

ASSESSED = 5  # newest versions that an assessment compares


class Actor:
    """The acting turn of one stream."""

    def __init__(
        self, name: str, settings: StreamConfig, engine: Engine, log: SampleLog, artifacts: ArtifactStore
    ) -> None:
        self.name = name
        self.settings = settings
        self.engine = engine
        self.log = log
        self.artifacts = artifacts

    def act(self, *, moved: bool) -> bool:
        """Take the turn; `moved` says that new data came since the last one. Returns whether anything changed."""
        with reading(self.engine) as connection:
            now = stream_store.watermark(connection, self.name)
            if now is None:
                return False
            ended = queue.unhandled(connection, self.name)
            fired = self._fired(connection, now)
            requests = stream_store.open_triggers(connection, self.name)
            if not (moved or ended or requests or fired):
                return False
            drifted = self._drifted_labels(connection)
        with transaction(self.engine) as connection:
            if fired is not None:
                self._request_scheduled(connection, *fired)
            for job in queue.unhandled(connection, self.name):
                self._job_ended(connection, job, now)
            self._roll(connection, now)
            for request in stream_store.open_triggers(connection, self.name):
                self._answer(connection, request, now, drifted)
            return self._decide(connection, now, drifted) or bool(ended or requests)

    # -- episodes -----------------------------------------------------------------------------------------------------

    def open_episode(
        self, connection: Connection, verdict_id: int, verdict: Verdict, now: datetime, fault: str | None
    ) -> None:
        """Begin an episode; people get a report of it."""
        episode = drift_store.open_episode(connection, self.name, verdict_id, verdict, now)
        if fault is not None:
            drift_store.assess_episode(connection, episode, {"fault": fault})
        stream_store.write_ledger(
            connection,
            self.name,
            "alarm",
            verdict.summary,
            at=now,
            episode=episode,
            details={
                "verdict": verdict_id,
                "onset": verdict.onset,
                "nats": verdict.nats,
                "p_value": verdict.p_value,
            },
        )
        if self.settings.detect.report and queue.live(connection, self.name, JobKind.REPORT) is None:
            job_input = self._input(
                connection, now, "report", f"alarm: {verdict.summary}", episode=episode, onset=verdict.onset
            )
            queue.enqueue(connection, self.name, JobKind.REPORT, job_input, priority=-1000)

    def close_episode(self, connection: Connection, episode: Episode, now: datetime, outcome: str) -> None:
        """End an episode with its answer."""
        drift_store.move_episode(connection, episode.id, EpisodeState.CLOSED, at=now, outcome=outcome)
        stream_store.write_ledger(
            connection, self.name, "episode closed", outcome, at=now, episode=episode.id
        )

    def _drifted_labels(self, connection: Connection) -> int:
        """Count the labels of events since the onset of the open episode, among those that the champion has not learned."""
        episode = drift_store.live_episode(connection, self.name)
        champion = version_store.champion(connection, self.name)
        if episode is None or champion is None:
            return 0
        learned = version_store.read_version(connection, self.name, champion.version).learned_up_to
        stop = log_store.next_position(connection, self.name, "labels")
        position, _ = self.log.labels(self.name, learned, stop)
        return int((position >= episode.onset).sum())

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _job_ended(self, connection: Connection, job: Any, now: datetime) -> None:
        queue.mark_handled(connection, job.id)
        update = self.settings.update
        first = job.input["parent"] is None  # the first model is not an update: no budget could be set for it
        if job.charged_seconds and not first:
            stream_store.charge(
                connection,
                self.name,
                job.charged_seconds,
                now,
                update.budget_device_seconds_per_day,
                update.budget_burst_days,
            )
        if job.kind == JobKind.ASSESS and job.state == JobState.SUCCEEDED:
            drift_store.assess_episode(connection, job.input["episode"], job.result)
        if job.kind == JobKind.UPDATE:
            self._update_ended(connection, job, now)

    def _update_ended(self, connection: Connection, job: Any, now: datetime) -> None:
        job_input = queue.input_from_json(job.input)
        if job.state == JobState.SUCCEEDED and job.result.get("version") is not None:
            version_store.add_rollout(
                connection,
                self.name,
                job.result["version"],
                parent=job_input.parent,
                light=job.result["light"],
                effective_at=job_input.effective_at,
                episode=job_input.episode,
            )
            return
        if job.state == JobState.SUCCEEDED:
            reason = f"the gate said {job.result['gate']['verdict']}: {job.result['gate']['reason']}"
        else:
            reason = f"job {job.id} is {job.state}: {job.error or 'by an operator'}"
        stream_store.write_ledger(
            connection,
            self.name,
            "rejection",
            reason,
            at=now,
            job=job.id,
            episode=job_input.episode,
            details=job.result,
        )
        self._reopen(connection)

    def _reopen(self, connection: Connection) -> None:
        """An update came to nothing: the episode that called for it is decided again."""
        episode = drift_store.live_episode(connection, self.name)
        if episode is not None and episode.state == EpisodeState.DECIDED:
            drift_store.move_episode(connection, episode.id, EpisodeState.OPEN)

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def _roll(self, connection: Connection, now: datetime) -> None:
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
                self._promote(connection, rollout.version, champion, now, step.reason, rollout.id)
                version_store.move_rollout(
                    connection, rollout, RolloutState.WATCHING, at=now, since=since, reason=step.reason
                )
            case Step.REJECT:
                version_store.move_rollout(
                    connection, rollout, RolloutState.REJECTED, at=now, reason=step.reason
                )
                self._note(
                    connection,
                    "rejection",
                    step.reason,
                    now,
                    version=rollout.version,
                    episode=rollout.episode,
                )
                self._reopen(connection)
            case Step.FINISH:
                version_store.move_rollout(connection, rollout, RolloutState.DONE, at=now, reason=step.reason)
                return
            case Step.ROLL_BACK:
                version_store.move_rollout(
                    connection, rollout, RolloutState.ROLLED_BACK, at=now, reason=step.reason
                )
                self._roll_back(connection, champion, now, step.reason)
        outbox.post(connection, self.name, "aliases", {})

    def _promote(
        self,
        connection: Connection,
        version: int,
        champion: Champion | None,
        now: datetime,
        reason: str,
        rollout_id: int | None = None,
    ) -> None:
        """Make a version champion, with its own reference; the episode that called for it is answered."""
        files = version_store.read_version(connection, self.name, version).files
        version_store.promote(
            connection,
            self.name,
            version,
            expected=None if champion is None else champion.version,
            since=log_store.next_position(connection, self.name, "events"),
            reference=files[PROFILE],
            at=now,
            reason=reason,
            rollout_id=rollout_id,
        )
        self._note(connection, "promotion", reason, now, version=version)
        episode = drift_store.live_episode(connection, self.name)
        if episode is not None:
            self.close_episode(connection, episode, now, f"version {version} was promoted")

    def _roll_back(
        self, connection: Connection, champion: Champion | None, now: datetime, reason: str
    ) -> int:
        if champion is None or champion.previous is None:
            raise Refused(f"stream {self.name} has no previous version to go back to")
        self._promote(connection, champion.previous, champion, now, reason)
        self._note(connection, "rollback", reason, now, version=champion.version)
        return champion.previous

    def _note(
        self,
        connection: Connection,
        kind: str,
        reason: str,
        now: datetime,
        *,
        version: int,
        episode: int | None = None,
    ) -> None:
        stream_store.write_ledger(
            connection, self.name, kind, reason, at=now, version=version, episode=episode
        )

    # -- requests and decisions ---------------------------------------------------------------------------------------

    def _answer(self, connection: Connection, request: Any, now: datetime, drifted: int) -> None:
        try:
            with connection.begin_nested():
                outcome = self._obey(connection, request, now, drifted)
        except CLSError as error:
            outcome = f"refused: {error}"
        stream_store.answer_trigger(connection, request.id, outcome)

    def _obey(self, connection: Connection, request: Any, now: datetime, drifted: int) -> str:
        champion = version_store.champion(connection, self.name)
        by = f"by {request.requested_by}"
        if request.kind == "rollback":
            back = self._roll_back(connection, champion, now, f"rolled back {by}")
            outbox.post(connection, self.name, "aliases", {})
            return f"version {back} serves again"
        if request.kind == "promote":
            version = int(request.arguments["version"])
            if champion is not None and champion.version == version:
                return f"version {version} is champion already"
            self._promote(connection, version, champion, now, f"promoted {by}")
            outbox.post(connection, self.name, "aliases", {})
            return f"version {version} is champion"
        wish = Request(request.kind, request.arguments.get("strategy"), bool(request.arguments.get("full")))
        situation = self._situation(connection, now, drifted, wish)
        job = self._carry_out(connection, situation, decide(situation, self.settings), f"{request.kind} {by}")
        return job or "refused: " + decide(situation, self.settings).reason

    def _fired(self, connection: Connection, now: datetime) -> tuple[str, datetime] | None:
        """Return (old token, newest time at which the schedule has fired) if it has fired since it was last looked at."""
        if not self.settings.update.schedule:
            return None
        token = stream_store.position(connection, self.name, "schedule")
        fire = last_fire(self.settings.update.schedule, from_us(int(token)) if token else now, now)
        if fire is None and not token:
            fire = now  # the schedule begins now; nothing is due
        return None if fire is None else (token, fire)

    def _request_scheduled(self, connection: Connection, token: str, fire: datetime) -> None:
        stream_store.advance(connection, self.name, "schedule", token, str(to_us(fire)))
        if token:
            key = f"{self.name}/schedule/{fire.isoformat()}"
            stream_store.add_trigger(connection, self.name, "schedule", key, {}, "schedule")

    def _decide(self, connection: Connection, now: datetime, drifted: int) -> bool:
        situation = self._situation(connection, now, drifted, None)
        decision = decide(situation, self.settings)
        return self._carry_out(connection, situation, decision, "policy") is not None

    def _situation(
        self, connection: Connection, now: datetime, drifted: int, request: Request | None
    ) -> Situation:
        champion = version_store.champion(connection, self.name)
        version = (
            None if champion is None else version_store.read_version(connection, self.name, champion.version)
        )
        labels = log_store.next_position(connection, self.name, "labels")
        update = self.settings.update
        on_its_way = queue.live(connection, self.name, JobKind.UPDATE) is not None or bool(
            version_store.rollouts_in(connection, self.name, RolloutState.WAITING, RolloutState.SHADOW)
        )
        episode = drift_store.live_episode(connection, self.name)
        fault = None if episode is None else (episode.assessment or {}).get("fault")
        return Situation(
            now=now,
            champion=None if champion is None else champion.version,
            expected_loss=None if version is None else version.metrics.get("loss"),
            labels=labels,
            new_labels=labels - (0 if version is None else version.learned_up_to),
            drifted_labels=drifted,
            last_update=stream_store.last_update(connection, self.name),
            on_its_way=on_its_way,
            assessing=queue.live(connection, self.name, JobKind.ASSESS) is not None,
            allowance=stream_store.allowance(
                connection, self.name, now, update.budget_device_seconds_per_day, update.budget_burst_days
            ),
            price=queue.last_price(connection, self.name),
            episode=episode,
            fault=fault,
            request=request,
        )

    def _carry_out(
        self, connection: Connection, situation: Situation, decision: Skip | Defer | Update, trigger: str
    ) -> str | None:
        """Do what was decided; returns what was begun, None for nothing."""
        episode, now = situation.episode, situation.now
        job_id = None
        if isinstance(decision, Update):
            job_id = self._enqueue_update(connection, situation, decision)
        elif isinstance(decision, Defer) and decision.assess and episode is not None:
            job_id = self._enqueue_assessment(connection, now, episode)
        elif isinstance(decision, Skip) and decision.rebase and episode is not None:
            self._rebase(connection, episode, now, decision.reason)
        elif isinstance(decision, Skip) and episode is not None and situation.fault is not None:
            drift_store.move_episode(connection, episode.id, EpisodeState.DECIDED)
        self._record(connection, situation, decision, trigger, job_id)
        return None if job_id is None else f"job {job_id}"

    def _record(
        self,
        connection: Connection,
        situation: Situation,
        decision: Skip | Defer | Update,
        trigger: str,
        job_id: int | None,
    ) -> None:
        """Write a decision to the ledger, unless it is the same as the last one or there was nothing to decide."""
        name = type(decision).__name__.lower()
        idle = isinstance(decision, Skip) and situation.episode is None and situation.request is None
        if idle or (
            job_id is None and stream_store.last_decision(connection, self.name) == (name, decision.reason)
        ):
            return
        details = situation.to_json() | {
            "trigger": trigger,
            "policy": self.settings.update.model_dump(mode="json"),
        }
        episode = situation.episode.id if situation.episode else None
        stream_store.write_ledger(
            connection,
            self.name,
            "decision",
            decision.reason,
            at=situation.now,
            decision=name,
            episode=episode,
            job=job_id,
            details=details,
        )

    def _enqueue_update(self, connection: Connection, situation: Situation, decision: Update) -> int:
        episode = situation.episode
        job_input = self._input(
            connection,
            situation.now,
            decision.strategy,
            decision.reason,
            episode=episode.id if episode else None,
            onset=episode.onset if episode else None,
            light=decision.light,
            redeploy=decision.redeploy_version,
            full=decision.full,
            effort=decision.effort,
        )
        job_id = queue.enqueue(connection, self.name, JobKind.UPDATE, job_input, decision.priority)
        stream_store.note_update(connection, self.name, situation.now)
        if episode is not None:
            drift_store.move_episode(connection, episode.id, EpisodeState.DECIDED)
        return job_id

    def _enqueue_assessment(self, connection: Connection, now: datetime, episode: Episode) -> int:
        newest = [version.number for version in version_store.list_versions(connection, self.name, ASSESSED)]
        champion = version_store.champion(connection, self.name)
        versions = {1, *newest} | ({champion.version} if champion else set())
        job_input = self._input(
            connection,
            now,
            "assess",
            f"harm of episode {episode.id}",
            episode=episode.id,
            onset=episode.onset,
            versions=tuple(sorted(versions)),
        )
        return queue.enqueue(connection, self.name, JobKind.ASSESS, job_input, priority=0)

    def _input(
        self,
        connection: Connection,
        now: datetime,
        strategy: str,
        reason: str,
        *,
        episode: int | None = None,
        onset: int | None = None,
        light: bool = False,
        redeploy: int | None = None,
        versions: tuple[int, ...] = (),
        full: bool = False,
        effort: float = 1.0,
    ) -> JobInput:
        """Freeze everything that a job may depend on."""
        champion = version_store.champion(connection, self.name)
        learned = 0
        if champion is not None and not full:
            learned = version_store.read_version(connection, self.name, champion.version).learned_up_to
        labels = log_store.next_position(connection, self.name, "labels")
        return JobInput(
            strategy=strategy,
            label_from=learned,
            label_to=labels,
            event_to=log_store.next_position(connection, self.name, "events"),
            parent=None if champion is None else champion.version,
            seed=self.settings.update.seed * 1_000_003 + labels,
            threads=self.settings.update.threads,
            decided_at=now,
            effective_at=now + self.settings.update.latency,
            light=light,
            reason=reason,
            effort=effort,
            episode=episode,
            onset=onset,
            redeploy=redeploy,
            versions=versions,
            retained=self._retained(connection, labels),
            settings=self.settings.model_dump(mode="json", by_alias=True),
        )

    def _retained(self, connection: Connection, labels: int) -> tuple[tuple[int, int], ...]:
        """Return label ranges of earlier regimes: what versions long before the newest rows had learned, spread over history."""
        gate = self.settings.gate
        fresh_from = labels - gate.fresh_rows
        ends = [end for end in version_store.learned_ends(connection, self.name) if end <= fresh_from]
        if not ends or not gate.retained_slices:
            return ()
        count = min(gate.retained_slices, len(ends))
        chosen = sorted({ends[round(i * (len(ends) - 1) / max(count - 1, 1))] for i in range(count)})
        return tuple((max(end - gate.retained_rows, 0), end) for end in chosen)

    def _rebase(self, connection: Connection, episode: Episode, now: datetime, reason: str) -> None:
        """Move the champion's reference to the new regime: explicitly, and in the ledger."""
        champion = version_store.champion(connection, self.name)
        if champion is None:
            return
        stop = log_store.next_position(connection, self.name, "events")
        profile = recent_profile(self.log, self.name, episode.onset, stop, self.settings.detect)
        version_store.promote(
            connection,
            self.name,
            champion.version,
            expected=champion.version,
            previous=champion.previous,
            since=stop,
            reference=self.artifacts.put(profile),
            at=now,
            reason=f"rebased: {reason}",
        )
        self._note(connection, "rebase", reason, now, version=champion.version, episode=episode.id)
        self.close_episode(connection, episode, now, reason)
