"""Profile: all that is kept of a reference. Bins, counts and how its rows and features depend on each other; no raw data.

Shapes: N rows, F features, K bins of all features together, S seasons, W windows. Counts are flat: those of the first feature, then
those of the second, and so on, then the rows of each season and the joint counts of pairs, if the profile has any. They are sums over
rows, so profiles and windows merge by adding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, CategoricalBins, NumericBins, bins_from_json, bins_of
from detectors.calibration import Evidence
from detectors.columns import Categorical, Column, Columns, rows_of
from detectors.dispersion import Dispersion, dispersion_of, dispersions_of
from detectors.joint import dependence_of
from detectors.pairs import Pairs, build_pairs

__all__ = ["FORMAT", "Bins", "CategoricalBins", "NumericBins", "Profile", "Seasons", "build_profile"]

FORMAT = 2  # version of the JSON document; readers refuse what they do not know
SEASONS = 168  # at most, the hours of a week


@dataclass(frozen=True, eq=False)
class Seasons:
    """Counts by season: what the reference looked like at this hour, or on this weekday."""

    bins: CategoricalBins  # names the column that tells the season
    counts_SK: NDArray[np.int64]  # (seasons, bins of all features)


@dataclass(frozen=True, eq=False)
class Profile:
    """A reference, ready to be compared with the counts of any window.

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

    features: tuple[Bins, ...]
    counts: NDArray[np.int64]  # (K,), one per bin of every feature
    rows: int  # reference rows; each feature's counts sum to it
    dispersion: tuple[
        Dispersion, ...
    ]  # per feature, how much more values vary than those of independent rows
    missing_dispersion: tuple[Dispersion, ...]  # the same of whether a value is there: gaps come in bursts
    dependence_FF: NDArray[np.float64]  # correlation of the features' divergences; see `detectors.joint`
    seasons: Seasons | None = None  # None: the reference looks the same at all times
    pairs: Pairs | None = None  # None: each feature is looked at alone

    def __post_init__(self) -> None:
        if any(part.sum() != self.rows for part in self.split(self.counts)):
            raise ValueError(f"the counts of a feature do not sum to {self.rows} rows")
        if not len(self.features) == len(self.dispersion) == len(self.missing_dispersion):
            raise ValueError("dispersion needs one value per feature")
        if self.dependence_FF.shape != (len(self.features),) * 2:
            raise ValueError(
                f"dependence needs one value per pair of features, not {self.dependence_FF.shape}"
            )
        if self.seasons is not None and (self.seasons.counts_SK.sum(axis=0) != self.counts).any():
            raise ValueError("the counts of the seasons do not sum to those of the reference")
        if self.pairs is not None and (self.pairs.counts_PSS.sum(axis=(1, 2)) != self.rows).any():
            raise ValueError(f"the counts of a pair do not sum to {self.rows} rows")

    @cached_property
    def offsets(self) -> NDArray[np.intp]:
        """Where each feature's counts begin, and the total at the end: shape (F + 1,)."""
        return np.concatenate(([0], np.cumsum([feature.size for feature in self.features], dtype=np.intp)))

    @property
    def size(self) -> int:
        """Length of the flat counts of a window: K, the seasons, and the cells of all pairs."""
        return self._pairs_at + (0 if self.pairs is None else self.pairs.counts_PSS.size)

    @property
    def _pairs_at(self) -> int:
        return int(self.offsets[-1]) + (0 if self.seasons is None else self.seasons.bins.size)

    @cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        """What calibration needs to know of each feature's values."""
        parts = zip(self.features, self.split(self.counts), strict=True)
        return tuple(Evidence.of(part[:-1], bins.prior(part)[:-1]) for bins, part in parts)

    @cached_property
    def missing_evidence(self) -> tuple[Evidence, ...]:
        """What calibration needs to know of how often each feature's values are there."""
        parts = zip(self.features, self.split(self.counts), strict=True)
        return tuple(
            Evidence.of(np.array([part[:-1].sum(), part[-1]]), np.array([1.0, bins.prior(part)[-1]]))
            for bins, part in parts
        )

    @property
    def rows_needed(self) -> int:
        """Reference rows that its dependence on itself calls for; 0 where it has them."""
        effects = (*self.dispersion, *self.missing_dispersion)
        needed = max((effect.rows_needed for effect in effects), default=0)
        return needed if needed > self.rows else 0

    def count(self, columns: Columns) -> NDArray[np.int64]:
        """Count a window into the reference's bins.

        Parameters
        ----------
        columns
            The window. A feature that is not among them counts as missing in every row; other columns are
            ignored.

        Returns
        -------
        int array, shape (size,)
            Flat counts, which add up over any partition of the rows.
        """
        rows = rows_of(columns)
        flat = np.zeros(self.size, dtype=np.int64)
        for feature, start in self._counted():
            view = flat[start : start + feature.size]
            if feature.name in columns:
                view[:] = feature.count(columns[feature.name])
            else:
                view[-1] = rows
        if self.pairs is not None:
            flat[self._pairs_at :] = self.pairs.count(columns).ravel()
        return flat

    def count_windows(self, columns: Columns, window_rows: int) -> NDArray[np.int64]:
        """Count whole blocks of consecutive windows, compiled: equal to `count` of each.

        Parameters
        ----------
        columns
            Rows in stream order; those behind the last whole window are left out.
        window_rows
            Rows per window, at least 1.

        Returns
        -------
        int array, shape (W, size)
        """
        if window_rows < 1:
            raise ValueError(f"window_rows must be positive, not {window_rows}")
        from detectors.kernels import count_codes, count_numeric  # numba takes a while to import

        windows = rows_of(columns) // window_rows
        counts_WK = np.zeros((windows, self.size), dtype=np.int64)
        for feature, start in self._counted():
            view = counts_WK[:, start : start + feature.size]
            column = columns.get(feature.name)
            if column is None:
                view[:, -1] = window_rows
            elif isinstance(feature, NumericBins):
                count_numeric(feature.values(column), feature.edges_E, feature.size - 1, window_rows, view)
            else:
                codes_N, bin_of_code = feature.codes(column)
                count_codes(codes_N, bin_of_code, window_rows, view)
        if self.pairs is not None:
            counts_WK[:, self._pairs_at :] = self.pairs.count_windows(columns, window_rows).reshape(
                windows, -1
            )
        return counts_WK

    def expected(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        """Return the reference that a window is to be compared with, and the rows that it is worth.

        Without seasons these are the profile's own. With seasons, each season's shares count as often as the window has rows of it; one
        that the reference never saw looks like the reference as a whole. The variance of such a mixture is that of 1 / sum(w_s^2 / m_s)
        rows, w_s being the window's share of a season and m_s the reference's rows.

        Parameters
        ----------
        counts : int array, shape (size,)
            Of the window.

        Returns
        -------
        Counts of shape (K,), and the rows that they sum to in each feature.
        """
        if self.seasons is None:
            return self.counts.astype(np.float64), float(self.rows)
        of_season_S = counts[self.offsets[-1] : self._pairs_at]
        rows_S = self._season_rows_S
        total = of_season_S.sum()
        if not total or not self.rows:
            return self.counts.astype(np.float64), float(self.rows)
        weight_S = of_season_S / total
        seen = rows_S > 0
        shares_K = (weight_S[seen] / rows_S[seen]) @ self.seasons.counts_SK[seen]
        shares_K += weight_S[~seen].sum() * self.counts / self.rows
        variance = float((weight_S[seen] ** 2 / rows_S[seen]).sum() + weight_S[~seen].sum() ** 2 / self.rows)
        worth = min(1 / variance, float(self.rows))
        return shares_K * worth, worth

    @cached_property
    def _season_rows_S(self) -> NDArray[np.int64]:
        if self.seasons is None or not self.features:
            return np.zeros(0, dtype=np.int64)
        rows_S: NDArray[np.int64] = self.seasons.counts_SK[:, : self.features[0].size].sum(axis=1)
        return rows_S

    def _counted(self) -> list[tuple[Bins, int]]:
        """Each thing that is counted, and where its counts begin."""
        counted: list[tuple[Bins, int]] = list(zip(self.features, self.offsets[:-1].tolist(), strict=True))
        return counted if self.seasons is None else [*counted, (self.seasons.bins, int(self.offsets[-1]))]

    def split(self, counts: NDArray[Any]) -> list[NDArray[Any]]:
        """View flat counts feature by feature, without those of seasons and pairs.

        Raises
        ------
        ValueError
            If they were not counted in these bins.
        TypeError
            If they are no counts.
        """
        if not isinstance(counts, np.ndarray):
            raise TypeError(f"counts are what `profile.count(columns)` gives, not a {type(counts).__name__}")
        if counts.shape not in ((self.offsets[-1],), (self.size,)):
            raise ValueError(f"expected {self.size} counts, not an array of shape {counts.shape}")
        return np.split(counts[: self.offsets[-1]], self.offsets[1:-1]) if self.features else []

    def pair_counts(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """View the joint counts among flat ones of shape (size,): shape (P, S, S), no pairs if the profile has none."""
        shape = (0, 0, 0) if self.pairs is None else self.pairs.shape
        return counts[self._pairs_at :].reshape(shape)

    def merge(self, other: "Profile") -> "Profile":
        """Add the profile of further rows in the same bins.

        Counts add exactly. Dispersion and dependence are averaged by rows: properties of the stream, estimated twice.

        Raises
        ------
        ValueError
            If the bins differ.
        """
        mine, theirs = self.seasons, other.seasons
        same = (mine is None) == (theirs is None) and (
            mine is None or theirs is None or mine.bins == theirs.bins
        )
        if self.features != other.features or not same or (self.pairs is None) != (other.pairs is None):
            raise ValueError("profiles merge only when they have the same bins")
        rows = self.rows + other.rows
        weight = self.rows / rows if rows else 0.5
        return replace(
            self,
            counts=self.counts + other.counts,
            rows=rows,
            dispersion=_merged(self.dispersion, other.dispersion),
            missing_dispersion=_merged(self.missing_dispersion, other.missing_dispersion),
            dependence_FF=weight * self.dependence_FF + (1 - weight) * other.dependence_FF,
            seasons=None
            if mine is None or theirs is None
            else replace(mine, counts_SK=mine.counts_SK + theirs.counts_SK),
            pairs=None if self.pairs is None or other.pairs is None else self.pairs.merge(other.pairs),
        )

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        return {
            "format": FORMAT,
            "rows": self.rows,
            "features": [
                feature.to_json()
                | {
                    "counts": counts.tolist(),
                    "dispersion": asdict(values),
                    "missing_dispersion": asdict(missing),
                }
                for feature, counts, values, missing in zip(
                    self.features,
                    self.split(self.counts),
                    self.dispersion,
                    self.missing_dispersion,
                    strict=True,
                )
            ],
            "dependence": self.dependence_FF.tolist(),
            "seasons": None
            if self.seasons is None
            else {"bins": self.seasons.bins.to_json(), "counts": self.seasons.counts_SK.tolist()},
            "pairs": None if self.pairs is None else self.pairs.to_json(),
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
        seasons = document["seasons"]
        bins = None if seasons is None else bins_from_json(seasons["bins"])
        if bins is not None and not isinstance(bins, CategoricalBins):
            raise ValueError("seasons need categorical bins")
        return cls(
            features=tuple(bins_from_json(feature) for feature in features),
            counts=np.array([count for feature in features for count in feature["counts"]], dtype=np.int64),
            rows=int(document["rows"]),
            dispersion=tuple(Dispersion(**feature["dispersion"]) for feature in features),
            missing_dispersion=tuple(Dispersion(**feature["missing_dispersion"]) for feature in features),
            dependence_FF=np.array(document["dependence"], dtype=np.float64).reshape((len(features),) * 2),
            seasons=None if bins is None else Seasons(bins, np.array(seasons["counts"], dtype=np.int64)),
            pairs=None if document.get("pairs") is None else Pairs.from_json(document["pairs"]),
        )


def _merged(mine: tuple[Dispersion, ...], theirs: tuple[Dispersion, ...]) -> tuple[Dispersion, ...]:
    return tuple(a.merge(b) for a, b in zip(mine, theirs, strict=True))


def build_profile(
    columns: Columns, *, bins: int = 16, top: int = 32, season: str | None = None, pairs: bool = False
) -> Profile:
    """Freeze a reference.

    Parameters
    ----------
    columns
        Reference rows, in stream order where they have one: it shows how strongly they depend on each other.
    bins
        Intervals per numeric feature, at least 2; fewer remain where values tie.
    top
        Categories per categorical feature that get a bin of their own, at least 1.
    season
        Name of a categorical column that tells each row's season, such as its hour. It is not a feature: a window is compared with what the
        reference held in the same seasons.
    pairs
        Keep joint counts of pairs of features, too: all of up to 23 features, a balanced choice of more; see `detectors.pairs`.

    Raises
    ------
    ValueError
        If columns differ in length, an option is out of range, or the season is no categorical column.
    """
    if bins < 2 or top < 1:
        raise ValueError(f"need bins >= 2 and top >= 1, not {bins} and {top}")
    season_bins = None if season is None else _season_of(columns, season)
    features = tuple(
        bins_of(name, column, bins=bins, top=top) for name, column in columns.items() if name != season
    )
    profile = _profile(features, season_bins, columns)
    if not pairs:
        return profile
    return replace(profile, pairs=build_pairs(features, profile.split(profile.counts), columns, ordered=True))


def recount(profile: Profile, columns: Columns) -> Profile:
    """Freeze further rows in the bins of an existing profile, so that the two can be merged.

    Parameters
    ----------
    profile
        Whose features and bins to use.
    columns
        Rows, in stream order where they have one. A feature that is not among them counts as missing in every row.

    Raises
    ------
    TypeError
        If a column is numeric in one and categorical in the other.
    """
    recounted = _profile(profile.features, None if profile.seasons is None else profile.seasons.bins, columns)
    if profile.pairs is None:
        return recounted
    return replace(recounted, pairs=profile.pairs.recount(columns, ordered=bool(profile.pairs.dispersion)))


def _profile(features: tuple[Bins, ...], season_bins: CategoricalBins | None, columns: Columns) -> Profile:
    rows = rows_of(columns)
    season_N = None if season_bins is None else _assigned(season_bins, columns, rows)
    bins_FN = [_assigned(feature, columns, rows) for feature in features]
    sizes = [feature.size for feature in features]
    counts = [np.bincount(bin_N, minlength=size) for bin_N, size in zip(bins_FN, sizes, strict=True)]
    dependence_FF = dependence_of(bins_FN, sizes)
    return Profile(
        features=features,
        counts=np.concatenate(counts).astype(np.int64) if counts else np.zeros(0, dtype=np.int64),
        rows=rows,
        dispersion=dispersions_of(bins_FN, [size - 1 for size in sizes], dependence_FF, season_N),
        missing_dispersion=tuple(
            dispersion_of((bin_N == size - 1).astype(np.intp), 2, season_N)
            for bin_N, size in zip(bins_FN, sizes, strict=True)
        ),
        dependence_FF=dependence_FF,
        seasons=None
        if season_bins is None or season_N is None
        else Seasons(season_bins, _by_season(bins_FN, sizes, season_N, season_bins.size)),
    )


def _assigned(bins: Bins, columns: Columns, rows: int) -> NDArray[np.intp]:
    column = columns.get(bins.name)
    return np.full(rows, bins.size - 1, np.intp) if column is None else bins.assign(column)


def _season_of(columns: Columns, season: str) -> CategoricalBins:
    column: Column | None = columns.get(season)
    if not isinstance(column, Categorical):
        raise ValueError(f"the season {season!r} is no categorical column")
    return CategoricalBins.of(season, column, SEASONS)


def _by_season(
    bins_FN: list[NDArray[np.intp]], sizes: list[int], season_N: NDArray[np.intp], seasons: int
) -> NDArray[np.int64]:
    tables = [
        np.bincount(season_N * size + bin_N, minlength=seasons * size).reshape(seasons, size)
        for bin_N, size in zip(bins_FN, sizes, strict=True)
    ]
    return np.concatenate(tables, axis=1) if tables else np.zeros((seasons, 0), dtype=np.int64)
