"""Additive regression on bins: a value's mean as a level plus a weight per feature's bin.

Shapes: N rows, K flat bins of all features, V coefficients, R replicates. Weights are shrunk by empirical Bayes: the
coefficients of each feature have a normal prior whose variance maximises the evidence (MacKay 1992, "Bayesian
interpolation"), so that a feature that says nothing about the value gets no weight, and more bins than rows do no harm.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from detectors.bins import NumericBins
from detectors.columns import Columns, rows_of
from detectors.profile import Profile

ITERATIONS = 25  # of the evidence, at most
NEGLIGIBLE = 0.25  # effective coefficients below which a feature is left out

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted mean, and what its uncertainty follows from."""

    level: float
    weights_K: Floats
    residual_N: Floats
    leverage_N: Floats
    sigma: float  # standard deviation of the residuals
    basis_KV: Floats  # weights by their coefficients, each in standard deviations of its prior
    root_VV: Floats  # of these coefficients' covariance C = root' root, in units of the residuals'


@dataclass(frozen=True, eq=False)
class Design:
    """One-hot rows of the profile's bins, centred on the labelled rows' shares.

    Weights are sums of coefficients with independent priors: of categories, each its own; of the intervals of a numeric
    feature, the steps from one to the next (a random walk), so that neighbours borrow from each other.
    """

    onehot_NK: sparse.csr_array
    visits_K: Floats
    basis_KV: Floats
    group_V: NDArray[np.intp]  # coefficients whose priors share a variance

    @classmethod
    def of(cls, profile: Profile, columns: Columns) -> "Design":
        """Lay rows out in the bins of a profile; a feature that is absent is missing in every row."""
        rows = rows_of(columns)
        size = int(profile.offsets[-1])
        column_NF = np.empty((rows, len(profile.features)), dtype=np.intp)
        for i, feature in enumerate(profile.features):
            absent = np.full(rows, feature.size - 1)
            column_NF[:, i] = feature.assign(columns[feature.name]) if feature.name in columns else absent
        column_NF += profile.offsets[:-1]
        index = np.repeat(np.arange(rows), len(profile.features))
        onehot = sparse.csr_array((np.ones(index.size), (index, column_NF.ravel())), shape=(rows, size))
        visits_K = np.asarray(onehot.sum(axis=0)).ravel()
        coefficients, group = [], []
        for i, feature in enumerate(profile.features):
            inner = visits_K[profile.offsets[i] : profile.offsets[i + 1] - 1]
            steps = _steps(inner) if isinstance(feature, NumericBins) else np.diag(inner > 0)[:, inner > 0]
            block = np.zeros((size, steps.shape[1] + 1))
            block[profile.offsets[i] : profile.offsets[i + 1] - 1, :-1] = steps
            block[profile.offsets[i + 1] - 1, -1] = 1.0  # missing
            if not 0 < visits_K[profile.offsets[i + 1] - 1] < rows:
                block = block[:, :-1]
            coefficients.append(block)
            group += [2 * i] * steps.shape[1] + [2 * i + 1] * (block.shape[1] - steps.shape[1])
        basis_KV = np.concatenate(coefficients, axis=1) if coefficients else np.zeros((size, 0))
        return cls(onehot, visits_K, basis_KV, np.array(group, dtype=np.intp))

    @cached_property
    def gram_VV(self) -> Floats:
        """Scatter of the coefficients' columns around their means, the same for all values."""
        basis = sparse.csr_array(self.basis_KV)
        total_V = self.visits_K @ basis
        moments = basis.T @ (self.onehot_NK.T @ self.onehot_NK) @ basis
        return np.asarray(moments.todense() - np.outer(total_V, total_V) / self.onehot_NK.shape[0])

    def fit(self, value_N: Floats) -> Fit:
        """Maximise the evidence by MacKay's fixed point."""
        rows, mean = value_N.size, float(value_N.mean())
        centred_N = value_N - mean
        square = float(centred_N @ centred_N)
        variance = square / (rows - 1)
        used = np.arange(self.group_V.size)
        if square <= 1e-24 * rows * mean**2:  # a constant
            used = used[:0]
        share_K = self.visits_K / rows
        gram = self.gram_VV
        score = self.basis_KV.T @ (self.onehot_NK.T @ centred_N)
        groups = int(self.group_V.max(initial=-1)) + 1
        # To begin with, half of the variance in equal parts.
        energy = np.bincount(self.group_V, np.diag(gram) / rows, groups)
        prior = 0.5 * variance / max(int(np.count_nonzero(energy)), 1) / np.where(energy > 0, energy, np.inf)
        for _ in range(ITERATIONS if used.size else 0):
            group = self.group_V[used]
            scale = np.sqrt(prior[group] / variance)
            root = _inverse_root(scale[:, None] * gram * scale + np.eye(used.size))
            weights = scale * (root.T @ (root @ (scale * score)))
            effective = np.bincount(group, 1 - np.square(root).sum(axis=0), groups)
            left = square - 2 * float(weights @ score) + float(weights @ gram @ weights)
            before, variance_before = prior, variance
            variance = max(left, 1e-12 * square) / max(rows - 1 - effective.sum(), 1.0)
            kept = effective > NEGLIGIBLE
            prior = np.bincount(group, weights**2, groups) / np.where(kept, effective, np.inf)
            stay = kept[group]
            if not stay.all():
                used, gram, score = used[stay], gram[np.ix_(stay, stay)], score[stay]
            elif np.allclose(prior, before, rtol=0.05, atol=0) and abs(variance / variance_before - 1) < 0.01:
                break
        scale = np.sqrt(prior[self.group_V[used]] / (variance or 1.0))
        root = _inverse_root(scale[:, None] * gram[: used.size, : used.size] * scale + np.eye(used.size))
        basis_KV = self.basis_KV[:, used] * scale
        weights_K = basis_KV @ (root.T @ (root @ (scale * score[: used.size])))
        reach_KV = basis_KV @ root.T
        leverage_N = np.square(self.onehot_NK @ reach_KV - share_K @ reach_KV).sum(axis=1)
        offset = float(share_K @ weights_K)
        return Fit(
            mean - offset,
            weights_K,
            centred_N - (self.onehot_NK @ weights_K - offset),
            np.minimum(leverage_N + 1 / rows, 0.95),
            variance**0.5,
            basis_KV,
            root,
        )

    def replicate(self, fit: Fit, noise_NR: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Refit with perturbed rows and perturbed priors; returns deviations of level (R,) and weights (R, K).

        The covariance is that of the sandwich, A^-1 (X' V X) A^-1, plus the prior's A^-1 P A^-1 for what shrinkage
        hides. With independent rows of equal variance the two make up the posterior covariance, whose intervals
        cover on average over the bins (Nychka 1988); the sandwich keeps it right for others.
        """
        rows, replicates = noise_NR.shape
        mean_R, share_K = noise_NR.mean(axis=0), self.visits_K / rows
        score_KR = self.onehot_NK.T @ noise_NR - rows * np.outer(share_K, mean_R)
        prior_VR = fit.sigma * rng.standard_normal((fit.basis_KV.shape[1], replicates))
        change_VR = fit.root_VV.T @ (fit.root_VV @ (fit.basis_KV.T @ score_KR + prior_VR))
        draws_RK = (fit.basis_KV @ change_VR).T
        return mean_R - draws_RK @ share_K, draws_RK


def _steps(visits_K: Floats) -> Floats:
    """Return the basis of a random walk over intervals, shape (K, V): a step up at each visited one but the first.

    Steps have mean zero over the rows, so that *missing*, outside the order, starts from the mean.
    """
    visited = np.flatnonzero(visits_K)[1:]
    steps = (np.arange(visits_K.size)[:, None] >= visited).astype(np.float64)
    centred: Floats = steps - (visits_K @ steps) / max(float(visits_K.sum()), 1.0)
    return centred


def _inverse_root(matrix: Floats) -> Floats:
    """Return R with R' R the inverse of a positive definite matrix: the inverse of its lower Cholesky factor."""
    if not matrix.size:
        return matrix
    factor, _ = linalg.lapack.dpotrf(matrix, lower=True, clean=True, overwrite_a=True)
    root: Floats = linalg.lapack.dtrtri(factor, lower=True, overwrite_c=True)[0]
    return root
