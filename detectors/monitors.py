"""Detectors as monitors: something that watches a stream and says at which rows it alarms.

Registered by name in the entry-point group `cls.monitors`: called with the reference, and with the rows of a window by
keyword, which detectors that read row by row do not use. `cls drift evaluate` finds there what other packages add.
"""

from collections.abc import Sequence
from typing import Protocol

from detectors.columns import Columns, rows_of, take
from detectors.detector import Detector, KLDetector
from detectors.evaluation import Monitor
from detectors.profile import build_profile
from detectors.sequential import SequentialDetector, SequentialRunner, assign
from detectors.sliding import SlidingDetector

WINDOW_ROWS = 1000
BUDGET_WINDOWS = (
    1000  # rows of so many windows, on average, between false alarms of detectors that read row by row
)


class MonitorMaker(Protocol):
    """What the entry-point group `cls.monitors` holds."""

    def __call__(self, reference: Columns, /, *, window_rows: int = ...) -> Monitor:
        """Make a monitor that watches for departures from the reference."""
        ...


class Always:
    """Alarm at every row: no detector has a shorter delay, or more alarms."""

    def __init__(self, reference: Columns, *, window_rows: int = WINDOW_ROWS) -> None:
        del reference, window_rows

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`."""
        return range(rows_of(columns))


class Never:
    """Alarm at no row: no detector has fewer alarms, or misses more."""

    def __init__(self, reference: Columns, *, window_rows: int = WINDOW_ROWS) -> None:
        del reference, window_rows

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`."""
        del columns
        return ()


class Tumbling:
    """A detector on windows that follow each other, each judged when it is full."""

    def __init__(
        self, reference: Columns, *, window_rows: int = WINDOW_ROWS, detector: Detector | None = None
    ) -> None:
        self._detector = KLDetector() if detector is None else detector
        self._profile = self._detector.profile(reference)
        self._window_rows = window_rows
        self._counts = self._profile.count({})
        self._filled = 0

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`."""
        rows, start = rows_of(columns), 0
        alarms: list[int] = []
        while start < rows:
            stop = min(start + self._window_rows - self._filled, rows)
            self._counts = self._counts + self._profile.count(take(columns, slice(start, stop)))
            self._filled += stop - start
            if self._filled == self._window_rows:
                if self._detector.compare(self._profile, self._counts).alarm:
                    alarms.append(stop - 1)
                self._counts, self._filled = self._profile.count({}), 0
            start = stop
        return alarms


class Sequential:
    """The e-detector, which may alarm after every row; its false-alarm budget is that of as many rows in windows."""

    def __init__(
        self,
        reference: Columns,
        *,
        window_rows: int = WINDOW_ROWS,
        detector: SequentialDetector | None = None,
    ) -> None:
        self._profile = build_profile(reference)
        self._runner = SequentialRunner(
            detector or SequentialDetector(run_length=BUDGET_WINDOWS * window_rows), self._profile
        )
        self._rows = 0

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`."""
        changes = self._runner.update(assign(self._profile, columns))
        alarms = [change.row - self._rows for change in changes]
        self._rows += rows_of(columns)
        return alarms


class Sliding:
    """A detector on the last rows, judged after every row; its false-alarm budget is that of windows that follow each other."""

    def __init__(
        self, reference: Columns, *, window_rows: int = WINDOW_ROWS, detector: KLDetector | None = None
    ) -> None:
        sliding = SlidingDetector(detector or KLDetector(), window_rows)
        self._runner = sliding.start(sliding.detector.profile(reference))
        self._rows = 0

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`."""
        alarms = [alarm.row - self._rows for alarm in self._runner.update(columns)]
        self._rows += rows_of(columns)
        return alarms
