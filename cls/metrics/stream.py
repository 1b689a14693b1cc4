"""The daemon's metrics, each declared beside the figure that it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from cls.config import StreamConfig
from cls.domain import GateVerdict, JobKind, JobState, Rollout, RolloutState
from cls.health import Interval, relative_loss
from cls.metrics.exposition import Labels, Measure
from cls.times import EPOCH
from storage.measures import DETECTORS, MOST, CommonFigures, StreamFigures
from storage.totals import Totals

Values = Mapping[Labels, float]
Of = TypeVar("Of")

_OUTCOMES = (JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED)
_STATES = (RolloutState.WAITING, RolloutState.SHADOW, RolloutState.CANARY, RolloutState.WATCHING)
_DECISIONS = ("skip", "defer", "update")
_PROCESSES = ("daemon", "worker", "reporter", "serve")
_UP_TO = f"counted up to {MOST:,}"


@dataclass(frozen=True)
class Seen:
    """A stream as it stands, and what was counted of it."""

    name: str
    settings: StreamConfig
    now: StreamFigures
    budget_left: float
    totals: Totals

    @property
    def rollout(self) -> Rollout | None:
        """The rollout on its way; where none is, the one that is watched."""
        moving = [one for one in self.now.rollouts if one.state != RolloutState.WATCHING]
        return next(iter(moving + self.now.rollouts[-1:]), None)

    @property
    def interval(self) -> Interval | None:
        """How much the rollout's version changes the loss, by the labels so far; None without any."""
        rollout, settings = self.rollout, self.settings.rollout
        if rollout is None or not rollout.paired_n:
            return None
        watching = rollout.state == RolloutState.WATCHING
        rows = settings.watch_rows if watching else settings.shadow_rows
        return relative_loss(rollout, 1 - settings.confidence, rows)


@dataclass(frozen=True)
class Shown(Generic[Of]):
    """A metric and how it is read: one value (None for none), or values by the labels after the stream's."""

    measure: Measure
    read: Callable[[Of], float | Values | None]


def of_streams(streams: Iterable[Seen]) -> dict[str, Values]:
    """Return the values of all streams by metric and labels."""
    found: dict[str, dict[Labels, float]] = {one.measure.name: {} for one in STREAM}
    for seen in streams:
        for one in STREAM:
            value = one.read(seen)
            if value is not None:
                values = value if isinstance(value, Mapping) else {(): value}
                found[one.measure.name] |= {(seen.name, *labels): float(v) for labels, v in values.items()}
    return dict(found)


def of_all(figures: CommonFigures) -> dict[str, Values]:
    """Return the values that belong to no stream."""
    found: dict[str, Values] = {}
    for one in COMMON:
        value = one.read(figures)
        if value is not None:
            found[one.measure.name] = value if isinstance(value, Mapping) else {(): value}
    return found


def _gauge(
    name: str, meaning: str, read: Callable[[Seen], float | Values | None], *labels: str
) -> Shown[Seen]:
    return Shown(Measure(name, "gauge", meaning, ("stream", *labels)), read)


def _counter(
    name: str, meaning: str, read: Callable[[Seen], float | Values | None], *labels: str
) -> Shown[Seen]:
    return Shown(Measure(name, "counter", meaning, ("stream", *labels)), read)


def _verdicts(field: str) -> Callable[[Seen], Values]:
    def values(seen: Seen) -> Values:
        found = {(name,): getattr(row, field) for name, row in seen.now.verdicts.items()}
        return {labels: value for labels, value in found.items() if value is not None}

    return values


def _rollout(read: Callable[[Rollout], float | None]) -> Callable[[Seen], float | None]:
    return lambda seen: None if seen.rollout is None else read(seen.rollout)


def _counts(counts: Mapping[Labels, float], stream: str, *names: Iterable[str]) -> Values:
    """Return the counts of a stream for every known combination of names, zeros too: a rate begins at zero."""
    known: list[Labels] = [()]
    for some in names:
        known = [(*labels, name) for labels in known for name in some]
    return {labels: counts.get((stream, *labels), 0) for labels in known}


def _left_until_deadline(seen: Seen) -> float | None:
    rollout, now = seen.rollout, seen.now.time
    if rollout is None or rollout.deadline_at is None or now is None or rollout.paused_at is not None:
        return None
    return (rollout.deadline_at - now).total_seconds()


