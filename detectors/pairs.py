"""Pairs of features: joint counts in a few slabs of each, for changes that no single feature shows.

Shapes: N rows, W windows of equal size, F features, P pairs, S slabs of the feature that has most. Slabs are the
feature's own bins, fewer of them: quarters of a numeric feature, the five most frequent categories. Counts of pairs add like any
others, and memory is P x S x S whatever the stream. How they are judged stands in `detectors.interaction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import RARE, Bins, CategoricalBins, NumericBins, bins_from_json
from detectors.columns import Columns, rows_of
from detectors.dispersion import Dispersion
from detectors.interaction import Interaction, dispersion_of_pair, interaction

# Of a numeric feature: nine degrees of freedom a pair, sixty window rows a cell at windows of 1,000.
SLABS = 4
CATEGORIES = 5  # with a slab of their own
LIMIT = 256  # pairs, unless more are needed for each feature to take part
TOP_PAIRS = 5  # named in a verdict
TOP_CELLS = 3  # of each


@dataclass(frozen=True)
class PairDrift:
    """How far two features have moved together, beyond what each has moved alone."""

    first: str
    second: str
    nats: float  # as measured, beyond the marginals
    excess_nats: float  # less its mean when nothing moved; below zero shows as zero
    p_value: float  # of this pair alone
    top_cells: tuple[
        tuple[str, float, float], ...
    ]  # (label, share that the two features alone explain, current share), largest part first

    @property
    def name(self) -> str:
        """Both features."""
        return f"{self.first} × {self.second}"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Joint counts of a reference, ready to be compared with those of any window.

    Raises
    ------
    ValueError
        If the counts do not fit the pairs.
    """

    slabs: tuple[Bins, ...]  # of each feature
    plan: tuple[tuple[int, int], ...]  # positions of each pair's two features
    counts_PSS: NDArray[np.int64]  # [first's slab, second's slab]; beyond a feature's own slabs always 0
    dispersion: tuple[Dispersion, ...] = ()  # of each pair's interaction; none: rows are independent

    def __post_init__(self) -> None:
        if self.counts_PSS.shape != self.shape:
            raise ValueError(f"counts of shape {self.counts_PSS.shape} do not fit {self.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Pairs, slabs, slabs."""
        most = max((slabs.size for slabs in self.slabs), default=0)
        return len(self.plan), most, most

    def count(self, columns: Columns) -> NDArray[np.int64]:
        """Count one window; a feature that is not among the columns counts as missing. Shape (P, S, S)."""
        counts_PSS: NDArray[np.int64] = self.count_windows(columns, rows_of(columns))[0]
        return counts_PSS

    def count_windows(self, columns: Columns, window_rows: int) -> NDArray[np.int64]:
        """Count whole blocks of consecutive windows; rows behind the last whole one are left out.

        Returns
        -------
        int array, shape (W, P, S, S)
        """
        from detectors.pairs_kernel import count_pairs  # numba takes a while to import

        windows = rows_of(columns) // window_rows if window_rows else 1
        counts_WPSS: NDArray[np.int64] = np.zeros((windows, *self.shape), dtype=np.int64)
        count_pairs(assign_slabs(self.slabs, columns), self._plan_P2, window_rows, counts_WPSS)
        return counts_WPSS

    def compare(self, window_PSS: NDArray[np.int64]) -> Interaction:
        """Measure what a window's pairs show beyond their marginals."""
        return interaction(window_PSS, self.counts_PSS)

    def judge(self, window_PSS: NDArray[np.int64], top: int = TOP_PAIRS) -> tuple[PairDrift, ...]:
        """Compare and calibrate every pair; tell of the `top` ones, least likely first."""
        measured = self.compare(window_PSS)
        null = measured.null(self.dispersion)
        p_value_P = null.p_value(measured.nats_P)
        excess_P = np.where(measured.degrees_P > 0, np.maximum(measured.nats_P - null.mean, 0.0), 0.0)
        return tuple(
            PairDrift(
                self.slabs[self.plan[p][0]].name,
                self.slabs[self.plan[p][1]].name,
                float(measured.nats_P[p]),
                float(excess_P[p]),
                float(p_value_P[p]),
                self._top_cells(p, window_PSS[p], measured.expected_PIJ[p]),
            )
            for p in np.lexsort((-excess_P, p_value_P))[:top].tolist()
        )

    def _top_cells(
        self, p: int, window_SS: NDArray[np.int64], expected_SS: NDArray[np.float64]
    ) -> tuple[tuple[str, float, float], ...]:
        rows = max(int(window_SS.sum()), 1)
        parts_SS = (window_SS - expected_SS) ** 2 / np.maximum(expected_SS, 1.0)
        first, second = (self.slabs[f] for f in self.plan[p])
        cells = [
            divmod(cell, window_SS.shape[1])
            for cell in np.argsort(-parts_SS, axis=None, kind="stable")[:TOP_CELLS].tolist()
        ]
        return tuple(
            (
                f"{condition(first, i)}, {condition(second, j)}",
                float(expected_SS[i, j]) / rows,
                int(window_SS[i, j]) / rows,
            )
            for i, j in cells
            if parts_SS[i, j] > 0
        )

    def merge(self, other: "Pairs") -> "Pairs":
        """Add the counts of further rows in the same slabs.

        Raises
        ------
        ValueError
            If slabs or pairs differ.
        """
        if self.slabs != other.slabs or self.plan != other.plan:
            raise ValueError("pairs merge only when they have the same slabs")
        both = zip(self.dispersion, other.dispersion, strict=True)
        return replace(
            self,
            counts_PSS=self.counts_PSS + other.counts_PSS,
            dispersion=tuple(mine.merge(theirs) for mine, theirs in both),
        )

    @cached_property
    def _plan_P2(self) -> NDArray[np.intp]:
        return np.array(self.plan, dtype=np.intp).reshape(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        return {
            "slabs": [slabs.to_json() for slabs in self.slabs],
            "plan": [list(pair) for pair in self.plan],
            "counts": self.counts_PSS.ravel().tolist(),
            "dispersion": [asdict(dispersion) for dispersion in self.dispersion],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Pairs":
        """Read what `to_json` wrote."""
        slabs = tuple(bins_from_json(slabs) for slabs in document["slabs"])
        plan = tuple((int(a), int(b)) for a, b in document["plan"])
        most = max((feature.size for feature in slabs), default=0)
        counts_PSS = np.array(document["counts"], dtype=np.int64).reshape(len(plan), most, most)
        return cls(slabs, plan, counts_PSS, tuple(Dispersion(**entry) for entry in document["dispersion"]))


def build_pairs(
    features: Sequence[Bins],
    counts: Sequence[NDArray[np.int64]],
    columns: Columns,
    *,
    ordered: bool = False,
    limit: int = LIMIT,
    seed: int = 0,
) -> Pairs:
    """Freeze the pairs of a reference.

    Parameters
    ----------
    features, counts
        Bins of each feature and the reference's counts in them.
    columns
        The reference's rows.
    ordered
        Rows are in stream order, and how strongly they depend on each other is to be estimated.
    limit, seed
        See `plan_pairs`.
    """
    slabs = tuple(slabs_of(feature, counts_K) for feature, counts_K in zip(features, counts, strict=True))
    most = max((feature.size for feature in slabs), default=0)
    plan = plan_pairs(len(slabs), limit, seed)
    empty = Pairs(slabs, plan, np.zeros((len(plan), most, most), dtype=np.int64))
    slab_NF = assign_slabs(slabs, columns)
    dispersion = (dispersion_of_pair(slab_NF[:, a], slab_NF[:, b], most) for a, b in plan) if ordered else ()
    return replace(empty, counts_PSS=empty.count(columns), dispersion=_levelled(tuple(dispersion)))


def _levelled(dispersion: tuple[Dispersion, ...]) -> tuple[Dispersion, ...]:
    """Raise the lower half of the estimates to their median.

    Of many pairs the smallest p-value decides, and so the one whose dependence was underrated most: in a short reference of
    autocorrelated rows that doubles the false alarms.
    """
    dependent = [effects for effects in dispersion if effects.memory > 1]
    if not dependent:
        return dispersion
    mean = float(np.median([effects.mean for effects in dependent]))
    unevenness = float(np.median([effects.unevenness for effects in dependent]))
    return tuple(
        replace(effects, mean=max(effects.mean, mean), unevenness=max(effects.unevenness, unevenness))
        if effects.memory > 1
        else effects
        for effects in dispersion
    )


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
