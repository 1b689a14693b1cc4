"""Evaluation of detectors on a file: `cls drift evaluate`. What it means is in `detectors.evaluation`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from cls.columns.file_columns import FileFeatures, read_features
from cls.config import DetectConfig, StreamConfig
from cls.detect import kl_detector
from cls.errors import BadData, NotFound
from cls.settings.faults import nearest
from detectors.columns import Columns, rows_of, take
from detectors.evaluation import Evaluation, KnownChange, Monitor, blocks_of, judge, spans_of
from detectors.monitors import WINDOW_ROWS, MonitorMaker
from detectors.sequential import SequentialDetector

GROUP = "cls.monitors"
USUAL = ("kl", "sequential", "adwin", "page-hinkley", "always", "never")  # those of them that are registered
REFERENCE_SHARE = 5  # without a word, a fifth of the rows
REFERENCE_ROWS = 100  # at least: fewer tell nothing of what is usual
SHOWN_ALARMS = 1000  # rows of alarms that a result lists, the first ones


WINDOWED = ("kl", "kl-sliding")  # ours that judge windows


class BadChanges(BadData):
    """Known changes that the file cannot have, or that say nothing."""


@dataclass(frozen=True)
class Recorded:
    """A file as a stream: its first rows are the reference, the others are watched."""

    path: Path
    columns: Columns
    reference_rows: int
    window_rows: int
    changes: tuple[KnownChange, ...] | None  # in rows of the file; None where they are not known
    left_out: dict[str, str]  # why, by the name of a column of the file that is not watched

    @property
    def rows(self) -> int:
        """Of the file."""
        return rows_of(self.columns)

    def judge(self, alarms: Sequence[int]) -> Evaluation:
        """Tell alarms, by their rows in the file, apart."""
        first = self.reference_rows
        changes = self.changes and [
            KnownChange(onset - first, end - first) for onset, end in spans_of(self.changes, self.rows)
        ]
        return judge([row - first for row in alarms], self.rows - first, changes)


@dataclass(frozen=True)
class Result:
    """What one detector did."""

    detector: str
    alarms: tuple[int, ...]  # by row of the file
    seen: int  # rows of the file, the reference's included, when it ended
    cpu_seconds: float
    evaluation: Evaluation | None  # None if it did not reach the end
    error: str | None = None  # what went wrong in it
    blind: str | None = None  # why it could not look, so that no alarm says nothing

    @property
    def _alarms(self) -> int | None:
        return None if self.blind else len(self.alarms)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, one flat object."""
        return {
            "detector": self.detector,
            "complete": self.evaluation is not None,
            "error": self.error,
            "could_not_look": self.blind,
            "seen": self.seen,
            "cpu_seconds": self.cpu_seconds,
            "alarm_rows": list(self.alarms[:SHOWN_ALARMS]),
            **({"alarms": self._alarms} if self.evaluation is None else self.evaluation.to_json()),
        }


def read_recorded(
    path: Path,
    stream: StreamConfig | None,
    changes: str | None,
    reference_rows: int | None,
    window_rows: int | None,
    tell: Callable[[str], None],
) -> Recorded:
    """Read a file whole, in its own order.

    Parameters
    ----------
    stream
        Whose features to read; None infers them: then the target is not watched, as in a stream its values come late.
    changes
        As in `parse_changes`.
    reference_rows, window_rows
        None takes what the stream says; without a stream, a fifth of the rows, and 1,000.
    tell
        Is told, in words, what was not read as it stands.

    Raises
    ------
    NotFound
        If there is no such file.
    BadData
        If it cannot be read, has none of the features, or the rows asked for are not there.
    BadChanges
        If changes are none, overlap, or lie outside of the rows behind the reference.
    """
    known = parse_changes(changes)
    read: FileFeatures = read_features(
        path, None if stream is None else stream.columns, tell, with_target=False
    )
    rows = rows_of(read.columns)
    if reference_rows is None:
        share = rows // REFERENCE_SHARE
        reference_rows = share if stream is None else min(share, stream.detect.reference_rows)
    if window_rows is None:
        window_rows = stream.detect.window_rows if stream else 1000
    if reference_rows >= rows:
        raise BadData(f"{path}: {rows} rows are not more than {reference_rows} for the reference")
    if reference_rows < REFERENCE_ROWS:
        raise BadData(
            f"{path}: a reference of {reference_rows} of {rows} rows is too short: at least {REFERENCE_ROWS}, see --reference-rows"
        )
    for onset, end in _spans(known or (), rows):
        if onset < reference_rows:
            raise BadChanges(
                f"the change {onset}-{end} lies in the reference, the first {reference_rows} rows"
            )
    return Recorded(path, read.columns, reference_rows, window_rows, known, read.left_out)


