"""One batch: the rows of some requests read and predicted together. It may run in any thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cls.columns.faults import Fault, FeatureError
from cls.columns.features import FeatureReader
from cls.domain import Json
from cls.errors import Corrupt
from cls.logging import get_logger
from cls.serving.models import LoadedModel
from cls.serving.parts import Floats, Part
from detectors.columns import Column, Columns, concat, take

_UNREAD = Fault("", None, "these rows could not be read", None, "the log of cls serve says why")
_log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a part, half-open."""

    part: Part
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Computed:
    """What a batch came to."""

    pieces: list[Piece]  # in the order of the values: those read here first, then those read beforehand
    records: list[Json]  # of those read here
    columns: Columns  # the same, as they were read
    refused: list[tuple[Part, FeatureError]]
    values: Floats | None  # None if the model raised, or nothing was left to predict
    error: BaseException | None
    seconds: float

    @property
    def rows(self) -> int:
        """Rows that were predicted, or should have been."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def whole(self) -> bool:
        """Whether it holds whole requests that were read here, and all of their rows go to the log."""
        return all(piece.part.loggable is True and piece.part.columns is None for piece in self.pieces)


def compute(model: LoadedModel, reader: FeatureReader, pieces: Sequence[Piece]) -> Computed:
    """Read and predict; whatever a model raises is in the result.

    Parameters
    ----------
    model
        The version.
    reader
        Reads its features.
    pieces
        Rows of parts; those without columns are whole. One that cannot be read is refused alone.
    """
    began = time.perf_counter()
    fresh = [piece for piece in pieces if piece.part.columns is None]
    known = [piece for piece in pieces if piece.part.columns is not None]
    refused: list[tuple[Part, FeatureError]] = []
    records: list[Json] = []
    block: Columns = {}
    values, failure = None, None
    try:
        blocks: list[Columns] = []
        if fresh:
            try:
                block, records = _read(reader, fresh)
            except Exception:  # noqa: BLE001 - whatever it is: rows that cannot be read are no fault of the version
                fresh, refused = _sort_out(reader, fresh)
                block, records = _read(reader, fresh) if fresh else ({}, [])
            blocks += [block] if fresh else []
        blocks += [_known(piece) for piece in known]
        if blocks:
            values = model.predict(blocks[0] if len(blocks) == 1 else concat(blocks))
            _check(model, values, sum(piece.rows for piece in (*fresh, *known)))
    except BaseException as error:  # noqa: BLE001 - a model may raise anything; the other versions go on
        values, failure = None, error
    return Computed([*fresh, *known], records, block, refused, values, failure, time.perf_counter() - began)


def _known(piece: Piece) -> Columns:
    columns = piece.part.columns or {}
    return columns if piece.rows == piece.part.number else take(columns, slice(piece.start, piece.stop))


def _read(reader: FeatureReader, fresh: Sequence[Piece]) -> tuple[dict[str, Column], list[Json]]:
    if len(fresh) == 1:
        records = fresh[0].part.rows
    else:
        records = list(chain.from_iterable(piece.part.rows for piece in fresh))
    for piece in fresh:
        reader.check(piece.part.rows)
    return reader.columns(records), records


def _sort_out(
    reader: FeatureReader, fresh: Sequence[Piece]
) -> tuple[list[Piece], list[tuple[Part, FeatureError]]]:
    """Return the parts that can be read, and the others with their faults."""
    good, refused = [], []
    for piece in fresh:
        try:
            reader.read(piece.part.rows)
        except FeatureError as error:
            refused.append((piece.part, error))
        except Exception as error:  # noqa: BLE001 - its sender is told, the log says what it was
            _log.error("rows could not be read", error=str(error), exc_info=error)
            refused.append((piece.part, FeatureError([_UNREAD])))
        else:
            good.append(piece)
    return good, refused


def _check(model: LoadedModel, values: Floats, rows: int) -> None:
    outputs = (len(model.schema.classes),) if model.schema.task == "classification" else ()
    if np.shape(values) != (rows, *outputs):
        raise Corrupt(f"predicts an array of shape {np.shape(values)} where {(rows, *outputs)} is due")
