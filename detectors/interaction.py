"""Interaction: how far two features have moved together beyond what each has moved alone.

Shapes: P pairs of features, I x J slabs of a pair's two features (padded to S x S by empty ones), B blocks.

A pair's joint counts move whenever one of its features does, which the feature itself already tells. So the reference
and the window are both fitted by masses that may have any two marginals each but share their odds ratios (the
log-linear model without three-way interaction; Bartlett 1935, by iterative proportional fitting, Deming and Stephan
1940; Bishop, Fienberg and Holland 1975, chapter 3). What the fit leaves is the interaction:

    nats = [ n KL(w || w^) + m KL(r || r^) ] (1/n + 1/m)     w window of n rows, r reference of m

For a large reference it tends to KL(w || r*), r* the reference raked to the window's marginals (its I-projection,
Csiszar 1975). Models are nested, so that the divergence of the whole pair is the sum of this part and the part that
marginals explain. The null is chi-square with (I-1)(J-1) degrees of freedom whatever the marginals and the dependence
are, and however the marginals have moved: reweighting rows by any a(x) b(y) leaves odds ratios alone.

In small samples the mean is larger than that, and known (Bartlett 1937): a cell that expects u rows adds the mean
deviance d(u) of a Poisson count to it, alternately with its margins (Williams 1976, who takes d(u) = 1 + 1/6u). With
many nearly empty cells it is smaller, but by how much such cells themselves tell badly; chi-square then errs quietly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.calibration import Null
from detectors.dispersion import Dispersion, effects_of

PRECISION = (
    1e-4  # relative change at which a fit stands: at its best the divergence errs by the square of that
)
ROUNDS = 200  # at most: only tables with empty cells at the border of the model take more than twenty

ROOTS, STEPS = 8, 64  # the mean deviance is tabulated for roots of means up to 8, in steps of 1/64

Step = Callable[..., None]  # one that writes into the arrays that it is given, compiled or not


@dataclass(frozen=True, eq=False)
class Interaction:
    """What a window's pairs show beyond their marginals."""

    nats_P: NDArray[np.float64]  # zero for equal odds ratios
    mean_P: NDArray[np.float64]  # nats, when nothing has moved and rows are independent
    degrees_P: NDArray[np.int64]  # zero where a feature has fewer than two slabs that both samples occupy
    expected_PIJ: NDArray[
        np.float64
    ]  # window rows that the marginals explain; 0 in slabs that one sample lacks

    def null(self, dispersion: tuple[Dispersion, ...] = ()) -> Null:
        """Distribution of each pair's divergence when its odds ratios are those of the reference, arrays of shape (P,).

        Parameters
        ----------
        dispersion
            Of each pair, by `dispersion_of_pair`; none takes rows as independent.
        """
        degrees_P = np.maximum(self.degrees_P, 1)
        mean_P = np.where(
            self.degrees_P > 0, self.mean_P, 1.0
        )  # where nothing can be compared, 0 nats are likely
        deviation_P, skewness_P = mean_P * np.sqrt(2 / degrees_P), np.sqrt(8 / degrees_P)
        if not dispersion:
            return Null(mean_P, deviation_P, skewness_P)
        factors = _factors(dispersion, tuple(degrees_P.tolist()))
        return Null(
            mean_P * factors.mean,
            deviation_P * factors.deviation,
            skewness_P * factors.skewness,
            factors.doubt,
        )


@lru_cache(maxsize=64)
def _factors(dispersion_P: tuple[Dispersion, ...], degrees_P: tuple[int, ...]) -> Null:
    """What dependent rows do to each moment: a factor, whatever the moment."""
    unit = Null(1.0, 1.0, 1.0)
    both = zip(dispersion_P, degrees_P, strict=True)
    return Null.stack([unit.dispersed(effects, degrees) for effects, degrees in both])


def interaction(window_PIJ: NDArray[np.int64], reference_PIJ: NDArray[np.int64]) -> Interaction:
    """Compare the odds ratios of a window with those of the reference.

    Parameters
    ----------
    window_PIJ, reference_PIJ : int array, shape (P, I, J)
        Joint counts of the pairs; empty slabs are as good as absent.
    """
    from detectors.interaction_kernel import deviances, fit  # numba takes a while to import

    return _measure(window_PIJ, reference_PIJ, fit, deviances)


