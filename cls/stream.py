"""One stream's path through the daemon: ingest, join, act. Each turn is one transaction and may be repeated after a crash.

The daemon calls the turns in real time, a backtest in simulated time; there is no third place that runs a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from cls.act import Actor
from cls.config import StreamConfig
from cls.detect import data_fault, judge_scores, judge_window, kl_detector
from cls.domain import Batch, Champion, DeadLetter, Json, Labels, RolloutState, Verdict, Window
from cls.ingest import bury, take_events, take_labels
from cls.ports import ArtifactStore, Events, RawBatch, SampleLog, SegmentStore, Source
from cls.times import from_us, to_us
from cls.window import fill
from detectors.profile import Profile
from storage import drift as drift_store
from storage import labels as label_store
from storage import log as log_store
from storage import streams as stream_store
from storage import versions as version_store
from storage.db import reading, transaction

CLOCK_AHEAD = timedelta(days=1)  # events may be dated this far into the future, not farther
UNREADABLE = (ValueError, TypeError, OverflowError, ArithmeticError, pa.ArrowException)
Advance = tuple[str, str, str]  # consumer, the position that it is at, the next one
SERIES = 2000  # panes that the score detector looks at, at most


@dataclass(frozen=True)
class Ports:
    """What a stream's loop needs from outside."""

    engine: Engine
    log: SampleLog
    segments: SegmentStore
    artifacts: ArtifactStore
    sources: Mapping[str, Source]  # by the name under which their position is kept
    clock: Callable[[], datetime]  # wall clock; refuses events from the future


