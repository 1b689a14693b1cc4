"""Evaluation: how soon a detector finds what is known to have changed, and how often it alarms at nothing.

Rows are numbered from 0. A change takes the rows from its onset up to its end, where it ends or has become the new
normal; all other rows are *quiet*. Every alarm is one of three things: the first one within a change *detects* it, a
later one within the same change is a *repeat*, one at a quiet row is *false*.

    delay            rows from the onset to the detection, the row of the alarm included: at least 1
    missed           a change without an alarm before its end
    between false    quiet rows over false alarms: the mean time between false alarms, Bifet's MTFA. Since a
                     monitor starts afresh after an alarm, it estimates the in-control average run length (ARL)
    mean time ratio  Bifet's MTR = MTFA / MTD * (1 - MDR), with MTD the mean delay and MDR the share of changes missed.
                     Whoever alarms at every row has 1

What was not observed is None, never zero or infinity: no delay without a detection, no mean time between false alarms
without a false alarm. A lower confidence bound of that mean exists even then, and is given apart.

Basseville and Nikiforov 1993, Detection of Abrupt Changes, section 4.4 (ARL, delay); Bifet et al. 2013, CD-MOA: Change
Detection Framework for Massive Online Analysis (MTFA, MTD, MDR, MTR).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Protocol

import numpy as np
from scipy import special

from detectors.columns import Columns, rows_of, take

CONFIDENCE = 0.95  # of the lower bound of the time between false alarms
BLOCK_ROWS = 1000  # rows that a monitor is handed at a time


class Monitor(Protocol):
    """Any detector, ours or another's, as something that watches a stream and says at which rows it alarms."""

    def update(self, columns: Columns) -> Sequence[int]:
        """Take the next rows of the stream.

        Returns
        -------
        Rows of the block, from 0 and in order, at which it alarmed. After each it has started afresh by itself. They do
        not depend on how the stream is cut into blocks.
        """
        ...


Factory = Callable[[Columns], Monitor]  # from the reference


@dataclass(frozen=True)
class KnownChange:
    """Rows of a stream that are known to differ from its reference.

    Raises
    ------
    ValueError
        If it has no rows.
    """

    onset: int  # first changed row
    end: int | None = None  # row behind the last one; None: the next onset, or the end of the stream

    def __post_init__(self) -> None:
        if self.onset < 0 or (self.end is not None and self.end <= self.onset):
            raise ValueError(
                f"a change begins at row 0 or later and ends behind its onset, not {self.onset}-{self.end}"
            )


