"""Streams with one known change: what a detector is measured on.

Shapes: N rows. Numeric features are independent standard normals, and in pairs with a correlation where that is what
changes, so that a shift of 0.5 is half a standard deviation of every feature that moves. Categorical features have
eight categories with shares that fall geometrically. Everything follows from the seed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Column

Kind = Literal["none", "mean", "variance", "missing", "category", "correlation"]

CATEGORIES = tuple("abcdefgh")
SHARES_K = 0.6 ** np.arange(len(CATEGORIES)) / np.sum(0.6 ** np.arange(len(CATEGORIES)))
MISSING_BEFORE = 0.01  # share of missing values where that is what changes


@dataclass(frozen=True)
class Recipe:
    """A kind of stream, and what changes in it.

    Raises
    ------
    ValueError
        If more features move than there are.
    """

    kind: Kind = "none"
    size: float = (
        0.0  # mean: shift in standard deviations; variance: factor of the deviation's square; missing: share
    )
    #                    afterwards; correlation: afterwards, of neighbours; category: share of the rows renamed
    numeric: int = 20  # features
    categorical: int = 0
    moving: int = 1  # features that change, the first ones of their kind
    over: int = 0  # rows over which the change grows linearly from nothing; 0 is abrupt

    def __post_init__(self) -> None:
        able = self.categorical if self.kind == "category" else self.numeric
        if self.kind != "none" and not 0 < self.moving <= able:
            raise ValueError(f"{self.moving} of {able} features cannot move")
        if self.kind == "correlation" and self.moving % 2:
            raise ValueError("features become correlated in pairs: an even number of them moves")


def reference_of(recipe: Recipe, rows: int, seed: int) -> dict[str, Column]:
    """Return rows from before the change."""
    return stream_of(recipe, rows, seed, onset=None)


def stream_of(recipe: Recipe, rows: int, seed: int, *, onset: int | None) -> dict[str, Column]:
    """Return a stream that changes at a row, or never.

    Parameters
    ----------
    onset
        First changed row. None: there is no change.
    """
    rng = np.random.default_rng(seed)
    values_NF = rng.normal(size=(rows, recipe.numeric))
    codes_NF = rng.choice(len(CATEGORIES), p=SHARES_K, size=(rows, recipe.categorical)).astype(np.int32)
    chance_NM = rng.random((rows, recipe.moving))  # which rows are touched, where not all are
    weight_N = _growth(rows, rows if onset is None else onset, recipe.over)
    moving_NM = values_NF[:, : recipe.moving]
    match recipe.kind:
        case "mean":
            moving_NM += recipe.size * weight_N[:, None]
        case "variance":
            moving_NM *= np.sqrt(1 + (recipe.size - 1) * weight_N)[:, None]
        case "missing":
            share_N = MISSING_BEFORE + (recipe.size - MISSING_BEFORE) * weight_N
            moving_NM[chance_NM < share_N[:, None]] = np.nan
        case "correlation":
            rho_N = recipe.size * weight_N[:, None]
            moving_NM[:, 1::2] = rho_N * moving_NM[:, ::2] + np.sqrt(1 - rho_N**2) * moving_NM[:, 1::2]
        case "category":
            touched_NM = chance_NM < recipe.size * weight_N[:, None]
            codes_NF[:, : recipe.moving][touched_NM & (codes_NF[:, : recipe.moving] == 0)] = len(CATEGORIES)
        case "none":
            pass
    vocabulary = (*CATEGORIES, "A")  # what the most frequent category is renamed to
    columns: dict[str, Column] = {
        f"x{i}": np.ascontiguousarray(values_NF[:, i]) for i in range(recipe.numeric)
    }
    return columns | {
        f"c{i}": Categorical(np.ascontiguousarray(codes_NF[:, i]), vocabulary)
        for i in range(recipe.categorical)
    }


def _growth(rows: int, onset: int, over: int) -> NDArray[np.float64]:
    """Share of the change that has come at each row, shape (N,)."""
    since_N = np.arange(rows) - onset + 1
    return np.clip(since_N / max(over, 1), 0.0, 1.0)
