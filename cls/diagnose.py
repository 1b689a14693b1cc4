"""Diagnose: what a window that alarmed holds, from its rows. A fault of the data is an alarm of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cls.domain import Verdict, Window
from cls.ports import Events, SampleLog
from cls.season import Season, with_season
from detectors.columns import Columns, concat, take
from detectors.diagnosis import diagnose, worth_a_look
from detectors.reference import Reference


def diagnosed(verdict: Verdict, window: Window, reference: Reference, rows: Callable[[], Columns]) -> Verdict:
    """Return a verdict with its diagnosis, if it alarms or its rows show a fault.

    Parameters
    ----------
    rows
        Reads the window's rows; called only if they are looked at.
    """
    if verdict.drift is None or not worth_a_look(verdict.drift):
        return verdict
    losses = reference.estimate_loss(window.counts)
    found = diagnose(reference.inputs, verdict.drift, rows(), losses)
    if not verdict.alarm and not found.evident:
        return verdict
    moved = f" ({verdict.summary})" if verdict.alarm else ""
    return replace(verdict, alarm=True, summary=f"{found.summary}{moved}", losses=losses, diagnosis=found)


def window_rows(
    log: SampleLog, stream: str, window: Window, batch: Events, most: int, *seasons: Season
) -> Columns:
    """Return the rows of a closed window, the last of them if there are more than `most`.

    Those of the batch in hand are not in the log yet: they are committed together with the verdict. They have columns of their `seasons`
    already, which the log does not keep.
    """
    first = int(batch.position[0])
    start = max(window.start, window.stop - most)
    here = take(batch.columns, slice(max(start - first, 0), window.stop - first))
    if start >= first:
        return here
    before = log.events(stream, start, first)
    return concat([with_season(before.columns, before.time_us, *seasons), here])
