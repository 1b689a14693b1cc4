"""The KL detector: distance in nats for people, a calibrated null for decisions.

A window is compared feature by feature. Each feature's divergence gets a p-value from its own null, which knows both
sample sizes and how dependent rows are; the smallest is corrected for their number by Sidak. That is exact for
independent features and errs on the quiet side for positively dependent ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.calibration import null_of
from detectors.columns import Columns
from detectors.kl import kl_by_bin
from detectors.profile import Profile, build_profile
from detectors.verdict import Drift, FeatureDrift

__all__ = ["Detector", "Drift", "FeatureDrift", "KLDetector"]

TOP_BINS = 3  # bins named in a verdict


class Detector(Protocol):
    """What a distribution-drift detector offers; registered in the entry-point group `cls.detectors`."""

    def profile(self, columns: Columns, *, block_rows: int = 0) -> Profile:
        """Freeze a reference."""
        ...

    def compare(self, profile: Profile, counts: NDArray[np.int64]) -> Drift:
        """Judge a window by its counts in the reference's bins."""
        ...


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
    nats: float | None = None  # alarm at this excess of any feature instead, whatever its probability

    def __post_init__(self) -> None:
        if self.false_alarm_windows <= 1:
            raise ValueError(f"false_alarm_windows must exceed 1, not {self.false_alarm_windows}")
        if self.nats is not None and not self.nats > 0:
            raise ValueError(f"a fixed threshold in nats must be positive, not {self.nats}")
        if self.bins < 2 or self.top < 1:
            raise ValueError(f"need bins >= 2 and top >= 1, not {self.bins} and {self.top}")

    def profile(self, columns: Columns, *, block_rows: int = 0) -> Profile:
        """Freeze a reference; see `detectors.profile.build_profile`."""
        return build_profile(columns, bins=self.bins, top=self.top, block_rows=block_rows)

    def compare(self, profile: Profile, counts: NDArray[np.int64]) -> Drift:
        """Judge a window.

        Parameters
        ----------
        profile
            The reference.
        counts : int array
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

        references = profile.split(profile.counts)
        judged = [
            _judge(profile, i, reference, window)
            for i, (reference, window) in enumerate(zip(references, windows, strict=True))
        ]
        total = sum(feature.excess_nats for feature in judged)
        if total > 0:
            judged = [replace(feature, share=feature.excess_nats / total) for feature in judged]
        judged.sort(key=lambda feature: (-feature.share, feature.p_value, feature.name))
        p_value = sidak([feature.p_value for feature in judged])
        if self.nats is None:
            threshold = 1 / self.false_alarm_windows
            alarm = p_value <= threshold
        else:
            threshold = self.nats
            alarm = any(feature.excess_nats >= threshold for feature in judged)
        return Drift(alarm, p_value, total, threshold, rows, profile.rows, tuple(judged))


def sidak(p_values: Sequence[float]) -> float:
    """Probability that the smallest of so many independent p-values is at most the smallest of these."""
    smallest = min(p_values, default=1.0)
    return -math.expm1(len(p_values) * math.log1p(-smallest)) if smallest < 1 else 1.0


def _judge(
    profile: Profile, i: int, reference_K: NDArray[np.int64], window_K: NDArray[np.int64]
) -> FeatureDrift:
    feature, rows = profile.features[i], int(window_K.sum())
    if not rows or not profile.rows:
        return FeatureDrift(feature.name, 0.0, 0.0, 0.0, 1.0, ())
    parts_K = kl_by_bin(window_K, reference_K)
    nats = float(parts_K.sum())
    degrees = max(int(np.count_nonzero(reference_K)) - 1, 1)
    null = null_of(profile.evidence[i], profile.rows, rows)
    null = null.dispersed(profile.dispersion[i], degrees, profile.blocks)
    labels = feature.labels()
    top_bins = tuple(
        (labels[k], int(reference_K[k]) / profile.rows, int(window_K[k]) / rows)
        for k in np.argsort(-parts_K, kind="stable")[:TOP_BINS].tolist()
        if reference_K[k] or window_K[k]
    )
    return FeatureDrift(feature.name, nats, max(nats - null.mean, 0.0), 0.0, null.p_value(nats), top_bins)
