"""What moved, as numbers to draw: each feature's whole histogram, reference against current, with its divergences.

Shapes: K bins of a feature. Bins stand in the order in which they are drawn: intervals from low to high, categories by reference
share; then other or unseen, then missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, CategoricalBins, NumericBins
from detectors.columns import Categorical, Column, Columns
from detectors.divergences import divergences
from detectors.profile import Profile
from detectors.verdict import FeatureDrift

DIVERGENCES = MappingProxyType(
    {"kl": "KL", "psi": "PSI", "jensen_shannon": "JS", "wasserstein": "W1"}
)  # those that are shown
STRANGERS = 3  # values without a bin of their own that are named


@dataclass(frozen=True)
class Histogram:
    """One feature, before and now."""

    name: str
    labels: tuple[str, ...]  # (K,)
    reference: tuple[float, ...]  # shares of the rows, (K,)
    current: tuple[float, ...]
    parts: tuple[float, ...] = ()  # nats of the divergence KL(current || reference), (K,)
    edges: tuple[float, ...] | None = None  # between the K - 1 intervals; None: not intervals
    divergences: Mapping[str, float] = field(default_factory=dict)  # those that are defined
    strangers: tuple[tuple[str, float], ...] = ()  # values in the bin of the others, share of the rows now
    whole: bool = True  # else only the bins that a verdict names

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types."""
        return {
            "name": self.name,
            "bins": [
                {"label": label, "reference_share": before, "current_share": now}
                for label, before, now in zip(self.labels, self.reference, self.current, strict=True)
            ],
            "divergences": dict(self.divergences),
            "without_a_bin": [list(stranger) for stranger in self.strangers],
            "whole": self.whole,
        }

    @classmethod
    def of_verdict(cls, feature: FeatureDrift) -> Histogram:
        """Take the bins that a verdict names, where the rows or their reference are gone."""
        labels, reference, current = zip(*feature.top_bins, strict=True) if feature.top_bins else ((), (), ())
        return cls(feature.name, labels, reference, current, whole=False)


def histograms(profile: Profile, window: Columns) -> dict[str, Histogram]:
    """Count a window into its reference's bins.

    Parameters
    ----------
    window
        Its rows. A feature that is not among them, or came as another type, counts as missing in every row.
    """
    known = {feature.name: feature for feature in profile.features}
    typed = {
        name: column
        if name not in known or _fits(known[name], column)
        else _missing(known[name], len(column))
        for name, column in window.items()
    }
    counts = profile.count(typed)
    expected, worth = profile.expected(counts)
    measured = {found.name: found for found in divergences(profile, counts, tuple(DIVERGENCES))}
    made = {}
    for bins, reference_K, current_K in zip(
        profile.features, profile.split(expected), profile.split(counts), strict=True
    ):
        found = measured[bins.name]
        order = _order(bins, reference_K)
        parts_K = found.parts["kl"]
        values = {name: found.value(name) for name in DIVERGENCES}
        made[bins.name] = Histogram(
            bins.name,
            tuple(bins.labels()[k] for k in order),
            _shares(reference_K[order], worth),
            _shares(current_K[order], float(current_K.sum())),
            () if parts_K is None else tuple(parts_K[order].tolist()),
            bins.edges if isinstance(bins, NumericBins) else None,
            {name: value for name, value in values.items() if value is not None},
            _strangers(bins, typed.get(bins.name)),
        )
    return made


def folded(histogram: Histogram, most: int) -> Histogram:
    """Return a histogram of at most so many categories: the rest, those with the smallest shares, become one.

    Intervals are left alone: they are drawn without labels of their own.
    """
    rare = len(histogram.labels) - most
    if rare <= 0 or histogram.edges is not None or most < 4 or not histogram.whole:
        return histogram
    own = len(histogram.labels) - 2  # without other and missing
    largest_K = np.maximum(histogram.reference[:own], histogram.current[:own])
    fold = set(np.argsort(largest_K, kind="stable")[: rare + 1].tolist())

    def merged(values: Sequence[float]) -> tuple[float, ...]:
        kept = [value for k, value in enumerate(values) if k not in fold]
        return (*kept[:-2], sum(values[k] for k in fold), *kept[-2:])

    labels = [label for k, label in enumerate(histogram.labels) if k not in fold]
    return Histogram(
        histogram.name,
        (*labels[:-2], f"{len(fold)} rarer ones", *labels[-2:]),
        merged(histogram.reference),
        merged(histogram.current),
        merged(histogram.parts) if histogram.parts else (),
        None,
        histogram.divergences,
        histogram.strangers,
    )


def telling(histogram: Histogram, most: int) -> Histogram:
    """Return the bins that make up the divergence, in their order: at most so many, none of them idle."""
    parts_K = np.array(histogram.parts or [1.0] * len(histogram.labels))
    if not parts_K.size:
        return histogram
    largest = np.argsort(-parts_K, kind="stable")[:most]
    chosen = sorted(k for k in largest.tolist() if parts_K[k] >= 0.02 * parts_K.sum() and parts_K[k] > 0)
    pick = [(histogram.labels[k], histogram.reference[k], histogram.current[k], parts_K[k]) for k in chosen]
    labels, reference, current, parts = zip(*pick, strict=True) if pick else ((), (), (), ())
    return Histogram(
        histogram.name,
        labels,
        reference,
        current,
        tuple(map(float, parts)),
        None,
        histogram.divergences,
        histogram.strangers,
        whole=False,
    )


def _fits(bins: Bins, column: Column) -> bool:
    return isinstance(column, Categorical) == isinstance(bins, CategoricalBins)


def _missing(bins: Bins, rows: int) -> Column:
    if isinstance(bins, CategoricalBins):
        return Categorical(np.full(rows, -1, dtype=np.int32), ())
    return np.full(rows, np.nan)


def _order(bins: Bins, reference_K: NDArray[np.float64]) -> NDArray[np.intp]:
    if isinstance(bins, NumericBins):
        return np.arange(bins.size)
    return np.concatenate((np.argsort(-reference_K[:-2], kind="stable"), [bins.size - 2, bins.size - 1]))


def _shares(counts_K: NDArray[Any], rows: float) -> tuple[float, ...]:
    return tuple((counts_K / (rows or 1.0)).tolist())


def _strangers(bins: Bins, column: Column | None) -> tuple[tuple[str, float], ...]:
    if not isinstance(bins, CategoricalBins) or not isinstance(column, Categorical) or not len(column):
        return ()
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.vocabulary))
    own = set(bins.categories)
    found = [
        (-int(count), value)
        for value, count in zip(column.vocabulary, counts.tolist(), strict=True)
        if count and value not in own
    ]
    return tuple((value, -count / len(column)) for count, value in sorted(found)[:STRANGERS])