def parse_changes(text: str | None) -> tuple[KnownChange, ...] | None:
    """Read `25192,30000-35000`: rows of onset, perhaps with the row behind the change's last one.

    `none` says that nothing changes, no text that it is not known.

    Raises
    ------
    BadChanges
        If it says neither, or a row twice.
    """
    if text is None:
        return None
    if text.strip().lower() == "none":
        return ()
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise BadChanges(
                f"changes {text!r}: must be rows like 25192 or 25192-30000, joined by commas, or none"
            )
        try:
            found.append(KnownChange(int(match[1]), int(match[2]) if match[2] else None))
        except ValueError as error:
            raise BadChanges(f"changes {text!r}: {error}") from error
    onsets = [change.onset for change in found]
    if twice := [onset for onset in onsets if onsets.count(onset) > 1]:
        raise BadChanges(f"changes {text!r}: two begin at row {twice[0]}")
    return tuple(found)


def makers(names: Sequence[str], stream: StreamConfig | None) -> dict[str, MonitorMaker]:
    """Return detectors by name; without names, the usual ones.

    Ours are set as the stream says, or as one would by default: all to the whole budget, which detectors that watch together share,
    and to the same tolerance, so that they can be compared.

    Raises
    ------
    NotFound
        If none of that name is registered; with the nearest that is.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    found: dict[str, MonitorMaker] = {}
    for name in names or [name for name in USUAL if name in points]:
        if name not in points:
            raise NotFound(f"no detector is called {name!r}{nearest(name, list(points))}")
        found[name] = _set_up(name, points[name].load(), DetectConfig() if stream is None else stream.detect)
    return found


def _set_up(name: str, maker: Callable[..., Monitor], settings: DetectConfig) -> MonitorMaker:
    if name in WINDOWED:
        windows = float(settings.false_alarm_windows)
        return partial(maker, detector=replace(kl_detector(settings), false_alarm_windows=windows))
    if name != "sequential":
        return maker

    def sequential(reference: Columns, /, *, window_rows: int = WINDOW_ROWS) -> Monitor:
        run_length = float(settings.false_alarm_windows * window_rows)
        return maker(reference, detector=SequentialDetector(run_length, settings.tolerance))

    return sequential


def run(
    name: str, maker: MonitorMaker, recorded: Recorded, progress: Callable[[int], None]
) -> tuple[Result, bool]:
    """Run one detector over a stream.

    Parameters
    ----------
    progress
        Is told the rows of the file seen so far.

    Returns
    -------
    What it did, and whether Ctrl-C ended it.
    """
    first = recorded.reference_rows
    if name in WINDOWED and recorded.rows - first < recorded.window_rows:
        behind = f"{recorded.rows - first} rows, windows of {recorded.window_rows}"
        return Result(
            name, (), first, 0.0, None, blind=f"no whole window behind the reference: {behind}"
        ), False
    alarms: list[int] = []
    seen, began = first, time.process_time()

    def result(evaluation: Evaluation | None, error: str | None = None) -> Result:
        return Result(name, tuple(alarms), seen, time.process_time() - began, evaluation, error)

    try:
        monitor: Monitor = maker(take(recorded.columns, slice(first)), window_rows=recorded.window_rows)
        for block in blocks_of(take(recorded.columns, slice(first, None))):
            alarms += [seen + row for row in monitor.update(block)]
            seen += rows_of(block)
            progress(seen)
    except KeyboardInterrupt:
        return result(None), True
    except Exception as error:  # noqa: BLE001  # a detector of another package may fail in any way; the others still count
        return result(None, f"{type(error).__name__}: {error}"), False
    return result(recorded.judge(alarms)), False


def _spans(changes: Iterable[KnownChange], rows: int) -> list[tuple[int, int]]:
    try:
        return spans_of(list(changes), rows)
    except ValueError as error:
        raise BadChanges(str(error)) from error
