"""Paired comparison that may be looked at after every row.

An asymptotic confidence sequence with estimated variance: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences" (arXiv 2103.06476), two-sided Gaussian
mixture boundary. Whatever the stopping rule, the interval misses the mean with probability alpha in the limit
of a late first look, hence `MINIMUM_ROWS`.

Rows that depend on their neighbours are made up for by the variance of their sum (`Paired.dependence`, estimated by `detectors.dependence`):
sums of rows with a short memory behave like those of independent rows with that variance (strong invariance principle: Philipp and Stout,
"Almost sure invariance principles for partial sums of weakly dependent random variables", 1975), again in the limit: how far a
memory of some tens of rows is from it, `detectors.dependence` says.
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
    dependence: float = 1.0  # variance of their sum over that of rows that do not depend on each other

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
            self.dependence,
        )

    @property
    def mean(self) -> float:
        """Mean difference; NaN before the first row."""
        return self.total / self.n if self.n else math.nan

    @property
    def variance(self) -> float:
        """Unbiased variance of one difference; NaN before the second row."""
        return self._squares_about_mean / (self.n - 1) if self.n > 1 else math.nan

    @property
    def variation(self) -> float:
        """Sum of squared differences, raised to what it would be if their sum varied as much and they did not depend on each other."""
        return self.total_squares + (self.dependence - 1) * self._squares_about_mean

    @property
    def _squares_about_mean(self) -> float:
        return max(self.total_squares - self.total**2 / self.n, 0.0) if self.n else 0.0


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
        paired.dependence
        * paired.variance
        * 2
        * intrinsic
        / (n**2 * rho2)
        * math.log(math.sqrt(intrinsic) / alpha)
    )
    return paired.mean - margin, paired.mean + margin


def excess(paired: Paired, alpha: float, tuning_n: int = 500) -> float:
    """Return a lower bound of the mean difference, valid at every n at once with probability 1 - alpha: what evidence of harm rests on.

    Parameters
    ----------
    paired
        Statistics so far: losses of a version minus those of its counterpart.
    alpha
        Probability of ever lying above a mean of zero, in (0, 1/2).
    tuning_n
        Number of rows at which the bound is highest; any fixed choice is valid.

    Notes
    -----
    Differences that are as likely to be x as -x, given all before, make exp(l S - l^2 V / 2) with V = sum of squares a supermartingale for
    every l, however heavy their tails (de la Pena, "A general class of exponential inequalities for martingales and ratios", 1999); mixing
    over l > 0 with a half-normal gives the bound. So two versions whose losses could change places are told apart by mistake with a
    probability of alpha at most, from the first row on: zero-one losses with equal error rates (one difference is -1, 0 or 1) and versions
    that differ by noise are of this kind. The width of the mixture follows the scale V / n seen so far instead of a known one; simulations
    (tests, benchmarks/rollouts.py) see no more errors by that. Where rows depend on their neighbours V is raised (`Paired.variation`), and
    the probability holds in the limit.

    Losses that are equal in the mean alone, one version a little worse on nearly all rows and far better on the few that are yet to come,
    can fool it, as they can fool every bound without a known range (Bahadur and Savage 1956).
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 1/2, not {alpha}")
    if tuning_n < 1:
        raise ValueError(f"tuning_n must be positive, not {tuning_n}")
    n = paired.n
    if n < MINIMUM_ROWS or paired.total_squares <= 0:
        return -math.inf
    squared = -2 * math.log(2 * alpha)
    prior_n = tuning_n / (squared + math.log1p(squared))
    one_sided = 0.5 * (1 + math.erf(math.sqrt(squared / 2)))  # of the half-normal's mass, at the bound
    reach = paired.variation * (1 + prior_n / n)
    width = math.sqrt(reach * (math.log1p(n / prior_n) - 2 * math.log(2 * alpha * one_sided)))
    return (paired.total - width) / n
