"""Sliding windows: the KL detector's verdict on the last rows, at every row, exactly.

Shapes: N rows, F features, W rows per window, K bins.

The null of each feature is turned once into critical nats, so that a row costs a few look-ups per feature: see
`detectors.sliding_kernel`. Windows overlap, which the budget allows for: see `detectors.overlap`. Memory is that of W bins per feature.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, NumericBins
from detectors.calibration import DRAWS, FINE_DRAWS
from detectors.columns import Column, Columns, rows_of
from detectors.detector import KLDetector
from detectors.judgement import features_worth, nulls_of
from detectors.kl import SMOOTHING, kl, shares
from detectors.overlap import looks_of
from detectors.profile import Profile
from detectors.rows import RowBins, Value

if TYPE_CHECKING:  # numba takes a while to import
    from detectors.sliding_kernel import Law, Window

Ints = NDArray[np.int64]

BLOCK_ROWS = 4096  # whose bins stay in the cache until they are counted
NEVER = 2**62  # larger than any sum of the kernel


@dataclass(frozen=True, eq=False)
class SlidingAlarm:
    """A window that is further from the reference than chance goes."""

    row: int  # its last one, counted since the start
    counts_K: NDArray[np.int64]  # what `KLDetector.compare` takes, to say which features moved


@dataclass(frozen=True)
class SlidingDetector:
    """Compare the last rows with a reference profile, after every row.

    After an alarm it starts afresh: the next window must fill first.

    Raises
    ------
    ValueError
        If the window has no rows, or the detector has a fixed threshold or seasons, for which critical nats are not constant.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> detector = SlidingDetector(window_rows=500)
    >>> profile = detector.detector.profile({"x": rng.normal(size=5000)})
    >>> runner = detector.start(profile)
    >>> runner.update({"x": rng.normal(size=2000)})
    []
    >>> alarm = runner.update({"x": rng.normal(1.0, size=400)})[0]
    >>> 2000 < alarm.row < 2200
    True
    >>> detector.detector.compare(profile, alarm.counts_K).alarm
    True
    """

    detector: KLDetector = field(default_factory=KLDetector)
    window_rows: int = 1000

    def __post_init__(self) -> None:
        if self.window_rows < 1:
            raise ValueError(f"window_rows must be positive, not {self.window_rows}")
        if self.detector.nats is not None or self.detector.season is not None:
            raise ValueError("windows that slide row by row know neither fixed thresholds nor seasons")

    def start(self, profile: Profile) -> "SlidingRunner":
        """Begin with an empty window.

        Raises
        ------
        ValueError
            If the profile has seasons or pairs of features.
        """
        return SlidingRunner(self, profile)


class SlidingRunner:
    """A sliding window on its way, which changes in place.

    It holds nothing but the last rows: one that is given these goes on like the other.
    """

    def __init__(self, detector: SlidingDetector, profile: Profile) -> None:
        if profile.size != profile.offsets[-1]:
            raise ValueError("windows that slide row by row know neither seasons nor pairs of features")
        from detectors.sliding_kernel import bins_of_numbers, slide

        self._slide, self._bins_of_numbers = slide, bins_of_numbers
        self._profile, self._row_bins = profile, RowBins(profile)
        self._rows_before = 0
        # A reference without rows says nothing of any window, nor does one without features.
        self._blind = not (profile.rows and profile.features)
        if not self._blind:
            self._law = _law(detector, profile)
            self._window = _empty(profile, self._law, detector.window_rows)

    @property
    def counts_K(self) -> NDArray[np.int64]:
        """Counts of the rows since the last alarm, of the last `window_rows` at most."""
        if self._blind:
            return self._profile.count({})
        pairs = zip(self._window.counts_FK, self._profile.features, strict=True)
        return np.concatenate([counts[: bins.size] for counts, bins in pairs])

    @property
    def nats_F(self) -> NDArray[np.float64]:
        """Divergence of each feature's values, of those that are there."""
        if self._blind:
            return np.zeros(len(self._profile.features))
        window, missing_F = self._window, self._law.missing_F
        there_F = window.place[0] - window.counts_FK[np.arange(missing_F.size), missing_F]
        smoothed_F = there_F + SMOOTHING * missing_F
        unit = _unit(self._profile, window.ring_FW.shape[1])
        nats_F: NDArray[np.float64] = window.sum_F / unit / smoothed_F - np.log(smoothed_F)
        return nats_F

    def update(self, columns: Columns) -> list[SlidingAlarm]:
        """Take the next rows of the stream.

        Parameters
        ----------
        columns
            A feature that is not among them is missing in every row; others are ignored.

        Raises
        ------
        TypeError
            If a column is of another kind than in the reference.
        ValueError
            If the columns differ in length.
        """
        sources = [_source(bins, columns.get(bins.name)) for bins in self._profile.features]
        rows = rows_of(columns)
        alarms: list[SlidingAlarm] = []
        for start in range(0, rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, rows)
            bin_FN = np.empty((len(sources), stop - start), dtype=np.int32)
            for (values, table), bins, bin_N in zip(sources, self._profile.features, bin_FN, strict=True):
                if values is None:
                    bin_N[:] = bins.size - 1
                elif isinstance(bins, NumericBins):
                    self._bins_of_numbers(values[start:stop], table, bins.size - 1, bin_N)
                else:
                    table.take(values[start:stop], out=bin_N, mode="wrap")
            alarms += self._taken(bin_FN)
        return alarms

    def update_row(self, row: Sequence[Value]) -> SlidingAlarm | None:
        """Take one row: a value per feature, in the profile's order; see `RowBins`.

        Raises
        ------
        ValueError
            If there are not as many values as features.
        TypeError
            If a number is expected and something else came.
        """
        alarms = self._taken(self._row_bins.assign(row).T.astype(np.int32))
        return alarms[0] if alarms else None

    def _taken(self, bin_FN: NDArray[np.int32]) -> list[SlidingAlarm]:
        alarms: list[SlidingAlarm] = []
        first = 0
        while not self._blind and first >= 0:
            row = self._slide(bin_FN, first, self._window, self._law)
            if row >= 0:
                alarms.append(SlidingAlarm(self._rows_before + row, self.counts_K))
                self._window = _empty(self._profile, self._law, self._window.ring_FW.shape[1])
            first = row + 1 if row >= 0 else -1
        self._rows_before += bin_FN.shape[1]
        return alarms


