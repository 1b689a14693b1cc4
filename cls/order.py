"""Order: decisions become jobs. Everything that a job may depend on is frozen in its row."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from cls.config import StreamConfig
from cls.decide import PRIORITY, Situation
from cls.domain import Episode, EpisodeState, JobInput, JobKind, Json, Update, Verdict
from storage import drift as drift_store
from storage import job_rows, queue
from storage import log as log_store
from storage import streams as stream_store
from storage import versions as version_store

ASSESSED = 5  # newest versions that an assessment compares
REPORT_PRIORITY = -1000


class Orders:
    """Puts a stream's jobs into the queue, inside the caller's transaction."""

    def __init__(self, name: str, settings: StreamConfig) -> None:
        self.name = name
        self.settings = settings

    def update(self, connection: Connection, situation: Situation, decision: Update) -> int:
        """Queue an update; the episode that called for it is decided. Returns the job."""
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
            base=decision.base,
            similarity=_similarity(episode, decision),
        )
        job_id = queue.enqueue(connection, self.name, JobKind.UPDATE, job_input, decision.priority)
        stream_store.note_update(connection, self.name, situation.now, situation.labels)
        if episode is not None:
            drift_store.move_episode(connection, episode.id, EpisodeState.DECIDED)
        return job_id

    def assessment(self, connection: Connection, now: datetime, episode: Episode) -> int:
        """Queue the comparison of the champion with the first and the newest versions. Returns the job."""
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
        return queue.enqueue(
            connection, self.name, JobKind.ASSESS, job_input, PRIORITY[self.settings.priority]
        )

    def report(self, connection: Connection, now: datetime, episode: int, verdict: Verdict) -> None:
        """Have people told of an alarm, unless a report is under way."""
        if self.settings.detect.report and job_rows.live(connection, self.name, JobKind.REPORT) is None:
            reason = f"alarm: {verdict.summary}"
            job_input = self._input(connection, now, "report", reason, episode=episode, onset=verdict.onset)
            queue.enqueue(connection, self.name, JobKind.REPORT, job_input, REPORT_PRIORITY)

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
        base: int | None = None,
        similarity: Json | None = None,
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
            base=base,
            similarity=similarity,
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


def _similarity(episode: Episode | None, decision: Update) -> Json | None:
    """Return what the assessment says of the version that training starts from."""
    found: Json | None = None if episode is None else (episode.assessment or {}).get("similarity")
    return None if found is None or found["version"] != decision.base else found
