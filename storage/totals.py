"""Totals for Prometheus of rows that are only ever added: counted once, then only what is new is looked at.

A year of rows is then counted at the first scrape of a process, through indexes, and each further scrape reads what came since. Ids of one
stream become visible in order, because one process writes them: so each stream is followed by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, bindparam, func, or_, select, type_coerce

from storage.queue import LIVE
from storage.tables import dead_letters, job_is_live, jobs, ledger, verdicts

Labels = tuple[str, ...]
Counts = Counter[Labels]

_STREAM: Any = bindparam("stream")
_SEEN: Any = bindparam("seen")


def _added(table: Any, *by: Any) -> Select[Any]:
    """Build: how many rows after one, by some columns, and the last of their ids."""
    query = select(*by, func.count().label("number"), func.max(table.c.id).label("last"))
    return query.where(table.c.stream == _STREAM, table.c.id > _SEEN).group_by(*by)


_VERDICTS = _added(verdicts, verdicts.c.detector, verdicts.c.alarm)
_LEDGER = _added(ledger, ledger.c.kind, ledger.c.decision)
_DEAD_LETTERS = _added(dead_letters, dead_letters.c.kind)
_seconds = (
    type_coerce(jobs.c.ended_at, BigInteger) - type_coerce(jobs.c.started_at, BigInteger)
) / 1_000_000.0
_gate = jobs.c.result["gate"]["verdict"].as_string()
_ENDED = (  # all that have ended, when counting begins
    select(
        jobs.c.kind,
        jobs.c.state,
        _gate.label("gate"),
        func.count().label("number"),
        func.sum(jobs.c.charged_seconds).label("charged"),
        func.sum(_seconds).label("seconds"),
        func.max(jobs.c.id).label("last"),
    )
    .where(jobs.c.stream == _STREAM, ~job_is_live)
    .group_by(jobs.c.kind, jobs.c.state, _gate)
)
_NEW = select(
    *(jobs.c.id, jobs.c.kind, jobs.c.state, _gate.label("gate")),
    *(func.coalesce(jobs.c.charged_seconds, 0.0).label("charged"), _seconds.label("seconds")),
).where(
    jobs.c.stream == _STREAM,
    or_(jobs.c.id > _SEEN, jobs.c.id.in_(bindparam("open", expanding=True)), job_is_live),
)


@dataclass
class Totals:
    """What has been counted, by (stream, ...)."""

    verdicts: Counts = field(default_factory=Counter)  # stream, detector
    alarms: Counts = field(default_factory=Counter)  # stream, detector
    entries: Counts = field(default_factory=Counter)  # stream, kind of the ledger's entry
    decisions: Counts = field(default_factory=Counter)  # stream, decision
    dead_letters: Counts = field(default_factory=Counter)  # stream, kind
    jobs: Counts = field(default_factory=Counter)  # stream, kind, state that it ended in
    gates: Counts = field(default_factory=Counter)  # stream, verdict
    charged: dict[Labels, float] = field(default_factory=dict)  # device-seconds by stream, kind
    seconds: dict[Labels, float] = field(default_factory=dict)  # from start to end by stream, kind
    _seen: dict[Labels, int] = field(default_factory=dict)  # table, stream
    _open: dict[str, set[int]] = field(default_factory=dict)  # jobs of a stream that had not ended

    def update(self, connection: Connection, streams: Iterable[str]) -> None:
        """Count what is new."""
        for stream in streams:
            self._follow(connection, _VERDICTS, "verdicts", stream, self._verdict)
            self._follow(connection, _LEDGER, "ledger", stream, self._entry)
            self._follow(connection, _DEAD_LETTERS, "dead_letters", stream, self._dead_letter)
            if stream not in self._open:
                self._begin_jobs(connection, stream)
            self._follow_jobs(connection, stream)

    def _follow(
        self,
        connection: Connection,
        query: Select[Any],
        table: str,
        stream: str,
        count: Callable[[str, Any], None],
    ) -> None:
        seen = self._seen.get((table, stream), 0)
        for row in connection.execute(query, {"stream": stream, "seen": seen}).all():
            count(stream, row)
            self._seen[table, stream] = max(self._seen.get((table, stream), 0), row.last)

    def _verdict(self, stream: str, row: Any) -> None:
        self.verdicts[stream, row.detector] += row.number
        if row.alarm:
            self.alarms[stream, row.detector] += row.number

    def _entry(self, stream: str, row: Any) -> None:
        self.entries[stream, row.kind] += row.number
        if row.decision is not None:
            self.decisions[stream, row.decision] += row.number

    def _dead_letter(self, stream: str, row: Any) -> None:
        self.dead_letters[stream, row.kind] += row.number

    def _begin_jobs(self, connection: Connection, stream: str) -> None:
        rows = connection.execute(_ENDED, {"stream": stream}).all()
        self._open[stream] = set()
        for row in rows:
            self._job(stream, row, row.number)
            self._seen["jobs", stream] = max(self._seen.get(("jobs", stream), 0), row.last)

    def _follow_jobs(self, connection: Connection, stream: str) -> None:
        """Count jobs as they end: those that were under way, those that are new, and those that an operator queued again."""
        live, seen = self._open[stream], self._seen.get(("jobs", stream), 0)
        rows = connection.execute(_NEW, {"stream": stream, "seen": seen, "open": list(live)}).all()
        for row in rows:
            self._seen["jobs", stream] = max(self._seen.get(("jobs", stream), 0), row.id)
            if row.state in LIVE:
                live.add(row.id)
            else:
                live.discard(row.id)
                self._job(stream, row, 1)

    def _job(self, stream: str, row: Any, number: int) -> None:
        self.jobs[stream, row.kind, row.state] += number
        for sums, value in ((self.charged, row.charged), (self.seconds, row.seconds)):
            sums[stream, row.kind] = sums.get((stream, row.kind), 0.0) + float(value or 0.0)
        if row.gate is not None:
            self.gates[stream, row.gate] += number
