"""Columns: what a stage hands to a detector, one array per feature.

Shapes: N rows. A numeric column is a float64 vector in which every non-finite value means *missing*; a
categorical column is dictionary-encoded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.integer] | NDArray[np.bool_] | slice


@dataclass(frozen=True, eq=False)
class Categorical:
    """Dictionary-encoded strings.

    Raises
    ------
    ValueError
        If a code points outside the vocabulary, or codes are not a vector.
    """

    codes: NDArray[np.int32]  # (N,), index into the vocabulary; -1 is missing
    vocabulary: tuple[str, ...]  # may hold values that no row uses

    def __post_init__(self) -> None:
        if self.codes.ndim != 1:
            raise ValueError(f"codes must be a vector, not of shape {self.codes.shape}")
        if self.codes.size and not (self.codes.min() >= -1 and self.codes.max() < len(self.vocabulary)):
            raise ValueError("a code lies outside the vocabulary")

    @classmethod
    def of(cls, values: Iterable[str | None]) -> "Categorical":
        """Encode strings in their order of appearance; None is missing, and so is what pandas puts in its place.

        Raises
        ------
        TypeError
            If a value is neither a string nor missing, or a single string was passed.
        """
        if isinstance(values, str):
            raise TypeError("categories come as a sequence of strings, not as one string")
        vocabulary: dict[str, int] = {}
        codes = [vocabulary.setdefault(v, len(vocabulary)) if _is_category(v) else -1 for v in values]
        return cls(np.array(codes, dtype=np.int32), tuple(vocabulary))

    def __len__(self) -> int:
        return self.codes.size

    def take(self, index: Index) -> "Categorical":
        """Select rows by positions, mask or slice; the vocabulary is kept whole."""
        return Categorical(self.codes[index], self.vocabulary)


Column = NDArray[np.float64] | Categorical
Columns = Mapping[str, Column]


def _is_category(value: object) -> TypeGuard[str]:
    if isinstance(value, str):
        return True
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:  # NaN is not itself
        return False
    raise TypeError(f"categories are strings, not {type(value).__name__}: {value!r}; convert them with str")


def numbers_of(name: str, column: object) -> NDArray[np.float64]:
    """Return a column's numbers as a contiguous vector of float64.

    Raises
    ------
    TypeError
        If they are no numbers, or no vector, naming the column and what to do.
    """
    try:
        values = np.ascontiguousarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"column {name!r} holds no numbers: pass floats, or Categorical.of(strings) for categories"
        ) from None
    if values.ndim != 1:
        raise TypeError(f"column {name!r} must be a vector, not of shape {values.shape}")
    return values


def rows_of(columns: Columns) -> int:
    """Return the number of rows that all columns share.

    Raises
    ------
    ValueError
        If the columns differ in length.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    return next(iter(lengths.values()), 0)


def take(columns: Columns, index: Index) -> dict[str, Column]:
    """Select the same rows of every column."""
    return {
        name: column.take(index) if isinstance(column, Categorical) else column[index]
        for name, column in columns.items()
    }


def concat(parts: Sequence[Columns]) -> dict[str, Column]:
    """Append parts below each other; vocabularies are merged in order of appearance.

    Raises
    ------
    ValueError
        If the parts differ in their columns, or in the kind of one.
    """
    if not parts:
        return {}
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError(f"parts differ in their columns: {[sorted(part) for part in parts]}")
    return {name: _append(name, [part[name] for part in parts]) for name in parts[0]}


def _append(name: str, columns: Sequence[Column]) -> Column:
    categorical = [column for column in columns if isinstance(column, Categorical)]
    numeric = [column for column in columns if not isinstance(column, Categorical)]
    if categorical and numeric:
        raise ValueError(f"column {name!r} is numeric in one part and categorical in another")
    if numeric:
        return np.concatenate(numeric)
    position: dict[str, int] = {}
    codes = []
    for column in categorical:
        lookup = [position.setdefault(value, len(position)) for value in column.vocabulary]
        # The appended -1 is what code -1 (missing) reads.
        codes.append(np.array([*lookup, -1], dtype=np.int32)[column.codes])
    return Categorical(np.concatenate(codes), tuple(position))
