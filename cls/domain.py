"""The values that travel along the path of a sample. All frozen; a change makes a new value.

    Batch -> Window -> Verdict -> Decision -> Job -> Candidate -> GateReport -> ModelVersion -> Rollout -> Prediction

Times are timezone-aware UTC. "Position" counts events of a stream from 0; "label position" counts labels in the order
in which they landed. Both are dense and never reused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from detectors.columns import Columns
from detectors.detector import Drift
from detectors.diagnosis import Diagnosis
from detectors.loss import LossEstimate
from detectors.sequential import State

Json = dict[str, Any]


class Role(IntEnum):
    """What a row may be used for, for ever: fixed at ingest by the hash of its group key (80/10/10)."""

    TRAIN = 0
    TUNE = 1
    GATE = 2


class Task(StrEnum):
    """What a stream predicts."""

    REGRESSION = "regression"
    CLASSIFICATION = "classification"


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be used, kept with its reason so that it can be replayed."""

    reason: str
    record: Json
    kind: str  # "events" or "labels"


@dataclass(frozen=True, eq=False)
class Batch:
    """Valid events of one stream, in the order in which they came; not yet positioned."""

    columns: Columns  # the features of the schema
    key: list[str]
    time_us: Any  # int64 (N,), event time in microseconds since the epoch
    role: Any  # int8 (N,), see Role
    prediction: Any  # float64 (N,), NaN where the event came without one
    version: Any  # int64 (N,), version that made the prediction, 0 where there is none
    uncertainty: Any = (
        None  # float64 (N,), that of the prediction, NaN where the event came without; None: so do all
    )


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels by key, not yet joined to their events."""

    key: list[str]
    value: Any  # float64 (N,), class index for classification
    time_us: Any  # int64 (N,), when the label became known


@dataclass(frozen=True, eq=False)
class Labelled:
    """Events joined with their labels, in label order."""

    columns: Columns
    target: Any  # float64 (N,)
    position: Any  # int64 (N,), event position
    time_us: Any  # int64 (N,), event time
    role: Any  # int8 (N,)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Window:
    """A closed window of events: only its counts are left."""

    start: int  # first event position
    stop: int  # one past the last event position
    time_from: datetime
    time_to: datetime
    counts: Any  # int64 (K,), on the bins of the champion's reference
    baseline_counts: Any  # int64 (K0,), on the bins of the stream's first reference


@dataclass(frozen=True, eq=False)
class Panes:
    """A window being filled, pane by pane: the last one is not full, or there is no other."""

    start: int  # first event position of the oldest pane
    stop: int  # one past the last event position
    pane_rows: int
    counts: Any  # int64 (P, K), on the bins of the champion's reference
    baseline_counts: Any  # int64 (P, K0), on the bins of the stream's first reference
    times_us: Any  # int64 (P, 2), first and last event time of each pane
    promotion: int = 0  # whose reference the counts belong to; set when it is stored


@dataclass(frozen=True, eq=False)
class RowWatch:
    """Where the sequential detector has come to."""

    position: int  # event position of its first row
    state: State
    promotion: int = 0  # against whose reference; set when it is stored


@dataclass(frozen=True)
class Verdict:
    """What a detector says about one window."""

    detector: str  # "kl" or "sequential" on inputs, "prediction", "label", or "score"
    start: int
    stop: int
    time_from: datetime
    time_to: datetime
    alarm: bool
    p_value: float | None  # None for detectors that give none
    nats: float | None  # bias-corrected divergence from the champion's reference
    baseline_nats: float | None  # the same from the stream's first reference
    onset: int  # event position where the change most likely began
    drift: Drift | None
    summary: str  # one sentence for people
    losses: LossEstimate | None = None  # mean loss that the window's counts let expect
    diagnosis: Diagnosis | None = None  # of an alarm on inputs


class EpisodeState(StrEnum):
    """An alarm's life. While one is open or decided there is no second one."""

    OPEN = "open"
    DECIDED = "decided"
    CLOSED = "closed"


@dataclass(frozen=True)
class Episode:
    """One stretch of drift, from its alarm to its answer."""

    id: int
    stream: str
    state: EpisodeState
    detector: str
    onset: int  # event position
    opened_at: datetime  # stream time
    verdict_id: int
    assessment: Json | None  # result of the assess job


@dataclass(frozen=True)
class Skip:
    """No update, and why."""

    reason: str
    rebase: bool = False  # the drift is harmless: the reference moves to the new regime


@dataclass(frozen=True)
class Defer:
    """No update yet: decided again on each batch of labels and each tick."""

    reason: str
    until: datetime | None = None
    assess: bool = False  # an assessment is wanted first


