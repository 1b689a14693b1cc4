"""Window: events become counts, counts become closed windows. Nothing but counts is kept of a window.

A window is made of panes of `slide_rows` rows. Each pane that fills closes a window of the last `window_rows` rows; where windows do not
overlap, a window is one pane.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cls.config import DetectConfig
from cls.domain import Panes, Window
from cls.ports import Events
from cls.times import from_us
from detectors.profile import Profile


def fill(
    panes: Panes | None, events: Events, reference: Profile, baseline: Profile, settings: DetectConfig
) -> tuple[list[Window], Panes | None]:
    """Count events into windows.

    Parameters
    ----------
    panes
        What is being filled, or None.
    events
        In order of position, right behind it.
    reference, baseline
        The profiles whose bins are counted.
    settings
        `window_rows`, and `slide_rows` if windows overlap.

    Returns
    -------
    The windows that closed, in order, and what is still being filled.
    """
    size = settings.slide_rows or settings.window_rows
    closed: list[Window] = []
    start = 0
    while start < len(events):
        full = panes is None or _filled(panes) == size
        room = size if panes is None or full else size - _filled(panes)
        part = events.take(slice(start, start + room))
        pane = _pane(part, size, reference, baseline)
        panes = pane if panes is None else _appended(panes, pane) if full else _grown(panes, pane)
        start += room
        if _filled(panes) == size and len(panes.counts) == settings.panes:
            closed.append(_window(panes))
            panes = _without_oldest(panes)
    return closed, panes


def _filled(panes: Panes) -> int:
    """Return the rows of the newest pane."""
    return panes.stop - panes.start - (len(panes.counts) - 1) * panes.pane_rows


def _pane(events: Events, size: int, reference: Profile, baseline: Profile) -> Panes:
    return Panes(
        int(events.position[0]),
        int(events.position[-1]) + 1,
        size,
        reference.count(events.columns)[None],
        baseline.count(events.columns)[None],
        np.array([[events.time_us.min(), events.time_us.max()]], np.int64),
    )


def _appended(panes: Panes, pane: Panes) -> Panes:
    return replace(
        panes,
        stop=pane.stop,
        counts=np.concatenate((panes.counts, pane.counts)),
        baseline_counts=np.concatenate((panes.baseline_counts, pane.baseline_counts)),
        times_us=np.concatenate((panes.times_us, pane.times_us)),
    )


def _grown(panes: Panes, pane: Panes) -> Panes:
    times = panes.times_us[-1], pane.times_us[0]
    newest = np.array([[min(times[0][0], times[1][0]), max(times[0][1], times[1][1])]], np.int64)
    return replace(
        panes,
        stop=pane.stop,
        counts=_last_raised(panes.counts, pane.counts),
        baseline_counts=_last_raised(panes.baseline_counts, pane.baseline_counts),
        times_us=np.concatenate((panes.times_us[:-1], newest)),
    )


def _last_raised(counts_PK: NDArray[np.int64], by_K: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((counts_PK[:-1], counts_PK[-1:] + by_K))


def _window(panes: Panes) -> Window:
    return Window(
        panes.start,
        panes.stop,
        from_us(panes.times_us[:, 0].min()),
        from_us(panes.times_us[:, 1].max()),
        panes.counts.sum(axis=0),
        panes.baseline_counts.sum(axis=0),
    )


def _without_oldest(panes: Panes) -> Panes | None:
    if len(panes.counts) == 1:
        return None
    return replace(
        panes,
        start=panes.start + panes.pane_rows,
        counts=panes.counts[1:],
        baseline_counts=panes.baseline_counts[1:],
        times_us=panes.times_us[1:],
    )
