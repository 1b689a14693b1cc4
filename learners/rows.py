"""Labelled rows: what a learner learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Columns, concat, take
from learners.errors import UnsuitableRowsError


@dataclass(frozen=True, eq=False)
class Rows:
    """Features, target and place in the sample log of N rows. Lists and pandas Series become arrays.

    Raises
    ------
    UnsuitableRowsError
        If columns are no mapping, anything is no vector or differs in length, targets are no numbers, or positions no whole ones.
    """

    columns: Columns
    target: NDArray[np.float64]  # (N,) in target units, or the class index; NaN = no label yet
    position: NDArray[np.int64]  # (N,) position in the sample log

    def __post_init__(self) -> None:
        for field, value in (
            ("columns", _columns(self.columns)),
            ("target", _target(self.target)),
            ("position", _position(self.position)),
        ):
            object.__setattr__(self, field, value)
        lengths = {len(self.target), len(self.position), *map(len, self.columns.values())}
        if len(lengths) > 1:
            raise UnsuitableRowsError(
                f"rows: columns, target and position differ in length: {sorted(lengths)}"
            )

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        """Return the rows at `index`, in that order; a mask selects."""
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Rows(take(self.columns, index), self.target[index], self.position[index])

    def only(self, names: Iterable[str]) -> Rows:
        """Return the rows with no other columns than these, as far as they exist."""
        return replace(self, columns={name: self.columns[name] for name in names if name in self.columns})

    def labelled(self) -> Rows:
        """Return the rows whose target is a finite number."""
        finite = np.isfinite(self.target)
        return self if finite.all() else self.take(finite)


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Join rows of the same columns, in order."""
    return Rows(
        concat([part.columns for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.position for part in parts]),
    )


def _columns(columns: Columns) -> Columns:
    if not isinstance(columns, Mapping):
        raise UnsuitableRowsError(
            f"rows: columns must be a mapping, not a {type(columns).__name__}: pass {{name: column, ...}}, such as "
            '{"wind": df["wind"].to_numpy(), "carrier": Categorical.of(df["carrier"])}'
        )
    if all(isinstance(column, Categorical | np.ndarray) for column in columns.values()):
        arrays = columns
    else:
        arrays = {
            name: column if isinstance(column, Categorical) else np.asarray(column)
            for name, column in columns.items()
        }
    for name, column in arrays.items():
        if not isinstance(column, Categorical):
            _check_vector(f"column {name!r}", column)
    return arrays


def _target(target: object) -> NDArray[np.float64]:
    values = np.asarray(target)
    _check_vector("target", values)
    if values.dtype.kind in "SUTO" and any(isinstance(value, str | bytes) for value in values.tolist()):
        raise UnsuitableRowsError(
            "rows: target: numbers, or class indices 0 to K-1 in the order of schema.classes, not strings"
        )
    try:
        if values.dtype.kind not in "biufO":
            raise TypeError
        return values.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise UnsuitableRowsError(
            f"rows: target must be numbers, NaN where there is no label yet, not of type {values.dtype}: "
            "convert it, as by df['y'].to_numpy(float)"
        ) from None


def _position(position: object) -> NDArray[np.int64]:
    values = np.asarray(position)
    _check_vector("position", values)
    if values.dtype.kind not in "iuf" or (values.dtype.kind == "f" and (values != np.floor(values)).any()):
        raise UnsuitableRowsError(
            "rows: position must be whole numbers, places in the sample log such as np.arange(first, first + len(target))"
        )
    return values.astype(np.int64, copy=False)


def _check_vector(field: str, values: NDArray[Any]) -> None:
    if values.ndim != 1:
        hint = ": pass its [:, 0]" if values.ndim == 2 and values.shape[1] == 1 else ""
        raise UnsuitableRowsError(f"rows: {field} must be a vector, not of shape {values.shape}{hint}")
