"""What every drift detector must do. A detector that registers itself in `cls.detectors` is found and checked."""

import json
import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.columns import Categorical, Columns, take
from detectors.detector import Detector, Drift
from detectors.profile import Profile

Factory = Callable[..., Detector]
FACTORIES: dict[str, Factory] = {entry.name: entry.load() for entry in entry_points(group="cls.detectors")}
FACTORIES["kl+pairs"] = partial(FACTORIES["kl"], pairs=True)

every_detector = pytest.mark.parametrize(
    "factory", [pytest.param(f, id=name) for name, f in FACTORIES.items()]
)


def table(rng: np.random.Generator, rows: int) -> Columns:
    return {
        "normal": rng.normal(size=rows),
        "holed": holes(rng.normal(size=rows), rng.random(rows) < 0.05),
        "count": rng.poisson(3, size=rows).astype(np.float64),
        "constant": np.full(rows, 4.0),
        "letter": Categorical(
            rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=rows).astype(np.int32) - 1, ("a", "b", "c")
        ),
    }


def holes(values: NDArray[np.float64], at: NDArray[np.bool_]) -> NDArray[np.float64]:
    holed = values.copy()
    holed[at] = np.nan
    return holed


def numeric(draw: Callable[[int], np.ndarray], rows: int, features: int = 1) -> Columns:
    return {f"x{i}": draw(rows) for i in range(features)}


def judge(detector: Detector, profile: Profile, window: Columns) -> Drift:
    return detector.compare(profile, profile.count(window))


def test_the_kl_detector_is_registered() -> None:
    assert "kl" in FACTORIES


WINDOWS: dict[str, Columns] = {
    "empty": {"x": np.zeros(0), "s": Categorical.of([])},
    "one row": {"x": np.array([0.3]), "s": Categorical.of(["a"])},
    "nan": {"x": np.full(100, np.nan), "s": Categorical.of([None] * 100)},
    "inf": {"x": np.repeat([np.inf, -np.inf], 50), "s": Categorical.of(["a"] * 100)},
    "huge": {"x": np.repeat([1e308, -1e308], 50), "s": Categorical.of(["a"] * 100)},
    "constant": {"x": np.zeros(100), "s": Categorical.of(["b"] * 100)},
    "unseen": {"x": np.zeros(100), "s": Categorical.of([f"new{i}" for i in range(100)])},
    "columns gone": {"other": np.zeros(100)},
    "many rows": {"x": np.zeros(10**6), "s": Categorical(np.zeros(10**6, dtype=np.int32), ("a",))},
}


@every_detector
@pytest.mark.parametrize("reference", [name for name in WINDOWS if name != "columns gone"])
def test_finite_for_every_input(factory: Factory, reference: str) -> None:
    detector = factory()
    profile = detector.profile(WINDOWS[reference])
    for name, window in WINDOWS.items():
        drift = judge(detector, profile, window)
        assert 0 <= drift.p_value <= 1, name
        assert math.isfinite(drift.nats), name
        assert drift.nats >= 0, name
        for feature in drift.features:
            assert 0 <= feature.p_value <= 1, name
            assert math.isfinite(feature.nats), name
            assert 0 <= feature.share <= 1, name
        for pair in drift.pairs:
            assert 0 <= pair.p_value <= 1, name
            assert math.isfinite(pair.nats), name
        if name == "empty":
            assert not drift.alarm
            assert drift.p_value == 1
        json.dumps(drift.to_json(), allow_nan=False)


@every_detector
def test_without_features_there_is_no_alarm(factory: Factory) -> None:
    detector = factory()
    profile = detector.profile({})
    assert not judge(detector, profile, {}).alarm


@every_detector
def test_row_order_within_a_window_does_not_matter(factory: Factory) -> None:
    rng = np.random.default_rng(0)
    detector, window = factory(), table(rng, 500)
    profile = detector.profile(table(rng, 2000))
    assert judge(detector, profile, window) == judge(detector, profile, take(window, rng.permutation(500)))


@every_detector
def test_merged_panes_are_the_whole_window(factory: Factory) -> None:
    rng = np.random.default_rng(0)
    detector, window = factory(), table(rng, 500)
    profile = detector.profile(table(rng, 2000))
    panes = [take(window, slice(start, start + 70)) for start in range(0, 500, 70)]
    merged = np.sum([profile.count(pane) for pane in panes], axis=0)
    assert detector.compare(profile, merged) == judge(detector, profile, window)


@every_detector
def test_restored_from_json_it_says_the_same(factory: Factory) -> None:
    rng = np.random.default_rng(0)
    detector = factory()
    profile = detector.profile(table(rng, 2000))
    restored = Profile.from_json(json.loads(json.dumps(profile.to_json())))
    for shift in (0.0, 0.4):
        window = dict(table(rng, 500)) | {"normal": rng.normal(shift, size=500)}
        drift = judge(detector, profile, window)
        assert judge(factory(), restored, window) == drift
        assert Drift.from_json(json.loads(json.dumps(drift.to_json()))) == drift


