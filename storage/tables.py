"""The tables of CLS. Their history is in migrations/; a test holds the two together.

Times are BIGINT microseconds since the epoch, UTC: exact and equal on both databases. Stream times and database times
never share a column; a comment says which one a column holds.

Conditions of partial indexes have names (`job_is_live` ...) and are spelt with literals: a query that uses the same one is known to be
covered by the index on both databases.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.types import JSON

from cls.times import from_us, to_us


class Instant(TypeDecorator[datetime]):
    """A timezone-aware UTC datetime kept as microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002 - the base's signature
        """Return what is stored."""
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:  # noqa: ARG002 - the base's signature
        """Return what was stored."""
        return None if value is None else from_us(value)


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)

BigId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER autoincrements on SQLite


def _id() -> Column[int]:
    return Column("id", BigId, primary_key=True, autoincrement=True)


def _stream(*, primary_key: bool = False) -> Column[str]:
    return Column("stream", String(63), primary_key=primary_key, nullable=False)


# -- intake and log ---------------------------------------------------------------------------------------------------

inbox = Table(
    "inbox",
    metadata,
    _id(),
    _stream(),
    Column("producer", String(255), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),  # events | labels
    Column("rows", Integer, nullable=False),
    Column("path", Text, nullable=False),  # of the Arrow segment, under home
    Column("sha256", String(64), nullable=False),
    Column("received_at", Instant, nullable=False),  # database time
    UniqueConstraint("stream", "producer", "sequence"),
    Index("ix_inbox_stream_id", "stream", "id"),
)

positions = Table(
    "positions",
    metadata,
    _stream(primary_key=True),
    Column("consumer", String(64), primary_key=True),  # "source", "score", "join"
    Column("partition", Integer, primary_key=True),
    Column("token", Text, nullable=False),  # opaque to all but the consumer; compare-and-set
)

streams = Table(
    "streams",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("watermark", Instant),  # stream time: the largest event or label time taken in
    Column("next_version", Integer, nullable=False, server_default="1"),
    Column("budget_left", Float),  # device-seconds at budget_at; None: full
    Column("budget_at", Instant),  # stream time
    Column("last_update", Instant),  # stream time of the last decision to update
    Column("tried_labels", BigInteger),  # label position that the last attempt to update went up to
)

segments = Table(
    "segments",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(16), nullable=False),  # events | labels | predictions
    Column("partition", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),  # first position
    Column("stop", BigInteger, nullable=False),  # one past the last
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("max_position", BigInteger),  # labels: the largest event position named in it
    Column("time_from", Instant),  # stream time
    Column("time_to", Instant),
    UniqueConstraint("stream", "kind", "partition", "start"),
    Index("ix_segments_stream_kind_partition_time_to", "stream", "kind", "partition", "time_to"),
)

