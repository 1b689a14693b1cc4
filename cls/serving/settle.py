"""What becomes of a batch: each request answered, rows logged, the version's sums counted; a failed canary's rows go to the champion."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cls.columns.faults import FeatureError
from cls.columns.features import FeatureReader
from cls.config import ServeConfig
from cls.doors.web import Problem
from cls.errors import CLSError
from cls.logging import get_logger
from cls.score import summarise
from cls.serving.batch import Computed, Piece
from cls.serving.models import LoadedModel
from cls.serving.parts import Floats, Part, Predicted
from cls.serving.prediction_log import Answered
from cls.serving.stuck import Stuck
from cls.serving.tally import Arm, Tally

_log = get_logger(__name__)

Role = Literal["champion", "canary"]


class Log(Protocol):
    """Takes what was answered."""

    def offer(self, stream: str, rows: Answered) -> bool:
        """Take rows, all or none; returns whether it did."""
        ...


class Meter(Protocol):
    """Counts batches for those who watch."""

    def batch(self, stream: str, role: Role, rows: int, seconds: float) -> None:
        """Count a batch that a version predicted."""
        ...


@dataclass(frozen=True, eq=False)
class Shared:
    """What all versions of a process share."""

    settings: ServeConfig
    log: Log
    tally: Tally
    meter: Meter
    stuck: Stuck = field(default_factory=Stuck)


class Seat:
    """A version's place in a route.

    Parameters
    ----------
    model
        The version.
    reader
        Reads its features.
    arm
        Where its batches are counted.
    champion
        Seat of the one that steps in when this one fails; None if this is the champion.
    """

    def __init__(self, model: LoadedModel, reader: FeatureReader, arm: Arm, champion: Seat | None) -> None:
        self.model, self.reader, self.arm, self.champion = model, reader, arm, champion
        self.role: Role = "champion" if champion is None else "canary"


def settle(computed: Computed, seat: Seat, shared: Shared) -> list[Part]:
    """Answer what a batch came to.

    Returns
    -------
    Parts that the champion is to answer instead: of a canary that raised, or whose predictions are no numbers.
    """
    passed_on = [part for part, error in computed.refused if _passes_on(part, error, seat, shared)]
    if computed.error is not None:
        return passed_on + _failed(computed, computed.error, seat, shared)
    values = computed.values
    if values is None:
        return passed_on
    oldest = min(piece.part.since for piece in computed.pieces)
    summary = summarise(values)
    bad = 0 if np.isfinite(values).all() else int(np.count_nonzero(_not_finite(values)))
    shared.tally.batch(seat.arm, time.monotonic() - oldest, len(values), bad)
    shared.meter.batch(seat.model.stream, seat.role, len(values), computed.seconds)
    if not bad and computed.whole:
        _answer_all(computed, values, summary, seat, shared)
        return passed_on
    offset = 0
    for piece in computed.pieces:
        mine = values[offset : offset + piece.rows]
        offset += piece.rows
        if np.isfinite(mine).all():
            if (complete := piece.part.add(mine)) is not None:
                _answer(piece.part, complete, seat, shared)
        elif seat.champion is not None:
            passed_on.append(piece.part)
        else:
            piece.part.answer(_no_number(piece, mine, seat.model))
    return passed_on


def _answer_all(
    computed: Computed, values: Floats, summary: tuple[Floats, Floats], seat: Seat, shared: Shared
) -> None:
    """Answer a batch of whole requests that all go to the log: the usual case, logged at once."""
    model, offset = seat.model, 0
    answered = Answered(computed.records, *summary, model.version, computed.columns)
    taken = shared.log.offer(model.stream, answered)
    for piece in computed.pieces:
        rows = piece.rows
        piece.part.answer(Predicted(values[offset : offset + rows], model, rows if taken else 0))
        offset += rows


def _answer(part: Part, values: Floats, seat: Seat, shared: Shared) -> None:
    """Answer one request, and log those of its rows that are to be."""
    logged = 0
    index = part.loggable_rows()
    if index:
        rows = part.rows
        if len(index) < part.number:
            rows = rows.take(index) if isinstance(rows, pa.Table) else [rows[row] for row in index]
        value, uncertainty = summarise(values[index])
        if shared.log.offer(seat.model.stream, Answered(rows, value, uncertainty, seat.model.version)):
            logged = len(index)
    part.answer(Predicted(values, seat.model, logged))


def _passes_on(part: Part, error: FeatureError, seat: Seat, shared: Shared) -> bool:
    """Whether the champion reads rows that a canary, reading other features, cannot; else they are refused."""
    champion = seat.champion
    if champion is not None and champion.reader.features != seat.reader.features:
        try:
            champion.reader.read(part.rows)
        except FeatureError as fault:
            error = fault
        else:
            shared.tally.error(*seat.arm)
            return True
    part.refuse(error)
    return False


def _failed(computed: Computed, error: BaseException, seat: Seat, shared: Shared) -> list[Part]:
    """Count and report a batch that raised; returns what the champion is to answer."""
    model = seat.model
    shared.tally.error(*seat.arm)
    _log.error(
        "version failed",
        stream=model.stream,
        version=model.version,
        role=seat.role,
        rows=computed.rows,
        error=str(error),
        exc_info=None if isinstance(error, CLSError) else error,
    )
    parts = [piece.part for piece in computed.pieces]
    if seat.champion is not None:
        return parts
    for part in parts:
        part.answer(Problem(500, f"version {model.version} of stream {model.stream!r} failed on these rows"))
    return []


def _no_number(piece: Piece, values: Floats, model: LoadedModel) -> Problem:
    row = piece.start + int(np.flatnonzero(_not_finite(values))[0])
    if piece.part.numbers is not None:
        row = piece.part.numbers[row]
    text = f"version {model.version} of stream {model.stream!r} predicts what is no finite number"
    return Problem(500, f"row {row}: {text}", row=row, version=model.version)


def _not_finite(values: Floats) -> NDArray[np.bool_]:
    """Return which rows were answered by what is no number."""
    return np.asarray(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
