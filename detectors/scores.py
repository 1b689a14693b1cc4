"""Concept drift: whether the level of a loss has risen.

River's detectors read one value at a time and keep state that neither merges nor survives a restart as JSON. Here the
state is the bounded series itself, replayed from its beginning through a fresh detector: the same series gives the same
answer, in any process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detectors.onset import contrasts

if TYPE_CHECKING:
    from river.base import DriftDetector

Method = Literal["adwin", "page_hinkley", "kswin", "hddm_a", "hddm_w"]

WARM_UP = 30  # values that set the scale, before which nothing is found
CLIP = 4.0  # standard deviations: an outlier must not look like a new level
ALLOWANCE = 0.25  # standard deviations: Page-Hinkley ignores smaller rises
UNIT = 1.0  # standard deviations to either side that HDDM sees as [0, 1]


@dataclass(frozen=True)
class ScoreChange:
    """Whether the level has risen at the end of a series."""

    alarm: bool
    onset: int | None  # index of the first value at the new level; None without an alarm
    before: float  # mean of the level before the onset, or of the current level without an alarm
    after: float  # mean from the onset on; equal to `before` without an alarm


@dataclass(frozen=True)
class ScoreDetector:
    """Find a rise in a series of pane means of a loss.

    Raises
    ------
    ValueError
        If an option is out of range.
    """

    method: Method = "adwin"
    # Error of a test of ADWIN, KSWIN and HDDM, which alarm by chance less than once in 1 / delta values; Page-Hinkley
    # does about once.
    delta: float = 0.002
    max_series: int = 2000  # values replayed, the latest ones

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"unknown method {self.method!r}: choose one of {', '.join(get_args(Method))}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie between 0 and 1, not {self.delta}")
        if self.max_series <= WARM_UP:
            raise ValueError(f"max_series must exceed {WARM_UP}, not {self.max_series}")

    def detect(self, series: Sequence[float]) -> ScoreChange:
        """Say whether the last value completes the evidence of a rise.

        A caller that appends one value at a time sees each rise once, as long as it restarts the series before
        it outgrows `max_series`.

        Parameters
        ----------
        series
            One loss per pane, in order. Values that are not finite are skipped: one of them would blind river's
            ADWIN for ever.

        Returns
        -------
        ScoreChange
            An alarm only for a rise, and only if it is found at the last value.
        """
        values = np.asarray(series, dtype=np.float64).ravel()
        first = max(values.size - self.max_series, 0)
        index = first + np.flatnonzero(np.isfinite(values[first:]))
        losses = values[index]
        if losses.size <= WARM_UP:
            return _quiet(losses)

        detector = self._fresh()
        z_N = _standardised(losses)
        if self.method in ("hddm_a", "hddm_w"):
            # Hoeffding's bound holds for values in [0, 1], and is sharp only if they use that range. Pane means
            # would fill an eighth of the range that their outliers need, and the bound would be eight times too wide:
            # cut at one standard deviation they fill two thirds of it, whatever their distribution.
            z_N = (np.clip(z_N, -UNIT, UNIT) + UNIT) / (2 * UNIT)
        begin = 0  # of the current level
        found = None
        for i, z in enumerate(z_N.tolist()):
            detector.update(z)
            found = None
            if detector.drift_detected:
                rises = contrasts(losses[begin : i + 1])
                split = begin + 1 + int(np.argmax(np.abs(rises)))
                if rises[split - begin - 1] > 0:
                    found = begin, split
                begin = split
        if found is None or not math.isfinite(values[-1]):
            return _quiet(losses[begin:])
        begin, split = found
        return ScoreChange(
            True, int(index[split]), float(losses[begin:split].mean()), float(losses[split:].mean())
        )

    def _fresh(self) -> "DriftDetector":
        from river import drift

        match self.method:
            case "adwin":
                return drift.ADWIN(delta=self.delta, clock=1)  # type: ignore[no-untyped-call]  # compiled, unannotated
            case "page_hinkley":
                # Lorden: a cumulative sum with allowance d passes a threshold h by chance every exp(2 d h) values.
                threshold = -math.log(self.delta) / (2 * ALLOWANCE)
                return drift.PageHinkley(
                    min_instances=WARM_UP, delta=ALLOWANCE, threshold=threshold, alpha=1.0, mode="up"
                )
            case "kswin":
                # Each value takes part in `stat_size` tests as a recent one.
                return drift.KSWIN(alpha=self.delta / 30, window_size=100, stat_size=30, seed=0)
            case "hddm_a":
                return drift.binary.HDDMA(self.delta, self.delta)  # type: ignore[no-untyped-call,return-value]
            case "hddm_w":
                return drift.binary.HDDMW(self.delta, self.delta)  # type: ignore[no-untyped-call,return-value]


def _standardised(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale by median and median absolute deviation of the warm-up, which later values do not change."""
    centre = float(np.median(losses[:WARM_UP]))
    spread = 1.4826 * float(np.median(np.abs(losses[:WARM_UP] - centre)))
    if not spread:  # most of the warm-up is one value
        spread = float(losses[:WARM_UP].std())
    # All of it is: then every other value is a different one, and only its sign counts.
    spread = max(spread, 1e-9 * abs(centre), 1e-300)
    standardised: NDArray[np.float64] = np.clip(losses - centre, -CLIP * spread, CLIP * spread) / spread
    return standardised


def _quiet(level: NDArray[np.float64]) -> ScoreChange:
    mean = float(level.mean()) if level.size else math.nan
    return ScoreChange(False, None, mean, mean)
