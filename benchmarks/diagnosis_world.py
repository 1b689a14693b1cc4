"""A generated world with a model in it, and what may happen to its data: faults that break columns, drifts that change the world.

A fault comes between the world and us: the target stays that of the true values. A drift changes the values, and the target follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from detectors.columns import Categorical, Column, Columns, concat, rows_of, take

Numbers = NDArray[np.float64]
Change = Callable[[Columns, np.random.Generator], Columns]

CITIES = ("Lyon", "Porto", "Turin", "Graz", "Bergen")
CITY_EFFECT = dict(zip(CITIES, (0.0, 3.0, -2.0, 5.0, 1.0), strict=True))


def draw(rng: np.random.Generator, rows: int) -> Columns:
    """Return rows of the world before anything happens."""
    return {
        "distance": rng.lognormal(2.5, 0.5, rows),
        "price": np.round(rng.lognormal(3, 0.8, rows), 2),
        "temperature": rng.normal(14, 7, rows),
        "humidity": rng.beta(6, 3, rows),
        "load": rng.normal(0, 1, rows),
        "noise": rng.normal(5, 2, rows),
        "age": rng.integers(18, 75, rows).astype(np.float64),
        "visits": rng.poisson(4, rows).astype(np.float64),
        "city": Categorical.of(rng.choice(CITIES, rows, p=(0.35, 0.25, 0.2, 0.12, 0.08)).tolist()),
        "plan": Categorical.of(rng.choice(["basic", "plus", "pro"], rows, p=(0.6, 0.3, 0.1)).tolist()),
    }


def target(columns: Columns, rng: np.random.Generator) -> Numbers:
    """What is to be predicted: noise grows with the load; noise, age and plan play no part."""
    city = columns["city"]
    assert isinstance(city, Categorical)
    base = np.array([CITY_EFFECT.get(category, 9.0) for category in city.vocabulary])[city.codes]
    distance, load = np.asarray(columns["distance"]), np.nan_to_num(np.asarray(columns["load"]))
    temperature = np.nan_to_num(np.asarray(columns["temperature"]), nan=14.0)
    spread = 2 + 3 * np.maximum(load, 0)
    result: Numbers = (
        base + 0.8 * distance + 4 * np.sin(temperature / 6) + spread * rng.normal(size=load.size)
    )
    return result


@dataclass(frozen=True, eq=False)
class Model:
    """A gradient-boosted model; loss is the absolute error."""

    regressor: Any
    vocabulary: dict[str, dict[str, int]]

    @classmethod
    def fit(cls, columns: Columns, target_N: Numbers, seed: int) -> Model:
        """Learn."""
        vocabulary = {
            name: {value: i for i, value in enumerate(column.vocabulary)}
            for name, column in columns.items()
            if isinstance(column, Categorical)
        }
        model = cls(HistGradientBoostingRegressor(random_state=seed, max_iter=80), vocabulary)
        model.regressor.fit(model._matrix(columns), target_N)
        return model

    def loss(self, columns: Columns, target_N: Numbers) -> Numbers:
        """Loss of each row."""
        loss_N: Numbers = np.abs(self.regressor.predict(self._matrix(columns)) - target_N)
        return loss_N

    def _matrix(self, columns: Columns) -> Numbers:
        return np.column_stack([self._numbers(name, column) for name, column in columns.items()])

    def _numbers(self, name: str, column: Column) -> Numbers:
        if not isinstance(column, Categorical):
            return column
        known = self.vocabulary.get(name, {})
        codes = np.array([*(known.get(value, np.nan) for value in column.vocabulary), np.nan])
        numbers: Numbers = codes[column.codes]
        return numbers


@dataclass(frozen=True)
class Injection:
    """One thing that happens."""

    name: str
    feature: str  # the one to be named; "" for whole rows
    fault: bool
    change: Change


def numbers(feature: str, change: Callable[[Numbers], Numbers]) -> Change:
    """Change every value of a numeric feature."""
    return lambda columns, _: {**columns, feature: change(np.asarray(columns[feature]))}


def some(feature: str, share: float, change: Callable[[Numbers], Any]) -> Change:
    """Change a share of the rows, drawn at random."""

    def changed(columns: Columns, rng: np.random.Generator) -> Columns:
        values = np.asarray(columns[feature])
        return {**columns, feature: np.where(rng.random(values.size) < share, change(values), values)}

    return changed


def texts(feature: str, change: Callable[[str], str], share: float = 1.0) -> Change:
    """Change the categories of a share of the rows."""

    def changed(columns: Columns, rng: np.random.Generator) -> Columns:
        column = columns[feature]
        assert isinstance(column, Categorical)
        values = [column.vocabulary[code] for code in column.codes.tolist()]
        hit = rng.random(len(values)) < share
        return {
            **columns,
            feature: Categorical.of([change(v) if h else v for v, h in zip(values, hit, strict=True)]),
        }

    return changed


def swapped(one: str, other: str) -> Change:
    """Exchange two columns."""
    return lambda columns, _: {**columns, one: columns[other], other: columns[one]}


def begins_late(change: Change, at: float) -> Change:
    """Leave the first share of the rows as it is."""

    def changed(columns: Columns, rng: np.random.Generator) -> Columns:
        rows = rows_of(columns)
        first = int(at * rows)
        return concat([take(columns, slice(0, first)), take(change(columns, rng), slice(first, rows))])

    return changed


def repeated(columns: Columns, rng: np.random.Generator) -> Columns:
    """Send each of a few rows eight times."""
    rows = rows_of(columns)
    return take(columns, np.sort(rng.choice(rows, -(-rows // 8)).repeat(8)[:rows]))


INJECTIONS = (
    Injection(
        "stuck at its last value",
        "temperature",
        True,
        numbers("temperature", lambda x: np.full_like(x, x[0])),
    ),
    Injection(
        "stuck since the middle",
        "load",
        True,
        begins_late(numbers("load", lambda x: np.full_like(x, 0.25)), 0.5),
    ),
    Injection("missing in all rows", "humidity", True, numbers("humidity", lambda x: x * np.nan)),
    Injection("missing 0% -> 50%", "price", True, some("price", 0.5, lambda x: x * np.nan)),
    Injection("times 1000", "distance", True, numbers("distance", lambda x: 1000 * x)),
    Injection(
        "divided by 100, since the middle",
        "price",
        True,
        begins_late(numbers("price", lambda x: x / 100), 0.5),
    ),
    Injection("times 1000 in 30% of the rows", "distance", True, some("distance", 0.3, lambda x: 1000 * x)),
    Injection("miles to kilometres", "distance", True, numbers("distance", lambda x: 1.609344 * x)),
    Injection("Celsius to Fahrenheit", "temperature", True, numbers("temperature", lambda x: 1.8 * x + 32)),
    Injection("sign flipped", "price", True, numbers("price", lambda x: -x)),
    Injection("category renamed", "city", True, texts("city", lambda v: {"Porto": "Oporto"}.get(v, v))),
    Injection("categories in capitals", "plan", True, texts("plan", str.upper)),
    Injection("-999 in 8% of the rows", "load", True, some("load", 0.08, lambda _: -999.0)),
    Injection("mean filled in for 15%", "temperature", True, some("temperature", 0.15, lambda _: 14.03)),
    Injection("clipped at 20", "distance", True, numbers("distance", lambda x: np.minimum(x, 20))),
    Injection("rounded to whole numbers", "load", True, numbers("load", np.round)),
    Injection("columns swapped", "humidity", True, swapped("humidity", "load")),
    Injection("rows sent eight times", "", True, repeated),
    Injection("load +1 sigma", "load", False, numbers("load", lambda x: x + 1)),
    Injection("load variance x1.5", "load", False, numbers("load", lambda x: x * 1.5**0.5)),
    Injection("noise +0.5 sigma", "noise", False, numbers("noise", lambda x: x + 1)),
    Injection("noise -2 sigma", "noise", False, numbers("noise", lambda x: x - 4)),
    Injection("prices +20%", "price", False, numbers("price", lambda x: np.round(1.2 * x, 2))),
    Injection("a season: +8 degrees", "temperature", False, numbers("temperature", lambda x: x + 8)),
    Injection("a new city, 25%", "city", False, texts("city", lambda _: "Split", 0.25)),
    Injection(
        "plan basic loses to plus", "plan", False, texts("plan", lambda v: {"basic": "plus"}.get(v, v), 0.5)
    ),
    Injection("load missing 0% -> 10%", "load", False, some("load", 0.1, lambda x: x * np.nan)),
    Injection("visits doubled", "visits", False, some("visits", 1.0, lambda x: 2 * x)),
)
