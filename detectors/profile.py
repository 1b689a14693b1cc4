"""Profile: all that is kept of a reference. Bins, counts and how its rows depend on each other; no raw data.

Counts are flat: those of the first feature, then those of the second, and so on. They are sums over rows, so
profiles and windows merge by adding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, CategoricalBins, NumericBins, bins_from_json, bins_of
from detectors.calibration import Evidence
from detectors.columns import Columns, rows_of
from detectors.dispersion import MINIMUM_BLOCKS, Dispersion, dispersion_of

__all__ = ["FORMAT", "Bins", "CategoricalBins", "NumericBins", "Profile", "build_profile"]

FORMAT = 1  # version of the JSON document; readers refuse what they do not know


@dataclass(frozen=True, eq=False)
class Profile:
    """A reference, ready to be compared with the counts of any window.

    Raises
    ------
    ValueError
        If the counts do not fit the features.
    """

    features: tuple[Bins, ...]
    counts: NDArray[np.int64]  # flat, one per bin of every feature
    rows: int  # reference rows; each feature's counts sum to it
    dispersion: tuple[
        Dispersion, ...
    ]  # per feature, how much more counts vary than those of independent rows
    blocks: int = 0  # blocks that it was estimated from; 0 takes rows as independent

    def __post_init__(self) -> None:
        if any(part.sum() != self.rows for part in self.split(self.counts)):
            raise ValueError(f"the counts of a feature do not sum to {self.rows} rows")
        if len(self.features) != len(self.dispersion):
            raise ValueError("dispersion needs one value per feature")

    @cached_property
    def offsets(self) -> NDArray[np.intp]:
        """Where each feature's counts begin, and the total at the end: shape (features + 1,)."""
        return np.concatenate(([0], np.cumsum([feature.size for feature in self.features], dtype=np.intp)))

    @cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        """What calibration needs to know of each feature."""
        parts = self.split(self.counts)
        return tuple(Evidence.of(feature, part) for feature, part in zip(self.features, parts, strict=True))

    def count(self, columns: Columns) -> NDArray[np.int64]:
        """Count a window into the reference's bins.

        Parameters
        ----------
        columns
            The window. A feature that is not among them counts as missing in every row; other columns are
            ignored.

        Returns
        -------
        int array, shape (offsets[-1],)
            Flat counts, which add up over any partition of the rows.
        """
        rows = rows_of(columns)
        flat = np.zeros(self.offsets[-1], dtype=np.int64)
        for feature, view in zip(self.features, self.split(flat), strict=True):
            if feature.name in columns:
                view[:] = feature.count(columns[feature.name])
            else:
                view[-1] = rows
        return flat

    def split(self, counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """View flat counts feature by feature.

        Raises
        ------
        ValueError
            If they were not counted in these bins.
        """
        if counts.shape != (self.offsets[-1],):
            raise ValueError(f"expected {self.offsets[-1]} counts, not an array of shape {counts.shape}")
        return np.split(counts, self.offsets[1:-1]) if self.features else []

    def merge(self, other: "Profile") -> "Profile":
        """Add the profile of further rows in the same bins.

        Counts add exactly. Dispersion is averaged by blocks: a property of the stream, estimated twice.

        Raises
        ------
        ValueError
            If the bins differ.
        """
        if self.features != other.features:
            raise ValueError("profiles merge only when they have the same bins")
        blocks = self.blocks + other.blocks
        return replace(
            self,
            counts=self.counts + other.counts,
            rows=self.rows + other.rows,
            dispersion=tuple(
                mine.average(theirs, self.blocks / blocks) if blocks else mine
                for mine, theirs in zip(self.dispersion, other.dispersion, strict=True)
            ),
            blocks=blocks,
        )

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        return {
            "format": FORMAT,
            "rows": self.rows,
            "blocks": self.blocks,
            "features": [
                feature.to_json() | {"counts": counts.tolist(), "dispersion": asdict(dispersion)}
                for feature, counts, dispersion in zip(
                    self.features, self.split(self.counts), self.dispersion, strict=True
                )
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Profile":
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the document has another format version, or its counts do not fit its bins.
        """
        if document.get("format") != FORMAT:
            raise ValueError(f"profile has format {document.get('format')!r}; this release reads {FORMAT}")
        features = document["features"]
        return cls(
            features=tuple(bins_from_json(feature) for feature in features),
            counts=np.array([count for feature in features for count in feature["counts"]], dtype=np.int64),
            rows=int(document["rows"]),
            dispersion=tuple(Dispersion(**feature["dispersion"]) for feature in features),
            blocks=int(document["blocks"]),
        )


def build_profile(columns: Columns, *, bins: int = 16, top: int = 32, block_rows: int = 0) -> Profile:
    """Freeze a reference.

    Parameters
    ----------
    columns
        Reference rows.
    bins
        Intervals per numeric feature, at least 2; fewer remain where values tie.
    top
        Categories per categorical feature that get a bin of their own, at least 1.
    block_rows
        Where positive, rows are in stream order, and contiguous blocks of that many rows show how strongly
        they depend on each other. Choose the size of the windows to come. Thirty blocks or more
        make the estimate sound; fewer than three show nothing, and rows are then taken as independent, as they are
        with 0.

    Raises
    ------
    ValueError
        If columns differ in length, or an option is out of range.
    """
    if bins < 2 or top < 1 or block_rows < 0:
        raise ValueError(f"need bins >= 2, top >= 1, block_rows >= 0, not {bins}, {top}, {block_rows}")
    rows = rows_of(columns)
    blocks = rows // block_rows if block_rows else 0
    if blocks < MINIMUM_BLOCKS:
        blocks = 0
    features, counts, dispersions = [], [], []
    for name, column in columns.items():
        feature = bins_of(name, column, bins=bins, top=top)
        bin_N = feature.assign(column)
        features.append(feature)
        counts.append(np.bincount(bin_N, minlength=feature.size))
        dispersions.append(_dispersion(bin_N, feature.size, blocks, block_rows))
    return Profile(
        features=tuple(features),
        counts=np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, dtype=np.int64),
        rows=rows,
        dispersion=tuple(dispersions),
        blocks=blocks,
    )


def _dispersion(bin_N: NDArray[np.intp], size: int, blocks: int, block_rows: int) -> Dispersion:
    if not blocks:
        return Dispersion()
    used = blocks * block_rows
    cell = np.repeat(np.arange(blocks), block_rows) * size + bin_N[:used]
    return dispersion_of(np.bincount(cell, minlength=blocks * size).reshape(blocks, size))
