"""Act: what follows from ended jobs, running rollouts, requests and the policy. One transaction a turn.

Everything that CLS does to a stream by itself or for an operator is done here, and every time the ledger says why.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from cls.config import StreamConfig
from cls.decide import Request, Situation, decide
from cls.domain import (
    Champion,
    Defer,
    Episode,
    EpisodeState,
    JobKind,
    JobState,
    RolloutState,
    Skip,
    Update,
    Verdict,
)
from cls.errors import CLSError, Refused
from cls.order import Orders
from cls.ports import ArtifactStore, SampleLog
from cls.promote import Promoter
from cls.schedule import last_fire
from cls.times import from_us, to_us
from storage import drift as drift_store
from storage import job_rows
from storage import log as log_store
from storage import streams as stream_store
from storage import versions as version_store
from storage.announcements import announce
from storage.db import reading, transaction

HOLDS = ("pause", "resume", "approve", "abort")  # what operators ask about a rollout
GUARD_SECONDS = 1.0  # between two looks at rollouts while no data come: their guardrails need none
WHOLE = 3  # windows' worth of rows in a row that alarm without a fault, before drift is believed after one


class Actor:
    """The acting turn of one stream."""

    def __init__(
        self, name: str, settings: StreamConfig, engine: Engine, log: SampleLog, artifacts: ArtifactStore
    ) -> None:
        self.name = name
        self.settings = settings
        self.engine = engine
        self.log = log
        self.promoter = Promoter(name, settings, log, artifacts)
        self.orders = Orders(name, settings)
        self._acted: datetime | None = None  # stream time of the last turn
        self._guarded = time.monotonic()  # when the last look at rollouts without data was

    def act(self, *, moved: bool) -> bool:
        """Take the turn; `moved` says that new data came since the last one. Returns whether anything changed."""
        with reading(self.engine) as connection:
            now = stream_store.watermark(connection, self.name)
            ended = job_rows.unhandled(connection, self.name)
            asked = [
                row for row in stream_store.open_triggers(connection, self.name) if row.kind != "schedule"
            ]
            fired = None if now is None else self._fired(connection, now)
            moved = moved or now != self._acted
            if not (moved or ended or asked or fired):
                return self._guard(now)
            drifted = self._drifted_labels(connection)
        if now is None:
            return self._refuse_all()
        with transaction(self.engine) as connection:
            if fired is not None:
                self._request_scheduled(connection, *fired)
            for job in job_rows.unhandled(connection, self.name):
                self._job_ended(connection, job, now)
            self.promoter.roll(connection, now)
            for request in stream_store.open_triggers(connection, self.name):
                self._answer(connection, request, now, drifted)
            acted = self._decide(connection, now, drifted)
        self._acted = now
        return acted or bool(ended or asked)

    def _guard(self, now: datetime | None) -> bool:
        """Look after rollouts while nothing else happens: a version that fails must not wait for data to be sent back."""
        if now is None or time.monotonic() - self._guarded < GUARD_SECONDS:
            return False
        self._guarded = time.monotonic()
        with reading(self.engine) as connection:
            if not version_store.rollouts_in(connection, self.name, *version_store.MOVING):
                return False
        with transaction(self.engine) as connection:
            self.promoter.roll(connection, now)
        return False

    def _refuse_all(self) -> bool:
        """Answer what was asked of a stream without events."""
        with transaction(self.engine) as connection:
            requests = stream_store.open_triggers(connection, self.name)
            for request in requests:
                stream_store.answer_trigger(connection, request.id, "refused: the stream has no events yet")
        return bool(requests)

    def record(self, connection: Connection, champion: Champion, verdict: Verdict) -> None:
        """Keep a verdict; an alarm opens an episode unless one is live.

        The row watch starts afresh after each alarm, and finds the same change every few rows: during an episode it says nothing new.
        """
        episode = drift_store.live_episode(connection, self.name)
        if verdict.detector == "sequential" and episode is not None:
            return
        verdict_id = drift_store.add_verdict(connection, self.name, champion.promotion, verdict)
        now = stream_store.watermark(connection, self.name) or verdict.time_to
        fault = None if verdict.diagnosis is None else verdict.diagnosis.fault
        if (
            episode is not None
            and verdict.detector == "kl"
            and self._mended(connection, episode, verdict, fault)
        ):
            self.promoter.close_episode(connection, episode, now, "the data are whole again")
            episode = None
        if verdict.alarm and episode is None:
            self._open_episode(connection, verdict_id, verdict, now, fault)

    def _mended(self, connection: Connection, episode: Episode, verdict: Verdict, fault: str | None) -> bool:
        """Note what a window of inputs says about a fault; returns whether an episode of one is over.

        A window without an alarm is whole. One that still alarms, but shows no fault, may be one whose fault was not recognised: it takes
        the rows of several in a row, however much windows overlap. A fault that shows only after drift was called makes the episode one
        of a fault.
        """
        known = episode.assessment or {}
        if fault is not None:
            if "fault" in known or episode.state == EpisodeState.OPEN:
                drift_store.assess_episode(connection, episode.id, {"fault": known.get("fault", fault)})
            return False
        if "fault" not in known:
            return False
        since = known.get("whole_since", verdict.start)
        if not verdict.alarm or verdict.stop - since >= WHOLE * self.settings.detect.window_rows:
            return True
        drift_store.assess_episode(connection, episode.id, known | {"whole_since": since})
        return False

    def _open_episode(
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
        announce(
            connection,
            self.name,
            "drift.alarm",
            {"episode": episode, "detector": verdict.detector, "reason": verdict.summary, "fault": fault},
        )
        self.orders.report(connection, now, episode, verdict)

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

    def _job_ended(self, connection: Connection, job: Any, now: datetime) -> None:
        job_rows.mark_handled(connection, job.id)
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
        if job.kind == JobKind.ASSESS:
            done = job.state == JobState.SUCCEEDED
            found = (
                job.result
                if done
                else {"failed": f"job {job.id} is {job.state}: {job.error or 'by an operator'}"}
            )
            live = drift_store.live_episode(connection, self.name)
            broken = live is not None and "fault" in (live.assessment or {})
            if not broken:  # what broken rows cost is no harm of drift
                drift_store.assess_episode(connection, job.input["episode"], found)
        if job.kind == JobKind.UPDATE:
            self._update_ended(connection, job, now)

    def _update_ended(self, connection: Connection, job: Any, now: datetime) -> None:
        job_input = job_rows.input_from_json(job.input)
        if job.state == JobState.SUCCEEDED and job.result.get("version") is not None:
            try:
                version_store.add_rollout(
                    connection,
                    self.name,
                    job.result["version"],
                    parent=job_input.parent,
                    light=job.result["light"],
                    effective_at=job_input.effective_at,
                    episode=job_input.episode,
                )
            except Refused as error:  # a job that was retried by hand while another candidate is on its way
                self.promoter.note(connection, "rejection", str(error), now, version=job.result["version"])
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
        announce(connection, self.name, "update.failed", {"job": job.id, "reason": reason})
        self.promoter.reopen(connection)

    def _answer(self, connection: Connection, request: Any, now: datetime, drifted: int) -> None:
        try:
            with connection.begin_nested():
                outcome = self._obey(connection, request, now, drifted)
        except CLSError as error:
            outcome = f"refused: {error}"
        if outcome is not None:
            stream_store.answer_trigger(connection, request.id, outcome)

    def _obey(self, connection: Connection, request: Any, now: datetime, drifted: int) -> str | None:
        champion = version_store.champion(connection, self.name)
        by = f"by {request.requested_by}"
        if request.kind == "rollback":
            back = self.promoter.roll_back_by_hand(connection, champion, now, f"rolled back {by}")
            after = version_store.champion(connection, self.name)
            further = None if after is None else after.previous
            left = "nothing to go back to" if further is None else f"another rollback would go to {further}"
            return f"version {back} serves again, instead of {champion.version if champion else '-'}; {left}"
        if request.kind == "promote":
            version = int(request.arguments["version"])
            if champion is not None and champion.version == version:
                return f"version {version} is champion already"
            self.promoter.promote_by_hand(connection, version, champion, now, f"promoted {by}")
            return f"version {version} is champion"
        if request.kind in HOLDS:
            return self.promoter.hold(connection, request.kind, now, by)
        wish = Request(request.kind, request.arguments.get("strategy"), bool(request.arguments.get("full")))
        situation = self._situation(connection, now, drifted, wish)
        decision = decide(situation, self.settings)
        if request.kind == "schedule" and isinstance(decision, Defer):
            return None  # stays open: the schedule can wait
        return (
            self._carry_out(connection, situation, decision, f"{request.kind} {by}")
            or f"refused: {decision.reason}"
        )

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
        waiting = [row for row in stream_store.open_triggers(connection, self.name) if row.kind == "schedule"]
        if token and not waiting:  # one that still waits stands for this one, too
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
        rollouts = version_store.rollouts_in(connection, self.name, *version_store.LIVE)
        on_its_way = job_rows.live(connection, self.name, JobKind.UPDATE) is not None or bool(rollouts)
        episode = drift_store.live_episode(connection, self.name)
        fault = None if episode is None else (episode.assessment or {}).get("fault")
        price = job_rows.last_price(connection, self.name) or job_rows.Price(0.0, 0.0)
        last_update, tried = stream_store.last_update(connection, self.name)
        return Situation(
            now=now,
            champion=None if champion is None else champion.version,
            expected_loss=None if version is None else version.metrics.get("loss"),
            labels=labels,
            new_labels=labels - (0 if version is None else version.learned_up_to),
            drifted_labels=drifted,
            drifted_events=0
            if episode is None
            else int(stream_store.position(connection, self.name, "score") or 0) - episode.onset,
            last_update=last_update,
            tried_labels=tried,
            labels_per_day=log_store.label_pace(
                connection, self.name, labels, now, timedelta(days=update.budget_burst_days)
            )
            if update.cadence == "continuous"
            else 0.0,
            on_its_way=on_its_way,
            assessing=job_rows.live(connection, self.name, JobKind.ASSESS) is not None,
            allowance=stream_store.allowance(
                connection, self.name, now, update.budget_device_seconds_per_day, update.budget_burst_days
            ),
            fixed_price=price.fixed,
            label_price=price.label,
            episode=episode,
            fault=fault,
            undiagnosed=self._undiagnosed(connection, champion, episode),
            request=request,
            shadow=next((one.version for one in rollouts if one.state != RolloutState.WAITING), None),
        )

    def _undiagnosed(
        self, connection: Connection, champion: Champion | None, episode: Episode | None
    ) -> bool:
        """Whether what was seen row by row still waits for a window of inputs, half of it at least from after the onset.

        An abrupt change alarms within a few rows: too few to say whether the data are broken.
        """
        if champion is None or episode is None or episode.detector != "sequential":
            return False
        newest = drift_store.recent_nats(connection, self.name, champion.promotion, 1)
        return not newest or newest[0][0] < episode.onset - self.settings.detect.window_rows // 2

    def _carry_out(
        self, connection: Connection, situation: Situation, decision: Skip | Defer | Update, trigger: str
    ) -> str | None:
        """Do what was decided; returns what was begun, None for nothing."""
        episode, now = situation.episode, situation.now
        job_id = None
        if isinstance(decision, Update):
            job_id = self.orders.update(connection, situation, decision)
        elif isinstance(decision, Defer) and decision.assess and episode is not None:
            job_id = self.orders.assessment(connection, now, episode)
        elif isinstance(decision, Skip) and decision.rebase and episode is not None:
            self.promoter.rebase(connection, episode, now, decision.reason)
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
