"""Dispersion: how much more counts vary from window to window than those of independent rows.

Shapes: N rows in stream order, B contiguous blocks, K bins. Autocorrelated rows repeat themselves, so the counts of a window scatter
around the reference's shares with covariance V instead of the multinomial one. A divergence is then not chi-square but a sum of
chi-squares weighted by the design effects, the eigenvalues of V in multinomial units. Rao and Scott (1984) need their mean and their
spread.

The mean is built up by doubling, like Allan's variance: a block of 2b rows is two of b, so its design effect is theirs times
1 + r(b), r being the correlation of the deviations of neighbouring blocks. It is one for single rows, and each doubling multiplies it,
until neighbours no longer show a correlation. Independent rows thus stay exactly independent, and short memories are
measured on many short blocks instead of few long ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = (
    3.0  # standard errors at which a correlation is believed if the doubling before hints at it, too
)
HINT = 2.0  # standard errors of a hint
CERTAIN = 4.5  # standard errors at which a correlation is believed whatever the doubling before
LEAST_BLOCKS = 8  # at which a correlation of neighbours is looked for
BEHIND = 1  # doublings behind the last believed one
SOUND_BLOCKS = 32  # blocks as long as the memory that a trustworthy estimate takes
MOMENT_ROWS = (
    32  # rows per block, at least, from which the spread is taken: counts of shorter ones are too discrete
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dispersion:
    """First two moments of a feature's design effects, and what they were estimated from."""

    mean: float = 1.0  # 1: independent rows
    unevenness: float = 1.0  # 1 + squared coefficient of variation, between 1 and K - 1
    memory: int = 1  # rows of a block whose deviations no longer show in the next one; 1: independent rows
    rows: int = 0  # of the reference that it was estimated from
    error: float = 0.0  # relative standard error of the mean; 0: independent rows

    @property
    def blocks(self) -> int:
        """Number of memory-long blocks behind the estimate."""
        return self.rows // self.memory

    @property
    def rows_needed(self) -> int:
        """Reference rows that a trustworthy estimate of this memory takes; 0 if rows are independent."""
        return SOUND_BLOCKS * self.memory if self.memory > 1 else 0

    def of_sample(self, share: float, degrees: int) -> "Dispersion":
        """Return the effects on consecutive rows, given estimates on rows of which only a random sample holds something.

        Two rows are both sampled with probability share^2, one is with probability share: what exceeds one of a design effect is smaller by
        the factor share on the sample. `memory` and `rows` become those of the sample, the rows that there are.

        Parameters
        ----------
        share
            Of the rows that hold something, above 0 and at most 1.
        degrees
            Number of design effects, which bounds their unevenness.
        """
        rows = round(self.rows * share)
        if self.memory == 1:
            return replace(self, rows=rows)
        mean = 1 + (self.mean - 1) / share
        growth = self.mean / (share * mean)  # of spreads, relative to the mean
        return Dispersion(
            mean,
            max(min(1 + (self.unevenness - 1) * growth**2, float(degrees)), self.unevenness),
            max(round(self.memory * share), 2),
            rows,
            self.error * growth,
        )

    def merge(self, other: "Dispersion") -> "Dispersion":
        """Combine the estimates of two references of one stream."""
        rows = self.rows + other.rows
        weight = self.rows / rows if rows else 0.5
        return Dispersion(
            weight * self.mean + (1 - weight) * other.mean,
            weight * self.unevenness + (1 - weight) * other.unevenness,
            max(self.memory, other.memory),
            rows,
            math.hypot(weight * self.error, (1 - weight) * other.error),
        )


INDEPENDENT = Dispersion()


@dataclass(frozen=True)
class Doubling:
    """What blocks of one length say about those of twice the length."""

    carry: float  # correlation of the deviations of neighbouring blocks
    errors: float  # the same in standard errors
    unevenness: float  # of the blocks


def dispersions_of(
    bins_FN: Sequence[NDArray[np.intp]],
    sizes_F: Sequence[int],
    dependence_FF: NDArray[np.float64],
    season_N: NDArray[np.intp] | None = None,
) -> tuple[Dispersion, ...]:
    """Estimate the design effects of features that are read from the same rows.

    Whether rows depend on each other is asked of each feature alone and of all together: a correlation that every feature shows a little
    is one of the stream. How much they do is estimated for each, and drawn towards what the others say as far as their scatter is no larger than
    their errors (the random effects of DerSimonian and Laird 1986): of many features the least dispersed would else decide.

    Parameters
    ----------
    bins_FN, sizes_F, season_N
        Of each feature, as for `dispersion_of`.
    dependence_FF
        Correlation of the features' chi-squares; so do their estimates correlate.
    """
    found_F = [_doublings_of(b, size, season_N) for b, size in zip(bins_FN, sizes_F, strict=True)]
    pooled = []
    for level in range(max(map(len, found_F), default=0)):
        has = [f for f, found in enumerate(found_F) if len(found) > level]
        variance = float(dependence_FF[np.ix_(has, has)].sum())
        pooled.append(sum(found_F[f][level].errors for f in has) / math.sqrt(variance))
    return _drawn_together(
        [_settled(found, len(bin_N), pooled) for found, bin_N in zip(found_F, bins_FN, strict=True)]
    )


