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
from dataclasses import dataclass, field

from cls.columns.faults import FeatureError
from cls.columns.features import FeatureReader
from cls.doors.web import Problem
from cls.logging import get_logger
from cls.serving.batch import Computed, Piece, compute
from cls.serving.parts import Part
from cls.serving.settle import Seat, Shared, settle
from detectors.columns import Column

INLINE_SECONDS = 0.002  # a batch that is expected to take longer runs in a thread
_GROWTH = 1.1  # by which one slow batch raises, at most, what the next one is expected to take
_FAR_SECONDS = 5 * INLINE_SECONDS  # one that takes longer is believed at once
_LOOKS = 8  # after a batch within the deadline; counted, so that a process that was held up itself does not blame its version
_HANGS = 4.0  # times what a batch is expected to take, after which it hangs
_HANGS_SECONDS = 30.0  # at most, but for a longer deadline
_UNKNOWN_SECONDS = 1.0  # that a version's first batch is expected to take
_log = get_logger(__name__)


@dataclass(eq=False)
class _Run:
    """A batch under way, and who was to answer it as it began: the route may change meanwhile."""

    seat: Seat
    champion: Lane | None
    pieces: list[Piece]
    hangs: float  # looks after which it does
    given_up: bool = False  # its requests are answered: by the champion, or that it takes too long
    began: float = field(default_factory=time.monotonic)
    looks: int = 0  # how often it was looked after

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


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
        self.leads = champion is None  # it is the champion's of the present route
        self.rows = 0  # that wait
        self._shared = shared
        self._settings = shared.settings
        self._queue: deque[Part] = deque()
        self._busy = False  # a batch is under way, or about to begin
        self._delay: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._hung: _Run | None = None  # a batch that hangs
        self._marked = False  # it was said that the champion hangs
        self._expected: dict[int, float] = {}  # seconds of a batch, by the bit length of its rows
        self._row_seconds = 0.0  # of the last batch

    def refusal(self, rows: int) -> Problem | None:
        """Return the answer to so many more rows if there is no room for them; where nothing waits there always is, unless it hangs."""
        if self._hung is not None and self.champion is None:
            return self._late(503)
        if not self.rows or self.rows + rows <= self._settings.queue_rows:
            return None
        text = f"{self.rows} rows wait for stream {self.seat.model.stream!r} already; send it again later"
        return Problem(429, text, retry_after=min(self.rows * self._row_seconds, 60.0), reason="queue")

    def put(self, part: Part) -> None:
        """Queue rows; while a canary hangs they are its champion's, and while the champion does they are refused."""
        if self._hung is not None and self.champion is None:
            part.answer(self._late(503))
            return
        if self._hung is not None and self.champion is not None:
            self._pass_on([part], self.seat, self.champion)
            return
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
        if not pieces:
            self._next()
            return
        expected = self._expects(sum(piece.rows for piece in pieces))
        deadline = self._settings.deadline_ms / 1e3
        hangs = _LOOKS * max(1.0, min(_HANGS * expected, _HANGS_SECONDS) / deadline)
        run = _Run(self.seat, self.champion, pieces, hangs)
        if expected <= INLINE_SECONDS:
            self._finish(run, compute(run.seat.model, run.seat.reader, run.pieces))
        else:
            try:
                work = asyncio.get_running_loop().run_in_executor(
                    None, compute, run.seat.model, run.seat.reader, run.pieces
                )
            except RuntimeError as error:  # the process ends
                self._finish(run, error)
                return
            self._watch(run)
            work.add_done_callback(lambda done: self._ended(run, done))

    def _ended(self, run: _Run, work: asyncio.Future[Computed]) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._hung is not None:
            _log.warning("version goes on", stream=run.seat.model.stream, version=run.seat.model.version)
            self._hung = None
            self.mark()
        if run.given_up:
            if not work.cancelled() and work.exception() is None:
                self._learn(run.rows, work.result().seconds)
            self._next()
        elif work.cancelled():
            self._finish(run, asyncio.CancelledError())
        else:
            self._finish(run, work.exception() or work.result())

    def _finish(self, run: _Run, computed: Computed | BaseException) -> None:
        """Settle a batch. Whatever happens, each of its requests is answered, queued again or handed on, and the lane goes on."""
        passed_on = list[Part]()
        try:
            if isinstance(computed, BaseException):
                raise computed
            self._learn(run.rows, computed.seconds)
            passed_on = settle(computed, run.seat, self._shared)
        except BaseException as error:  # noqa: BLE001 - a fault of ours must not stop the lane for ever
            stream = run.seat.model.stream
            _log.error("batch not answered", stream=stream, error=str(error), exc_info=error)
            _fail(run.pieces)
        self._requeue(run.pieces, passed_on)
        if run.champion is not None:
            try:
                for part in passed_on:
                    run.champion.take_over(part, run.seat.reader)
            except Exception as error:  # noqa: BLE001 - the parts of the batch must be answered all the same
                _log.error("batch not answered", stream=run.seat.model.stream, exc_info=error)
                _fail(run.pieces)
        self._next()

    def _requeue(self, pieces: list[Piece], passed_on: list[Part]) -> None:
        """Queue what is left of large requests behind the others that wait; they were counted all the while."""
        for piece in pieces:
            part, left = piece.part, piece.part.number - piece.stop
            if left and not part.done.done() and part not in passed_on:
                self._queue.append(part)
            else:
                self.rows -= left

    def take_over(self, part: Part, reader: FeatureReader) -> None:
        """Queue rows that another version, which reads with `reader`, could not answer."""
        if (full := self.refusal(part.number)) is not None:
            part.answer(full)
            return
        mine = self.seat.reader
        if part.columns is None or reader.features == mine.features:
            part.begin_again(part.columns)
            self.put(part)
            return
        reading = asyncio.get_running_loop().run_in_executor(None, mine.read, part.rows)
        reading.add_done_callback(lambda done: self._read(part, done))

    def _read(self, part: Part, reading: asyncio.Future[dict[str, Column]]) -> None:
        error = asyncio.CancelledError() if reading.cancelled() else reading.exception()
        if error is None:
            part.begin_again(reading.result())
            self.put(part)
        elif isinstance(error, FeatureError):
            part.refuse(error)
        else:
            _log.error("request not read", stream=self.seat.model.stream, error=str(error), exc_info=error)
            part.answer(Problem(500, "this request could not be answered"))

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
        """Refuse what has waited for too long and has not begun; a canary's is its champion's."""
        oldest, late = self._oldest(), list[Part]()
        while self._queue and self._queue[0].since < oldest and not self._queue[0].start:
            late.append(self._queue.popleft())
            self.rows -= late[-1].number
        if late and self.champion is not None:
            self._pass_on(late, self.seat, self.champion)
            return
        for part in late:
            text = f"not predicted within {self._settings.deadline_ms:g} ms; send it again later"
            part.answer(Problem(503, text, retry_after=1.0, reason="deadline"))

    def _oldest(self) -> float:
        return time.monotonic() - self._settings.deadline_ms / 1e3

    def _watch(self, run: _Run) -> None:
        """Look after what becomes late while a batch is under way."""
        since = min(piece.part.since for piece in run.pieces)
        if run.champion is not None:
            if not run.given_up and since < self._oldest():
                self._give_up(run, run.champion)
        else:
            if not run.given_up and run.looks > _LOOKS:
                self._answer_late(run)
            if self._hung is None and run.looks > run.hangs:
                self._hang(run)
        self.mark()
        self._drop_late()
        run.looks += 1
        pause = self._settings.deadline_ms / 1e3 / _LOOKS
        self._watching = asyncio.get_running_loop().call_later(pause, self._watch, run)

    def _give_up(self, run: _Run, champion: Lane) -> None:
        """Let the champion answer a canary's batch that takes too long, and all that waits for it; what it comes to later is ignored."""
        run.given_up, self._hung = True, run
        parts = [piece.part for piece in run.pieces] + list(self._queue)
        self._queue.clear()
        self.rows = 0
        text = f"took longer than {self._settings.deadline_ms:g} ms"
        model = run.seat.model
        _log.error(
            "version failed", stream=model.stream, version=model.version, role=run.seat.role, error=text
        )
        self._pass_on(parts, run.seat, champion)

    def _answer_late(self, run: _Run) -> None:
        """Answer the requests of a champion's batch that takes too long; others may wait for the next one."""
        run.given_up = True
        model = run.seat.model
        _log.error("version is late", stream=model.stream, version=model.version, rows=run.rows)
        self._shared.tally.error(*run.seat.arm)
        for piece in run.pieces:
            self.rows -= piece.part.number - piece.stop
            piece.part.answer(self._late(504))

    def _hang(self, run: _Run) -> None:
        """Answer all that waits for a champion that hangs; nothing is taken until its batch ends."""
        self._hung = run
        waiting = list(self._queue)
        self._queue.clear()
        self.rows = 0
        model = run.seat.model
        _log.error("version hangs", stream=model.stream, version=model.version, rows=run.rows)
        for part in waiting:
            part.answer(self._late(504))

    def mark(self) -> None:
        """Say whether the champion hangs, be it that it began to as a canary; and no more once it is the champion no more."""
        run, model = self._hung, self.seat.model
        if run is not None and self.leads and not self._marked:
            self._marked = True
            self._shared.stuck.begin(model.stream, model.version, time.monotonic() - run.began)
        elif self._marked and (run is None or not self.leads):
            self._marked = False
            self._shared.stuck.end(model.stream, model.version)

    def _late(self, status: int) -> Problem:
        model = self.seat.model
        text = f"version {model.version} of stream {model.stream!r} takes longer than {self._settings.deadline_ms:g} ms"
        return Problem(status, f"{text}; send it again later", retry_after=1.0, reason="deadline")

    def _pass_on(self, parts: list[Part], seat: Seat, champion: Lane) -> None:
        self._shared.tally.error(*seat.arm)
        for part in parts:
            champion.take_over(part, seat.reader)

    def _expects(self, rows: int) -> float:
        """Return how many seconds a batch will take: as those of its size did, else in proportion to a smaller one."""
        size = rows.bit_length()
        known = self._expected.get(size)
        if known is None:
            smaller = max((s for s in self._expected if s < size), default=None)
            return _UNKNOWN_SECONDS if smaller is None else self._expected[smaller] * 2 ** (size - smaller)
        return known

    def _learn(self, rows: int, seconds: float) -> None:
        """Take over a shorter time soon and a longer one slowly, since other processes take of the clock, too; but not one far longer."""
        size = rows.bit_length()
        before = self._expected.get(size, seconds)
        if seconds > max(
            before, _FAR_SECONDS
        ):  # it has turned slow: it may run in a thread until it is quick there
            for other in [size, *(known for known in self._expected if known > size)]:
                self._expected[other] = max(self._expected.get(other, 0.0), seconds)
        else:
            shorter = seconds < before
            self._expected[size] = (before + seconds) / 2 if shorter else min(seconds, before * _GROWTH)
        self._row_seconds = seconds / rows


def _fail(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.part.answer(Problem(500, "this request could not be answered"))
