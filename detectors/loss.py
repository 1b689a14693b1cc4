"""Performance estimated before labels arrive: a model's mean loss on any window, from the window's counts alone.

Shapes: N labelled rows, F features, K flat bins of all features, R replicates. The expected loss of a row is modelled as
level + sum over features of the weight of the row's bin, so that the mean loss of a window is linear in its counts: it adds
over partitions, needs no raw data, and the part that each feature's shift plays in it can be read off. On the inputs this
is NannyML's direct loss estimation (DLE) with an additive model; on a classifier's own uncertainty it is
confidence-based performance estimation (CBPE) with histogram calibration (Zadrozny and Elkan 2001).

Weights are shrunk by empirical Bayes (`detectors.additive`): a feature that says nothing about the loss says nothing here.
Bins without a labelled row keep a prior as wide as the loss of a single row: what was never seen is unknown, not average.

The interval is for the realised mean loss of the window, as long as the loss given the features is distributed as
on the labelled rows. A realised loss outside is evidence that it no longer is: concept drift.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.additive import Design, Floats
from detectors.columns import Columns, rows_of, take
from detectors.dispersion import effects_of
from detectors.profile import Profile

FORMAT = 1  # version of the JSON document
MINIMUM_ROWS = 50  # labelled rows, below which nothing is estimated
REPLICATES = 50  # draws of the weights
NOISE_FLOOR = 0.1  # of the mean residual variance: fewer rows than that show no smaller one
CONFIDENCE = 0.95


@dataclass(frozen=True)
class LossEstimate:
    """Mean loss of a window as far as its counts tell it. All in units of the loss."""

    mean: float
    low: float  # 95% interval of the realised mean loss
    high: float
    base: float  # mean loss expected on the reference
    effects: tuple[tuple[str, float, float, float], ...]
    # (feature, change of the mean loss that its shift explains, low, high), largest change first

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, which `from_json` reads back exactly."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "base": self.base,
            "effects": [list(effect) for effect in self.effects],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "LossEstimate":
        """Read what `to_json` wrote."""
        effects = tuple((str(n), float(m), float(a), float(b)) for n, m, a, b in document["effects"])
        return cls(document["mean"], document["low"], document["high"], document["base"], effects)


@dataclass(frozen=True, eq=False)
class LossModel:
    """Expected loss by bin, with its uncertainty; see the module.

    Raises
    ------
    ValueError
        If the arrays do not fit each other.
    """

    bins: str  # digest of the bins that the weights belong to
    rows: int  # labelled rows that it was fitted on
    level: float  # expected loss of a row less its weights
    weights_K: Floats
    level_R: Floats  # deviations of replicates from `level` and `weights_K`
    draws_RK: NDArray[np.float32]
    noise: float  # the same additive model for the variance of a row's loss around its expectation
    noise_K: Floats
    noise_floor: float
    design_effect: float  # variance of the mean of contiguous rows over that of independent ones
    degrees: int  # of freedom behind the replicates

    def __post_init__(self) -> None:
        size, replicates = self.weights_K.size, self.level_R.size
        if self.noise_K.shape != (size,) or self.draws_RK.shape != (replicates, size):
            raise ValueError("the arrays of a loss model do not fit each other")

    def estimate(self, profile: Profile, counts: NDArray[np.int64]) -> LossEstimate:
        """Estimate the mean loss of a window.

        Parameters
        ----------
        profile
            The reference, in the bins that the model was fitted in.
        counts : int array
            Flat counts of the window: `profile.count(columns)`, or a sum of such.

        Raises
        ------
        ValueError
            If the profile has other bins, or the window has no rows.
        """
        if bins_digest(profile) != self.bins:
            raise ValueError("the loss model was fitted in other bins than the profile's")
        parts = profile.split(counts)
        rows = int(parts[0].sum()) if parts else 0
        if rows == 0:
            raise ValueError("a window without rows has no loss")
        share_K = np.concatenate(parts) / rows
        moved_K = share_K - profile.counts / max(profile.rows, 1)
        mean = self.level + float(self.weights_K @ share_K)
        variance = _mean_square(self.level_R + self.draws_RK @ share_K)
        noise = max(self.noise + float(self.noise_K @ share_K), self.noise_floor) * self.design_effect / rows
        reach = self._quantile * math.sqrt(variance + noise)
        base = mean - float(self.weights_K @ moved_K)
        effects = [
            self._effect(feature.name, slice(a, b), moved_K)
            for feature, a, b in zip(profile.features, profile.offsets, profile.offsets[1:], strict=False)
        ]
        effects.sort(key=lambda effect: (-abs(effect[1]), effect[0]))
        # A loss is not negative, though a line through its means can be.
        return LossEstimate(
            max(mean, 0.0), max(mean - reach, 0.0), max(mean + reach, 0.0), max(base, 0.0), tuple(effects)
        )

    def _effect(self, name: str, part: slice, moved_K: Floats) -> tuple[str, float, float, float]:
        change = float(self.weights_K[part] @ moved_K[part])
        reach = self._quantile * _mean_square(self.draws_RK[:, part] @ moved_K[part]) ** 0.5
        return name, change, change - reach, change + reach

    @property
    def _quantile(self) -> float:
        return float(special.stdtrit(self.degrees, (1 + CONFIDENCE) / 2))

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, arrays as base64 of little-endian floats; `from_json` reads them back exactly."""
        return {
            "format": FORMAT,
            "bins": self.bins,
            "rows": self.rows,
            "level": self.level,
            "weights": _pack(self.weights_K),
            "level_draws": _pack(self.level_R),
            "draws": _pack(self.draws_RK),
            "noise": self.noise,
            "noise_weights": _pack(self.noise_K),
            "noise_floor": self.noise_floor,
            "design_effect": self.design_effect,
            "degrees": self.degrees,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "LossModel":
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the document has another format version, or its arrays do not fit each other.
        """
        if document.get("format") != FORMAT:
            raise ValueError(f"loss model has format {document.get('format')!r}; this release reads {FORMAT}")
        level_R = _unpack(document["level_draws"], "<f8")
        return cls(
            document["bins"],
            int(document["rows"]),
            float(document["level"]),
            _unpack(document["weights"], "<f8"),
            level_R,
            _unpack(document["draws"], "<f4").reshape(level_R.size, -1),
            float(document["noise"]),
            _unpack(document["noise_weights"], "<f8"),
            float(document["noise_floor"]),
            float(document["design_effect"]),
            int(document["degrees"]),
        )


def fit_losses(
    profile: Profile, columns: Columns, loss_N: NDArray[np.float64], *, seed: int, share: float = 1.0
) -> LossModel:
    """Fit the expected loss by bin.

    Parameters
    ----------
    profile
        The reference whose bins are used.
    columns
        Labelled rows that the model has not learned, in stream order where they have one. A feature that is absent is missing in every
        row.
    loss_N
        Their losses; rows without a finite one are left out.
    seed
        Same seed, same replicates.
    share
        Of the stream's rows that these are a random sample of, above 0: windows hold consecutive rows, which depend on each other more.

    Raises
    ------
    ValueError
        If columns and losses differ in length, a loss is negative, fewer than `MINIMUM_ROWS` are finite, or the share is no share.
    """
    if loss_N.shape != (rows_of(columns),):
        raise ValueError(f"expected {rows_of(columns)} losses, not an array of shape {loss_N.shape}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie above 0 and at most at 1, not be {share}")
    known = np.isfinite(loss_N)
    loss_N = loss_N[known]
    rows = loss_N.size
    if rows < MINIMUM_ROWS:
        raise ValueError(f"{rows} labelled rows tell no loss by bin; {MINIMUM_ROWS} are needed")
    if (loss_N < 0).any():
        raise ValueError("losses must not be negative")
    design = Design.of(profile, take(columns, known))
    fit = design.fit(loss_N)
    outside_N = fit.residual_N / (1 - fit.leverage_N)  # of each row, had it been left out
    spread = design.fit(outside_N**2)

    # Residuals of rows in stream order show their dependence, thinned out as far as the labelled rows are.
    dependence = effects_of(outside_N[:, None], 1)
    blocks = max(rows // dependence.memory, 2)
    multiplier_NR = np.random.default_rng(seed).standard_normal((blocks, REPLICATES))
    multiplier_NR = multiplier_NR[np.arange(rows) * blocks // rows]
    rng = np.random.default_rng(seed + 1)
    level_R, draws_RK = design.replicate(fit, outside_N[:, None] * multiplier_NR, rng)
    unseen_K = design.visits_K == 0
    draws_RK[:, unseen_K] = loss_N.std() * rng.standard_normal((REPLICATES, int(unseen_K.sum())))
    variance = float((outside_N**2).mean())
    return LossModel(
        bins=bins_digest(profile),
        rows=rows,
        level=fit.level,
        weights_K=fit.weights_K,
        level_R=level_R,
        draws_RK=draws_RK.astype("<f4"),
        noise=spread.level,
        noise_K=spread.weights_K,
        noise_floor=NOISE_FLOOR * variance,
        design_effect=dependence.of_sample(share, 1).mean,
        degrees=max(min(REPLICATES, blocks - 1), 1),
    )


def bins_digest(profile: Profile) -> str:
    """Return a short name of a profile's bins, whatever its counts."""
    text = json.dumps([feature.to_json() for feature in profile.features], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mean_square(values: NDArray[np.floating]) -> float:
    return float(np.square(values, dtype=np.float64).mean())


def _pack(array: NDArray[np.floating]) -> str:
    little = array.astype("<f4" if array.dtype == np.float32 else "<f8")
    return base64.b64encode(little.tobytes()).decode()


def _unpack(text: str, kind: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


__all__: Sequence[str] = ["LossEstimate", "LossModel", "bins_digest", "fit_losses"]
