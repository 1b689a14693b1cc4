"""Dynamic batching: rows that wait for one version are predicted together, and what came meanwhile goes out with the next batch.

A lane is the queue of one version. While it is idle nothing waits (but `serve.batch_delay_ms`): a batch holds what has arrived in this
turn of the event loop. A version whose batches take long is run in a thread, so that requests are read meanwhile; a quick one is run at
once, where the way through a thread would cost more than the model. How long is known from the batches before. A request that does not
fit into one batch goes on behind the others that wait, so that a large one does not hold up small ones.

All but `compute` runs on the event loop: there are no locks here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from cls.batch import Computed, Piece, compute
from cls.features import FeatureError, FeatureReader
from cls.logging import get_logger
from cls.parts import Part
from cls.settle import Seat, Shared, settle
from cls.web import Problem

INLINE_SECONDS = 0.002  # a batch that is expected to take longer runs in a thread
_GROWTH = 1.1  # by which one slow batch raises, at most, what the next one is expected to take
_UNKNOWN_SECONDS = 1.0  # that a version's first batch is expected to take
_log = get_logger(__name__)


class Lane:
    """The queue of one version.

    Parameters
    ----------
    seat
        Who answers; may be replaced as the route changes, by one of the same version.
    champion
        Lane of the version that steps in; None if this is the champion's.
    shared
        What all versions share.
    """

    def __init__(self, seat: Seat, champion: Lane | None, shared: Shared) -> None:
        self.seat = seat
        self.champion = champion
        self.rows = 0  # that wait
        self._shared = shared
        self._settings = shared.settings
        self._queue: deque[Part] = deque()
        self._busy = False  # a batch is under way, or about to begin
        self._delay: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._expected: dict[int, float] = {}  # seconds of a batch, by the bit length of its rows
        self._row_seconds = 0.0  # of the last batch

    def refusal(self, rows: int) -> Problem | None:
        """Return the answer to so many more rows if there is no room for them; where nothing waits there always is."""
        if not self.rows or self.rows + rows <= self._settings.queue_rows:
            return None
        text = f"{self.rows} rows wait for stream {self.seat.model.stream!r} already; send it again later"
        return Problem(429, text, retry_after=min(self.rows * self._row_seconds, 60.0), reason="queue")

    def put(self, part: Part) -> None:
        """Queue rows."""
        part.since = time.monotonic()
        self._queue.append(part)
        self.rows += part.number
        if not self._busy:
            self._next()
        elif self._delay is not None and self.rows >= self._settings.batch_rows:
            self._delay.cancel()
            self._next()

    def _next(self) -> None:
        """Begin a batch after this turn of the loop, or once the delay is over."""
        self._delay = None
        self._busy = bool(self._queue)
        if self._queue:
            loop, delay = asyncio.get_running_loop(), self._settings.batch_delay_ms / 1e3
            if delay and self.rows < self._settings.batch_rows:
                self._delay = loop.call_later(delay, self._begin)
            else:
                loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._delay = None
        self._drop_late()
        pieces = self._take()
        seat, rows = self.seat, sum(piece.rows for piece in pieces)
        if not pieces:
            self._next()
        elif self._expects(rows) <= INLINE_SECONDS:
            self._finish(seat, rows, compute(seat.model, seat.reader, pieces))
        else:
            loop = asyncio.get_running_loop()
            self._watch()
            work = loop.run_in_executor(None, compute, seat.model, seat.reader, pieces)
            work.add_done_callback(lambda done: self._ended(seat, rows, done))

    def _ended(self, seat: Seat, rows: int, work: asyncio.Future[Computed]) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if not work.cancelled():
            self._finish(seat, rows, work.result())

    def _finish(self, seat: Seat, rows: int, computed: Computed) -> None:
        self._learn(rows, computed.seconds)
        try:
            passed_on = settle(computed, seat, self._shared)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the lane for ever
            _log.error("batch not answered", stream=seat.model.stream, error=str(error), exc_info=error)
            passed_on = []
            for piece in computed.pieces:
                piece.part.answer(Problem(500, "this request could not be answered"))
        for piece in computed.pieces:
            part, left = piece.part, piece.part.number - piece.stop
            if left and not part.done.done() and part not in passed_on:
                self._queue.append(part)
            else:
                self.rows -= left
        if self.champion is not None:
            for part in passed_on:
                self.champion.take_over(part, seat.reader)
        self._next()

    def take_over(self, part: Part, reader: FeatureReader) -> None:
        """Queue rows that another version, which reads with `reader`, could not answer."""
        mine = self.seat.reader
        if part.columns is None or reader.features == mine.features:
            part.begin_again(part.columns)
            self.put(part)
            return
        try:
            part.begin_again(mine.read(part.rows))
        except FeatureError as error:
            part.refuse(error)
        else:
            self.put(part)

    def _take(self) -> list[Piece]:
        """Take the next rows from the queue; a part whose features have not been read yet is taken whole."""
        room, pieces = self._settings.batch_rows, list[Piece]()
        while self._queue and room > 0:
            part = self._queue[0]
            rows = part.number - part.start
            if part.columns is not None:
                rows = min(rows, room)
            elif rows > room and pieces:
                break
            self._queue.popleft()
            self.rows -= rows
            room -= rows
            pieces.append(Piece(part, part.start, part.start + rows))
        return pieces

    def _drop_late(self) -> None:
        """Refuse what has waited for too long and has not begun."""
        oldest = time.monotonic() - self._settings.deadline_ms / 1e3
        while self._queue and self._queue[0].since < oldest and not self._queue[0].start:
            part = self._queue.popleft()
            self.rows -= part.number
            text = f"not predicted within {self._settings.deadline_ms:g} ms; send it again later"
            part.answer(Problem(503, text, retry_after=1.0, reason="deadline"))

    def _watch(self) -> None:
        """Refuse what becomes late while a batch is under way."""
        self._drop_late()
        pause = self._settings.deadline_ms / 1e3 / 8
        self._watching = asyncio.get_running_loop().call_later(pause, self._watch)

    def _expects(self, rows: int) -> float:
        """Return how many seconds a batch will take: as those of its size did, else in proportion to a smaller one."""
        size = rows.bit_length()
        known = self._expected.get(size)
        if known is None:
            smaller = max((s for s in self._expected if s < size), default=None)
            return _UNKNOWN_SECONDS if smaller is None else self._expected[smaller] * 2 ** (size - smaller)
        return known

    def _learn(self, rows: int, seconds: float) -> None:
        """Take over a shorter time soon and a longer one slowly: what another process took of the clock tells nothing."""
        size = rows.bit_length()
        before = self._expected.get(size, seconds)
        self._expected[size] = (before + seconds) / 2 if seconds < before else min(seconds, before * _GROWTH)
        self._row_seconds = seconds / rows
