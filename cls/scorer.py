"""The scorer: reads the log from its own position, scores, appends to the prediction log. `cls serve` and backtests run it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Engine

from cls.arms import ASKED, UNLOADABLE, Served, stage_name
from cls.domain import Rollout, RolloutState
from cls.errors import Permanent, Refused
from cls.ports import Events, Predictions, SampleLog, SegmentStore
from cls.score import Stretch, make_plan, score_events
from cls.serving.models import ModelCache
from cls.shadow import Rivals, pair_sums
from storage.db import reading, transaction
from storage.log import next_position, record_segment, write_predictions
from storage.served import add_served
from storage.streams import advance, position
from storage.versions import list_promotions, note_fault, promotions_covering, rollouts_in, shadow_plan

BATCH_ROWS = 5_000
COMPARED = (RolloutState.SHADOW, RolloutState.CANARY)
Stage = tuple[int, RolloutState, int]  # rollout, its state and step


class Scorer:
    """Scores one stream. Several may run at once: a batch counts once.

    Parameters
    ----------
    stream
        The stream.
    engine
        The database.
    log, store
        Where events are read and predictions written.
    models
        Loads versions.
    batch_rows
        Rows per step, at most.
    """

    def __init__(
        self,
        stream: str,
        engine: Engine,
        log: SampleLog,
        store: SegmentStore,
        models: ModelCache,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._stream = stream
        self._engine = engine
        self._log = log
        self._store = store
        self._models = models
        self._batch_rows = batch_rows
        self._told: set[tuple[int, str]] = set()  # faults of shadows that are in the log

    def step(self) -> int:
        """Score the next rows; returns how many. Nothing happens before the stream's first promotion.

        Raises
        ------
        Corrupt, Refused
            If the champion cannot be loaded: its rows wait until it can.
        Unavailable
            If a store does not answer.
        """
        with reading(self._engine) as connection:
            token = position(connection, self._stream, "score")
            start = int(token or 0)
            stop = min(next_position(connection, self._stream, "events"), start + self._batch_rows)
            if stop <= start:
                return 0
            plan = self._plan(connection, start)
            compared = rollouts_in(connection, self._stream, *COMPARED)
        if not any(stretch.version for stretch in plan):
            return 0
        events = self._log.events(self._stream, start, stop)
        rivals = Rivals(self._stream, self._models, plan[-1].version, self._told)
        scores = score_events(events, plan, rivals)
        gains = self._gains(compared, events, scores, rivals)
        segment = write_predictions(self._store, self._stream, start, scores)
        try:
            with transaction(self._engine) as connection:
                advance(connection, self._stream, "score", token, str(stop))
                if _within(self._plan(connection, start), stop) != _within(plan, stop):
                    raise Refused(f"{self._stream}: who scores has changed meanwhile")
                record_segment(connection, segment)
                for rollout in rollouts_in(connection, self._stream, *COMPARED):
                    if rollout.state == RolloutState.SHADOW:
                        fault = rivals.unloadable.get(rollout.version)
                        note_fault(connection, rollout.id, None if fault is None else str(fault))
                    for stage, version, gain in gains.get((rollout.id, rollout.state, rollout.step), ()):
                        add_served(connection, self._stream, rollout.id, stage, version, gain)
        except Refused:  # another scorer, a promotion: nothing was written, the next step sees it
            return 0
        return stop - start

    def _plan(self, connection: Connection, start: int) -> list[Stretch]:
        promotions = promotions_covering(connection, self._stream, start) or list_promotions(
            connection, self._stream
        )
        return make_plan(
            [(row.since, row.version) for row in promotions], shadow_plan(connection, self._stream)
        )

    def _gains(
        self,
        compared: Sequence[Rollout],
        events: Events,
        scores: Predictions,
        rivals: Rivals,
    ) -> dict[Stage, list[tuple[str, int, Served]]]:
        """Return what is to be added to the sums of each stage, in the transaction that writes the scores: each row counts once."""
        gains: dict[Stage, list[tuple[str, int, Served]]] = {}
        start = int(events.position[0])
        for rollout in compared:
            if rollout.parent is None:
                continue
            fault = rivals.unloadable.get(rollout.version) if rollout.state == RolloutState.SHADOW else None
            if isinstance(fault, Refused):  # it waits for a package that is not installed here
                continue
            try:
                parent = self._models.get(self._stream, rollout.parent)
            except Permanent:  # its bins are not known; the scores do not wait for them
                continue
            stage = stage_name(rollout.state, rollout.step)
            sums = pair_sums(rollout, parent, start, scores, rivals.errors)
            found = [(stage, version, gain) for version, gain in sums.items() if gain.counts_anything]
            came = int((np.isfinite(events.prediction) & (events.position >= (rollout.since or 0))).sum())
            if came and rollout.state == RolloutState.SHADOW:
                found.append((ASKED, rollout.parent, Served(rows=came)))
            if fault is not None:
                found.append((UNLOADABLE, rollout.version, Served(errors=1)))
            gains[rollout.id, rollout.state, rollout.step] = found
        return gains


def _within(plan: Sequence[Stretch], stop: int) -> list[Stretch]:
    return [stretch for stretch in plan if stretch.start < stop]
