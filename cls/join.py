"""Join: labels meet the predictions made for their events; losses fill score panes and compare versions."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from cls.act import Actor
from cls.columns.outputs import row_losses
from cls.config import StreamConfig
from cls.detect import judge_scores
from cls.domain import Champion, Rollout, RolloutState
from cls.loss_windows import Landed, LossWindows
from cls.ports import Predictions, SampleLog
from cls.times import from_us
from storage import labels as label_store
from storage import log as log_store
from storage import streams as stream_store
from storage import versions as version_store
from storage.db import reading, transaction

SERIES = 2000  # panes that the score detector looks at, at most
SERIES_OF_TESTS = 400  # the same for KSWIN, which remembers 100 values and tests each: half a millisecond
NEVER = datetime.min.replace(tzinfo=UTC)


class Joiner:
    """The joining turn of one stream."""

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

    def join(self) -> bool:
        """Join the next segment of labels with the predictions made for its events, once all are scored and counted into windows."""
        with reading(self.engine) as connection:
            token = stream_store.position(connection, self.name, "join")
            start = int(token or 0)
            watched = int(
                stream_store.position(connection, self.name, "watch") or 0
            )  # never ahead of scoring
            segment = log_store.segment_at(connection, self.name, "labels", start)
            champion = version_store.champion(connection, self.name)
            if segment is None or champion is None or (segment.max_position or 0) >= watched:
                return False
            rollouts = version_store.rollouts_in(
                connection, self.name, RolloutState.SHADOW, RolloutState.CANARY, RolloutState.WATCHING
            )
        position, value = self.log.labels(self.name, segment.start, segment.stop)
        low = int(position.min())
        predictions = self.log.predictions(self.name, low, int(position.max()) + 1).take(position - low)
        events = self.log.events(self.name, low, int(position.max()) + 1)
        loss = row_losses(self.settings, predictions.of(champion.version), value)
        own = np.isfinite(loss) & (position >= champion.since)
        gains = _gains(
            position[own] - champion.since, loss[own], events.time_us[position[own] - low], self._pane_rows
        )
        with transaction(self.engine) as connection:
            stream_store.advance(connection, self.name, "join", token, str(segment.stop))
            label_store.add_to_panes(connection, self.name, champion.promotion, self._pane_rows, gains)
            self.windows.land(
                connection,
                champion,
                Landed(position, value, np.where(own, loss, np.nan), events.time_us[position - low]),
            )
            for rollout in rollouts:
                self._pair(connection, rollout, position, predictions, value)
            self._watch_scores(connection, champion, segment.stop)
            self.windows.settle(connection, champion)
        return True

    def _pair(
        self,
        connection: Connection,
        rollout: Rollout,
        position: NDArray[np.int64],
        predictions: Predictions,
        value: NDArray[np.float64],
    ) -> None:
        """Add the losses of both versions of a rollout on the rows that both predicted, whoever of them answered."""
        if rollout.parent is None or rollout.since is None:
            return
        mine = row_losses(self.settings, predictions.of(rollout.version), value)
        theirs = row_losses(self.settings, predictions.of(rollout.parent), value)
        both = np.isfinite(mine) & np.isfinite(theirs) & (position >= rollout.since)
        if both.any():
            difference = (mine - theirs)[both][np.argsort(position[both])]  # in the order of time
            version_store.add_paired(connection, rollout.id, difference, float(theirs[both].sum()))

    @property
    def _pane_rows(self) -> int:
        return self.settings.detect.score_pane_rows

    def _watch_scores(self, connection: Connection, champion: Champion, joined: int) -> None:
        now = stream_store.watermark(connection, self.name)
        if now is None:
            return
        detect = self.settings.detect
        # A batch may span more than the deadline: while landed labels wait to be joined, none counts as late.
        waiting = joined < log_store.next_position(connection, self.name, "labels")
        closed = label_store.close_panes(
            connection,
            self.name,
            champion.promotion,
            coverage=detect.coverage,
            deadline=NEVER if waiting else now - detect.label_deadline,
        )
        if not closed:
            return
        series = label_store.pane_series(connection, self.name, champion.promotion, SERIES)
        last = len(series) - len(closed)
        most = SERIES_OF_TESTS if detect.score_method == "kswin" else SERIES
        for stop in range(last + 1, len(series) + 1):
            verdict = judge_scores(_lately(series[:stop], most), champion, detect, now)
            if verdict is not None:
                self.actor.record(connection, champion, verdict)


def _lately(series: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return the last panes, between half of `most` and `most` of them, beginning at a multiple of half of `most`.

    Detectors are replayed from the beginning of the series: were it another one each time, so would be what they find.
    """
    half = most // 2
    for i in range(len(series) - half, 0, -1):
        if series[i][0] // half > series[i - 1][0] // half:
            return series[i:]
    return series


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
