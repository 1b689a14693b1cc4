"""Scoring: every row once, by the champion of its position; by a second version beside it while one is compared.

The log keeps one number per row. For regression it is the prediction in target units, its uncertainty NaN. For classification it is the
index of the most probable class, its uncertainty 1 - that class's probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cls.ports import Events, Predictions
from detectors.columns import Columns, take

Floats = NDArray[np.float64]


class Predictor(Protocol):
    """A version that predicts."""

    def predict(self, columns: Columns) -> Floats:
        """Return (N,) predictions in target units, or (N, K) class probabilities."""
        ...


@dataclass(frozen=True)
class Stretch:
    """From this event position on, until the next stretch."""

    start: int
    version: int  # champion; 0 before the first
    shadow: int | None = None  # version that is compared with it


def make_plan(promotions: Sequence[tuple[int, int]], shadows: Sequence[tuple[int, int]]) -> list[Stretch]:
    """Return who scores from where.

    Parameters
    ----------
    promotions
        (first event position, version) in the order in which they were made; a later one overrides.
    shadows
        (first event position, version) in the order in which the rollouts began; a later one overrides.
    """
    starts = sorted({0, *(start for start, _ in promotions), *(start for start, _ in shadows)})
    plan: list[Stretch] = []
    for start in starts:
        version = next((v for since, v in reversed(promotions) if since <= start), 0)
        shadow = next((v for since, v in reversed(shadows) if since <= start), None)
        stretch = Stretch(start, version, None if shadow == version or not version else shadow)
        if not plan or (plan[-1].version, plan[-1].shadow) != (stretch.version, stretch.shadow):
            plan.append(stretch)
    return plan


def score_events(events: Events, plan: Sequence[Stretch], models: Callable[[int], Predictor]) -> Predictions:
    """Return one score per event.

    Parameters
    ----------
    events
        Rows in the order of their positions.
    plan
        Who scores from where, by start.
    models
        Returns a version's model; one that fails answers NaN.

    Notes
    -----
    A row that came with a prediction keeps it, its uncertainty and its version: it is what was served. Beside it stands that of the other one of the two
    versions that are compared, so that each row is a pair, whoever answered it. Rows before the first champion have NaN and version 0.
    """
    rows = len(events)
    scores = Predictions(
        events.prediction.astype(np.float64, copy=True),
        np.full(rows, np.nan)
        if events.uncertainty is None
        else events.uncertainty.astype(np.float64, copy=True),
        np.where(np.isfinite(events.prediction), events.version, 0).astype(np.int64),
        np.full(rows, np.nan),
        np.zeros(rows, np.int64),
    )
    scores.prediction[~np.isfinite(events.prediction)] = np.nan
    scores.uncertainty[~np.isfinite(events.prediction)] = np.nan
    starts = [stretch.start for stretch in plan]
    bounds = np.searchsorted(events.position, [*starts[1:], np.iinfo(np.int64).max])
    low = 0
    for stretch, high in zip(plan, bounds.tolist(), strict=True):
        if high > low and stretch.version:
            _score_stretch(events, scores, np.arange(low, high), stretch, models)
        low = max(low, high)
    return scores


def _score_stretch(
    events: Events,
    scores: Predictions,
    index: NDArray[np.int64],
    stretch: Stretch,
    models: Callable[[int], Predictor],
) -> None:
    bare = index[~np.isfinite(events.prediction[index])]
    if len(bare):
        value, uncertainty = summarise(models(stretch.version).predict(take(events.columns, bare)))
        scores.prediction[bare], scores.uncertainty[bare] = value, uncertainty
        scores.version[bare] = stretch.version
    if stretch.shadow is None:
        return
    theirs = (
        scores.version[index] == stretch.shadow
    )  # answered by the canary, or by a replica that lags behind
    for version, rows in ((stretch.shadow, index[~theirs]), (stretch.version, index[theirs])):
        if len(rows):
            scores.shadow[rows] = summarise(models(version).predict(take(events.columns, rows)))[0]
            scores.shadow_version[rows] = version


def summarise(predicted: Floats) -> tuple[Floats, Floats]:
    """Return (value, uncertainty) of (N,) predictions or (N, K) class probabilities; see the module."""
    if predicted.ndim == 1:
        return predicted, np.full(len(predicted), np.nan)
    return predicted.argmax(axis=1).astype(np.float64), 1.0 - predicted.max(axis=1)
