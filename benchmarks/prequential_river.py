"""The strongest of river 0.26 at their defaults, in seconds of one thread beside ours.

Categories stay strings, which river's classification trees split on as nominal. Its regression trees and Mondrian forests
cannot read them: there they become indicators, and numbers are standardised as they come, which is how river's own examples run
both. Shapes: N rows, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.prequential_data import Stream
from detectors.columns import Categorical
from learners.rows import Rows

Record = dict[str, float | str]


def _adaptive_forest(seed: int) -> Any:
    from river import forest

    return forest.ARFClassifier(seed=seed)


def _leveraging_bagging(seed: int) -> Any:
    from river import ensemble, tree

    return ensemble.LeveragingBaggingClassifier(tree.HoeffdingTreeClassifier(), seed=seed)


def _random_patches(seed: int) -> Any:
    from river import ensemble, tree

    return ensemble.SRPClassifier(tree.HoeffdingTreeClassifier(), seed=seed)


def _adaptive_forest_regressor(seed: int) -> Any:
    from river import forest

    return _numbers() | forest.ARFRegressor(seed=seed)


def _mondrian_forest(seed: int) -> Any:
    from river import forest

    return _numbers() | forest.AMFRegressor(seed=seed)


def _numbers() -> Any:
    from river import compose, preprocessing

    scaled = compose.SelectType(int, float) | preprocessing.StandardScaler()
    return scaled + (compose.SelectType(str) | preprocessing.OneHotEncoder())


CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "adaptive random forest": _adaptive_forest,
    "leveraging bagging": _leveraging_bagging,
    "streaming random patches": _random_patches,
}
REGRESSORS: dict[str, Callable[[int], Any]] = {
    "adaptive random forest": _adaptive_forest_regressor,
    "aggregated Mondrian forest": _mondrian_forest,
}


class River:
    """A river model, learning row by row.

    Before each row is learned it is predicted once more, with all labels before it known: `at_once` holds what river would say
    where labels do not wait for the end of the block. The time of that is `aside_seconds`.
    """

    def __init__(self, model: Any, stream: Stream) -> None:
        self.model, self.classes = model, len(stream.schema.classes)
        self.at_once: list[NDArray[np.float64] | float] = []
        self.aside_seconds = 0.0

    def learn(self, rows: Rows) -> None:
        """Learn the rows one after the other."""
        for record, label in zip(records(rows), rows.target, strict=True):
            began = time.process_time()
            self.at_once.append(self._predict_one(record))
            self.aside_seconds += time.process_time() - began
            self.model.learn_one(record, int(label) if self.classes else float(label))

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return (N,) values or (N, K) probabilities."""
        return np.array([self._predict_one(record) for record in records(rows)], dtype=np.float64)

    def _predict_one(self, record: Record) -> NDArray[np.float64] | float:
        if not self.classes:
            return float(self.model.predict_one(record) or 0.0)  # None before the first row
        probability_K = np.zeros(self.classes)
        for label, probability in self.model.predict_proba_one(record).items():
            probability_K[label] = probability
        total = probability_K.sum()
        return probability_K / total if total > 0 else np.full(self.classes, 1 / self.classes)


def records(rows: Rows) -> Iterator[Record]:
    """Yield each row as river reads it."""
    columns = {
        name: [column.vocabulary[code] if code >= 0 else "" for code in column.codes]
        if isinstance(column, Categorical)
        else column.tolist()
        for name, column in rows.columns.items()
    }
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
