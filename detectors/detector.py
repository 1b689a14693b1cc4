"""The KL detector: distance in nats for people, a calibrated null for decisions.

Shapes: W windows, F features, K bins of all features together. A window is compared feature by feature. Each feature's divergence gets
a p-value from its own null, which knows both sample sizes, how dependent rows are and how much drift is tolerated; the smallest decides,
corrected for as many features as they are worth when they depend on each other. Where pairs of features are watched, too, features and
pairs get half of the budget each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.calibration import DRAWS
from detectors.columns import Columns
from detectors.judgement import Judgement, features_worth, joint, joint_with_pairs, judge, nulls_of, sidak
from detectors.pairs import PairJudgement, Pairs
from detectors.profile import Profile, build_profile
from detectors.verdict import Drift, FeatureDrift, PairDrift

__all__ = ["Detector", "Drift", "FeatureDrift", "KLDetector", "PairDrift", "Scan"]

TOP_BINS = 3  # bins named in a verdict


class Detector(Protocol):
    """What a distribution-drift detector offers; registered in the entry-point group `cls.detectors`."""

    def profile(self, columns: Columns) -> Profile:
        """Freeze a reference."""
        ...

    def compare(self, profile: Profile, counts: NDArray[np.int64]) -> Drift:
        """Judge a window by its counts in the reference's bins."""
        ...


@dataclass(frozen=True, eq=False)
class Scan:
    """Verdicts on many windows of equal size, as arrays."""

    nats_WF: NDArray[np.float64]  # KL(current || reference) as measured
    p_value_WF: NDArray[np.float64]  # of each feature alone
    p_value_W: NDArray[np.float64]  # all features and pairs together
    alarm_W: NDArray[np.bool_]
    counts_WK: NDArray[np.int64]  # of the windows: what `KLDetector.compare` takes for one of them


