"""What of the landed labels a reference is made of."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from cls.config import StreamConfig
from cls.domain import Labelled
from cls.ports import Events
from cls.rebase import Rows, _covered, of_consecutive_rows, places, recent_reference, share
from detectors.columns import Columns
from detectors.detector import KLDetector
from detectors.reference import Reference


def labelled(position: list[int]) -> Labelled:
    where = np.array(position, np.int64)
    return Labelled({}, np.zeros(len(where)), where, where, np.zeros(len(where), np.int8))


def test_only_covered_windows_count_and_of_each_the_first_to_land() -> None:
    rows = labelled([3, 0, 2, 1, 11, 13, 21, 20, 22, 23, 24])  # in the order in which they landed
    all_of, first = _covered(rows, 10, 4)
    assert rows.position[all_of].tolist() == [0, 1, 2, 3, 20, 21, 22, 23, 24]
    assert rows.position[first].tolist() == [0, 1, 2, 3, 20, 21, 22, 23]  # 24 landed last


def test_labels_of_a_window_are_ranked_by_landing_whatever_lies_between() -> None:
    rows = labelled([5, 15, 4, 14, 3, 13, 2, 12])
    _, first = _covered(rows, 10, 2)
    assert rows.position[first].tolist() == [4, 5, 14, 15]


def test_no_labels_cover_nothing() -> None:
    all_of, first = _covered(labelled([]), 10, 2)
    assert len(all_of) == len(first) == 0


def test_a_sample_lies_where_its_positions_say_but_for_holes_of_more_than_a_window() -> None:
    place = places(np.array([1003, 1005, 1010, 3000, 3010]), 100)
    assert place.tolist() == [0, 2, 7, 8, 18]
    assert share(place) == pytest.approx(5 / 19)
    assert share(places(np.arange(7, 500), 100)) == 1
    assert share(places(np.zeros(0, np.int64), 100)) == 1


def chain(rng: np.random.Generator, rows: int, r: float) -> NDArray[np.float64]:
    noise = rng.normal(size=rows + 300) * np.sqrt(1 - r**2)
    return np.asarray(lfilter([1.0], [1.0, -r], noise))[300:]


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_a_reference_of_a_fifth_of_the_rows_keeps_the_budget_of_windows_of_all(r: float) -> None:
    """Of one percent: 1.0, 1.0 and 0.4 over 60 references; with the dispersion of the sample alone 1.0, 3 and 13."""
    rng = np.random.default_rng(1)
    detector, rates, effects = KLDetector(false_alarm_windows=100), [], []
    for _ in range(20):
        x = chain(rng, 10_000, r)
        own = np.flatnonzero(rng.random(10_000) < 0.2)
        sample: Columns = {"x": x[own]}
        profile = of_consecutive_rows(detector.profile(sample), sample, places(own, 1000))
        rates.append(detector.scan(profile, {"x": chain(rng, 40_000, r)}, 1000).alarm_W.mean())
        effects.append(profile.dispersion[0].mean)
    assert np.mean(rates) <= 0.02
    assert np.mean(effects) == pytest.approx({0.0: 1.0, 0.5: 1.15, 0.9: 2.95}[r], rel=0.1)


def test_whether_a_value_is_there_depends_on_its_neighbours_as_in_all_rows() -> None:
    rng = np.random.default_rng(2)
    x = np.where(chain(rng, 20_000, 0.9) > 0, rng.normal(size=20_000), np.nan)
    own = np.flatnonzero(rng.random(20_000) < 0.2)
    detector, sample = KLDetector(), {"x": x[own]}
    bare = detector.profile(sample)
    found = of_consecutive_rows(bare, sample, places(own, 1000)).missing_dispersion[0]
    of_all = detector.profile({"x": x}).missing_dispersion[0]
    assert found.mean == pytest.approx(of_all.mean, rel=0.25)
    assert bare.missing_dispersion[0].mean < 0.5 * of_all.mean
    assert 0.5 < found.blocks / of_all.blocks < 2
    assert found.rows_needed < 20_000 * 0.2


def test_a_sample_of_all_rows_is_the_profile_itself() -> None:
    rng = np.random.default_rng(3)
    rows = {"x": chain(rng, 4000, 0.9), "y": chain(rng, 4000, 0.5)}
    profile = KLDetector().profile(rows)
    assert of_consecutive_rows(profile, rows, places(np.arange(4000), 1000)).to_json() == profile.to_json()


STREAM = StreamConfig.model_validate(
    {
        "task": "regression",
        "schema": {"numeric": ("x",), "key": "id", "event_time": "at", "target": "y"},
        "detect": {"window_rows": 200, "reference_rows": 5000},
    }
)


def referred(start: int, stop: int, *, held: float = 1.0) -> tuple[tuple[int, int], Reference]:
    """Events that a reference is made of, and the reference: x is a chain, predicted as it is."""
    x, seen = chain(np.random.default_rng(4), stop, 0.9), []

    def events(_: str, a: int, b: int) -> Events:
        seen.append((a, b))
        position = np.arange(a, b)
        nothing, whole = np.full(b - a, np.nan), np.zeros(b - a, np.int64)
        return Events({"x": x[a:b]}, position, position, whole.astype(np.int8), nothing, whole)

    def predict(rows: Rows) -> Any:
        own = np.random.default_rng(5).random(len(rows.position)) < held
        return np.where(own, x[rows.position], np.nan), np.zeros(len(own))

    log: Any = SimpleNamespace(events=events, labelled=lambda *_: labelled([]))
    stored = recent_reference(
        log, "s", STREAM, start, stop, label_stop=0, labels_since=0, predict=predict, seed=0
    )
    return seen[0], Reference.from_json(json.loads(stored))


@pytest.mark.parametrize(
    ("start", "begin"), [(0, 5000), (6000, 6000), (9800, 9800), (9801, 9800), (10_000, 9800)]
)
def test_a_reference_begins_at_the_onset_wherever_a_window_lies_behind_it(start: int, begin: int) -> None:
    assert referred(start, 10_000)[0] == (begin, 10_000)


def test_predictions_of_rows_held_out_depend_on_each_other_as_inputs_do() -> None:
    _, reference = referred(0, 5000, held=0.3)
    assert reference.outputs is not None
    assert reference.outputs.rows == pytest.approx(1500, abs=150)
    inputs, outputs = reference.inputs.dispersion[0].mean, reference.outputs.dispersion[0].mean
    assert inputs > 2
    assert outputs == pytest.approx(inputs, rel=0.3)