class StreamLoop:
    """The turns of one stream.

    Parameters
    ----------
    name
        The stream.
    settings
        Its configuration.
    ports
        Where its data lie.
    """

    def __init__(self, name: str, settings: StreamConfig, ports: Ports) -> None:
        self.name = name
        self.settings = settings
        self.ports = ports
        self.detector = kl_detector(settings.detect)
        self.actor = Actor(name, settings, ports.engine, ports.log, ports.artifacts)
        self.profile = lru_cache(maxsize=8)(self._load_profile)
        with transaction(ports.engine) as connection:
            stream_store.ensure_stream(connection, name)

    def turn(self) -> bool:
        """Take every turn once; returns whether any did something."""
        ingested = self.ingest()
        joined = self.join()
        return self.act(moved=ingested or joined) or ingested or joined

    def act(self, *, moved: bool) -> bool:
        """Handle ended jobs, rollouts, requests and decisions; see `Actor.act`."""
        return self.actor.act(moved=moved)

    # -- ingest -------------------------------------------------------------------------------------------------------

    def ingest(self) -> bool:
        """Take in the next batch of every source that has one."""
        took = [self._ingest(consumer, source) for consumer, source in self.ports.sources.items()]
        return any(took)

    def _ingest(self, consumer: str, source: Source) -> bool:
        with reading(self.ports.engine) as connection:
            token = stream_store.position(connection, self.name, consumer)
        raw = source.read(token)
        if raw is None:
            return False
        at = (consumer, token, raw.token)
        if raw.fault:
            self._take_fault(at, raw)
        elif raw.kind == "labels":
            self._take_labels(at, raw)
        else:
            self._take_events(at, raw)
        return True

    def _take_fault(self, at: Advance, raw: RawBatch) -> None:
        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, *at)
            record = {"origin": raw.origin, **(raw.details or {})}
            stream_store.add_dead_letters(connection, self.name, "source", [(raw.fault, record)])

    def _take_unreadable(self, at: Advance, raw: RawBatch, error: Exception) -> None:
        """A batch that nobody foresaw must not stop the stream: all of it becomes dead letters."""
        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, *at)
            self._bury(connection, bury(raw.table, raw.kind, f"{raw.origin} cannot be read: {error}"))

    def _take_labels(self, at: Advance, raw: RawBatch) -> None:
        with reading(self.ports.engine) as connection:
            now = stream_store.watermark(connection, self.name)
        try:
            now_us = None if now is None else to_us(now)
            labels, dead = take_labels(raw.table, self.settings, now_us, self._latest_us())
        except UNREADABLE as error:
            self._take_unreadable(at, raw, error)
            return
        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, *at)
            if len(labels.key):
                stream_store.raise_watermark(connection, self.name, from_us(labels.time_us.max()))
            self._land(connection, labels)
            self._bury(connection, dead)

    def _take_events(self, at: Advance, raw: RawBatch) -> None:
        def known(keys: list[str]) -> Container[str]:
            with reading(self.ports.engine) as connection:
                return label_store.find_keys(connection, self.name, keys)

        try:
            intake = take_events(raw.table, self.settings, self._latest_us(), known)
        except UNREADABLE as error:
            self._take_unreadable(at, raw, error)
            return
        batch = intake.batch
        rows = len(batch.key)
        with reading(self.ports.engine) as connection:
            start = log_store.next_position(connection, self.name, "events")
            champion = version_store.champion(connection, self.name)
        segment = log_store.write_events(self.ports.segments, self.name, start, batch) if rows else None
        watched = self._watch(champion, _positioned(batch, start)) if champion is not None and rows else None

        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, *at)
            if segment is not None:
                log_store.record_segment(connection, segment)
                label_store.add_keys(connection, self.name, batch.key, start)
                stream_store.raise_watermark(connection, self.name, from_us(batch.time_us.max()))
            self._land(connection, intake.labels)
            self._bury(connection, intake.dead)
            if watched is not None and champion is not None:
                verdicts, window = watched
                if window is None:
                    drift_store.drop_window(connection, self.name)
                else:
                    drift_store.keep_window(connection, self.name, champion.promotion, window)
                for verdict in verdicts:
                    self._record(connection, champion, verdict)

    def _latest_us(self) -> int:
        return to_us(self.ports.clock() + CLOCK_AHEAD)

    def _bury(self, connection: Connection, dead: list[DeadLetter]) -> None:
        for kind in ("events", "labels"):
            letters = [(letter.reason, letter.record) for letter in dead if letter.kind == kind]
            stream_store.add_dead_letters(connection, self.name, kind, letters)

    def _land(self, connection: Connection, labels: Labels) -> None:
        """Keep labels, then write those that have landed and know their event to the label log."""
        now = stream_store.watermark(connection, self.name)
        if now is None:
            now = self.ports.clock()
        deadline = self.settings.detect.label_deadline
        rows = []
        for key, value, time_us in zip(
            labels.key, labels.value.tolist(), labels.time_us.tolist(), strict=True
        ):
            time = from_us(time_us)
            rows.append((key, value, time, max(time, now) + deadline))
        label_store.keep_pending(connection, self.name, rows)

        landed, dead, seen = [], [], set()
        for row in label_store.take_landed(connection, self.name, now):
            if row.labelled or row.key in seen:
                dead.append(
                    DeadLetter("the event has a label already", _label_record(self.settings, row), "labels")
                )
            else:
                seen.add(row.key)
                landed.append(row)
        dead += [
            DeadLetter(
                f"no event with this key came within {deadline}", _label_record(self.settings, row), "labels"
            )
            for row in label_store.expire_pending(connection, self.name, now)
        ]
        self._bury(connection, dead)
        if landed:
            start = log_store.next_position(connection, self.name, "labels")
            segment = log_store.write_labels(
                self.ports.segments,
                self.name,
                start,
                np.array([row.position for row in landed], np.int64),
                np.array([row.value for row in landed], np.float64),
                np.array([to_us(row.time) for row in landed], np.int64),
            )
            log_store.record_segment(connection, segment)
            label_store.mark_labelled(connection, self.name, [row.key for row in landed])

    # -- detect -------------------------------------------------------------------------------------------------------

    def _watch(self, champion: Champion, events: Events) -> tuple[list[Verdict], Window | None]:
        """Count events into windows and judge those that close."""
        with reading(self.ports.engine) as connection:
            window = drift_store.read_window(connection, self.name)
            first = version_store.first_reference(connection, self.name)
            history = drift_store.recent_nats(connection, self.name, champion.promotion, 50)
        reference, baseline = self.profile(champion.reference), self.profile(first)
        if window is not None and window.promotion != champion.promotion:
            window = self._recount(window, reference, baseline)
        closed, window = fill(window, events, reference, baseline, self.settings.detect.window_rows)
        verdicts = []
        for done in closed:
            verdict = judge_window(done, reference, baseline, self.detector, history)
            history = [*history, (done.start, verdict.nats or 0.0)]
            verdicts.append(verdict)
        return verdicts, window

    def _recount(self, window: Window, reference: Profile, baseline: Profile) -> Window | None:
        """Count an open window anew on the reference of a new champion."""
        events = self.ports.log.events(self.name, window.start, window.stop)
        return fill(None, events, reference, baseline, self.settings.detect.window_rows + 1)[1]

    def _load_profile(self, sha256: str) -> Profile:
        return Profile.from_json(json.loads(self.ports.artifacts.get(sha256)))

    def _record(self, connection: Connection, champion: Champion, verdict: Verdict) -> None:
        """Keep a verdict; an alarm opens an episode unless one is live."""
        verdict_id = drift_store.add_verdict(connection, self.name, champion.promotion, verdict)
        episode = drift_store.live_episode(connection, self.name)
        now = stream_store.watermark(connection, self.name) or verdict.time_to
        if verdict.alarm and episode is None:
            fault = data_fault(verdict.drift) if verdict.drift else None
            self.actor.open_episode(connection, verdict_id, verdict, now, fault)
        elif not verdict.alarm and episode is not None and (episode.assessment or {}).get("fault"):
            self.actor.close_episode(connection, episode, now, "the data are whole again")

    # -- join ---------------------------------------------------------------------------------------------------------

    def join(self) -> bool:
        """Join the next segment of labels with the predictions made for its events, once all of them are scored."""
        with reading(self.ports.engine) as connection:
            token = stream_store.position(connection, self.name, "join")
            start = int(token or 0)
            scored = int(stream_store.position(connection, self.name, "score") or 0)
            segment = log_store.segment_at(connection, self.name, "labels", start)
            champion = version_store.champion(connection, self.name)
            if segment is None or champion is None or (segment.max_position or 0) >= scored:
                return False
            rollouts = version_store.rollouts_in(
                connection, self.name, RolloutState.SHADOW, RolloutState.WATCHING
            )
        position, value = self.ports.log.labels(self.name, segment.start, segment.stop)
        low = int(position.min())
        predictions = self.ports.log.predictions(self.name, low, int(position.max()) + 1).take(position - low)
        loss = self._losses(predictions.prediction, value)
        shadow_loss = self._losses(predictions.shadow, value)
        events = self.ports.log.events(self.name, low, int(position.max()) + 1)
        own = np.isfinite(loss) & (position >= champion.since) & (predictions.version == champion.version)
        gains = _gains(
            position[own] - champion.since, loss[own], events.time_us[position[own] - low], self._pane_rows
        )
        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, "join", token, str(segment.stop))
            label_store.add_to_panes(connection, self.name, champion.promotion, self._pane_rows, gains)
            for rollout in rollouts:
                served: int | None = rollout.parent
                other: int | None = rollout.version
                sign = 1.0
                if rollout.state == RolloutState.WATCHING:
                    served, other, sign = rollout.version, rollout.parent, -1.0
                both = np.isfinite(loss) & np.isfinite(shadow_loss)
                both &= (predictions.version == served) & (predictions.shadow_version == other)
                if both.any():
                    difference = sign * (shadow_loss[both] - loss[both])
                    base = loss[both] if sign > 0 else shadow_loss[both]
                    version_store.add_paired(
                        connection,
                        rollout.id,
                        int(both.sum()),
                        float(difference.sum()),
                        float(difference @ difference),
                        float(base.sum()),
                    )
            self._watch_scores(connection, champion)
        return True

    @property
    def _pane_rows(self) -> int:
        return self.settings.detect.score_pane_rows

    def _losses(self, prediction: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the loss of each row, NaN where nothing was predicted: absolute error, or 0/1."""
        if self.settings.task == "regression":
            return np.abs(prediction - value)
        return np.where(np.isfinite(prediction), (prediction != value).astype(np.float64), np.nan)

    def _watch_scores(self, connection: Connection, champion: Champion) -> None:
        now = stream_store.watermark(connection, self.name)
        if now is None:
            return
        detect = self.settings.detect
        closed = label_store.close_panes(
            connection,
            self.name,
            champion.promotion,
            coverage=detect.coverage,
            deadline=now - detect.label_deadline,
        )
        if not closed:
            return
        series = label_store.pane_series(connection, self.name, champion.promotion, SERIES)
        last = len(series) - len(closed)
        for stop in range(last + 1, len(series) + 1):
            verdict = judge_scores(series[:stop], champion, detect, now)
            if verdict is not None:
                self._record(connection, champion, verdict)


def _positioned(batch: Batch, start: int) -> Events:
    position = np.arange(start, start + len(batch.key), dtype=np.int64)
    return Events(batch.columns, position, batch.time_us, batch.role, batch.prediction, batch.version)


def _gains(
    offset: NDArray[np.int64], loss: NDArray[np.float64], time_us: NDArray[np.int64], size: int
) -> list[label_store.PaneGain]:
    """Sum losses by pane."""
    gains = []
    panes, which = np.unique(offset // size, return_inverse=True)
    for i, pane in enumerate(panes.tolist()):
        rows = which == i
        gains.append(
            label_store.PaneGain(pane, int(rows.sum()), float(loss[rows].sum()), from_us(time_us[rows].max()))
        )
    return gains


def _label_record(settings: StreamConfig, row: Any) -> Json:
    """Return a kept label as its sender would send it again."""
    value: float | str = row.value
    if settings.task == "classification":
        value = settings.columns.classes[int(row.value)]
    time = row.time.isoformat()
    return {settings.columns.key: row.key, settings.columns.target: value, "label_time": time}