@dataclass(frozen=True)
class KLDetector:
    """Compare the counts of a window with a reference profile.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> detector = KLDetector()
    >>> reference = detector.profile({"x": rng.normal(size=5000), "y": rng.normal(size=5000)})
    >>> window = {"x": rng.normal(0.5, size=500), "y": rng.normal(size=500)}
    >>> drift = detector.compare(reference, reference.count(window))
    >>> drift.alarm, drift.features[0].name
    (True, 'x')
    """

    bins: int = 16  # intervals per numeric feature
    top: int = 32  # categories per categorical feature with a bin of their own
    false_alarm_windows: float = 1000  # budget: on average at most one false alarm in this many windows
    nats: float | None = None  # alarm at this excess of any feature or pair instead, however probable
    tolerance: float = 0.0  # nats by which any feature, or pair, may truly move without being worth an alarm
    season: str | None = None  # categorical column whose values are compared like with like
    pairs: bool = False  # watch pairs of features, too, for changes that no single one shows

    def __post_init__(self) -> None:
        if not self.false_alarm_windows > 1:
            raise ValueError(f"false_alarm_windows must exceed 1, not {self.false_alarm_windows}")
        if self.nats is not None and not self.nats > 0:
            raise ValueError(f"a fixed threshold in nats must be positive, not {self.nats}")
        if not 0 <= self.tolerance < np.inf:
            raise ValueError(f"the tolerance must be at least 0 nats, not {self.tolerance}")
        if self.bins < 2 or self.top < 1:
            raise ValueError(f"need bins >= 2 and top >= 1, not {self.bins} and {self.top}")
        if self.pairs and self.season is not None:
            raise ValueError(
                "pairs and season must not be set together: pairs are compared with the reference of all seasons, "
                "so that another mix of seasons would look like a change of pairs"
            )

    def profile(self, columns: Columns) -> Profile:
        """Freeze a reference; see `detectors.profile.build_profile`."""
        return build_profile(columns, bins=self.bins, top=self.top, season=self.season, pairs=self.pairs)

    def compare(self, profile: Profile, counts: NDArray[np.int64]) -> Drift:
        """Judge a window.

        Parameters
        ----------
        profile
            The reference.
        counts : int array, shape (profile.size,)
            Flat counts of the window: `profile.count(columns)`, or a sum of such.

        Returns
        -------
        Drift
            Without an alarm and with p-value 1 if window or reference have no rows.

        Raises
        ------
        ValueError
            If the counts are not those of one window in the profile's bins.
        """
        windows = profile.split(counts)
        sizes = {int(window.sum()) for window in windows}
        if len(sizes) > 1 or (counts < 0).any():
            raise ValueError("counts must be non-negative and sum to the same rows in every feature")
        rows = max(sizes, default=0)
        rate = 1 / self.false_alarm_windows
        if not rows or not profile.rows:
            empty = tuple(FeatureDrift(bins.name, 0.0, 0.0, 0.0, 1.0, ()) for bins in profile.features)
            return Drift(False, 1.0, 0.0, self.nats or rate, rows, profile.rows, empty, rate)

        reference_K, worth = profile.expected(counts)
        judgement = self._judged(profile, counts[None], reference_K, worth)
        excess_F = np.maximum(judgement.excess_WF[0], 0.0)
        total = float(excess_F.sum())
        judged = [
            FeatureDrift(
                feature.name,
                float(judgement.nats_WF[0, f]),
                float(excess_F[f]),
                float(excess_F[f]) / (total or 1.0),
                float(judgement.p_value_WF[0, f]),
                _top_bins(feature.labels(), reference / worth, window / rows, parts),
            )
            for f, (feature, reference, window, parts) in enumerate(
                zip(
                    profile.features,
                    profile.split(reference_K),
                    windows,
                    profile.split(judgement.parts_WK[0]),
                    strict=True,
                )
            )
        ]
        judged.sort(key=lambda feature: (-feature.share, feature.p_value, feature.name))
        p_value = float(joint(profile, judgement.p_value_WF, self._rate(profile))[0])
        told: tuple[PairDrift, ...] = ()
        implied = 0.0 if self.nats is None else self._implied_rate(profile, rows, worth)
        pairs = _watched(profile)
        if pairs is not None:
            window_PSS = profile.pair_counts(counts)
            together = pairs.judge(window_PSS, tolerance=self.tolerance)
            p_value = float(joint_with_pairs(np.array(p_value), together.p_value_P, pairs.comparable))
            told = pairs.tell(window_PSS, together, self._moved(together, pairs))
            implied = 1 - (1 - implied) * (1 - self._implied_rate_of_pairs(pairs, together, rows))
        if self.nats is None:
            alarm, threshold = p_value <= rate, rate
        else:
            alarm, threshold, rate = bool((excess_F >= self.nats).any() or told), self.nats, implied
        return Drift(
            alarm,
            p_value,
            total,
            threshold,
            rows,
            profile.rows,
            tuple(judged),
            rate,
            profile.rows_needed,
            told,
        )

    def _rate(self, profile: Profile) -> float:
        """Budget of the features: half of it where pairs are watched, too."""
        return 1 / self.false_alarm_windows / (1 if _watched(profile) is None else 2)

    def _level(self, profile: Profile) -> float:
        """P-value of one feature at which an alarm hangs in the balance; a fixed threshold never asks."""
        return 0.0 if self.nats is not None else self._rate(profile) / len(profile.features)

    def _moved(self, together: PairJudgement, pairs: Pairs) -> NDArray[np.bool_]:
        """Whether each pair alarms by itself, shape (P,)."""
        if self.nats is not None:
            return together.excess_P >= self.nats
        return sidak(together.p_value_P, pairs.comparable) <= 1 / self.false_alarm_windows / 2

    def _implied_rate_of_pairs(self, pairs: Pairs, together: PairJudgement, rows: int) -> float:
        null = pairs.null(together.measured, rows)
        alone_P = null.p_value(null.mean + (self.nats or 0.0))[together.measured.degrees_P > 0]
        return float(-np.expm1(np.log1p(-alone_P).sum()))

    def _implied_rate(self, profile: Profile, rows: int, worth: float) -> float:
        """Share of windows of which a feature exceeds the fixed threshold when nothing has moved."""
        null = nulls_of(profile, rows, worth, 0.0, (DRAWS,) * len(profile.features))
        alone_F = null.p_value(null.mean + (self.nats or 0.0))
        apart = float(-np.expm1(np.log1p(-alone_F).sum()))  # were they independent
        number = features_worth(profile, 1 / self.false_alarm_windows) / len(profile.features)
        return float(sidak(np.array(apart), number))

    def scan(
        self, profile: Profile, columns: Columns, window_rows: int, slide_rows: int | None = None
    ) -> Scan:
        """Judge all windows of a block of rows at once: each as `compare` would.

        Parameters
        ----------
        profile
            The reference.
        columns
            Rows in stream order.
        window_rows
            Rows per window, at least 1.
        slide_rows
            Rows from the beginning of a window to that of the next, a divisor of `window_rows`; None for windows that follow each other.

        Raises
        ------
        ValueError
            If `slide_rows` does not divide `window_rows`.
        """
        slide_rows = slide_rows or window_rows
        if window_rows % slide_rows:
            raise ValueError(f"slide_rows must divide window_rows = {window_rows}, not be {slide_rows}")
        panes_WK = profile.count_windows(columns, slide_rows)
        panes = window_rows // slide_rows
        counts_WK = panes_WK
        if panes > 1:
            summed = np.concatenate((np.zeros_like(panes_WK[:1]), np.cumsum(panes_WK, axis=0)))
            counts_WK = summed[panes:] - summed[:-panes]
        return self._scanned(profile, counts_WK)

    def _scanned(self, profile: Profile, counts_WK: NDArray[np.int64]) -> Scan:
        windows, bins = len(counts_WK), int(profile.offsets[-1])
        if not (windows and profile.rows and bins):
            shape = (windows, len(profile.features))
            quiet = np.zeros(windows, dtype=np.bool_)
            return Scan(np.zeros(shape), np.ones(shape), np.ones(windows), quiet, counts_WK)
        if profile.seasons is None:
            judgement = self._judged(profile, counts_WK, *profile.expected(counts_WK[0]))
            nats_WF, p_value_WF, excess_WF = judgement.nats_WF, judgement.p_value_WF, judgement.excess_WF
        else:  # each window has a reference of its own
            judged = [self._judged(profile, one[None], *profile.expected(one)) for one in counts_WK]
            nats_WF = np.concatenate([one.nats_WF for one in judged])
            p_value_WF = np.concatenate([one.p_value_WF for one in judged])
            excess_WF = np.concatenate([one.excess_WF for one in judged])
        p_value_W = joint(profile, p_value_WF, self._rate(profile))
        excess_W = excess_WF.max(axis=1)
        pairs = _watched(profile)
        if pairs is not None:
            together_W = [
                pairs.judge(profile.pair_counts(one), tolerance=self.tolerance) for one in counts_WK
            ]
            p_value_WP = np.array([together.p_value_P for together in together_W])
            p_value_W = joint_with_pairs(p_value_W, p_value_WP, pairs.comparable)
            excess_W = np.maximum(excess_W, [together.excess_P.max() for together in together_W])
        alarm_W = p_value_W <= 1 / self.false_alarm_windows if self.nats is None else excess_W >= self.nats
        return Scan(nats_WF, p_value_WF, p_value_W, alarm_W, counts_WK)

    def _judged(
        self, profile: Profile, counts_WK: NDArray[np.int64], reference_K: NDArray[np.float64], worth: float
    ) -> Judgement:
        return judge(
            profile,
            counts_WK[:, : reference_K.size],
            reference_K,
            worth,
            self.tolerance,
            self._level(profile),
        )


def _watched(profile: Profile) -> Pairs | None:
    """Return the pairs of a profile, if any of them can show anything."""
    return profile.pairs if profile.pairs is not None and profile.pairs.comparable else None


def _top_bins(
    labels: Sequence[str],
    reference_K: NDArray[np.float64],
    window_K: NDArray[np.float64],
    parts_K: NDArray[np.float64],
) -> tuple[tuple[str, float, float], ...]:
    """Return the bins that moved most: label, reference share, window share."""
    return tuple(
        (labels[k], float(reference_K[k]), float(window_K[k]))
        for k in np.argsort(-parts_K, kind="stable")[:TOP_BINS].tolist()
        if reference_K[k] or window_K[k]
    )
