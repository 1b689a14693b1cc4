"""Verdicts and promotions as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from detectors.diagnosis import Diagnosis
from detectors.verdict import Drift

INPUTS, ROWS, SCORES = (
    "kl",
    "sequential",
    "score",
)  # detectors: of windows of inputs, of their rows, of the errors


@dataclass(frozen=True)
class Point:
    """One verdict."""

    start: int  # event positions
    stop: int
    time_from: datetime  # stream time of the window's first event
    time: datetime  # and of its last
    detector: str
    promotion: int | None  # whose reference it was compared with
    alarm: bool
    nats: float | None
    p_value: float | None
    onset: int  # event position
    summary: str
    drift: Drift | None
    diagnosis: Diagnosis | None

    @classmethod
    def of(cls, row: Any) -> Point:
        """Read a verdict's row."""
        return cls(
            row.start,
            row.stop,
            row.time_from,
            row.time_to,
            row.detector,
            row.promotion,
            bool(row.alarm),
            row.nats,
            row.p_value,
            row.onset,
            row.summary,
            None if row.drift is None else Drift.from_json(row.drift),
            None if row.diagnosis is None else Diagnosis.from_json(row.diagnosis),
        )

    @property
    def largest_nats(self) -> float | None:
        """Excess of the feature or pair that moved most: what a fixed threshold is held against."""
        if self.drift is None:
            return None
        excess = [feature.excess_nats for feature in self.drift.features]
        return max(excess + [pair.excess_nats for pair in self.drift.pairs], default=0.0)


@dataclass(frozen=True)
class Mark:
    """One promotion."""

    since: int  # event position
    label: str

    @classmethod
    def of(cls, row: Any) -> Mark:
        """Read a promotion's row."""
        return cls(row.since, f"v{row.version}")


def in_order(points: Sequence[Point]) -> list[Point]:
    """Return points by the events that they end with."""
    return sorted(points, key=lambda point: (point.stop, point.start))


def latest_alarm(points: Sequence[Point]) -> Point | None:
    """Return the newest alarm."""
    return next((point for point in reversed(in_order(points)) if point.alarm), None)
