"""Pairs of features: joint counts in a few slabs of each, for changes that no single feature shows.

Shapes: N rows, W windows of equal size, F features, P pairs, S slabs of the feature that has most. Counts of pairs add like any
others, and memory is P x S x S whatever the stream. What slabs are stands in `detectors.slabs`, how pairs are measured in
`detectors.interaction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, bins_from_json
from detectors.calibration import Null
from detectors.columns import Columns, rows_of
from detectors.dispersion import Dispersion
from detectors.interaction import Interaction, dispersion_of_pair, interaction
from detectors.slabs import LIMIT, assign_slabs, condition, plan_pairs, slabs_of
from detectors.verdict import PairDrift

TOP_PAIRS = 5  # named in a verdict
TOP_CELLS = 3  # of each


@dataclass(frozen=True, eq=False)
class PairJudgement:
    """What each pair of a window says by itself."""

    nats_P: NDArray[np.float64]  # as measured, beyond the marginals
    excess_P: NDArray[np.float64]  # less its mean when nothing has moved; may be negative
    p_value_P: NDArray[np.float64]
    measured: Interaction
    null: Null


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

    def null(self, measured: Interaction, rows: int, tolerance: float = 0.0) -> Null:
        """Distribution of each pair's divergence when its odds ratios have moved by no more than `tolerance` nats.

        Parameters
        ----------
        measured
            From `compare`, of a window of so many rows.
        tolerance
            Nats by which a pair may truly have moved beyond its marginals; the models are nested, so that the statistic
            is then noncentral chi-square, as that of a feature.
        """
        null = measured.null(self._dependence)
        if not tolerance:
            return null
        effects_P = np.array([effects.mean for effects in self._dependence]) if self._dependence else 1.0
        scale = 1 / max(rows, 1) + len(self.plan) / max(int(self.counts_PSS.sum()), 1)
        return null.tolerant(tolerance, np.multiply(effects_P, scale))

    def judge(self, window_PSS: NDArray[np.int64], *, tolerance: float = 0.0) -> "PairJudgement":
        """Compare and calibrate every pair."""
        measured = self.compare(window_PSS)
        rows = int(window_PSS[:1].sum())
        null = self.null(measured, rows, tolerance)
        comparable_P = measured.degrees_P > 0
        return PairJudgement(
            measured.nats_P,
            np.where(comparable_P, measured.nats_P - (null.mean - tolerance), 0.0),
            np.where(comparable_P, null.p_value(measured.nats_P), 1.0),
            measured,
            null,
        )

    def tell(
        self, window_PSS: NDArray[np.int64], judgement: "PairJudgement", moved_P: NDArray[np.bool_]
    ) -> tuple[PairDrift, ...]:
        """Put the pairs of a judged window that moved into a form for people, least likely first; a few of many."""
        excess_P = np.maximum(judgement.excess_P, 0.0)
        return tuple(
            PairDrift(
                self.slabs[self.plan[p][0]].name,
                self.slabs[self.plan[p][1]].name,
                float(judgement.nats_P[p]),
                float(excess_P[p]),
                float(judgement.p_value_P[p]),
                self._top_cells(p, window_PSS[p], judgement.measured.expected_PIJ[p]),
            )
            for p in [p for p in np.lexsort((-excess_P, judgement.p_value_P)) if moved_P[p]][:TOP_PAIRS]
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

    def recount(self, columns: Columns, *, ordered: bool) -> "Pairs":
        """Freeze further rows in the same slabs; `ordered` as of `build_pairs`."""
        slab_NF, most = assign_slabs(self.slabs, columns), self.shape[1]
        dispersion = (
            tuple(dispersion_of_pair(slab_NF[:, a], slab_NF[:, b], most) for a, b in self.plan)
            if ordered
            else ()
        )
        return replace(self, counts_PSS=self.count(columns), dispersion=_levelled(dispersion))

    @cached_property
    def comparable(self) -> int:
        """Number of pairs that can show anything: both features have two slabs that the reference occupies."""
        slabs_P2 = [(self.counts_PSS.sum(axis=axis) > 0).sum(axis=1) for axis in (1, 2)]
        return int((np.minimum(*slabs_P2) > 1).sum())

    @cached_property
    def _dependence(self) -> tuple[Dispersion, ...]:
        return self.dispersion if any(effects.memory > 1 for effects in self.dispersion) else ()

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
    return empty.recount(columns, ordered=ordered)


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
