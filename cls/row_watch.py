"""Row watch: inputs watched row by row, so that an abrupt change is found before its window is full."""

from __future__ import annotations

from cls.config import DetectConfig
from cls.domain import RowWatch, Verdict
from cls.ports import Events
from cls.times import from_us
from detectors.profile import Profile
from detectors.sequential import SequentialDetector


def sequential_detector(settings: DetectConfig) -> SequentialDetector:
    """Return the configured detector; its share of the budget is as many rows as windows would have."""
    run_length = settings.false_alarm_windows * settings.watches * settings.window_rows
    return SequentialDetector(float(run_length), settings.tolerance)


def follow(
    watch: RowWatch | None, events: Events, reference: Profile, detector: SequentialDetector
) -> tuple[list[Verdict], RowWatch]:
    """Take the next events; returns the alarms among them.

    A reference that cannot keep the budget is not watched this way: windows say what it lacks.
    """
    if watch is None:
        watch = RowWatch(int(events.position[0]), detector.start(reference))
    if detector.unsupported(reference) is not None:
        return [], RowWatch(int(events.position[-1]) + 1, detector.start(reference))
    state, changes = detector.advance(reference, watch.state, events.columns)
    verdicts = []
    for change in changes:
        position, since = watch.position + change.row, watch.position + change.onset_row
        time = from_us(events.time_us[position - int(events.position[0])])
        summary = f"{change.feature} changed at event {since}: by chance as much is seen once in {change.evidence:,.0f} rows"
        verdicts.append(
            Verdict(
                "sequential", position, position + 1, time, time, alarm=True, p_value=None, nats=None,
                baseline_nats=None, onset=since, drift=None, summary=summary,
            )
        )  # fmt: skip
    return verdicts, RowWatch(watch.position, state)
