"""One stream's path through the daemon: ingest, join, act. Each turn is one transaction and may be repeated after a crash.

The daemon calls the turns in real time, a backtest in simulated time; there is no third place that runs a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, Engine

from cls.act import Actor
from cls.config import StreamConfig
from cls.credits import credits_of
from cls.detect import HISTORY, judge_window
from cls.diagnose import diagnosed, window_rows
from cls.domain import (
    Batch,
    Champion,
    DeadLetter,
    Json,
    Labels,
    Panes,
    RolloutState,
    RowWatch,
    Verdict,
    Window,
)
from cls.errors import Permanent
from cls.ingest import bury, take_events, take_labels
from cls.join import Joiner
from cls.logging import get_logger
from cls.loss_windows import LossWindows
from cls.ports import ArtifactStore, Events, RawBatch, SampleLog, SegmentStore, Source
from cls.row_watch import follow, sequential_detector
from cls.season import Season, reservation, season_of, with_season
from cls.times import from_us, to_us
from cls.watch import Watcher
from cls.window import fill
from detectors.columns import Columns
from detectors.profile import Profile
from detectors.reference import Reference
from storage import drift as drift_store
from storage import labels as label_store
from storage import log as log_store
from storage import streams as stream_store
from storage import versions as version_store
from storage.allocations import credit
from storage.db import reading, transaction

CLOCK_AHEAD = timedelta(days=1)  # events may be dated this far into the future, not farther
_log = get_logger(__name__)
UNREADABLE = (ValueError, TypeError, OverflowError, ArithmeticError, pa.ArrowException)
FOREIGN = (ValueError, KeyError, TypeError)  # what a reference of another release raises
Advance = tuple[str, str, str]  # consumer, the position that it is at, the next one


@dataclass(frozen=True)
class Ports:
    """What a stream's loop needs from outside."""

    engine: Engine
    log: SampleLog
    segments: SegmentStore
    artifacts: ArtifactStore
    sources: Mapping[str, Source]  # by the name under which their position is kept
    clock: Callable[[], datetime]  # wall clock; refuses events from the future


