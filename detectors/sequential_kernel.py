"""The sequential detector's inner loop, compiled by numba. Import this module where it is used.

Shapes as in `detectors.experts`; N rows.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from detectors.experts import MIXED, Bank, Floats, Memory

RESCALE = 1e100  # weights of the latest rows grow up to here, before all are divided by it


@numba.njit(cache=True, nogil=True)
def watch(
    bin_NF: NDArray[np.intp],
    first: int,
    memory: Memory,
    bank: Bank,
    odds: float,
    share: float,
    keep: float,
    threshold: float,
) -> int:
    """Take rows from `first` on, changing `memory`, until the e-detector reaches the threshold.

    Returns
    -------
    The row at which it did, or -1.
    """
    # Arrays as locals: numba counts references at every access to a tuple's field, and at every slice.
    counts_FK, total_F, tilted_FJ, recent_FGK, scale_FG, unlike_FG, wealth_FX, dated_FX, joint = memory
    table_FKJ, least_FJ, floor_FJ = bank.table_FKJ, bank.least_FJ, bank.floor_FJ
    bin_FP, share_P, floor_FP = bank.bin_FP, bank.share_P, bank.floor_FP
    rate_FG, tolerated = bank.rate_FG, bank.tolerated
    weight_FX, exponent_FX = bank.weight_FX, bank.exponent_FX
    features, experts = weight_FX.shape
    tilts, spikes = least_FJ.shape[1], share_P.size
    ratio_X, least_X = np.empty(experts), np.empty(experts)
    dependent = exponent_FX.size > 0 and exponent_FX.min() < 1

    for row in range(first, bin_NF.shape[0]):
        joint[0] += 1
        now = joint[0]
        mean = gain = squares = risk = moved = slowed = 0.0
        for f in range(features):
            k, p = bin_NF[row, f], counts_FK[f, bin_NF[row, f]] / total_F[f]
            _bet_on_tilts(f, k, total_F, tilted_FJ, table_FKJ, least_FJ, floor_FJ, ratio_X, least_X)
            _bet_on_spikes(f, k, p, tilts, bin_FP, share_P, floor_FP, ratio_X, least_X)
            _bet_on_memories(
                f, k, p, tilts + spikes, total_F, recent_FGK, scale_FG, unlike_FG, tolerated, ratio_X, least_X
            )
            if dependent:
                for x in range(experts):
                    exponent, least = exponent_FX[f, x], least_X[x]
                    if exponent < 1:
                        ratio_X[x] **= exponent
                        # Bernoulli's inequality, cheaper than another power, for what the least becomes.
                        least_X[x] = least / (least + exponent * (1 - least))
            held = won = lost = slow = after = 0.0
            for x in range(experts):
                stake = weight_FX[f, x] * (wealth_FX[f, x] + 1)
                held += stake
                won += stake * (ratio_X[x] - 1)
                lost += stake * (1 - least_X[x])
                slow += stake / exponent_FX[f, x]
            for x in range(experts):
                factor = ratio_X[x] * keep
                wealth_FX[f, x] = (wealth_FX[f, x] + 1) * factor
                dated_FX[f, x] = (dated_FX[f, x] + now) * factor
                after += weight_FX[f, x] * wealth_FX[f, x]
            mean += after / features
            # Each held fortune bets in proportion to the probability that the feature has moved.
            likely = odds * held / (slow / held + odds * held)
            gain += likely * won / held
            squares += (likely * won / held) ** 2
            risk += likely * lost / held
            moved += likely
            slowed += likely * slow / held
            _learn(f, k, counts_FK, total_F, tilted_FJ, table_FKJ, recent_FGK, scale_FG, unlike_FG, rate_FG)
        size = 1 / max(risk, 1.0)
        bet = max(1 + gain * size, 0.0)
        if dependent:
            # What features win together shows as often as rows repeat themselves, beyond what each one's exponent allows for.
            together = max(gain**2 - squares, 0.0) * size**2
            bet *= np.exp(-(slowed / moved - 1) / 2 * together)
        joint[1] = (joint[1] + 1) * bet * keep
        if (1 - share) * mean + share * joint[1] >= threshold:
            return row
    return -1


@numba.njit(cache=True, nogil=True)
def _bet_on_tilts(
    f: int,
    k: int,
    total_F: Floats,
    tilted_FJ: Floats,
    table_FKJ: Floats,
    least_FJ: Floats,
    floor_FJ: Floats,
    ratio_X: Floats,
    least_X: Floats,
) -> None:
    """Write what each expert bets, q(k) / p(k), and a lower bound of it over all bins."""
    for j in range(least_FJ.shape[1]):
        inverse = 1 / max(tilted_FJ[f, j] / total_F[f], floor_FJ[f, j])
        ratio_X[j] = table_FKJ[f, k, j] * inverse
        least_X[j] = least_FJ[f, j] * inverse


@numba.njit(cache=True, nogil=True)
def _bet_on_spikes(
    f: int,
    k: int,
    p: float,
    x: int,
    bin_FP: NDArray[np.intp],
    share_P: Floats,
    floor_FP: Floats,
    ratio_X: Floats,
    least_X: Floats,
) -> None:
    """The same for spikes, experts `x` and on."""
    for s in range(share_P.size):
        least_X[x + s] = 1 - share_P[s]
        ratio_X[x + s] = 1 - share_P[s]
        if bin_FP[f, s] == k:
            ratio_X[x + s] += share_P[s] / max(p, floor_FP[f, s])


@numba.njit(cache=True, nogil=True)
def _bet_on_memories(
    f: int,
    k: int,
    p: float,
    x: int,
    total_F: Floats,
    recent_FGK: Floats,
    scale_FG: Floats,
    unlike_FG: Floats,
    tolerated: float,
    ratio_X: Floats,
    least_X: Floats,
) -> None:
    """The same for memories, experts `x` and on."""
    for g in range(scale_FG.shape[1]):
        scale, bound = scale_FG[f, g], 1.0
        if tolerated > 0:
            # The mean of q / p under P is 1 + <P - p, q - p> in the metric of chi-square: Cauchy and Schwarz.
            unlike = max(total_F[f] * unlike_FG[f, g] / (scale * scale) - 1, 0.0)
            bound += (1 - MIXED) * np.sqrt(tolerated * unlike)
        ratio_X[x + g] = (MIXED + (1 - MIXED) * recent_FGK[f, g, k] / (scale * p)) / bound
        least_X[x + g] = MIXED / bound


@numba.njit(cache=True, nogil=True)
def _learn(
    f: int,
    k: int,
    counts_FK: Floats,
    total_F: Floats,
    tilted_FJ: Floats,
    table_FKJ: Floats,
    recent_FGK: Floats,
    scale_FG: Floats,
    unlike_FG: Floats,
    rate_FG: Floats,
) -> None:
    """Put the row into the urn and into the memories."""
    for j in range(tilted_FJ.shape[1]):
        tilted_FJ[f, j] += table_FKJ[f, k, j]
    count = counts_FK[f, k]
    counts_FK[f, k] = count + 1
    total_F[f] += 1
    for g in range(rate_FG.shape[1]):
        # Instead of every bin decaying, the weight of the next row grows.
        recent = recent_FGK[f, g, k]
        scale_FG[f, g] /= 1 - rate_FG[f, g]
        grown = recent + rate_FG[f, g] * scale_FG[f, g]
        recent_FGK[f, g, k] = grown
        unlike_FG[f, g] += grown * grown / (count + 1) - recent * recent / count
        if scale_FG[f, g] > RESCALE:
            scale_FG[f, g] /= RESCALE
            unlike_FG[f, g] /= RESCALE * RESCALE
            for b in range(recent_FGK.shape[2]):
                recent_FGK[f, g, b] /= RESCALE


@numba.njit(cache=True, nogil=True)
def valid(bin_NF: NDArray[np.intp], size_F: NDArray[np.intp]) -> bool:
    """Whether every bin exists."""
    for row in range(bin_NF.shape[0]):
        for f in range(size_F.size):
            if bin_NF[row, f] < 0 or bin_NF[row, f] >= size_F[f]:
                return False
    return True
