"""Two versions at work at once: evidence that one of them fails, is slow, or answers otherwise, for whoever looks all the time.

Each function returns the logarithm of an e-process, in nats: a process that is positive, begins at 1 and, as long as the null hypothesis
holds, has an expectation of at most 1 whenever one stops. By Ville's inequality (1939) the probability that it *ever* reaches 1 / alpha is
at most alpha. So one alarms when evidence >= log(1 / alpha), looks as often as one likes, and adds up the alphas of several such alarms.
The smaller of two e-values is one against "either of both"; the d-th root of one (`clumped`) is one against events that come d at a time.

What is assumed: rows are independent, and of the rows with an event a fixed share would be the version's. That is exact for a fixed known
share of keys that each come once. It is approximate where the share is that of the rows that came (it wavers about the configured one), and
where heavy keys come again and again: a key that always fails is one fault, not many, and with the share's probability it fell to the
canary. Predictions of different keys are far worse than approximate where keys are few: compare both versions on the same rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betainccinv, betaln, xlog1py, xlogy

CONCENTRATION = 100.0  # keys' worth of belief that a canary's share is as configured
CONCENTRATIONS = (4.0, 20.0, 100.0, 500.0)  # rows' worth of belief that a bin's share is the common one
_HALF_ROW = 0.5


def allocation_evidence(canary: int, total: int, share: float) -> float:
    """Return the evidence that keys are not split as configured (sample-ratio mismatch).

    Parameters
    ----------
    canary
        Keys of the canary, out of `total` distinct ones.
    share
        Of the keys that should be the canary's, between 0 and 1.

    Notes
    -----
    Likelihood of a share drawn from Beta(c share, c (1 - share)) over that of the configured one, two-sided: the Dirichlet mixture of Lindon
    and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), for two arms.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    a, b = CONCENTRATION * share, CONCENTRATION * (1 - share)
    mixture = betaln(canary + a, total - canary + b) - betaln(a, b)
    return float(mixture - canary * math.log(share) - (total - canary) * math.log1p(-share))


def binomial_evidence(events: int, trials: int, limit: float) -> float:
    """Return the evidence that events happen more often than `limit` per trial.

    Notes
    -----
    One-sided: likelihood of a rate drawn uniformly from (limit, 1) over that of `limit`. A rate p' >= limit has, under a true rate p <= limit,
    an expected likelihood ratio of p p'/limit + (1-p)(1-p')/(1-limit) <= 1 per trial, hence so has the mixture.
    """
    if limit >= 1 or trials <= 0:
        return 0.0
    if limit <= 0:
        return math.inf if events else -math.log(trials + 1)
    above = float(betaincc(events + 1, trials - events + 1, limit))
    null = float(xlogy(events, limit) + xlog1py(trials - events, -limit))
    if above > 0:
        return float(betaln(events + 1, trials - events + 1)) + math.log(above) - math.log1p(-limit) - null
    # All of it lies next to the limit, where the likelihood falls exponentially.
    slope = (trials - events) / (1 - limit) - events / limit
    return -math.log(slope) - math.log1p(-limit)


def rate_evidence(
    canary_events: int, champion_events: int, canary_rows: int, champion_rows: int, ratio: float
) -> float:
    """Return the evidence that an event happens to a canary more often than `ratio` times as often as to the champion beside it.

    Parameters
    ----------
    canary_events, champion_events
        Errors, answers that are no number, slow batches.
    canary_rows, champion_rows
        Rows or batches in which they may have happened.
    ratio
        Of the rates, up to which a version counts as as good.

    Notes
    -----
    Given that an event happened, it is the canary's with a probability of at most ratio n_v / (ratio n_v + n_c): how often events happen
    drops out, and a champion without any is no obstacle. The same rows answered by both (a shadow) count as n_v = n_c; an event that
    befalls both at once then only speaks against a fault of the version.
    """
    exposed = ratio * max(canary_rows, canary_events)
    other = max(champion_rows, champion_events)
    if exposed + other <= 0:
        return 0.0
    return binomial_evidence(canary_events, canary_events + champion_events, exposed / (exposed + other))


def rate_bound(events: int, trials: int, alpha: float) -> float:
    """Return the upper end of a rate, exact for one look (Clopper and Pearson 1934): too low with a probability of at most alpha."""
    return 1.0 if events >= trials else float(betainccinv(events + 1, trials - events, alpha))


def clumped(evidence: float, size: int) -> float:
    """Return the evidence of events that come in clumps of up to `size`: a root of an e-value is one (Jensen), and undoes equal copies."""
    return evidence / size


def divergence_evidence(counts_a: ArrayLike, counts_b: ArrayLike) -> float:
    """Return the evidence that two samples of counts over the same bins come from different distributions.

    Parameters
    ----------
    counts_a, counts_b
        Rows by bin.

    Notes
    -----
    If both come from one distribution, the bin of a row does not tell which sample it is of. So: the likelihood of the rows' samples if each
    bin has a share of its own, drawn from Beta distributions about one half (a mixture over their `CONCENTRATIONS`), over the largest
    likelihood that one share for all bins can reach. That is universal inference (Wasserman, Ramdas and Balakrishnan, PNAS 2020) given the
    bins. It costs far less than mixtures of two multinomials over their pooled likelihood, which pay for 2 x bins parameters at once: 32
    bins would ask for thousands of rows.

    Two versions that predict the same rows are positively dependent: each row counts once for either, the counts in a bin lie
    nearer to each other than those of independent samples, and the evidence is conservative.
    """
    a, b = _same_bins(counts_a, counts_b)
    k, n = float(a.sum()), float((a + b).sum())
    if not 0 < k < n:
        return 0.0
    one_share = float(xlogy(k, k / n) + xlogy(n - k, 1 - k / n))
    half = np.array(CONCENTRATIONS)[:, None] / 2
    own_shares = (betaln(a + half, b + half) - betaln(half, half)).sum(axis=1)
    return float(np.logaddexp.reduce(own_shares) - math.log(len(CONCENTRATIONS)) - one_share)


def divergence(counts_a: ArrayLike, counts_b: ArrayLike) -> float:
    """Return how far apart two samples of counts are: KL(a || b) + KL(b || a) in nats (Jeffreys), its bias taken off, never below 0.

    Half a row is added to each bin that either has, so that an empty one is no infinity. A normal distribution moved by d standard
    deviations lies d squared nats away.
    """
    a, b = _same_bins(counts_a, counts_b)
    if not a.sum() or not b.sum():
        return 0.0
    used = a + b > 0
    a, b = a[used] + _HALF_ROW, b[used] + _HALF_ROW
    p, q = a / a.sum(), b / b.sum()
    found = float(((p - q) * np.log(p / q)).sum())
    bias = float((len(a) - 1) * (1 / a.sum() + 1 / b.sum()))  # of each direction half of it
    return max(found - bias, 0.0)


def _same_bins(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as numbers; the shorter one has no rows in the bins (classes) that it lacks."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    size = max(len(a), len(b))
    return np.pad(a, (0, size - len(a))), np.pad(b, (0, size - len(b)))