@dataclass(frozen=True, eq=False)
class Watched:
    """What watching a batch came to, not yet committed."""

    verdicts: list[Verdict]
    panes: Panes | None
    row_watch: RowWatch | None


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
        self.sequential = sequential_detector(settings.detect) if settings.detect.sequential else None
        self.actor = Actor(name, settings, ports.engine, ports.log, ports.artifacts)
        self.profile = lru_cache(maxsize=8)(self._load_profile)
        self.baseline = lru_cache(maxsize=1)(self._load_baseline)
        windows = LossWindows(name, settings, self.actor, self.profile)
        self.joiner = Joiner(name, settings, ports.engine, ports.log, self.actor, windows)
        self.watcher = Watcher(name, settings, ports.engine, ports.log, self.actor, windows)
        self._owed = True  # what was taken in may not have been acted on: a crash or an error came between
        with transaction(ports.engine) as connection:
            stream_store.ensure_stream(connection, name)

    def turn(self) -> bool:
        """Take every turn once; returns whether any did something.

        What was taken in is acted on before the next is taken in, so that a crash between the two changes no decision.
        """
        caught_up = self._owed and self.act(moved=True)
        self._owed = True
        ingested = self.ingest()
        watched = self.watcher.watch()
        joined = self.joiner.join()
        acted = self.act(moved=ingested or watched or joined)
        self._owed = False
        return caught_up or acted or ingested or watched or joined

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
            if len(labels.key) and labels.time_us.max() > 0:
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
            canaries = []
            if np.isfinite(batch.prediction).any():
                canaries = version_store.rollouts_in(connection, self.name, RolloutState.CANARY)
        segment = log_store.write_events(self.ports.segments, self.name, start, batch) if rows else None
        watched = self._watch(champion, _positioned(batch, start)) if champion is not None and rows else None
        gains = [credits_of(canary, intake.group, batch.prediction, batch.version) for canary in canaries]

        with transaction(self.ports.engine) as connection:
            stream_store.advance(connection, self.name, *at)
            for gain in gains:
                credit(connection, gain)
            if segment is not None:
                log_store.record_segment(connection, segment)
                label_store.add_keys(connection, self.name, batch.key, start)
                stream_store.raise_watermark(connection, self.name, from_us(batch.time_us.max()))
            self._land(connection, intake.labels)
            self._bury(connection, intake.dead)
            if watched is not None and champion is not None:
                drift_store.keep_panes(connection, self.name, champion.promotion, watched.panes)
                drift_store.keep_row_watch(connection, self.name, champion.promotion, watched.row_watch)
                for verdict in watched.verdicts:
                    self.actor.record(connection, champion, verdict)

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

    def _watch(self, champion: Champion, events: Events) -> Watched:
        """Count events into windows and judge those that close; follow them row by row, if that is asked for."""
        with reading(self.ports.engine) as connection:
            panes = drift_store.read_panes(connection, self.name)
            row_watch = drift_store.read_row_watch(connection, self.name)
            first = version_store.first_reference(connection, self.name)
            history = drift_store.recent_nats(connection, self.name, champion.promotion, HISTORY)
        settings = self.settings.detect
        regime, known = self.profile(champion.reference), self.baseline(first)
        reference = regime.inputs
        baseline = known or reference
        seasons = season_of(reference), season_of(baseline)
        events = replace(events, columns=with_season(events.columns, events.time_us, *seasons))
        verdicts: list[Verdict] = []
        if self.sequential is None or (row_watch is not None and row_watch.promotion != champion.promotion):
            row_watch = None
        if self.sequential is not None:
            verdicts, row_watch = follow(row_watch, events, reference, self.sequential)
        if panes is not None and not self._fits(panes, champion, reference, baseline):
            panes = self._recount(panes, reference, baseline)
        closed, panes = fill(panes, events, reference, baseline, settings)
        doubt = reservation(settings, reference)
        for done in closed:
            verdict = judge_window(done, reference, baseline, settings, history)
            history = [*history, (done.start, verdict.nats or 0.0)]
            if known is None:
                verdict = replace(verdict, baseline_nats=None)
            verdict = diagnosed(verdict, done, regime, partial(self._rows, done, events, seasons))
            verdicts.append(replace(verdict, summary=f"{verdict.summary}; {doubt}") if doubt else verdict)
        return Watched(verdicts, panes, row_watch)

    def _rows(self, window: Window, batch: Events, seasons: tuple[Season, ...]) -> Columns:
        most = self.settings.detect.window_rows
        return window_rows(self.ports.log, self.name, window, batch, most, *seasons)

    def _fits(self, panes: Panes, champion: Champion, reference: Profile, baseline: Profile) -> bool:
        """Whether panes were counted on the champion's reference, and are as long and as many as now configured."""
        settings = self.settings.detect
        size = settings.slide_rows or settings.window_rows
        return (
            panes.promotion == champion.promotion
            and panes.pane_rows == size
            and panes.stop - panes.start < settings.window_rows
            and panes.counts.shape[1] == reference.size
            and panes.baseline_counts.shape[1] == baseline.size
        )

    def _recount(self, panes: Panes, reference: Profile, baseline: Profile) -> Panes | None:
        """Count what is being filled anew, on the reference of a new champion or with other sizes.

        What is longer than a window by now is cut: those rows were watched, if in larger windows.
        """
        settings = self.settings.detect
        start = max(panes.start, panes.stop - settings.window_rows + 1)
        events = self.ports.log.events(self.name, start, panes.stop)
        seasons = season_of(reference), season_of(baseline)
        events = replace(events, columns=with_season(events.columns, events.time_us, *seasons))
        return fill(None, events, reference, baseline, settings)[1]

    def _load_profile(self, sha256: str) -> Reference:
        """Return a reference; raises `Permanent` if this release cannot read it, so that the stream waits for another one."""
        try:
            return self._read_reference(sha256)
        except FOREIGN as error:
            with reading(self.ports.engine) as connection:
                promotions = version_store.list_promotions(connection, self.name)
            version = next((row.version for row in promotions[::-1] if row.reference == sha256), "?")
            raise Permanent(
                f"version {version}'s reference was written by another release: promote another version or retrain it ({error})"
            ) from error

    def _load_baseline(self, sha256: str) -> Profile | None:
        """Return the stream's first reference, which is for the record only; None if this release cannot read it."""
        try:
            return self._read_reference(sha256).inputs
        except FOREIGN as error:
            _log.warning("first reference not read", stream=self.name, reason=str(error))
            return None

    def _read_reference(self, sha256: str) -> Reference:
        reference = Reference.from_json(json.loads(self.ports.artifacts.get(sha256)))
        season_of(reference.inputs)
        return reference


def _positioned(batch: Batch, start: int) -> Events:
    position = np.arange(start, start + len(batch.key), dtype=np.int64)
    return Events(
        batch.columns, position, batch.time_us, batch.role, batch.prediction, batch.version, batch.uncertainty
    )


def _label_record(settings: StreamConfig, row: Any) -> Json:
    """Return a kept label as its sender would send it again."""
    value: float | str = row.value
    if settings.task == "classification":
        value = settings.columns.classes[int(row.value)]
    time = row.time.isoformat()
    return {settings.columns.key: row.key, settings.columns.target: value, "label_time": time}