STREAM: tuple[Shown[Seen], ...] = (
    _counter("cls_events_total", "Events in the sample log.", lambda s: s.now.events),
    _counter("cls_labels_total", "Labels that have met their event.", lambda s: s.now.labels),
    _gauge(
        "cls_stream_time_seconds",
        "Stream time (the watermark) as seconds since the epoch.",
        lambda s: None if s.now.time is None else (s.now.time - EPOCH).total_seconds(),
    ),
    _gauge(
        "cls_ingest_waiting_requests",
        f"Requests in the inbox that ingest has not taken in; {_UP_TO}.",
        lambda s: s.now.intake.rows,
    ),
    _gauge(
        "cls_ingest_lag_seconds",
        "Seconds since the oldest request in the inbox came that ingest has not taken in; 0 if there is none.",
        lambda s: s.now.intake.oldest_seconds,
    ),
    _counter(
        "cls_dead_letters_total",
        "Records that could not be used, by what they came as.",
        lambda s: _counts(s.totals.dead_letters, s.name, ("events", "labels")),
        "kind",
    ),
    _gauge(
        "cls_dead_letters",
        f"Records that could not be used and were not sent in again, among the newest {MOST:,}.",
        lambda s: s.now.dead_letters,
    ),
    _gauge("cls_early_labels", f"Labels that wait for their event; {_UP_TO}.", lambda s: s.now.early_labels),
    _gauge("cls_unlabelled_rows", "Events without a label.", lambda s: s.now.events - s.now.labels),
    _gauge(
        "cls_label_lag_seconds",
        "Stream time from the newest labelled event to the newest event, to a segment of the log.",
        lambda s: s.now.label_lag_seconds,
    ),
    _gauge(
        "cls_label_coverage_ratio",
        "Share of events with a label in the last window that labels have settled.",
        lambda s: None if s.now.settled is None else s.now.settled.coverage,
    ),
    _gauge(
        "cls_loss",
        "Mean loss of the champion in the last window that labels have settled.",
        lambda s: None if s.now.settled is None else s.now.settled.loss,
    ),
    _gauge(
        "cls_expected_loss",
        "Mean loss that was expected of that window before its labels came.",
        lambda s: None if s.now.settled is None else s.now.settled.expected,
    ),
    _gauge(
        "cls_score_lag_rows",
        "Events that no version has scored yet.",
        lambda s: max(s.now.events - s.now.scored, 0),
    ),
    _gauge(
        "cls_join_lag_rows",
        "Labels that were not yet compared with their predictions.",
        lambda s: max(s.now.labels - s.now.joined, 0),
    ),
    _gauge(
        "cls_drift_nats",
        "Divergence of the last window from the champion's reference, without bias.",
        _verdicts("nats"),
        "detector",
    ),
    _gauge(
        "cls_drift_baseline_nats",
        "Divergence of the last window from the stream's first reference, without bias.",
        _verdicts("baseline_nats"),
        "detector",
    ),
    _gauge(
        "cls_drift_p_value",
        "Probability of as much divergence without drift.",
        _verdicts("p_value"),
        "detector",
    ),
    _counter(
        "cls_windows_total",
        "Windows that a detector has judged.",
        lambda s: _counts(s.totals.verdicts, s.name, DETECTORS),
        "detector",
    ),
    _counter(
        "cls_alarms_total",
        "Windows that a detector has alarmed on.",
        lambda s: _counts(s.totals.alarms, s.name, DETECTORS),
        "detector",
    ),
    _gauge(
        "cls_episode_open",
        "1 while an alarm waits for its answer or the answer for its end.",
        lambda s: s.now.episode,
    ),
    _counter(
        "cls_decisions_total",
        "Decisions in the ledger; the same one is written once, however often it is made.",
        lambda s: _counts(s.totals.decisions, s.name, _DECISIONS),
        "decision",
    ),
    _gauge(
        "cls_jobs",
        "Jobs that are queued or running.",
        lambda s: {
            (k, state): s.now.jobs.count((k, state)) for k in JobKind for state in ("queued", "running")
        },
        *("kind", "state"),
    ),
    _counter(
        "cls_jobs_total",
        "Jobs that have ended, by how.",
        lambda s: _counts(s.totals.jobs, s.name, JobKind, _OUTCOMES),
        *("kind", "outcome"),
    ),
    _counter(
        "cls_job_seconds_total",
        "Seconds from the first start of a job to its end.",
        lambda s: _counts(s.totals.seconds, s.name, JobKind),
        "kind",
    ),
    _counter(
        "cls_device_seconds_total",
        "Device-seconds that ended jobs were charged with.",
        lambda s: _counts(s.totals.charged, s.name, JobKind),
        "kind",
    ),
    _gauge(
        "cls_budget_left_device_seconds",
        "Device-seconds that may be spent on updates now; below 0 is a debt.",
        lambda s: s.budget_left,
    ),
    _gauge(
        "cls_budget_device_seconds_per_day",
        "Device-seconds that the budget grows by in a day of stream time.",
        lambda s: s.settings.update.budget_device_seconds_per_day,
    ),
    _counter(
        "cls_gates_total",
        "Candidates by what the gate said of them.",
        lambda s: _counts(s.totals.gates, s.name, GateVerdict),
        "verdict",
    ),
    _gauge(
        "cls_champion_version",
        "Number of the version that is champion; 0 before the first.",
        lambda s: 0 if s.now.champion is None else s.now.champion.version,
    ),
    _counter(
        "cls_promotions_total",
        "Versions that became champion.",
        lambda s: s.totals.entries[s.name, "promotion"],
    ),
    _counter(
        "cls_rollbacks_total",
        "Champions that went back to their predecessor.",
        lambda s: s.totals.entries[s.name, "rollback"],
    ),
    _counter(
        "cls_rejections_total",
        "Candidates that the gate or the rollout sent back.",
        lambda s: s.totals.entries[s.name, "rejection"],
    ),
    _gauge(
        "cls_rollout_state",
        "1 for the state of a rollout: waiting, shadow, canary or watching; a watched one may be beside another.",
        lambda s: {(state,): any(one.state == state for one in s.now.rollouts) for state in _STATES},
        "state",
    ),
    _gauge("cls_rollout_version", "Number of the version that is rolled out.", _rollout(lambda r: r.version)),
    _gauge("cls_rollout_step", "Step of the canary, from 0.", _rollout(lambda r: r.step)),
    _gauge("cls_rollout_share", "Share of the keys that the canary answers.", _rollout(lambda r: r.share)),
    _gauge(
        "cls_rollout_paused",
        "1 while an operator has paused the rollout.",
        _rollout(lambda r: r.paused_at is not None),
    ),
    _gauge(
        "cls_rollout_paired_rows",
        "Labelled rows that both versions have scored.",
        _rollout(lambda r: r.paired_n),
    ),
    _gauge(
        "cls_rollout_loss_change_low",
        "Lower end of the relative change of loss, version over counterpart.",
        lambda s: None if s.interval is None else s.interval.lower,
    ),
    _gauge(
        "cls_rollout_loss_change_high",
        "Upper end of the relative change of loss, version over counterpart.",
        lambda s: None if s.interval is None else s.interval.upper,
    ),
    _gauge(
        "cls_rollout_deadline_seconds",
        "Stream time until an undecided rollout goes back.",
        _left_until_deadline,
    ),
)