@dataclass(frozen=True)
class Update:
    """Update the champion."""

    strategy: str  # a recipe's name, or "redeploy"
    reason: str
    light: bool  # may go from its gate to champion at once
    priority: int
    redeploy_version: int | None = None
    full: bool = False  # from all labelled history instead of what is new
    effort: float = 1.0  # epochs, as a multiple of the recipe's
    base: int | None = None  # version whose weights training starts from; None: the champion's


Decision = Skip | Defer | Update


class JobKind(StrEnum):
    """What a worker can be asked to do."""

    UPDATE = "update"
    ASSESS = "assess"
    REPORT = "report"


class JobState(StrEnum):
    """A job's life. `dead` means given up after repeated failures or crashes."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobInput:
    """Everything a job may depend on, frozen when it was decided."""

    strategy: str
    label_from: int  # first label position that is new to the parent
    label_to: int  # as-of: labels landed later do not exist for this job
    event_to: int  # as-of for events
    parent: int | None  # version number of the champion it starts from
    seed: int
    threads: int
    decided_at: datetime  # stream time
    effective_at: datetime  # stream time from which the result may serve
    light: bool
    reason: str
    effort: float = 1.0  # epochs, as a multiple of the recipe's
    episode: int | None = None
    onset: int | None = None  # event position
    redeploy: int | None = None
    versions: tuple[int, ...] = ()  # versions an assessment compares
    retained: tuple[tuple[int, int], ...] = ()  # label ranges of earlier regimes that the gate looks back at
    base: int | None = None  # version whose weights training starts from, where it is not the parent's
    similarity: Json | None = None  # likeness of the new regime to earlier ones, by an assessment
    settings: Json = field(
        default_factory=dict
    )  # model, recipe overrides, gate and detection settings as decided


@dataclass(frozen=True)
class Job:
    """A row of the queue, as its worker sees it."""

    id: int
    stream: str
    kind: JobKind
    input: JobInput
    attempt: int
    token: str  # fencing token of this lease


class GateVerdict(StrEnum):
    """The gate's three answers."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class SliceReport:
    """Candidate against champion on one slice of gate rows."""

    name: str  # "fresh" or "retained:<label range>"
    rows: int
    champion_loss: float | None  # None without a champion
    candidate_loss: float | None  # None without rows, or where it answers what is not a number
    lower: float | None  # interval of the relative change of loss, candidate over champion
    upper: float | None
    verdict: GateVerdict


@dataclass(frozen=True)
class GateReport:
    """All slices and what follows."""

    verdict: GateVerdict
    reason: str
    slices: tuple[SliceReport, ...]


@dataclass(frozen=True)
class ModelVersion:
    """A registered model of a stream."""

    stream: str
    number: int
    digest: str  # sha256 of its manifest
    parent: int | None
    job_id: int | None
    strategy: str
    learned_up_to: int  # label position
    reference_from: int  # range of events that its reference profile was built on
    reference_to: int
    gate: Json
    metrics: Json
    created_at: datetime
    files: dict[str, str]  # file name -> sha256


class RolloutState(StrEnum):
    """A candidate's way to users."""

    WAITING = "waiting"  # for its stream time to come
    SHADOW = "shadow"  # scored beside the champion, answers nobody
    CANARY = "canary"  # answers a share of the keys
    WATCHING = "watching"  # champion, still compared with its predecessor
    DONE = "done"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True)
class Rollout:
    """One rollout row."""

    id: int
    stream: str
    version: int
    parent: int | None  # champion it was decided against, and must still be
    state: RolloutState
    light: bool
    effective_at: datetime  # stream time
    started_at: datetime | None  # stream time of the current state's begin
    paired_n: int  # labelled rows scored by both versions since then
    paired_total: float  # sum of loss(version) - loss(other)
    paired_squares: float
    base_loss: float  # sum of the other's loss over the same rows
    episode: int | None
    since: int | None = None  # first event position scored by both
    step: int = 0  # of the canary, from 0
    share: float = 0.0  # of the keys that the version answers as a canary
    step_at: datetime | None = None  # stream time at which the state or step began
    step_n: int = 0  # `paired_n` when it began
    deadline_at: datetime | None = None  # stream time after which an undecided rollout goes back
    slow_us: int | None = None  # microseconds beyond which an answer counts as slow
    paused_at: datetime | None = None  # stream time
    approved: str = ""  # stage up to which an operator agreed: "", "canary" or "champion"
    paired_dependence: float = (
        1.0  # how much more the sum of differences varies than that of independent rows
    )


@dataclass(frozen=True)
class Champion:
    """Who serves a stream, and since which event position."""

    stream: str
    version: int
    previous: int | None
    since: int  # event position
    promotion: int  # id of its promotion row
    reference: str  # SHA-256 of the reference profile in force