def dispersion_of(
    bin_N: NDArray[np.intp],
    size: int,
    season_N: NDArray[np.intp] | None = None,
) -> Dispersion:
    """Estimate design effects from the bins of rows in stream order.

    Parameters
    ----------
    bin_N : int array, shape (N,)
        Bin of each row; rows with a bin of `size` or above hold nothing and are passed over.
    size
        Number of bins.
    season_N : int array, shape (N,), optional
        Season of each row: deviations are then from the shares of the row's own season.
    """
    return _settled(_doublings_of(bin_N, size, season_N), bin_N.size)


def effects_of(residual_BK: Floats, degrees: int) -> Dispersion:
    """Estimate design effects from the deviations of single rows in stream order.

    Parameters
    ----------
    residual_BK : float array, shape (N, K)
        Each row's deviation from what is expected of it, in multinomial units; any orthonormal coordinates will do.
    degrees
        Number of design effects: dimensions that the deviations span.
    """
    return _settled(_doubled(residual_BK, degrees), len(residual_BK))


def _doublings_of(
    bin_N: NDArray[np.intp], size: int, season_N: NDArray[np.intp] | None
) -> tuple[Doubling, ...]:
    rows, held_N = bin_N.size, bin_N < size
    counts_K = np.bincount(bin_N[held_N], minlength=size)
    occupied_K = counts_K > 0
    degrees = int(occupied_K.sum()) - 1
    if degrees < 1 or rows < 2 * LEAST_BLOCKS:
        return ()
    # Bins that were seen, numbered anew; rows that hold nothing come behind them.
    bin_N = np.append(np.cumsum(occupied_K) - 1, degrees + 1)[np.minimum(bin_N, size)]
    counts_K = counts_K[occupied_K]
    if season_N is None:
        pairs_BK = _blocks_of_two(bin_N, counts_K)
        return _doubled(pairs_BK, degrees, (_of_single_rows(bin_N, counts_K),))
    one_hot_NK = np.zeros((rows, degrees + 2))
    one_hot_NK[np.arange(rows), bin_N] = 1
    residual_BK = one_hot_NK[:, :-1] - held_N[:, None] * _seasonal_shares(one_hot_NK[:, :-1], season_N)
    return _doubled(residual_BK / np.sqrt(counts_K / rows), degrees)


def _of_single_rows(bin_N: NDArray[np.intp], counts_K: NDArray[np.intp]) -> Doubling:
    """Correlate neighbouring rows by how many share a bin, without writing their deviations down.

    A row deviates by (one-hot - p) / sqrt(q), or by nothing if it holds nothing; p is a bin's share of the rows that hold something, q of all. As
    p / q is the same for all bins, two rows' deviations multiply to 1 / q - p / q if they share a bin, else to -p / q.
    """
    rows, bins, ratio = bin_N.size, counts_K.size, bin_N.size / int(counts_K.sum())
    held_N = bin_N < bins
    shared_K = np.bincount(bin_N[1:][bin_N[1:] == bin_N[:-1]], minlength=bins)[:bins]
    neighbours = int(np.count_nonzero(held_N[1:] & held_N[:-1]))
    products = rows * float((shared_K / counts_K).sum()) - ratio * neighbours
    return _doubling(products, float(rows * (bins - 1)), rows, 1.0, bins - 1)


def _blocks_of_two(bin_N: NDArray[np.intp], counts_K: NDArray[np.intp]) -> Floats:
    """Return the deviations of blocks of two rows, shape (N // 2, K)."""
    rows, bins = bin_N.size, counts_K.size
    blocks = rows // 2
    pair_N = np.arange(2 * blocks) // 2
    bin_N = bin_N[: 2 * blocks]
    scale_K = np.append(np.sqrt(rows / counts_K), 0.0)
    cell_N = pair_N * (bins + 1) + bin_N
    scaled_BK = np.bincount(cell_N, scale_K[bin_N], blocks * (bins + 1)).reshape(blocks, -1)[:, :bins]
    held_B = np.bincount(pair_N, bin_N < bins, blocks)
    share_K = counts_K / counts_K.sum()
    return np.asarray(scaled_BK - np.outer(held_B, share_K * scale_K[:bins]), np.float64)


