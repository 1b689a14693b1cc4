"""Slabs: a feature's own bins, fewer of them, for pairs; and which features pair.

Shapes: N rows, F features, K bins, E edges. Slabs are quarters of a numeric feature, or the five most frequent categories.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.bins import RARE, Bins, CategoricalBins, NumericBins
from detectors.columns import Columns, rows_of

# Of a numeric feature: nine degrees of freedom a pair, sixty window rows a cell at windows of 1,000.
SLABS = 4
CATEGORIES = 5  # with a slab of their own
LIMIT = 256  # pairs, unless more are needed for each feature to take part


def plan_pairs(features: int, limit: int = LIMIT, seed: int = 0) -> tuple[tuple[int, int], ...]:
    """Choose pairs of features: all where the limit allows, else at random and balanced.

    Features are put round a circle in random order. Neighbours pair first, so that each feature takes part, then those
    two places apart, and so on.
    """
    if features * (features - 1) // 2 <= limit:
        return tuple((a, b) for a in range(features) for b in range(a + 1, features))
    circle = np.random.default_rng(seed).permutation(features).tolist()
    places = [*range(0, features, 2), *range(1, features, 2)]
    wanted = max(limit, -(-features // 2))
    pairs: dict[tuple[int, int], None] = {}
    for apart in range(1, features):
        for place in places:
            a, b = circle[place], circle[(place + apart) % features]
            pairs.setdefault((min(a, b), max(a, b)))
            if len(pairs) == wanted:
                return tuple(sorted(pairs))
    return tuple(sorted(pairs))


def slabs_of(feature: Bins, counts_K: NDArray[np.int64]) -> Bins:
    """Coarser bins of a feature: numeric ones of about equal reference mass, or its most frequent categories."""
    if isinstance(feature, CategoricalBins):
        kept = feature.categories[:CATEGORIES]
        other = feature.other or len(kept) < len(feature.categories)
        return CategoricalBins(feature.name, kept, other, feature.entry)
    below_E = np.cumsum(counts_K[:-2])  # reference rows below each edge
    total = int(counts_K[:-1].sum())
    edges = {
        int(np.argmin(np.abs(below_E - total * part / SLABS))) for part in range(1, SLABS) if below_E.size
    }
    chosen = (e for e in sorted(edges) if RARE <= below_E[e] <= total - RARE)
    return NumericBins(feature.name, tuple(feature.edges[e] for e in chosen))


def assign_slabs(slabs: Sequence[Bins], columns: Columns) -> NDArray[np.uint8]:
    """Slab of each row and feature, shape (N, F)."""
    from detectors.pairs_kernel import assign_numeric  # numba takes a while to import

    slab_FN = np.empty((len(slabs), rows_of(columns)), dtype=np.uint8)
    for feature, slab_N in zip(slabs, slab_FN, strict=True):
        column = columns.get(feature.name)
        if column is None:
            slab_N[:] = feature.size - 1
        elif isinstance(feature, NumericBins):
            assign_numeric(feature.values(column), feature.edges_E, slab_N)
        else:
            codes_N, slab_of_code = feature.codes(column)
            np.take(slab_of_code.astype(np.uint8), codes_N, out=slab_N, mode="wrap")
    return np.ascontiguousarray(slab_FN.T)


def condition(slabs: Bins, k: int) -> str:
    """Name of a slab with its feature, for people."""
    label = slabs.labels()[k]
    return (
        f"{slabs.name} {label}"
        if label[0] in "<>="
        else f"{slabs.name} in {label}"
        if label[0] == "["
        else f"{slabs.name} = {label}"
    )