event_keys = Table(
    "event_keys",
    metadata,
    _stream(primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("labelled", Boolean, nullable=False, server_default=text("false")),
    Index("ix_event_keys_stream_position", "stream", "position"),
)

pending_labels = Table(
    "pending_labels",
    metadata,
    _id(),
    _stream(),
    Column("key", String(255), nullable=False),
    Column("value", Float, nullable=False),
    Column("time", Instant, nullable=False),  # stream time at which it became known
    Column("expires", Instant, nullable=False),  # stream time after which it becomes a dead letter
    Index("ix_pending_labels_stream_key", "stream", "key"),
    Index("ix_pending_labels_stream_expires", "stream", "expires"),
    Index("ix_pending_labels_stream_time", "stream", "time"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("record", JSON, nullable=False),
    Column("received_at", Instant, nullable=False),  # database time
    Column("replayed_at", Instant),  # database time
    Index("ix_dead_letters_stream_id", "stream", "id"),
)

# -- detection --------------------------------------------------------------------------------------------------------

open_windows = Table(
    "open_windows",
    metadata,
    _stream(primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("promotion", BigInteger, nullable=False),  # whose reference the counts belong to
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("pane_rows", Integer, nullable=False),
    Column("counts", LargeBinary, nullable=False),  # of each pane; int64 little-endian
    Column("baseline_counts", LargeBinary, nullable=False),
    Column(
        "times", LargeBinary, nullable=False
    ),  # first and last event time of each pane; int64 little-endian
)

row_watches = Table(
    "row_watches",
    metadata,
    _stream(primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("promotion", BigInteger, nullable=False),  # whose reference is watched
    Column("position", BigInteger, nullable=False),  # at which the state began
    Column("state", JSON, nullable=False),  # of the sequential detector
)

verdicts = Table(
    "verdicts",
    metadata,
    _id(),
    _stream(),
    Column("detector", String(32), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("time_from", Instant, nullable=False),
    Column("time_to", Instant, nullable=False),
    Column("promotion", BigInteger),  # reference it was compared with
    Column("alarm", Boolean, nullable=False),
    Column("p_value", Float),
    Column("nats", Float),
    Column("baseline_nats", Float),
    Column("onset", BigInteger, nullable=False),
    Column("drift", JSON),
    Column("losses", JSON),  # the champion's mean loss as estimated before labels land
    Column("diagnosis", JSON),  # of an alarm: a fault of the data, harmless or harmful drift
    Column("summary", Text, nullable=False),
    UniqueConstraint("stream", "detector", "promotion", "start"),
    Index("ix_verdicts_stream_id", "stream", "id"),
)

score_panes = Table(
    "score_panes",
    metadata,
    _stream(primary_key=True),
    Column("promotion", BigInteger, primary_key=True),
    Column("pane", BigInteger, primary_key=True),  # counted from the promotion's first position
    Column("rows", Integer, nullable=False),  # its size in events
    Column("labelled", Integer, nullable=False),
    Column("loss", Float, nullable=False),  # sum over its labelled rows
    Column("time_to", Instant, nullable=False),  # the latest event time seen in it
    Column("state", String(16), nullable=False),  # open | covered | uncovered
)
pane_is_open = score_panes.c.state == literal_column("'open'")
Index(
    "ix_score_panes_open",
    score_panes.c.stream,
    score_panes.c.promotion,
    score_panes.c.pane,
    sqlite_where=pane_is_open,
    postgresql_where=pane_is_open,
)

output_windows = Table(
    "output_windows",
    metadata,
    _stream(primary_key=True),
    Column("promotion", BigInteger, nullable=False),  # whose reference the counts belong to
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),  # predicted by its version
    Column("time_from", Instant, nullable=False),
    Column("time_to", Instant, nullable=False),
    Column("inputs", LargeBinary, nullable=False),  # int64 little-endian
    Column("outputs", LargeBinary, nullable=False),
)

loss_windows = Table(
    "loss_windows",
    metadata,
    _stream(primary_key=True),
    Column("promotion", BigInteger, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("stop", BigInteger, nullable=False),
    Column("time_from", Instant, nullable=False),  # of the events seen in it
    Column("time_to", Instant, nullable=False),
    Column("complete", Boolean, nullable=False),  # all of its events are predicted
    Column("estimate", JSON),  # mean loss before labels land
    Column("labels", Integer, nullable=False),  # landed
    Column("label_counts", LargeBinary, nullable=False),  # of the first to land; int64 little-endian
    Column("labelled", Integer, nullable=False),  # of these, with a prediction by its version
    Column("loss", Float, nullable=False),  # sum over these
    Column("inside", Boolean),  # whether the realised mean loss fell inside the estimated interval
    Column("state", String(16), nullable=False),  # open | covered | uncovered | superseded
)
loss_window_is_open = loss_windows.c.state == literal_column("'open'")
Index(
    "ix_loss_windows_open",
    loss_windows.c.stream,
    loss_windows.c.promotion,
    loss_windows.c.start,
    sqlite_where=loss_window_is_open,
    postgresql_where=loss_window_is_open,
)

episodes = Table(
    "episodes",
    metadata,
    _id(),
    _stream(),
    Column("state", String(16), nullable=False),
    Column("detector", String(32), nullable=False),
    Column("onset", BigInteger, nullable=False),
    Column("opened_at", Instant, nullable=False),  # stream time
    Column("closed_at", Instant),  # stream time
    Column("verdict_id", BigInteger, nullable=False),
    Column("assessment", JSON),
    Column("outcome", Text),
)
episode_is_live = episodes.c.state != literal_column("'closed'")
Index(
    "uq_episodes_live",
    episodes.c.stream,
    unique=True,
    sqlite_where=episode_is_live,
    postgresql_where=episode_is_live,
)

# -- decisions and jobs -----------------------------------------------------------------------------------------------

ledger = Table(
    "ledger",
    metadata,
    _id(),
    _stream(),
    Column("at", Instant),  # stream time
    Column("recorded_at", Instant, nullable=False),  # database time
    Column("kind", String(32), nullable=False),  # decision, promotion, rollback, rejection, rebase ...
    Column("decision", String(32)),  # skip | defer | update
    Column("reason", Text, nullable=False),
    Column("episode_id", BigInteger),
    Column("job_id", BigInteger),
    Column("version", Integer),
    Column("details", JSON, nullable=False),
    Index("ix_ledger_stream_id", "stream", "id"),
    Index("ix_ledger_stream_kind_id", "stream", "kind", "id"),
)

triggers = Table(
    "triggers",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(16), nullable=False),  # manual | schedule | rollback | promote
    Column("unique_key", String(255), nullable=False, unique=True),
    Column("arguments", JSON, nullable=False),
    Column("requested_by", String(255), nullable=False),
    Column("requested_at", Instant, nullable=False),  # database time
    Column("consumed_at", Instant),  # database time
    Column("outcome", Text),
)
trigger_is_open = triggers.c.consumed_at.is_(None)
Index(
    "ix_triggers_open",
    triggers.c.stream,
    triggers.c.id,
    sqlite_where=trigger_is_open,
    postgresql_where=trigger_is_open,
)

jobs = Table(
    "jobs",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("input", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),  # database time
    Column("decided_at", Instant, nullable=False),  # stream time
    Column("run_at", Instant, nullable=False),  # database time, earliest start
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("worker", String(255)),
    Column("token", String(64)),
    Column("lease_until", Instant),  # database time
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("started_at", Instant),  # database time
    Column("ended_at", Instant),  # database time
    Column("progress", JSON),
    Column("result", JSON),
    Column("charged_seconds", Float),  # device-seconds on the budget
    Column("passes", Float),  # sample passes
    Column("error", Text),
    Column(
        "handled", Boolean, nullable=False, server_default=text("false")
    ),  # the daemon has acted on its end
    Index("ix_jobs_state_run_at", "state", "run_at"),
    Index("ix_jobs_stream_id", "stream", "id"),
    Index("ix_jobs_stream_kind_id", "stream", "kind", "id"),
)
job_is_unhandled = jobs.c.handled.is_(literal_column("false"))  # live ones too: they are few
Index(
    "ix_jobs_unhandled",
    jobs.c.stream,
    jobs.c.id,
    sqlite_where=job_is_unhandled,
    postgresql_where=job_is_unhandled,
)
job_is_live = jobs.c.state.in_((literal_column("'queued'"), literal_column("'running'")))
Index(
    "uq_jobs_live",
    jobs.c.stream,
    jobs.c.kind,
    unique=True,
    sqlite_where=job_is_live,
    postgresql_where=job_is_live,
)

# -- versions and rollout ---------------------------------------------------------------------------------------------

versions = Table(
    "versions",
    metadata,
    _stream(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("parent", Integer),
    Column("job_id", BigInteger, unique=True),
    Column("strategy", String(64), nullable=False),
    Column("learned_up_to", BigInteger, nullable=False),
    Column("reference_from", BigInteger, nullable=False),
    Column("reference_to", BigInteger, nullable=False),
    Column("gate", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("files", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),  # database time
)

promotions = Table(
    "promotions",
    metadata,
    _id(),
    _stream(),
    Column("version", Integer, nullable=False),
    Column("previous", Integer),
    Column("since", BigInteger, nullable=False),  # first event position that it serves
    Column("reference", String(64), nullable=False),  # SHA-256 of the reference profile in force
    Column("at", Instant),  # stream time
    Column("reason", Text, nullable=False),
    Column("rollout_id", BigInteger),
    Index("ix_promotions_stream_since", "stream", "since"),
    Index("ix_promotions_stream_id", "stream", "id"),
)

champions = Table(
    "champions",
    metadata,
    _stream(primary_key=True),
    Column("promotion", BigInteger, ForeignKey("promotions.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("previous", Integer),
    Column("since", BigInteger, nullable=False),
    Column("reference", String(64), nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    _id(),
    _stream(),
    Column("version", Integer, nullable=False),
    Column("parent", Integer),
    Column("state", String(16), nullable=False),
    Column("light", Boolean, nullable=False),
    Column("effective_at", Instant, nullable=False),  # stream time
    Column("started_at", Instant),  # stream time
    Column("ended_at", Instant),  # stream time
    Column("since", BigInteger),  # first event position scored by both
    Column("step", Integer, nullable=False, server_default="0"),  # of the canary, from 0
    Column(
        "share", Float, nullable=False, server_default="0"
    ),  # of the keys that the version answers as a canary
    Column("step_at", Instant),  # stream time at which the state or step began
    Column("step_n", BigInteger, nullable=False, server_default="0"),  # paired rows when it began
    Column("deadline_at", Instant),  # stream time after which an undecided rollout goes back
    Column(
        "slow_us", BigInteger
    ),  # microseconds beyond which an answer counts as slow; fixed when the canary begins
    Column("paused_at", Instant),  # stream time
    Column("approved", String(16), nullable=False, server_default=""),  # stage up to which an operator agreed
    Column("paired_n", BigInteger, nullable=False, server_default="0"),
    Column("paired_total", Float, nullable=False, server_default="0"),
    Column("paired_squares", Float, nullable=False, server_default="0"),
    Column("paired_dependence", Float, nullable=False, server_default="1"),
    Column("paired_neighbours", JSON),  # what the dependence is estimated from
    Column("base_loss", Float, nullable=False, server_default="0"),
    Column("episode_id", BigInteger),
    Column("reason", Text, nullable=False, server_default=""),
    Column("fault", Text),  # why the shadow cannot be loaded; null as soon as it can
    Index("ix_rollouts_stream_state", "stream", "state"),
)
_live_rollout = rollouts.c.state.in_(("waiting", "shadow", "canary"))
Index(
    "uq_rollouts_live",
    rollouts.c.stream,
    unique=True,
    sqlite_where=_live_rollout,
    postgresql_where=_live_rollout,
)

served = Table(  # what guardrails look at: sums, added to by every replica
    "served",
    metadata,
    _stream(primary_key=True),
    Column("rollout", BigInteger, primary_key=True),  # 0: outside a rollout
    Column("stage", String(16), primary_key=True),  # champion | shadow | canary-STEP
    Column("version", Integer, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("batches", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),  # batches that raised
    Column("nonfinite", BigInteger, nullable=False),  # rows answered by what is no number
    Column("latency", JSON, nullable=False),  # batches by `cls.arms.LATENCY_US`
    Column("outputs", JSON, nullable=False),  # rows by `cls.arms.output_bins` of the champion
    Column("updated_at", Instant, nullable=False),  # database time
)

allocations = Table(  # of a canary: whether keys come back from the version that they were assigned to
    "allocations",
    metadata,
    Column("rollout", BigInteger, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column(
        "champion", LargeBinary, nullable=False
    ),  # bitmap of hash slots whose first key the champion answered
    Column("canary", LargeBinary, nullable=False),
    Column("misrouted", BigInteger, nullable=False),  # rows answered by the other version than their key's
)

# -- operators and those who listen -------------------------------------------------------------------------------------

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),  # public part of the token
    Column("name", String(63), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the secret part
    Column("scopes", JSON, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("created_at", Instant, nullable=False),  # database time
    Column("expires_at", Instant),  # database time
    Column("revoked_at", Instant),  # database time
    Column("used_at", Instant),  # database time; to the minute
)

audit = Table(
    "audit",
    metadata,
    _id(),
    Column("at", Instant, nullable=False),  # database time
    Column("actor", String(255), nullable=False),  # user@host, or token:ID NAME
    Column("origin", String(64), nullable=False),  # cli, or the address of an HTTP client
    Column("action", String(64), nullable=False),
    Column("stream", String(63)),
    Column("arguments", JSON, nullable=False),
    Column("outcome", Text, nullable=False),
)

announcements = Table(  # what webhooks are told, in order
    "announcements",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(32), nullable=False),  # rollout.canary, rollout.promoted, drift.alarm ...
    Column("payload", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),  # database time
)

webhooks = Table(  # how far each has been told
    "webhooks",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("position", BigInteger, nullable=False),  # id of the last announcement dealt with
    Column("attempts", Integer, nullable=False, server_default="0"),  # at the next one
    Column("next_at", Instant, nullable=False),  # database time
    Column("delivered_at", Instant),  # database time
    Column("error", Text),
)

# -- projections and processes ----------------------------------------------------------------------------------------

outbox = Table(
    "outbox",
    metadata,
    _id(),
    _stream(),
    Column("kind", String(32), nullable=False),  # job | version | aliases
    Column("payload", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),  # database time
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", Instant, nullable=False),  # database time
    Column("done_at", Instant),  # database time
    Column("error", Text),
    Index("ix_outbox_done_at_id", "done_at", "id"),
)

processes = Table(
    "processes",
    metadata,
    Column("id", String(255), primary_key=True),  # kind@host:pid
    Column("kind", String(16), nullable=False),
    Column("started_at", Instant, nullable=False),  # database time
    Column("seen_at", Instant, nullable=False),  # database time
    Column("details", JSON, nullable=False),
)