def _source(bins: Bins, column: Column | None) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Return numbers and the edges between bins, or codes and the bin of each; no column, nothing."""
    if column is None:
        return None, np.zeros(0)
    if isinstance(bins, NumericBins):
        return bins.values(column), bins.edges_E
    codes_N, bin_of_code = bins.codes(column)
    return codes_N, bin_of_code.astype(np.int32)


def _empty(profile: Profile, law: "Law", window_rows: int) -> "Window":
    from detectors.sliding_kernel import Window

    features, bins = law.cost_FK.shape
    # S of no rows: half a count in every bin.
    nothing = round(SMOOTHING * math.log(SMOOTHING) * _unit(profile, window_rows))
    sum_F = law.missing_F * nothing + np.rint(SMOOTHING * law.cost_FK.sum(axis=1)).astype(np.int64)
    counts_FK = np.zeros((features, bins), dtype=np.int64)
    return Window(
        np.zeros((features, window_rows), dtype=np.int32), np.zeros(2, dtype=np.int64), counts_FK, sum_F
    )


def _unit(profile: Profile, window_rows: int) -> float:
    """Return what one nat of S is; sums of W + K terms of up to 64 nats stay below `NEVER`."""
    bins = max(feature.size for feature in profile.features)
    return float(NEVER >> 6 + (window_rows + bins).bit_length())


@lru_cache(maxsize=16)
def _law(detector: SlidingDetector, profile: Profile) -> "Law":
    from detectors.sliding_kernel import Law

    rows, features = detector.window_rows, profile.features
    unit = _unit(profile, rows)
    half_W = np.arange(rows + 1) + SMOOTHING
    cost_FK = np.zeros((len(features), max(bins.size for bins in features)), dtype=np.int64)
    for cost_K, part in zip(cost_FK, profile.split(profile.counts), strict=True):
        cost_K[: part.size - 1] = np.rint(-np.log(shares(part[:-1])) * unit)
    smoothed_FN = np.add.outer([SMOOTHING * (bins.size - 1) for bins in features], np.arange(rows + 1))
    critical_FN = (_critical_nats(detector, profile) + np.log(smoothed_FN)) * smoothed_FN * unit
    critical_FN[:, 0] = NEVER  # no value, nothing wrong with the values
    critical_FN[_amiss(detector, profile)] = -NEVER
    return Law(
        np.diff(np.rint(half_W * np.log(half_W) * unit).astype(np.int64)),
        cost_FK,
        np.array([bins.size - 1 for bins in features]),
        np.ceil(np.minimum(critical_FN, NEVER)).astype(np.int64),
    )


def _critical_nats(detector: SlidingDetector, profile: Profile) -> NDArray[np.float64]:
    """Divergence of a feature's values that is critical when n of them are there, shape (F, W + 1)."""
    rows, tolerance, evidence = detector.window_rows, detector.detector.tolerance, profile.evidence
    draws = (FINE_DRAWS,) * len(evidence)
    null = nulls_of(profile, rows, float(profile.rows), tolerance, draws)
    # The null is that of as many values as the reference has in so many rows, and scales with 1/n + 1/m; see `judge`.
    expected_F = np.array([max(round(rows * one.rows / profile.rows), 1) for one in evidence])
    reference_F = np.array([max(one.rows, 0.5) for one in evidence])
    scale_FN = np.add.outer(1 / reference_F, 1 / np.maximum(np.arange(rows + 1), 0.5))
    scale_FN /= (1 / expected_F + 1 / reference_F)[:, None]
    return (null.critical(_level(detector, profile)) - tolerance)[:, None] * scale_FN + tolerance


def _amiss(detector: SlidingDetector, profile: Profile) -> NDArray[np.bool_]:
    """Whether it is an alarm by itself that n values are there, shape (F, W + 1)."""
    rows, tolerance, parts = detector.window_rows, detector.detector.tolerance, profile.split(profile.counts)
    draws = (DRAWS,) * len(parts)
    null = nulls_of(profile, rows, float(profile.rows), tolerance, draws, missing=True)
    there_N = np.arange(rows + 1)
    window_N2 = np.stack((there_N, rows - there_N), axis=1)
    nats = [kl(window_N2, np.array([part[:-1].sum(), part[-1]])) for part in parts]
    amiss_FN: NDArray[np.bool_] = np.array(nats) >= null.critical(_level(detector, profile))[:, None]
    return amiss_FN


def _level(detector: SlidingDetector, profile: Profile) -> NDArray[np.float64]:
    """P-value of each question that is asked of a feature at which `KLDetector` alarms, shape (F,)."""
    rate = 1 / detector.detector.false_alarm_windows
    number = looks_of(profile, detector.window_rows, 1, rate) * features_worth(profile, rate)
    asked_F = np.array([1 + (one.counts[0] > 0) for one in profile.missing_evidence])
    level_F: NDArray[np.float64] = -np.expm1(math.log1p(-rate) / (number * asked_F))
    return level_F
