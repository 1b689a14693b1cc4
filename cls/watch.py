"""Watch: the champion's predictions fill windows, which are judged for drift and tell what loss to expect before labels land.

Windows follow each other from the promotion on. One closes once it spans `window_rows` events: where that was made smaller meanwhile, the
one that is being filled closes as it is. Only rows that the champion predicted count; a window with too few of them is not judged.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sqlalchemy import Connection, Engine

from cls.act import Actor
from cls.columns.outputs import comparable, counted_without, output_columns
from cls.config import StreamConfig
from cls.detect import HISTORY, kl_detector
from cls.domain import Champion
from cls.judge import judge_counts
from cls.loss_windows import LossWindows
from cls.ports import Events, Predictions, SampleLog
from cls.times import from_us
from detectors.reference import Reference
from storage import drift as drift_store
from storage import log as log_store
from storage import performance as performance_store
from storage import streams as stream_store
from storage import versions as version_store
from storage.db import reading, transaction
from storage.performance import OutputWindow


class Watcher:
    """The watching turn of one stream."""

    def __init__(
        self,
        name: str,
        settings: StreamConfig,
        engine: Engine,
        log: SampleLog,
        actor: Actor,
        windows: LossWindows,
    ) -> None:
        self.name = name
        self.settings = settings
        self.engine = engine
        self.log = log
        self.actor = actor
        self.windows = windows

    def watch(self) -> bool:
        """Count the next segment of predictions into windows and judge those that close."""
        with reading(self.engine) as connection:
            token = stream_store.position(connection, self.name, "watch")
            segment = log_store.segment_at(connection, self.name, "predictions", int(token or 0))
            champion = version_store.champion(connection, self.name)
            if segment is None or champion is None:
                return False
            window = performance_store.read_output_window(connection, self.name)
        if window is not None and window.promotion != champion.promotion:
            window = None
        reference = self.windows.references(champion.reference)
        closed: list[OutputWindow] = []
        start = max(segment.start, champion.since)
        if start < segment.stop:
            events = self.log.events(self.name, start, segment.stop)
            predictions = self.log.predictions(self.name, start, segment.stop)
            closed, window = self._fill(window, events, predictions, champion, reference)
        with transaction(self.engine) as connection:
            stream_store.advance(connection, self.name, "watch", token, str(segment.stop))
            performance_store.keep_output_window(connection, self.name, window)
            for done in closed:
                self._close(connection, champion, reference, done)
            if closed:
                self.windows.settle(connection, champion)
        return True

    def _fill(
        self,
        window: OutputWindow | None,
        events: Events,
        predictions: Predictions,
        champion: Champion,
        reference: Reference,
    ) -> tuple[list[OutputWindow], OutputWindow | None]:
        size = self.settings.detect.window_rows
        own = np.isfinite(predictions.prediction) & (predictions.version == champion.version)
        closed: list[OutputWindow] = []
        low = 0
        while low < len(events):
            if window is not None and window.stop - window.start >= size:
                closed.append(window)
                window = None
            start = int(events.position[low]) if window is None else window.start
            high = int(np.searchsorted(events.position, start + size))
            stop = int(events.position[high - 1]) + 1
            rows = low + np.flatnonzero(own[low:high])
            part, predicted = events.take(rows), predictions.take(rows)
            inputs = reference.inputs.count(part.columns)
            outputs = np.zeros(0, np.int64)
            if reference.outputs is not None:
                columns = output_columns(self.settings, predicted.prediction, predicted.uncertainty)
                outputs = reference.outputs.count(columns)
            times = from_us(events.time_us[low:high].min()), from_us(events.time_us[low:high].max())
            if window is None:
                window = OutputWindow(champion.promotion, start, stop, len(rows), *times, inputs, outputs)
            else:
                window = replace(
                    window,
                    stop=stop,
                    rows=window.rows + len(rows),
                    time_from=min(window.time_from, times[0]),
                    time_to=max(window.time_to, times[1]),
                    inputs=window.inputs + inputs,
                    outputs=window.outputs + outputs,
                )
            low = high
        if window is not None and window.stop - window.start >= size:
            closed.append(window)
            window = None
        return closed, window

    def _close(
        self, connection: Connection, champion: Champion, reference: Reference, window: OutputWindow
    ) -> None:
        settings = self.settings.detect
        estimate = None
        if window.rows >= settings.label_rows:
            outputs = reference.outputs
            told = outputs is not None and not counted_without(outputs, window.outputs)
            counts = window.outputs if told else None
            estimate = reference.estimate_loss(window.inputs, counts)
            if outputs is not None and settings.watch_outputs:
                history = drift_store.recent_nats(
                    connection, self.name, champion.promotion, HISTORY, "prediction"
                )
                span = window.start, window.stop, window.time_from, window.time_to
                detector = kl_detector(settings, window.time_to - window.time_from)
                seen, found = comparable(outputs, window.outputs)
                verdict = judge_counts("prediction", span, found, seen, detector, history, estimate)
                self.actor.record(connection, champion, verdict)
        self.windows.expect(connection, champion, window, estimate)
