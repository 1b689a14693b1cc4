"""Window: events become counts, counts become closed windows. Nothing but counts is kept of a window."""

from __future__ import annotations

from dataclasses import replace

from cls.domain import Window
from cls.ports import Events
from cls.times import from_us
from detectors.profile import Profile


def fill(
    window: Window | None, events: Events, reference: Profile, baseline: Profile, window_rows: int
) -> tuple[list[Window], Window | None]:
    """Count events into windows of `window_rows` rows.

    Parameters
    ----------
    window
        The window being filled, or None.
    events
        In order of position, right behind the window.
    reference, baseline
        The profiles whose bins are counted.

    Returns
    -------
    The windows that closed, in order, and the one still open.
    """
    closed: list[Window] = []
    if window is not None and window.stop - window.start >= window_rows:  # windows were larger before
        closed, window = [window], None
    start = 0
    while start < len(events):
        room = window_rows - (window.stop - window.start if window else 0)
        part = events.take(slice(start, start + room))
        window = _grown(window, part, reference, baseline)
        start += room
        if window.stop - window.start == window_rows:
            closed.append(window)
            window = None
    return closed, window


def _grown(window: Window | None, events: Events, reference: Profile, baseline: Profile) -> Window:
    counts, baseline_counts = reference.count(events.columns), baseline.count(events.columns)
    time_from, time_to = from_us(events.time_us.min()), from_us(events.time_us.max())
    stop = int(events.position[-1]) + 1
    if window is None:
        return Window(int(events.position[0]), stop, time_from, time_to, counts, baseline_counts)
    return replace(
        window,
        stop=stop,
        time_from=min(window.time_from, time_from),
        time_to=max(window.time_to, time_to),
        counts=window.counts + counts,
        baseline_counts=window.baseline_counts + baseline_counts,
    )