def _slots(figures: CommonFigures) -> Values:
    busy = sum(number for kind, number in figures.leases.items() if kind != JobKind.REPORT)
    return {("busy",): busy, ("idle",): max(figures.processes.get("worker", 0) - busy, 0)}


def _common(
    name: str, meaning: str, read: Callable[[CommonFigures], float | Values | None], *labels: str
) -> Shown[CommonFigures]:
    return Shown(Measure(name, "gauge", meaning, labels), read)


COMMON: tuple[Shown[CommonFigures], ...] = (
    _common(
        "cls_processes",
        "Processes that have lately said that they are alive.",
        lambda f: {(kind,): f.processes.get(kind, 0) for kind in _PROCESSES},
        "kind",
    ),
    _common(
        "cls_slots", "Device slots (workers) that train or assess, and those that wait.", _slots, "state"
    ),
    _common(
        "cls_leases",
        "Jobs that a process holds the lease of.",
        lambda f: {(kind,): f.leases.get(kind, 0) for kind in JobKind},
        "kind",
    ),
    _common(
        "cls_job_wait_seconds",
        "Seconds that the longest waiting due job has waited for a worker.",
        lambda f: {(kind,): f.due.get(kind, 0.0) for kind in JobKind},
        "kind",
    ),
    _common("cls_outbox_waiting", f"Messages for MLflow; {_UP_TO}.", lambda f: f.outbox.rows),
    _common(
        "cls_outbox_lag_seconds",
        "Seconds that the oldest message for MLflow has waited.",
        lambda f: f.outbox.oldest_seconds,
    ),
    _common(
        "cls_webhook_waiting",
        f"Announcements that a webhook was not told of; {_UP_TO}.",
        lambda f: {(name,): backlog.rows for name, backlog in f.webhooks.items()},
        "webhook",
    ),
    _common(
        "cls_webhook_lag_seconds",
        "Seconds that the oldest of them has waited.",
        lambda f: {(name,): backlog.oldest_seconds for name, backlog in f.webhooks.items()},
        "webhook",
    ),
)
SQL: tuple[Measure, ...] = (*(one.measure for one in STREAM), *(one.measure for one in COMMON))
