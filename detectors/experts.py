"""Experts: the ways in which a feature may have moved, each an alternative q to the distribution p of its bins.

Shapes: F features, K bins (padded to the largest feature), J tilts, P spikes, G memories, X = J + P + G experts.

Each row multiplies an expert's wealth by q(x) / p(x), a bet with conditional mean one as long as nothing moves.

    tilts     q_k ~ p_k exp(theta s_k): location and scale, s being normal scores of the bins' mid-ranks and their squares,
              of mean 0 and variance 1, so that theta is a shift in standard deviations. Categories are ranked by frequency.
    spikes    q = (1 - epsilon) p + epsilon in one bin: missing and, for categories, other or unseen
    memories  q = a mixture of p and an exponentially weighted histogram of the latest rows: anything else, such as a renamed
              category

Because rows depend on each other, a row may count for less than one: see `design_effect`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.bins import Bins, CategoricalBins
from detectors.dispersion import MOMENT_ROWS, Dispersion
from detectors.profile import Profile

Floats = NDArray[np.float64]

# Sizes lie a factor of two apart, where a size between them loses 3% to 11% of the evidence; small shifts weigh more
# because a nat costs them more rows.
LOCATIONS = (
    (0.1, 0.3),
    (0.2, 0.22),
    (0.4, 0.15),
    (0.8, 0.1),
)  # standard deviations, and weight of both signs
SCALES = ((0.2, 0.06), (0.5, 0.04))  # of standardised squares; on a normal feature, variance x1.3 and x1.7
SPIKES = ((0.01, 0.03), (0.05, 0.03))  # share that moves into the bin, and weight
MEMORIES = ((1 / 64, 0.04), (1 / 512, 0.04))  # share that the latest row has, and weight
UNORDERED = 0.25  # of their weight is what tilts keep where bins are categories
MIXED = 0.2  # share of p in the mixture with a memory: no row can cost more than the factor 0.2
SPREAD_BLOCKS = 100  # that the spread of the design effects takes
AUTOREGRESSIVE = 0.7  # share of the largest in the excess of all
STEEPEST = 20.0  # nats that a tilt can set one bin apart from another
POWERLESS = 1e-6  # nats per row: an expert that says no more than this is left out


class Bank(NamedTuple):
    """All experts of a profile, as arrays for the kernel."""

    counts_FK: Floats  # reference rows and prior: the urn at the start
    table_FKJ: Floats  # exp(theta s_k)
    least_FJ: Floats  # smallest of them
    floor_FJ: Floats  # largest mean of the table that is tolerated; 0 without a tolerance
    bin_FP: NDArray[np.intp]  # of each spike
    share_P: Floats  # epsilon of each spike
    floor_FP: Floats  # largest tolerated share of the spike's bin; 0 without a tolerance
    rate_FG: Floats  # of the memories
    weight_FX: Floats  # of the experts; a feature's sum to one
    size_F: NDArray[np.intp]  # bins of each feature
    exponent_FX: Floats  # what a row counts: one over the design effect of what the expert looks at
    tolerated: float  # chi-square divergence, for memories


class Memory(NamedTuple):
    """What the rows so far have left behind."""

    counts_FK: Floats  # the urn: reference, prior and all rows since the start
    total_F: Floats  # its sum
    tilted_FJ: Floats  # sum of counts times table
    recent_FGK: Floats  # weights of rows by bin, times `scale`
    scale_FG: Floats
    unlike_FG: Floats  # sum over bins of recent squared over counts
    wealth_FX: Floats  # Shiryaev-Roberts statistic of each expert
    dated_FX: Floats  # the same, each start weighted by its row
    joint: Floats  # rows since the start; Shiryaev-Roberts statistic of the joint bet


def memory_of(bank: Bank) -> Memory:
    """Nothing but the reference."""
    features, experts = bank.weight_FX.shape
    total_F = bank.counts_FK.sum(axis=1)
    share_FK = bank.counts_FK / total_F[:, None]
    return Memory(
        counts_FK=bank.counts_FK.copy(),
        total_F=total_F,
        tilted_FJ=np.einsum("fkj,fk->fj", bank.table_FKJ, bank.counts_FK),
        recent_FGK=np.repeat(share_FK[:, None], bank.rate_FG.shape[1], axis=1),
        scale_FG=np.ones(bank.rate_FG.shape),
        unlike_FG=np.repeat(1 / total_F[:, None], bank.rate_FG.shape[1], axis=1),
        wealth_FX=np.zeros((features, experts)),
        dated_FX=np.zeros((features, experts)),
        joint=np.zeros(2),
    )


def bank_of(profile: Profile, tolerance: float) -> Bank:
    """Build the experts of every feature.

    Parameters
    ----------
    profile
        The reference.
    tolerance
        Nats of KL(current || reference) that no expert may profit from; see `largest_mean`.
    """
    features, parts = profile.features, profile.split(profile.counts)
    size = max((feature.size for feature in features), default=0)
    tilts = 2 * (len(LOCATIONS) + len(SCALES))
    spikes, memories = 2 * len(SPIKES), len(MEMORIES)
    bank = Bank(
        counts_FK=np.zeros((len(features), size)),
        table_FKJ=np.ones((len(features), size, tilts)),
        least_FJ=np.ones((len(features), tilts)),
        floor_FJ=np.zeros((len(features), tilts)),
        bin_FP=np.zeros((len(features), spikes), dtype=np.intp),
        share_P=np.tile([share for share, _ in SPIKES], 2),
        floor_FP=np.zeros((len(features), spikes)),
        rate_FG=np.zeros((len(features), memories)),
        weight_FX=np.zeros((len(features), tilts + spikes + memories)),
        size_F=np.array([feature.size for feature in features], dtype=np.intp),
        exponent_FX=np.ones((len(features), tilts + spikes + memories)),
        tolerated=math.expm1(2 * tolerance),
    )
    for f, (feature, counts_K) in enumerate(zip(features, parts, strict=True)):
        effect_K = _design_effects(profile, f, counts_K)
        # With every row counting 1 / effect, whole rows in the urn stand beside a prior that is `effect` times as heavy.
        urn_K = counts_K + effect_K * feature.prior(counts_K)
        p_K = urn_K / urn_K.sum()
        table_KJ = np.exp(_tilts(p_K))
        spike_PK = np.zeros((spikes, feature.size))
        bin_P = np.repeat([feature.size - 1, feature.size - 2], len(SPIKES))
        spike_PK[np.arange(spikes), bin_P] = 1.0
        bank.counts_FK[f, : feature.size] = urn_K
        bank.table_FKJ[f, : feature.size] = table_KJ
        bank.least_FJ[f] = table_KJ.min(axis=0)
        bank.bin_FP[f] = bin_P
        if tolerance > 0:
            bank.floor_FJ[f] = largest_mean(table_KJ.T, p_K, tolerance)
            bank.floor_FP[f] = largest_mean(spike_PK, p_K, tolerance)
        bank.rate_FG[f] = [rate / effect_K[0] for rate, _ in MEMORIES]
        bank.weight_FX[f] = _weights(feature, p_K, table_KJ)
        bank.exponent_FX[f] = 1 / effect_K[0]
        bank.exponent_FX[f, tilts : tilts + spikes] = 1 / effect_K[bin_P]
    return bank


def design_effect(effects: Dispersion, degrees: int) -> float:
    """How many dependent rows say as much as one independent row, at least 1: the largest of the design effects.

    The skewest spectrum with their mean and spread has one large effect and the others equal (see
    `calibration.Null.dispersed`), and autocorrelation of the level comes close to it. A short reference shows the mean but not
    the spread; the effects are then taken to be those of a first-order autoregression, of whose excess over one the largest
    holds more than half: 0.54 in 16 bins for a correlation of 0.9, 0.71 for 0.5, 0.86 for 0.2.
    """
    if degrees < 1:
        return 1.0
    largest = effects.mean * (1 + math.sqrt((effects.unevenness - 1) * (degrees - 1)))
    if effects.rows < SPREAD_BLOCKS * max(effects.memory, MOMENT_ROWS):
        largest = max(largest, effects.mean + AUTOREGRESSIVE * (degrees - 1) * (effects.mean - 1))
    return max(largest, 1.0)


def _design_effects(profile: Profile, f: int, counts_K: NDArray[np.int64]) -> Floats:
    """Design effect that goes with each bin of a feature: one of all values, one of missing; shape (K,)."""
    values = design_effect(profile.dispersion[f], int(np.count_nonzero(counts_K[:-1])) - 1)
    missing = design_effect(profile.missing_dispersion[f], 1)
    return np.array([*[values] * (counts_K.size - 1), missing])


def largest_mean(values_JK: Floats, p_K: Floats, nats: float) -> Floats:
    """Largest mean of each row of values under any distribution P with KL(P || p) <= nats, shape (J,).

    The maximum of a linear functional over a ball of the divergence is taken by an exponential tilt of p (Csiszar 1975), here
    found by bisection, from above.
    """
    top_J = values_JK.max(axis=1, keepdims=True)
    spread_J = top_J - values_JK.min(axis=1, keepdims=True)
    unit_JK = (values_JK - top_J) / np.where(spread_J > 0, spread_J, 1.0)
    low_J, high_J = np.zeros(len(values_JK)), np.full(len(values_JK), 60.0)  # log of 1 + strength

    def tilted(strength_J: Floats) -> Floats:
        weight_JK = p_K * np.exp(np.expm1(strength_J)[:, None] * unit_JK)
        return np.asarray(weight_JK / weight_JK.sum(axis=1, keepdims=True))

    for _ in range(80):
        middle_J = (low_J + high_J) / 2
        within_J = special.rel_entr(tilted(middle_J), p_K).sum(axis=1) <= nats
        low_J, high_J = np.where(within_J, middle_J, low_J), np.where(within_J, high_J, middle_J)
    largest_J: Floats = (tilted(high_J) * values_JK).sum(axis=1)
    return largest_J


def _tilts(p_K: Floats) -> Floats:
    """Exponents theta s_k of all tilts, shape (K, J); missing has none."""
    mass = p_K[:-1] / p_K[:-1].sum()
    location = _standardised(special.ndtri(np.cumsum(mass) - mass / 2), mass)
    scale = _standardised(location**2, mass)
    exponents = np.array(
        [
            sign * size * score
            for score, sizes in ((location, LOCATIONS), (scale, SCALES))
            for size, _ in sizes
            for sign in (1, -1)
        ]
    )
    # A bin with hardly any mass has a score without bound; the table must stay finite, and any table is fair.
    return np.pad(np.clip(exponents, -STEEPEST, STEEPEST), ((0, 0), (0, 1))).T


def _standardised(score: Floats, mass: Floats) -> Floats:
    centred = score - mass @ score
    variance = float(mass @ centred**2)
    # Two bins of equal mass have no scale, one bin has nothing: what is left is rounding.
    return np.zeros_like(score) if variance < 1e-9 else np.asarray(centred / math.sqrt(variance))


def _weights(feature: Bins, p_K: Floats, table_KJ: Floats) -> Floats:
    q_KJ = p_K[:, None] * table_KJ
    q_KJ /= q_KJ.sum(axis=0)
    tilts = np.repeat([weight / 2 for _, weight in (*LOCATIONS, *SCALES)], 2)
    tilts[special.rel_entr(q_KJ, p_K[:, None]).sum(axis=0) < POWERLESS] = 0.0
    spikes = np.tile([weight for _, weight in SPIKES], 2)
    if isinstance(feature, CategoricalBins):
        tilts *= UNORDERED
    else:
        spikes[len(SPIKES) :] = 0.0
    memories = [weight for _, weight in MEMORIES]
    weights = np.concatenate((tilts, spikes, memories))
    return np.asarray(weights / weights.sum())
