"""Reservoir sampling (Vitter 1985, Algorithm R): after n rows each is held with probability min(1, capacity / n).

Row number i, from 0, takes slot i while there is room, and else slot j ~ U{0..i} if j is a slot. The random number of
row i is a function of the seed and i alone, so the same rows in the same order leave the same memory however they
were cut into batches, and the seen-count is all the generator state there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, Columns
from learners.rows import Rows, concat_rows
from learners.seeds import RESIZE, generator


@dataclass(frozen=True, eq=False)
class Memory:
    """A bounded uniform sample of all rows offered so far. `offer` returns a new one."""

    rows: Rows | None  # None while empty
    capacity: int  # rows at most
    seen: int  # rows offered so far
    seed: int

    @classmethod
    def empty(cls, capacity: int, seed: int) -> Memory:
        """Return a memory that has seen nothing."""
        return cls(None, capacity, 0, seed)

    def __len__(self) -> int:
        return 0 if self.rows is None else len(self.rows)

    def offer(self, rows: Rows) -> Memory:
        """Return the memory after it has seen `rows`, in order, once."""
        if not len(rows) or not self.capacity:
            return self
        number_N = np.arange(self.seen, self.seen + len(rows))
        uniform_N = np.random.Generator(np.random.PCG64(self.seed).advance(self.seen)).random(len(rows))
        drawn_N = (uniform_N * (number_N + 1)).astype(np.int64)
        slot_N = np.where(number_N < self.capacity, number_N, drawn_N)
        taken = slot_N < self.capacity
        held = len(self)
        source_M = np.arange(
            min(self.capacity, self.seen + len(rows))
        )  # of each slot: old slot, or held + new row
        source_M[slot_N[taken]] = held + np.flatnonzero(taken)  # of several, the last stays
        pool = rows if self.rows is None else concat_rows([self.rows, rows])
        return replace(self, rows=_compact(pool.take(source_M)), seen=self.seen + len(rows))

    def resized(self, capacity: int) -> Memory:
        """Return a memory of another capacity: a uniform part of this one, or room that was still unused.

        A memory that has turned rows away keeps its size when asked to grow: what it dropped is gone. One without
        any capacity has seen nothing, and may begin at any time.
        """
        if not capacity:
            return Memory.empty(0, self.seed)
        if capacity >= len(self):
            return replace(self, capacity=capacity if self.seen <= self.capacity else self.capacity)
        kept = np.sort(generator(self.seed, RESIZE, self.seen).permutation(len(self))[:capacity])
        rows = self.rows.take(kept) if self.rows is not None else None
        return replace(self, rows=rows, capacity=capacity)

    def weights(self, recency_rows: float | None) -> NDArray[np.float64]:
        """Return each row's chance to be replayed, unnormalised: uniform, or halved every `recency_rows` positions."""
        if self.rows is None or recency_rows is None:
            return np.ones(len(self))
        age_M = self.rows.position.max() - self.rows.position
        return np.asarray(np.exp2(-age_M / recency_rows), dtype=np.float64)


def _compact(rows: Rows) -> Rows:
    """Return the rows with vocabularies of only the categories that occur: bounded, like the rows."""
    return replace(rows, columns={name: _used(column) for name, column in rows.columns.items()})


def _used(column: Column) -> Column:
    if not isinstance(column, Categorical):
        return column
    used = np.bincount(column.codes + 1, minlength=len(column.vocabulary) + 1)[1:] > 0
    if used.all():
        return column
    renumbered = np.append(np.cumsum(used) - 1, -1).astype(np.int32)
    return Categorical(renumbered[column.codes], tuple(np.array(column.vocabulary, dtype=object)[used]))


def to_arrays(rows: Rows) -> tuple[dict[str, NDArray[np.generic]], dict[str, Sequence[str]]]:
    """Return plain arrays by name, and the vocabularies of the categorical columns."""
    arrays: dict[str, NDArray[np.generic]] = {"target": rows.target, "position": rows.position}
    vocabularies: dict[str, Sequence[str]] = {}
    for name, column in rows.columns.items():
        if isinstance(column, Categorical):
            arrays[f"column.{name}"], vocabularies[name] = column.codes, list(column.vocabulary)
        else:
            arrays[f"column.{name}"] = column
    return arrays, vocabularies


def from_arrays(arrays: dict[str, NDArray[np.generic]], vocabularies: dict[str, Sequence[str]]) -> Rows:
    """Return the rows that `to_arrays` took apart."""
    columns: Columns = {
        name.removeprefix("column."): Categorical(values.astype(np.int32), tuple(vocabularies[column]))
        if (column := name.removeprefix("column.")) in vocabularies
        else values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith("column.")
    }
    return Rows(columns, arrays["target"].astype(np.float64), arrays["position"].astype(np.int64))
