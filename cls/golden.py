"""Golden inputs: rows that a version comes with, and what it predicted for them where it was made.

Whoever loads the version predicts them again and compares. That finds what hashes cannot: another release of a library, a model of the same
name that computes something else, a processor that errs.

Rows are made, not copied: each column takes its values from held-out rows in a random order of its own, so that no row of the stream is in
the file. Besides come rows in which everything is missing, unknown or extreme. The file stays below `GOLDEN_BYTES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.errors import Corrupt
from cls.layout import GOLDEN, read_json, to_json
from detectors.columns import Categorical, Column, Columns, concat, numbers_of, rows_of, take
from learners.models.base import Model
from learners.schema import Schema

FORMAT = 1  # of the file
GOLDEN_ROWS = 24  # made from held-out rows, at most
GOLDEN_BYTES = 256 << 10  # wide tables have fewer rows
TOLERANCE = 1e-4  # of float32 arithmetic on two machines: in scales of the target, or of probability
_UNSEEN = "\N{REPLACEMENT CHARACTER}never seen"
_EXTREME = 1e9

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Golden:
    """Rows and what is to be predicted for them."""

    columns: Columns
    expected: Floats  # (N,) in target units, or (N, K) probabilities

    def to_json(self) -> bytes:
        """Return the file."""
        return to_json(
            {"format": FORMAT, "columns": _plain(self.columns), "expected": self.expected.tolist()}
        )

    @classmethod
    def from_json(cls, data: bytes, schema: Schema) -> Golden:
        """Return what a file holds for a model of a schema; raises `Corrupt` for what is no such file."""
        document = read_json(data, GOLDEN, GOLDEN_BYTES)
        try:
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}, this release reads {FORMAT}")
            expected = np.array(document["expected"], np.float64)
            columns: dict[str, Column] = {
                name: numbers_of(name, document["columns"][name]) for name in schema.numeric
            }
            columns |= {name: Categorical.of(document["columns"][name]) for name in schema.categorical}
            shape = (rows_of(columns), *((schema.outputs,) if schema.task == "classification" else ()))
            if expected.shape != shape or not np.isfinite(expected).all():
                raise ValueError(f"predictions of shape {expected.shape} for {shape[0]} rows, or not finite")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Corrupt(f"{GOLDEN}: not golden rows of this model: {error}") from error
        return cls(columns, expected)

    def check(self, model: Model, got: Floats, tolerance: float = TOLERANCE) -> None:
        """Compare with what was predicted for the rows now.

        Parameters
        ----------
        got
            Predictions of `columns`.
        tolerance
            Largest difference, relative to the target's scale; of predictions beyond the scale, to their distance from the target's
            location. Of probabilities: absolute.

        Raises
        ------
        Corrupt
            Naming the row that differs most, what was expected and what came.
        """
        if got.shape != self.expected.shape:
            raise Corrupt(f"{GOLDEN}: predictions of shape {got.shape}, expected {self.expected.shape}")
        unit = np.ones_like(self.expected)
        if model.schema.task == "regression":
            beyond = np.abs(self.expected - model.target_location.item())
            unit = np.maximum(beyond, abs(model.target_scale.item()))
        with np.errstate(invalid="ignore"):
            off = np.abs(got - self.expected) / unit
        off = np.where(np.isfinite(off), off, np.inf).reshape(len(got), -1).max(axis=1, initial=0.0)
        if (off > tolerance).any():
            row = int(off.argmax())
            raise Corrupt(
                f"{GOLDEN}: row {row}: expected {self.expected[row].tolist()}, got {got[row].tolist()}: "
                f"{off[row]:.1e} apart, and {tolerance:.0e} is allowed"
            )


def make_golden(model: Model, held_out: Columns, seed: int) -> Golden:
    """Return golden rows of a model, with its predictions here and now.

    Parameters
    ----------
    held_out
        Rows to take values from, the model's columns among them; none is well, too.
    seed
        Of the order in which values are put together.
    """
    rng = np.random.default_rng(seed)
    made = _edges(model.schema)
    if rows := rows_of(held_out):
        count = min(GOLDEN_ROWS, rows)
        shuffled = {name: take({name: held_out[name]}, rng.permutation(rows)[:count])[name] for name in made}
        made = concat([made, shuffled])
    expected = model.predict(made)
    finite = np.isfinite(expected).reshape(len(expected), -1).all(axis=1)
    kept = np.flatnonzero(finite)  # what overflows where values are not clipped tells nothing
    golden = Golden(take(made, kept), expected[kept])
    while len(kept) and len(golden.to_json()) > GOLDEN_BYTES:
        kept = kept[: len(kept) // 2]
        golden = Golden(take(made, kept), expected[kept])
    return golden


def _edges(schema: Schema) -> dict[str, Column]:
    """Return rows in which all is missing, unknown and 0, very small, very large."""
    numbers = np.array([np.nan, 0.0, -_EXTREME, _EXTREME])
    columns: dict[str, Column] = {name: numbers.copy() for name in schema.numeric}
    categories = Categorical.of([None, _UNSEEN, None, _UNSEEN])
    return columns | dict.fromkeys(schema.categorical, categories)


def _plain(columns: Columns) -> dict[str, list[Any]]:
    return {
        name: [None if code < 0 else column.vocabulary[code] for code in column.codes]
        if isinstance(column, Categorical)
        else [value if np.isfinite(value) else None for value in column.tolist()]
        for name, column in columns.items()
    }
