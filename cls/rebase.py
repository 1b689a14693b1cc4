"""Reference profiles as stored bytes: of a label range's regime or of the newest events."""

from __future__ import annotations

from cls.config import DetectConfig
from cls.detect import kl_detector
from cls.layout import to_json
from cls.ports import SampleLog


def recent_profile(log: SampleLog, stream: str, start: int, stop: int, settings: DetectConfig) -> bytes:
    """Return the profile of the events from `start` to `stop`, of their newest `reference_rows` if they are more.

    At least one window's worth is taken, from before `start` if need be: a reference smaller than what is compared with it says little.
    """
    newest = max(stop - settings.reference_rows, 0)
    start = max(min(start, stop - 2 * settings.window_rows), newest, 0)
    columns = log.events(stream, start, stop).columns
    return to_json(kl_detector(settings).profile(columns).to_json())