@dataclass(frozen=True)
class Evaluation:
    """Alarms of one monitor on one stream, or on several, told apart."""

    rows: int  # of the stream
    alarms: int
    quiet_rows: int | None = (
        None  # outside of all changes; None, as what follows, where changes are not known
    )
    false_alarms: int | None = None
    repeats: int | None = None  # alarms within a change, after its detection
    delays: tuple[int | None, ...] = ()  # rows, one per change; None is a miss

    @property
    def detected(self) -> tuple[int, ...]:
        """Delays of the changes that were found, in rows."""
        return tuple(delay for delay in self.delays if delay is not None)

    @property
    def missed(self) -> int | None:
        """Changes that were not found."""
        return None if self.quiet_rows is None else len(self.delays) - len(self.detected)

    @property
    def missed_share(self) -> float | None:
        """Bifet's MDR: of all changes."""
        return 1 - len(self.detected) / len(self.delays) if self.delays else None

    @property
    def mean_delay_rows(self) -> float | None:
        """Bifet's MTD: over the changes that were found."""
        return fmean(self.detected) if self.detected else None

    @property
    def median_delay_rows(self) -> float | None:
        """Over the changes that were found."""
        return float(median(self.detected)) if self.detected else None

    @property
    def alarms_per_10000(self) -> float | None:
        """Alarms of every kind in 10,000 rows."""
        return 10_000 * self.alarms / self.rows if self.rows else None

    @property
    def rows_between_false_alarms(self) -> float | None:
        """Bifet's MTFA: mean."""
        if not self.false_alarms or self.quiet_rows is None:
            return None
        return self.quiet_rows / self.false_alarms

    @property
    def rows_between_false_alarms_low(self) -> float | None:
        """Lower confidence bound of the mean, at 95%, taking false alarms as a Poisson process.

        Without a false alarm in n quiet rows it is n / 3.0, the rule of three.
        """
        if not self.quiet_rows or self.false_alarms is None:
            return None
        return self.quiet_rows / float(special.gammaincinv(self.false_alarms + 1, CONFIDENCE))

    @property
    def mean_time_ratio(self) -> float | None:
        """Bifet's MTR; defined only with a detection and a false alarm."""
        between, delay, missed = self.rows_between_false_alarms, self.mean_delay_rows, self.missed_share
        if between is None or delay is None or missed is None:
            return None
        return between / delay * (1 - missed)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types: what was counted, and what follows from it."""
        return asdict(self) | {
            "delays": list(self.delays),
            "missed": self.missed,
            "missed_share": self.missed_share,
            "mean_delay_rows": self.mean_delay_rows,
            "median_delay_rows": self.median_delay_rows,
            "alarms_per_10000": self.alarms_per_10000,
            "rows_between_false_alarms": self.rows_between_false_alarms,
            "rows_between_false_alarms_low": self.rows_between_false_alarms_low,
            "mean_time_ratio": self.mean_time_ratio,
        }


def evaluate(
    factory: Factory,
    reference: Columns,
    stream: Columns | Iterable[Columns],
    changes: Sequence[KnownChange] | None,
) -> Evaluation:
    """Run a monitor over a stream with known changes.

    Parameters
    ----------
    factory
        Makes the monitor from the reference.
    stream
        All of it, or its blocks in order.
    changes
        In any order, not overlapping. Empty where there are none: every alarm is then false. None where they are not
        known: then alarms are counted and not judged.

    Notes
    -----
    The monitor keeps its reference. After a change that lasts it may therefore alarm again and again, which counts as
    repeats until the change's end; a second change on top of a first one is found at once by such a monitor.
    """
    monitor = factory(reference)
    rows, alarms = 0, list[int]()
    for block in blocks_of(stream) if isinstance(stream, Mapping) else stream:
        alarms += [rows + row for row in monitor.update(block)]
        rows += rows_of(block)
    return judge(alarms, rows, changes)


def blocks_of(columns: Columns, block_rows: int = BLOCK_ROWS) -> Iterator[Columns]:
    """Cut a stream that is in memory into blocks of so many rows; the last one may be shorter."""
    for start in range(0, rows_of(columns), block_rows):
        yield take(columns, slice(start, start + block_rows))


def judge(alarms: Sequence[int], rows: int, changes: Sequence[KnownChange] | None) -> Evaluation:
    """Tell alarms apart.

    Parameters
    ----------
    alarms
        Rows at which a monitor alarmed, in order.
    rows
        Of the stream.
    changes
        As in `evaluate`.

    Raises
    ------
    ValueError
        If changes overlap or lie outside of the stream.
    """
    if changes is None:
        return Evaluation(rows, len(alarms))
    spans = spans_of(changes, rows)
    at = np.asarray(alarms, dtype=np.int64)
    first = [np.searchsorted(at, span) for span in spans]
    within = sum(int(stop - start) for start, stop in first)
    delays = tuple(
        int(at[start]) - onset + 1 if start < stop else None
        for (onset, _), (start, stop) in zip(spans, first, strict=True)
    )
    return Evaluation(
        rows=rows,
        alarms=len(alarms),
        quiet_rows=rows - sum(end - onset for onset, end in spans),
        false_alarms=len(alarms) - within,
        repeats=within - sum(delay is not None for delay in delays),
        delays=delays,
    )


def spans_of(changes: Sequence[KnownChange], rows: int) -> list[tuple[int, int]]:
    """Return (onset, end) of every change in order, with the open ends filled in.

    Raises
    ------
    ValueError
        If changes overlap or lie outside of the stream's rows.
    """
    ordered = sorted(changes, key=lambda change: change.onset)
    onsets = [*(change.onset for change in ordered[1:]), rows][: len(ordered)]
    spans = [
        (change.onset, following if change.end is None else change.end)
        for change, following in zip(ordered, onsets, strict=True)
    ]
    for onset, end in spans:
        if onset >= rows or end > rows:
            raise ValueError(f"the change {onset}-{end} lies outside of the stream's {rows} rows")
    for (_, end), (onset, _) in pairwise(spans):
        if end > onset:
            raise ValueError(f"changes overlap at row {onset}")
    return spans


def combine(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Add up the evaluations of one detector on several streams, all with known changes or all without.

    Raises
    ------
    ValueError
        If there is none, or only some know their changes.
    """
    if len({evaluation.quiet_rows is None for evaluation in evaluations}) != 1:
        raise ValueError("evaluations combine only if there are some, and all or none know their changes")
    known = evaluations[0].quiet_rows is not None
    return Evaluation(
        rows=sum(evaluation.rows for evaluation in evaluations),
        alarms=sum(evaluation.alarms for evaluation in evaluations),
        quiet_rows=sum(evaluation.quiet_rows or 0 for evaluation in evaluations) if known else None,
        false_alarms=sum(evaluation.false_alarms or 0 for evaluation in evaluations) if known else None,
        repeats=sum(evaluation.repeats or 0 for evaluation in evaluations) if known else None,
        delays=tuple(delay for evaluation in evaluations for delay in evaluation.delays),
    )