def _doubled(residual_BK: Floats, degrees: int, found: tuple[Doubling, ...] = ()) -> tuple[Doubling, ...]:
    """Double blocks on, from those behind what was `found`."""
    spread = 1.0
    while len(residual_BK) >= 2 * LEAST_BLOCKS:
        squares = _dot(residual_BK, residual_BK)
        if squares <= 0:
            break
        if 1 << len(found) >= MOMENT_ROWS:
            spread = _unevenness(residual_BK, degrees)
        products = _dot(residual_BK[1:], residual_BK[:-1])
        found = (*found, _doubling(products, squares, len(residual_BK), spread, degrees))
        even = len(residual_BK) // 2 * 2
        residual_BK = residual_BK[:even:2] + residual_BK[1:even:2]
    return found


def _doubling(products: float, squares: float, blocks: int, spread: float, degrees: int) -> Doubling:
    carry = products / squares + 1 / blocks  # deviations from their own mean correlate by -1/B
    return Doubling(carry, carry / math.sqrt(spread / (blocks * degrees)), spread)


def _settled(found: Sequence[Doubling], rows: int, pooled: Sequence[float] = ()) -> Dispersion:
    """Multiply the doublings up to the last one that is believed, and what is just behind it, only too faint to be seen."""
    last, hint = -1, math.inf
    for level, doubling in enumerate(found):
        errors = max(doubling.errors, pooled[level] if pooled else -math.inf)
        if errors > (SIGNIFICANT if hint > HINT else CERTAIN):
            last = level
        hint = errors
    if last < 0:
        return Dispersion(rows=rows)
    multiplied = found[: last + 1 + BEHIND]
    mean = math.prod(1 + doubling.carry for doubling in multiplied)
    memory = 1 << len(multiplied)
    variance = sum((doubling.carry / doubling.errors) ** 2 for doubling in multiplied if doubling.errors)
    # The spread where the memory ends, or as soon as it can be measured behind that.
    settled = max(memory, MOMENT_ROWS).bit_length() - 1
    return Dispersion(
        max(mean, 1.0),
        found[min(settled, len(found) - 1)].unevenness,
        memory,
        rows,
        math.sqrt(variance),
    )


def _drawn_together(effects: Sequence[Dispersion]) -> tuple[Dispersion, ...]:
    dependent = [f for f, effect in enumerate(effects) if effect.error > 0]
    if len(dependent) < 2:
        return tuple(effects)
    log_mean = np.log([effects[f].mean for f in dependent])
    log_uneven = np.log([effects[f].unevenness for f in dependent])
    variance = np.square([effects[f].error for f in dependent])
    weight = 1 / variance
    centre = float((weight * log_mean).sum() / weight.sum())
    scatter = float((weight * (log_mean - centre) ** 2).sum()) - (len(dependent) - 1)
    between = max(scatter / float(weight.sum() - (weight**2).sum() / weight.sum()), 0.0)
    own = between / (between + variance)  # how far each is believed
    drawn = dict(zip(dependent, zip(own, log_mean, log_uneven, variance, strict=True), strict=True))
    uneven = float((weight * log_uneven).sum() / weight.sum())
    settled = list(effects)
    for f, (belief, mean, unevenness, noise) in drawn.items():
        settled[f] = replace(
            effects[f],
            mean=max(math.exp(belief * mean + (1 - belief) * centre), 1.0),
            unevenness=math.exp(belief * unevenness + (1 - belief) * uneven),
            error=math.sqrt(belief * noise + (1 - belief) ** 2 / float(weight.sum())),
        )
    return tuple(settled)


def _dot(left_BK: Floats, right_BK: Floats) -> float:
    return float(np.vdot(left_BK, right_BK))


def _seasonal_shares(one_hot_NK: Floats, season_N: NDArray[np.intp]) -> Floats:
    """Share of each bin among rows of each row's season that hold something: shape (N, K)."""
    counts_SK = np.zeros((int(season_N.max()) + 1, one_hot_NK.shape[1]))
    np.add.at(counts_SK, season_N, one_hot_NK)
    shares_SK: Floats = counts_SK / np.maximum(counts_SK.sum(axis=1, keepdims=True), 1.0)
    return shares_SK[season_N]


def _unevenness(residual_BK: Floats, degrees: int) -> float:
    """Spread of the design effects from the covariance of block deviations: K tr(V^2) / tr(V)^2."""
    free = len(residual_BK) - 1
    square = residual_BK @ residual_BK.T if free < degrees else residual_BK.T @ residual_BK
    trace = _dot(residual_BK, residual_BK) / free
    trace_of_square = float((square**2).sum()) / free**2
    # The plug-in trace of a squared covariance is biased upwards by tr^2 / free (Srivastava 2005).
    squares = free**2 / ((free + 2) * (free - 1)) * (trace_of_square - trace**2 / free)
    return min(max(degrees * squares / trace**2, 1.0), float(degrees))
