"""Paired comparison that may be looked at after every row.

An asymptotic confidence sequence with estimated variance: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), two-sided Gaussian
mixture boundary. Whatever the stopping rule, the interval misses the mean with probability alpha in the limit
of a late first look, hence `MINIMUM_ROWS`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MINIMUM_ROWS = 30  # first look; earlier the estimated variance means too little


@dataclass(frozen=True)
class Paired:
    """Sufficient statistics of paired differences, such as candidate loss minus champion loss per row."""

    n: int = 0  # rows
    total: float = 0.0  # sum of differences
    total_squares: float = 0.0  # sum of squared differences

    def add(self, differences: ArrayLike) -> "Paired":
        """Return the statistics with more differences.

        Raises
        ------
        ValueError
            If a difference is not finite: dropping it would hide a model that answers NaN.
        """
        values = np.asarray(differences, dtype=np.float64).ravel()
        if not np.isfinite(values).all():
            raise ValueError("differences must be finite; decide what a missing loss means before comparing")
        return Paired(
            self.n + values.size,
            self.total + float(values.sum()),
            self.total_squares + float(values @ values),
        )

    @property
    def mean(self) -> float:
        """Mean difference; NaN before the first row."""
        return self.total / self.n if self.n else math.nan

    @property
    def variance(self) -> float:
        """Unbiased variance of one difference; NaN before the second row."""
        if self.n < 2:
            return math.nan
        return max(self.total_squares - self.n * self.mean**2, 0.0) / (self.n - 1)


def interval(paired: Paired, alpha: float = 0.05, tuning_n: int = 500) -> tuple[float, float]:
    """Confidence sequence for the mean difference, valid at every n at once.

    Parameters
    ----------
    paired
        Statistics so far.
    alpha
        Probability of ever missing the mean, in (0, 1).
    tuning_n
        Number of rows at which the interval is tightest; any fixed choice is valid.

    Returns
    -------
    tuple of float
        Lower and upper end; the whole line before `MINIMUM_ROWS`, and as long as no two differences differ:
        thirty equal rows (both models right) say nothing about how far apart the models can be.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    if tuning_n < 1:
        raise ValueError(f"tuning_n must be positive, not {tuning_n}")
    n = paired.n
    # Squares lose about n machine epsilons in the sum: a smaller variance is rounding.
    if n < MINIMUM_ROWS or paired.variance <= paired.total_squares * np.finfo(np.float64).eps:
        return -math.inf, math.inf
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuning_n
    intrinsic = n * rho2 + 1
    margin = math.sqrt(
        paired.variance * 2 * intrinsic / (n**2 * rho2) * math.log(math.sqrt(intrinsic) / alpha)
    )
    return paired.mean - margin, paired.mean + margin
