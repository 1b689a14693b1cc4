"""Loss windows: what was expected of the champion's predictions meets the labels that land, and labels are watched for drift.

A window closes covered once enough of its labels are there, uncovered at their deadline, in order like the score panes. Label lag may
depend on the label: the label distribution is that of the first labels to land, as many in every window and in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from cls.act import Actor
from cls.columns.outputs import label_columns
from cls.config import StreamConfig
from cls.detect import HISTORY, kl_detector
from cls.domain import Champion
from cls.judge import judge_counts
from cls.times import from_us
from detectors.loss import LossEstimate
from detectors.reference import Reference
from storage import drift as drift_store
from storage import log as log_store
from storage import performance as performance_store
from storage import streams as stream_store
from storage.performance import COVERED, OPEN, UNCOVERED, LossWindow, OutputWindow


@dataclass(frozen=True, eq=False)
class Landed:
    """Labels in the order in which they landed."""

    position: NDArray[np.int64]  # of their events
    value: NDArray[np.float64]
    loss: NDArray[np.float64]  # NaN where the champion did not predict the row
    time_us: NDArray[np.int64]  # of their events


class LossWindows:
    """The loss windows of one stream, in the caller's transaction."""

    def __init__(
        self, name: str, settings: StreamConfig, actor: Actor, references: Callable[[str], Reference]
    ) -> None:
        self.name = name
        self.settings = settings
        self.actor = actor
        self.references = references

    def expect(
        self,
        connection: Connection,
        champion: Champion,
        filled: OutputWindow,
        estimate: LossEstimate | None,
    ) -> None:
        """Note that all events of a window are predicted, and what mean loss is expected."""
        found = performance_store.loss_windows_of(connection, self.name, champion.promotion, [filled.start])
        times = filled.time_from, filled.time_to
        window = found.get(filled.start) or self._fresh(champion, filled.start, filled.stop, times)
        window = replace(window.spanning(*times), stop=filled.stop, complete=True, estimate=estimate)
        performance_store.put_loss_window(connection, self.name, window)

    def land(self, connection: Connection, champion: Champion, landed: Landed) -> None:
        """Add labels to their windows; one that is closed is left as it was.

        The predictions of their events are counted into windows by now: labels are joined behind that.
        """
        mine = np.flatnonzero(landed.position >= champion.since)
        if not len(mine):
            return
        position = landed.position[mine]
        low, high = int(position.min()), int(position.max())
        starts = performance_store.loss_window_starts(connection, self.name, champion.promotion, low, high)
        filling = performance_store.read_output_window(connection, self.name)
        if filling is not None and filling.promotion == champion.promotion and filling.start <= high:
            starts = sorted({*starts, filling.start})
        starts_W = np.array(starts, np.int64)
        windows, which = np.unique(np.searchsorted(starts_W, position, side="right") - 1, return_inverse=True)
        starts = starts_W[windows].tolist()
        found = performance_store.loss_windows_of(connection, self.name, champion.promotion, starts)
        reference = self.references(champion.reference)
        for i, start in enumerate(starts):
            rows = mine[which == i]
            times = from_us(landed.time_us[rows].min()), from_us(landed.time_us[rows].max())
            window = found.get(start)
            if window is None:  # it is being filled: all others are there
                stop = start + 1 if filling is None else filling.stop
                window = self._fresh(champion, start, stop, times)
            if window.state == OPEN:
                grown = self._grown(window.spanning(*times), landed, rows, reference)
                performance_store.put_loss_window(connection, self.name, grown)

    def settle(self, connection: Connection, champion: Champion) -> None:
        """Close windows in order, as far as they can be: compare what was expected with what came, and judge labels.

        Those of an earlier promotion are given up.
        """
        performance_store.supersede_loss_windows(connection, self.name, champion.promotion)
        now = stream_store.watermark(connection, self.name)
        if now is None:
            return
        deadline = now - self.settings.detect.label_deadline
        # A batch may span more than the deadline: its labels are there, if not yet joined, and none of them is late.
        joined = int(stream_store.position(connection, self.name, "join") or 0)
        waiting = joined < log_store.next_position(connection, self.name, "labels")
        while True:
            window = performance_store.first_open_loss_window(connection, self.name, champion.promotion)
            if window is None:
                return
            covered = window.labels >= self.settings.detect.label_rows
            if not window.complete or (not covered and (waiting or window.time_to >= deadline)):
                return
            inside = None
            if covered and window.estimate is not None and window.labelled:
                realised = window.loss / window.labelled
                inside = window.estimate.low <= realised <= window.estimate.high
            closed = replace(window, inside=inside, state=COVERED if covered else UNCOVERED)
            performance_store.put_loss_window(connection, self.name, closed)
            if covered:
                self._judge_labels(connection, champion, window)

    def _fresh(
        self, champion: Champion, start: int, stop: int, times: tuple[datetime, datetime]
    ) -> LossWindow:
        labels = self.references(champion.reference).labels
        counts = np.zeros(0 if labels is None else labels.size, np.int64)
        return LossWindow(champion.promotion, start, stop, *times, counts)

    def _grown(
        self, window: LossWindow, landed: Landed, rows: NDArray[np.intp], reference: Reference
    ) -> LossWindow:
        counts = window.label_counts
        if reference.labels is not None:
            room = max(self.settings.detect.label_rows - window.labels, 0)
            counts = counts + reference.labels.count(label_columns(self.settings, landed.value[rows[:room]]))
        loss = landed.loss[rows]
        known = np.isfinite(loss)
        return replace(
            window,
            labels=window.labels + len(rows),
            label_counts=counts,
            labelled=window.labelled + int(known.sum()),
            loss=window.loss + float(loss[known].sum()),
        )

    def _judge_labels(self, connection: Connection, champion: Champion, window: LossWindow) -> None:
        reference = self.references(champion.reference).labels
        if reference is None or not self.settings.detect.watch_outputs:
            return
        history = drift_store.recent_nats(connection, self.name, champion.promotion, HISTORY, "label")
        span = window.start, window.stop, window.time_from, window.time_to
        detector = kl_detector(self.settings.detect, window.time_to - window.time_from)
        verdict = judge_counts("label", span, window.label_counts, reference, detector, history)
        self.actor.record(connection, champion, verdict)
