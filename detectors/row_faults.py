"""Faults that show across columns: values of one column in another, and rows that come again and again."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.bins import NumericBins
from detectors.columns import Categorical, Column, Columns, rows_of
from detectors.fault import Case, Fault, Reference, percent

AGREES = 0.9  # of a column's move that is gone when it is read as another column
REPEATED = 0.3  # of the rows that repeat another one
PAIRED = 8  # moved columns that are tried for each other: the pairs grow with the square


def swapped(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """Return cycles of columns in which each holds the values of the next; cases by size of their move.

    One column that looks like another proves little; all of a cycle must, and each of them moved.
    """
    cases = [case for case in cases if case.enough and (case.alarm or case.sound)][:PAIRED]
    source = {}
    for case in cases:
        best = max(
            ((_read_as(case, other), other.name) for other in cases if other is not case), default=(0.0, "")
        )
        if best[0] >= AGREES:
            source[case.name] = best[1]
    cycles, seen = [], set[str]()
    for name in source:
        walk = [name]
        while (follower := source.get(walk[-1])) is not None and follower not in walk:
            walk.append(follower)
        if follower == name and name not in seen:
            cycles.append(tuple(walk))
            seen |= set(walk)
    return cycles


def _read_as(case: Case, other: Case) -> float:
    """Share of the column's own move that is gone when its values are compared with the other's reference."""
    if isinstance(case.bins, NumericBins) != isinstance(other.bins, NumericBins) or not case.clear:
        return 0.0
    effect = max(case.effect, other.effect)
    held = Case(other.bins, other.reference, case.column, effect)
    return 1 - held.excess(held.counts) / case.moved


def repeated_rows(
    columns: Columns, references: Mapping[str, Reference]
) -> tuple[Fault, NDArray[np.intp]] | None:
    """Say whether rows of the window repeat each other where the reference's did not, and where each came first.

    Two equal rows are equal in every column, so the column that repeats itself least bounds how often rows of the reference did. A window is
    no larger than its reference, and so has no more repetitions by chance.
    """
    rows = rows_of(columns)
    bound = min((reference.repeats for name, reference in references.items() if name in columns), default=1.0)
    if rows < 2 or bound >= 1:
        return None
    row_N = np.zeros(rows, dtype=np.intp)
    for column in columns.values():
        code_N = _codes(column)
        row_N = np.unique(row_N * (int(code_N.max()) + 1) + code_N, return_inverse=True)[1]
    first = np.sort(np.unique(row_N, return_index=True)[1])
    share = 1 - first.size / rows
    if share < max(REPEATED, bound):
        return None
    text = f"{percent(share)} of the rows repeat another row in every column; of the reference's at most {percent(bound)} did"
    return Fault("repeated", "", share, text), first


def _codes(column: Column) -> NDArray[np.intp]:
    if isinstance(column, Categorical):
        return column.codes.astype(np.intp) + 1
    return np.unique(column, return_inverse=True)[1].astype(np.intp)
