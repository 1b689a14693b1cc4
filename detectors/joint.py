"""How many independent features some dependent ones are worth, when the smallest of their p-values decides.

Shapes: F features, N rows, U of them that are used, K bins of all features together. Two features that say the same need no correction for being two.
When nothing has moved, the chi-squares of two features correlate by phi^2 / sqrt((K_f - 1)(K_g - 1)) of their contingency table, Tschuprow's
squared T: the squared canonical correlations of their bins, averaged. From there a Gaussian copula gives the probability
that any of them is below a level, estimated by importance sampling of the union (Owen, Maximov and Chertkov 2019), which is exact for
independent features and for identical ones, and needs no rare event.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

CELLS = 4e9  # rows times squared bins, at most: more features are looked at in fewer rows
LEAST_ROWS = 500  # with which the tables are worth looking at
DRAWS = 4096


def dependence_of(bins_FN: list[NDArray[np.intp]], sizes_F: list[int]) -> NDArray[np.float64]:
    """Correlation of the features' divergences when nothing has moved.

    Parameters
    ----------
    bins_FN
        Bin of each row, for each feature.
    sizes_F
        Number of bins of each feature.

    Returns
    -------
    float array, shape (F, F)
        Tschuprow's squared T, its upward bias (K_f - 1)(K_g - 1) / N taken off (Bergsma 2013); the identity where rows are too few for
        so many bins.
    """
    features, rows = len(bins_FN), len(bins_FN[0]) if bins_FN else 0
    used = int(min(rows, CELLS / max(sum(sizes_F), 1) ** 2))
    identity: NDArray[np.float64] = np.eye(features)
    if features < 2 or used < LEAST_ROWS:
        return identity
    picked = np.linspace(0, rows - 1, used).astype(np.intp)
    starts_F = np.concatenate(([0], np.cumsum(sizes_F)))
    flat_FU = np.stack([bin_N[picked] + start for bin_N, start in zip(bins_FN, starts_F, strict=False)])
    total = int(starts_F[-1])
    counts_K = np.bincount(flat_FU.ravel(), minlength=total)
    inverse_K = np.divide(1.0, counts_K, out=np.zeros(total), where=counts_K > 0)
    degrees_F = np.maximum(np.add.reduceat(counts_K > 0, starts_F[:-1], dtype=np.intp) - 1, 1)
    phi2_FF = np.zeros((features, features))
    for i in range(features - 1):  # contingency tables with all features behind: sum n_kl^2 / (n_k n_l) - 1
        low, behind, size = starts_F[i], starts_F[i + 1], sizes_F[i]
        cell_GU = (flat_FU[i] - low) * (total - behind) + (flat_FU[i + 1 :] - behind)
        table_KL = np.bincount(cell_GU.ravel(), minlength=size * (total - behind)).reshape(size, -1)
        share_L = inverse_K[low:behind] @ np.square(table_KL, dtype=np.float64) * inverse_K[behind:]
        phi2_FF[i, i + 1 :] = np.add.reduceat(share_L, starts_F[i + 1 : -1] - behind) - 1
    phi2_FF += phi2_FF.T
    degrees_FF = np.outer(degrees_F, degrees_F)
    dependence_FF = np.maximum(phi2_FF - degrees_FF / used, 0) / np.sqrt(degrees_FF)
    np.fill_diagonal(dependence_FF, 1.0)
    return dependence_FF.clip(0, 1).round(4)  # it is kept as JSON


def effective_number(dependence_FF: NDArray[np.float64], level: float) -> float:
    """Number of independent features that would bring a p-value below `level` as often as these.

    Parameters
    ----------
    dependence_FF
        From `dependence_of`.
    level
        Of a single feature.

    Returns
    -------
    float
        Between 1 and F: 1 if all say the same, F if they are independent.
    """
    features = len(dependence_FF)
    off_diagonal = dependence_FF[~np.eye(features, dtype=bool)]
    if features < 2 or not off_diagonal.any():
        return float(features)
    if off_diagonal.min() >= 1:
        return 1.0
    values_F, vectors_FF = np.linalg.eigh(dependence_FF)
    root_FF = vectors_FF * np.sqrt(np.clip(values_F, 0, None))
    root_FF /= np.linalg.norm(root_FF, axis=1, keepdims=True)
    correlation_FF = root_FF @ root_FF.T
    rng = np.random.default_rng(0)
    normal_DF = rng.standard_normal((DRAWS, features)) @ root_FF.T
    chosen_D = rng.integers(features, size=DRAWS)
    # The chosen one exceeds the level, the others follow: z given z_f is z + R_f (z_f' - z_f).
    exceeding_D = -special.ndtri(level * rng.uniform(size=DRAWS))
    step_D = exceeding_D - normal_DF[np.arange(DRAWS), chosen_D]
    conditional_DF = normal_DF + correlation_FF[chosen_D] * step_D[:, None]
    conditional_DF[np.arange(DRAWS), chosen_D] = np.inf
    number_D = (conditional_DF >= -special.ndtri(level)).sum(axis=1)
    union = features * level * float((1 / number_D).mean())
    number = math.log1p(-min(union, 1 - 1e-12)) / math.log1p(-level)
    return min(max(number, 1.0), float(features))