@every_detector
@pytest.mark.parametrize(
    ("reference_rows", "rows", "features"), [(1000, 200, 1), (1000, 1000, 1), (5000, 500, 1), (1000, 500, 10)]
)
def test_false_alarms_as_asked(factory: Factory, reference_rows: int, rows: int, features: int) -> None:
    """Averaged over references, as a single small one may be lucky or not."""
    rng = np.random.default_rng(7)
    alpha, references, windows = 0.02, 300, 5 if features > 1 else 12
    detector = factory(false_alarm_windows=1 / alpha)
    rates = np.zeros(references)
    for i in range(references):
        profile = detector.profile(numeric(rng.standard_normal, reference_rows, features))
        draws = [numeric(rng.standard_normal, rows, features) for _ in range(windows)]
        rates[i] = np.mean([judge(detector, profile, window).alarm for window in draws])
    error = rates.std() / math.sqrt(references)
    assert rates.mean() <= alpha + 3 * error
    assert rates.mean() >= alpha / 3  # a budget that is not used buys no power


@every_detector
def test_a_lone_missing_value_is_no_alarm(factory: Factory) -> None:
    rng = np.random.default_rng(0)
    detector = factory()
    profile = detector.profile(numeric(rng.standard_normal, 5000))
    window = rng.normal(size=1000)
    window[17] = np.nan
    assert not judge(detector, profile, {"x0": window}).alarm


CHANGES: dict[str, Callable[[np.random.Generator], Columns]] = {
    "half a sigma": lambda rng: {"normal": rng.normal(0.5, size=500)},
    "variance": lambda rng: {"normal": rng.normal(0, 1.5, size=500)},
    "constant moved": lambda _: {"constant": np.full(500, 4.1)},
    "column missing": lambda _: {"normal": np.full(500, np.nan)},
    "missing share": lambda rng: {"normal": holes(rng.normal(size=500), rng.random(500) < 0.05)},
    "category renamed": lambda rng: {
        "letter": Categorical(rng.integers(3, size=500, dtype=np.int32), ("a", "b", "sea"))
    },
    "units changed": lambda rng: {"count": 1000 * rng.poisson(3, size=500).astype(np.float64)},
}


@every_detector
@pytest.mark.parametrize("change", list(CHANGES))
def test_detects(factory: Factory, change: str) -> None:
    rng = np.random.default_rng(0)
    detector = factory()
    profile = detector.profile(table(rng, 5000))
    window = dict(table(rng, 500))
    assert not judge(detector, profile, window).alarm
    moved = CHANGES[change](rng)
    drift = judge(detector, profile, window | dict(moved))
    assert drift.alarm
    assert drift.features[0].name in moved


def test_a_change_that_no_single_feature_shows_is_found_by_pairs() -> None:
    rng = np.random.default_rng(0)

    def turned(rows: int, rho: float) -> Columns:
        x = rng.normal(size=rows)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=rows)
        return dict(table(rng, rows)) | {"x": x, "y": y}

    reference, window = turned(5000, 0.6), turned(1000, -0.6)
    alone, together = FACTORIES["kl"](), FACTORIES["kl+pairs"]()
    assert not judge(alone, alone.profile(reference), window).alarm
    profile = together.profile(reference)
    assert not judge(together, profile, turned(1000, 0.6)).alarm
    drift = judge(together, profile, window)
    assert drift.alarm
    assert [(pair.first, pair.second) for pair in drift.pairs] == [("x", "y")]
    assert drift.p_value <= drift.threshold
    assert "x and y moved together" in drift.pairs[0].sentence()
    document = json.loads(json.dumps(drift.to_json()))
    assert Drift.from_json(document) == drift
    del document["pairs"]  # as releases without pairs wrote it
    assert Drift.from_json(document).pairs == ()


@every_detector
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e300])
def test_bad_values_cannot_blind_it(factory: Factory, poison: float) -> None:
    rng = np.random.default_rng(0)
    detector = factory()
    reference, window = rng.normal(size=5000), rng.normal(0.5, size=1000)
    reference[:50] = poison
    window[:10] = poison
    profile = detector.profile({"x": reference})
    assert judge(detector, profile, {"x": window}).alarm
    assert not judge(
        detector, profile, {"x": np.where(np.arange(1000) < 10, poison, rng.normal(size=1000))}
    ).alarm


@every_detector
def test_memory_does_not_grow_with_the_stream(factory: Factory) -> None:
    rng = np.random.default_rng(0)
    detector = factory()
    profile = detector.profile(numeric(rng.standard_normal, 2000, 5))
    draw = partial(numeric, rng.standard_normal, 200, 5)
    tracemalloc.start()
    try:
        for _ in range(20):
            judge(detector, profile, draw())
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(200):
            judge(detector, profile, draw())
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000  # caches of nulls fill up; the rows would be 1,600,000


@every_detector
def test_a_profile_of_many_categories_stays_small(factory: Factory) -> None:
    keys = Categorical.of([f"key{i}" for i in range(20_000)])
    document = json.dumps(factory().profile({"key": keys}).to_json())
    assert len(document) < 5000
