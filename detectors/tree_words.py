"""Conditions of a kdq-tree's cells for people."""

from collections.abc import Sequence

import numpy as np

from detectors.tree_growth import Split

SHOWN = 3  # categories that a label spells out


def cell_labels(
    names: Sequence[str], categories: Sequence[tuple[str, ...] | None], splits: Sequence[Split]
) -> tuple[str, ...]:
    """Conditions of each cell of a tree; see `detectors.tree.TreeBins` for the arguments."""
    digits = _digits(splits)
    labels = [""] * (len(splits) + 1)
    stack = [(0 if splits else -1, [(-np.inf, np.inf)] * len(names))]
    while stack:
        node, box = stack.pop()
        if node < 0:
            labels[-1 - node] = _describe(names, categories, box, digits)
            continue
        split = splits[node]
        low, high = box[split.axis]
        below, above = box.copy(), box.copy()
        below[split.axis], above[split.axis] = (low, split.cut), (split.cut, high)
        stack += [(split.below, below), (split.above, above)]
    return tuple(labels)


def _describe(
    names: Sequence[str],
    categories: Sequence[tuple[str, ...] | None],
    box: Sequence[tuple[float, float]],
    digits: int,
) -> str:
    conditions = [
        _in_categories(name, ranked, low, high)
        if ranked is not None
        else _in_interval(name, _text(low, digits), _text(high, digits))
        for name, ranked, (low, high) in zip(names, categories, box, strict=True)
        if (low, high) != (-np.inf, np.inf)
    ]
    return ", ".join(conditions) or "any"


def _text(cut: float, digits: int) -> str:
    return "" if np.isinf(cut) else f"{cut:.{digits}g}"


def _digits(splits: Sequence[Split]) -> int:
    """As few as keep the cuts of each feature apart."""
    distinct = {(split.axis, split.cut) for split in splits}
    apart = (d for d in range(4, 17) if len({(a, f"{c:.{d}g}") for a, c in distinct}) == len(distinct))
    return next(apart, 17)


def _in_interval(name: str, low: str, high: str) -> str:
    if not low:
        return f"{name} < {high}"
    return f"{name} in [{low}, {high})" if high else f"{name} >= {low}"


def _in_categories(name: str, ranked: Sequence[str], low: float, high: float) -> str:
    first = 0 if np.isinf(low) else int(low)
    if np.isinf(high):  # open to whatever the reference did not have
        return f"{name} not in {_set(ranked[:first])}"
    inside = ranked[first : int(high)]
    return f"{name} = {inside[0]}" if len(inside) == 1 else f"{name} in {_set(inside)}"


def _set(categories: Sequence[str]) -> str:
    more = len(categories) - SHOWN
    return "{" + ", ".join(categories[:SHOWN]) + (f" and {more} more" if more > 0 else "") + "}"
