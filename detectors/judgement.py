"""Judgement: the divergence of each feature, and how probable it is when nothing has moved.

Shapes: W windows, F features, K bins of all features together. By the chain rule the divergence of a feature is that of whether its values
are there, plus that of the values that are. The two are judged apart, each by its own null: gaps come in bursts, and a burst
in the reference must not make the values look restless; and a missing share that rises from 1% to 5% must not drown in the sixteen degrees of
freedom of the values.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detectors.calibration import DRAWS, FINE_DRAWS, Evidence, Null, null_of
from detectors.dispersion import Dispersion
from detectors.joint import effective_number
from detectors.kl import kl, kl_by_bin
from detectors.profile import Profile

BORDERLINE = 4.0  # p-values within this factor of the level are worth a finer null
SEASON_GRID = 8  # reference sizes per octave for which a seasonal null is simulated


@dataclass(frozen=True, eq=False)
class Judgement:
    """What each feature of each window says by itself."""

    parts_WK: NDArray[np.float64]  # nats of each bin
    nats_WF: NDArray[np.float64]  # KL(current || reference) as measured
    excess_WF: NDArray[np.float64]  # less its mean when nothing has moved; may be negative
    p_value_WF: NDArray[np.float64]


def judge(
    profile: Profile,
    counts_WK: NDArray[np.int64],
    reference_K: NDArray[np.float64],
    worth: float,
    tolerance: float,
    level: float,
) -> Judgement:
    """Compare windows with a reference, feature by feature.

    Parameters
    ----------
    profile
        The reference, of at least one row and one feature.
    counts_WK : int array, shape (W, K)
        Windows of the same number of rows, at least one, without their seasons.
    reference_K, worth
        From `Profile.expected`.
    tolerance
        Nats by which the values may truly have moved, and by which the share of those that are there may have.
    level
        P-value of a feature at which an alarm hangs in the balance; nulls are finer for features near it.
    """
    features, windows = len(profile.features), len(counts_WK)
    rows = int(counts_WK[0, : profile.offsets[1]].sum())
    parts, values_WF, missing_WF, present_WF = [], *np.zeros((3, features, windows))
    for f, (start, stop) in enumerate(
        zip(profile.offsets[:-1].tolist(), profile.offsets[1:].tolist(), strict=True)
    ):
        window_WK, reference = counts_WK[:, start:stop], reference_K[start:stop]
        present_WF[f] = rows - window_WK[:, -1]
        parts.append(kl_by_bin(window_WK, reference))
        values_WF[f] = kl(window_WK[:, :-1], reference[:-1])
        there = np.stack((present_WF[f], window_WK[:, -1]), axis=1)
        missing_WF[f] = kl(there, np.array([reference[:-1].sum(), reference[-1]]))
    values_WF, missing_WF, present_WF = values_WF.T, missing_WF.T, present_WF.T

    if profile.seasons is not None:
        worth = float(2 ** (round(SEASON_GRID * np.log2(worth)) / SEASON_GRID))
    plain = (DRAWS,) * features
    missing_null = nulls_of(profile, rows, worth, tolerance, plain, missing=True)
    missing_p_WF = missing_null.p_value(missing_WF)
    values_null = _stretched(
        nulls_of(profile, rows, worth, tolerance, plain), profile, rows, worth, tolerance, present_WF
    )
    values_p_WF = values_null.p_value(values_WF)
    hangs_WF = (values_p_WF > level / BORDERLINE) & (values_p_WF < level * BORDERLINE)
    if hangs_WF.any():
        draws = tuple(FINE_DRAWS if hangs else DRAWS for hangs in np.any(hangs_WF, axis=0).tolist())
        values_null = _stretched(
            nulls_of(profile, rows, worth, tolerance, draws), profile, rows, worth, tolerance, present_WF
        )
        values_p_WF = values_null.p_value(values_WF)
    values_p_WF = np.where(present_WF > 0, values_p_WF, 1.0)

    parts_WK = np.concatenate(parts, axis=1)
    nats_WF = np.add.reduceat(parts_WK, profile.offsets[:-1], axis=1)
    mean_WF = present_WF / rows * (values_null.mean - tolerance) + missing_null.mean - tolerance
    # Two questions asked of a feature count as two, unless the reference has no gaps: then one of them never errs.
    smaller_WF = np.minimum(values_p_WF, missing_p_WF)
    asked_F = np.array([1 + (evidence.counts[0] > 0) for evidence in profile.missing_evidence])
    return Judgement(parts_WK, nats_WF, nats_WF - mean_WF, sidak(smaller_WF, asked_F))


@lru_cache(maxsize=64)
def nulls_of(
    profile: Profile,
    rows: int,
    worth: float,
    tolerance: float,
    draws_F: tuple[int, ...],
    *,
    missing: bool = False,
) -> Null:
    """Return the nulls of all features, of their values or of whether these are missing, for windows of so many rows.

    Parameters
    ----------
    worth
        Reference rows, fewer than the profile's own where seasons thin them out.
    draws_F
        Simulated windows per feature.
    """
    evidences = profile.missing_evidence if missing else profile.evidence
    dispersions = profile.missing_dispersion if missing else profile.dispersion
    thinned = worth / profile.rows
    return Null.stack(
        [
            _null(
                evidence.thinned(thinned),
                effects,
                rows if missing else _expected_rows(profile, evidence, rows),
                tolerance,
                draws,
            )
            for evidence, effects, draws in zip(evidences, dispersions, draws_F, strict=True)
        ]
    )


def _expected_rows(profile: Profile, evidence: Evidence, rows: int) -> int:
    """Return the rows of a window whose value is there, as often as in the reference."""
    return max(round(rows * evidence.rows / profile.rows), 1)


def _null(evidence: Evidence, effects: Dispersion, rows: int, tolerance: float, draws: int) -> Null:
    if not evidence.rows:  # a feature that the reference never saw: nothing is expected of its values
        return Null(0.0, 1.0, 1.0)
    null = null_of(evidence, rows, draws=draws).dispersed(effects, evidence.degrees)
    return null.tolerant(tolerance, effects.mean * (1 / rows + 1 / evidence.rows))


def _stretched(
    null: Null, profile: Profile, rows: int, worth: float, tolerance: float, present_WF: NDArray[np.float64]
) -> Null:
    """Fit the null of values to windows in which more or fewer of them are there: it scales with 1/n + 1/m."""
    thinned = worth / profile.rows
    reference_F = np.array([max(evidence.rows * thinned, 0.5) for evidence in profile.evidence])
    expected_F = np.array([_expected_rows(profile, evidence, rows) for evidence in profile.evidence])
    inverse_WF = 1 / np.maximum(present_WF, 0.5)
    scale_WF = (inverse_WF + 1 / reference_F) / (1 / expected_F + 1 / reference_F)
    mean_WF = (null.mean - tolerance) * scale_WF + tolerance
    return Null(mean_WF, null.deviation * scale_WF, null.skewness, null.doubt)


def joint(profile: Profile, p_value_WF: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Probability that the smallest of the features' p-values is at most the smallest of these, where it matters: near `rate`."""
    return sidak(p_value_WF.min(axis=-1), features_worth(profile, rate))


@lru_cache(maxsize=64)
def features_worth(profile: Profile, rate: float) -> float:
    """Return the number of independent features that the profile's are worth."""
    return effective_number(profile.dependence_FF, rate / len(profile.features))


def joint_with_pairs(
    p_features: NDArray[np.float64], p_value_WP: NDArray[np.float64], number: int
) -> NDArray[np.float64]:
    """Probability that the features' or the pairs' joint p-value is as small as the smaller of the two: half the budget is for each.

    Parameters
    ----------
    p_features : float array, shape (W,)
        From `joint`.
    p_value_WP, number
        Of each pair alone, and how many of them can show anything. Interactions of different pairs hardly depend on each other.
    """
    p_pairs = sidak(p_value_WP.min(axis=-1), number)
    both: NDArray[np.float64] = np.minimum(2 * np.minimum(p_features, p_pairs), 1.0)
    return both


def sidak(p_value: NDArray[np.float64], number: float | NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability that the smallest of `number` independent p-values is at most this."""
    with np.errstate(divide="ignore"):
        corrected: NDArray[np.float64] = -np.expm1(number * np.log1p(-p_value))
    return corrected