def homogeneity(window_PIJ: NDArray[np.int64], reference_PIJ: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divergence of each whole pair, marginals and interaction, in the same nats; shape (P,)."""
    w, r = window_PIJ.astype(np.float64), reference_PIJ.astype(np.float64)
    n, m = (counts.sum(axis=(1, 2), keepdims=True) for counts in (w, r))
    pooled = (w + r) / np.maximum(n + m, 1)
    parts = special.kl_div(w, n * pooled) + special.kl_div(r, m * pooled)
    nats_P: NDArray[np.float64] = parts.sum(axis=(1, 2)) * _scale(window_PIJ, reference_PIJ)
    return nats_P


def dispersion_of_pair(i_N: NDArray[np.integer], j_N: NDArray[np.integer], slabs: int) -> Dispersion:
    """Estimate the design effects of one pair's interaction from its slabs of rows in stream order.

    Autocorrelated marginals repeat themselves more than the pair does, but the model fits them away: deviations are
    taken orthogonal to the indicators of either feature's slabs.
    """
    cell_N = i_N.astype(np.intp) * slabs + j_N
    counts_K = np.bincount(cell_N, minlength=slabs**2)
    cells = counts_K > 0
    root_K = np.sqrt(counts_K[cells] / max(cell_N.size, 1))
    i_K, j_K = (index.ravel()[cells] for index in np.indices((slabs, slabs)))
    indicators = np.concatenate([np.eye(slabs)[i_K], np.eye(slabs)[j_K]], axis=1)
    directions, singular, _ = np.linalg.svd(indicators * root_K[:, None])
    rank = int((singular > 1e-9).sum())
    degrees = root_K.size - rank
    if degrees < 1:
        return Dispersion(rows=cell_N.size)
    deviation_KD = np.zeros((cells.size, degrees))
    deviation_KD[cells] = directions[:, rank:] / root_K[:, None]
    return effects_of(deviation_KD[cell_N], degrees)


def _measure(
    window_PIJ: NDArray[np.int64], reference_PIJ: NDArray[np.int64], fit: Step, deviances: Step
) -> Interaction:
    w, r = window_PIJ.astype(np.float64), reference_PIJ.astype(np.float64)
    fitted_w, fitted_r, degrees_P = np.zeros_like(w), np.zeros_like(r), np.zeros(len(w), dtype=np.int64)
    fit(w, r, fitted_w, fitted_r, degrees_P)
    deviance_P2 = np.zeros((len(w), 2))
    deviances(w, r, fitted_w, fitted_r, _poisson_deviances(), deviance_P2)
    scale_P = _scale(window_PIJ, reference_PIJ) / 2
    deviance_P2 *= scale_P[:, None]
    floor_P = degrees_P * scale_P
    nats_P = np.where(degrees_P > 0, deviance_P2[:, 0], 0.0)
    return Interaction(nats_P, np.maximum(deviance_P2[:, 1], floor_P), degrees_P, fitted_w)


def deviances_numpy(
    w: NDArray[np.float64],
    r: NDArray[np.float64],
    fitted_w: NDArray[np.float64],
    fitted_r: NDArray[np.float64],
    table: NDArray[np.float64],
    deviance_P2: NDArray[np.float64],
) -> None:
    """Write twice the log-likelihood ratio of each pair and its mean by inclusion and exclusion over margins."""
    # Cells at the border of the model are fitted as 0 up to rounding; the generalised form stays non-negative.
    parts = special.kl_div(w, fitted_w) + special.kl_div(r, fitted_r)
    deviance_P2[:, 0] = 2 * np.where(np.isfinite(parts), parts, 0.0).sum(axis=(1, 2))
    fitted = np.stack([fitted_w, fitted_r], axis=1)
    for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        means = fitted.sum(axis=axes).reshape(len(w), -1) if axes else fitted.reshape(len(w), -1)
        place = np.minimum(np.sqrt(means), ROOTS) * STEPS
        parts = np.where(
            means < ROOTS**2,
            np.interp(place, np.arange(table.size), table),
            1 + 1 / (6 * np.maximum(means, 1)),
        )
        deviance_P2[:, 1] += (-1) ** len(axes) * parts.sum(axis=1)


@cache
def _poisson_deviances() -> NDArray[np.float64]:
    """Mean deviance of Poisson counts about a known mean: 0 for none, 1 for many; by the root of the mean."""
    means = (np.arange(1, ROOTS * STEPS + 1) / STEPS) ** 2
    counts = np.arange(2 * ROOTS**2 + 20)[:, None]
    pmf = np.exp(special.xlogy(counts, means) - means - special.gammaln(counts + 1))
    deviances = (pmf * 2 * special.kl_div(counts, means)).sum(axis=0)
    return np.concatenate(([0.0], deviances))


def _scale(window_PIJ: NDArray[np.int64], reference_PIJ: NDArray[np.int64]) -> NDArray[np.float64]:
    n_P, m_P = (np.maximum(counts.sum(axis=(1, 2)), 1) for counts in (window_PIJ, reference_PIJ))
    scale_P: NDArray[np.float64] = 1 / n_P + 1 / m_P
    return scale_P


def fit_numpy(
    w: NDArray[np.float64],
    r: NDArray[np.float64],
    fitted_w: NDArray[np.float64],
    fitted_r: NDArray[np.float64],
    degrees_P: NDArray[np.int64],
) -> None:
    """Fit without numba: what the kernel is tested against. All of shape (P, I, J) but the last, written in place."""
    for _ in range(w.shape[1] + w.shape[2]):  # a slab that one sample lacks tells nothing of odds ratios
        for axis in (1, 2):
            both = (w.sum(axis=axis, keepdims=True) > 0) & (r.sum(axis=axis, keepdims=True) > 0)
            w *= both
            r *= both
    i_P, j_P = ((w.sum(axis=axis) > 0).sum(axis=1) for axis in (2, 1))
    degrees_P[:] = np.maximum(i_P - 1, 0) * np.maximum(j_P - 1, 0)
    total = w + r
    fitted_w[:] = fitted_r[:] = total
    for _ in range(ROUNDS):
        factors = []
        for axis in (2, 1):
            for counts, fitted in ((w, fitted_w), (r, fitted_r)):
                factors.append(
                    _ratio(counts.sum(axis=axis, keepdims=True), fitted.sum(axis=axis, keepdims=True))
                )
                np.multiply(fitted, factors[-1], out=fitted)
        factors.append(_ratio(total, fitted_w + fitted_r))
        fitted_w *= factors[-1]
        fitted_r *= factors[-1]
        if all(np.abs(factor[factor > 0] - 1).max(initial=0.0) < PRECISION for factor in factors):
            break


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.zeros_like(b), where=b > 0)
