"""Golden rows: made of no row of the stream, equal where nothing changed, and telling where something did."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from cls.errors import Corrupt
from cls.golden import GOLDEN_BYTES, GOLDEN_ROWS, Golden, make_golden
from detectors.columns import Categorical, Columns, rows_of
from learners.models.base import Model
from learners.models.mlp_config import MlpConfig
from learners.models.registry import load
from learners.models.tabular import TabularNetwork
from learners.models.tabular_config import TabularConfig
from learners.rows import Rows
from learners.schema import Schema

RNG = np.random.default_rng(3)
ROWS = 400
COLUMNS: Columns = {
    "x": RNG.normal(size=ROWS),
    "z": RNG.normal(size=ROWS),
    "c": Categorical.of(RNG.choice(["u", "v", "ü"], ROWS).tolist()),
}


def model_of(classes: tuple[str, ...] = (), scale: float = 5.0) -> Model:
    schema = Schema(("x", "z"), ("c",), "classification" if classes else "regression", classes)
    target = RNG.integers(0, 2, ROWS).astype(float) if classes else scale * RNG.normal(size=ROWS)
    config = TabularConfig(hidden=(16,))
    return TabularNetwork.fit_preprocessing(config, schema, Rows(COLUMNS, target, np.arange(ROWS))).eval()


@pytest.mark.parametrize("classes", [(), ("no", "yes")])
def test_a_model_predicts_its_own_golden_rows_after_a_round_trip(classes: tuple[str, ...]) -> None:
    model = model_of(classes)
    golden = make_golden(model, COLUMNS, seed=1)
    again = Golden.from_json(golden.to_json(), model.schema)
    assert np.array_equal(again.expected, golden.expected)
    assert np.array_equal(model.predict(again.columns), golden.expected)
    again.check(model, model.predict(again.columns))
    assert rows_of(again.columns) == GOLDEN_ROWS + 4
    assert make_golden(model, COLUMNS, seed=1).to_json() == golden.to_json()


@pytest.mark.parametrize("scale", [1e-3, 5.0, 1e6])
def test_a_difference_is_judged_in_scales_of_the_target(scale: float) -> None:
    model = model_of(scale=scale)
    golden = make_golden(model, COLUMNS, seed=1)
    width = model.target_scale.item()
    golden.check(model, golden.expected + 0.5e-4 * width)
    wrong = golden.expected.copy()
    wrong[7] += 3e-4 * max(width, abs(wrong[7] - model.target_location.item()))
    with pytest.raises(Corrupt, match=r"golden.json: row 7: expected .*, got .*: 3.0e-04 apart, and 1e-04"):
        golden.check(model, wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    model = model_of()
    golden = make_golden(model, COLUMNS, seed=1)
    wrong = golden.expected.copy()
    wrong[3] = value
    with pytest.raises(Corrupt, match="row 3"):
        golden.check(model, wrong)
    with pytest.raises(Corrupt, match="shape"):
        golden.check(model, wrong[:-1])


def test_another_weight_is_found() -> None:
    model = model_of()
    golden = make_golden(model, COLUMNS, seed=1)
    with torch.no_grad():
        next(model.parameters())[0] += 0.1
    with pytest.raises(Corrupt, match="row"):
        golden.check(model, model.predict(golden.columns))


def test_no_row_of_the_stream_is_in_the_file() -> None:
    model = model_of()
    golden = make_golden(model, COLUMNS, seed=1)
    assert isinstance(golden.columns["x"], np.ndarray)
    assert isinstance(golden.columns["z"], np.ndarray)
    pairs = {*zip(golden.columns["x"][4:].tolist(), golden.columns["z"][4:].tolist(), strict=True)}
    assert not pairs & {
        *zip(np.asarray(COLUMNS["x"]).tolist(), np.asarray(COLUMNS["z"]).tolist(), strict=True)
    }


def test_without_held_out_rows_the_edges_remain() -> None:
    model = model_of()
    golden = make_golden(model, {}, seed=1)
    assert rows_of(golden.columns) == 4
    assert np.isnan(np.asarray(golden.columns["x"])[0])
    again = Golden.from_json(golden.to_json(), model.schema)
    again.check(model, model.predict(again.columns))


def test_a_wide_table_stays_within_its_bytes_and_rows_that_overflow_are_left_out() -> None:
    names = tuple(f"p{i}" for i in range(2000))
    columns: Columns = {name: RNG.normal(size=30) for name in names}
    rows = Rows(columns, RNG.normal(size=30), np.arange(30))
    config = MlpConfig(hidden=(4,), scale="none")
    model = load("mlp").fit_preprocessing(config, Schema(names), rows).eval()
    golden = make_golden(model, columns, seed=1)
    assert 1 <= rows_of(golden.columns) < GOLDEN_ROWS
    assert len(golden.to_json()) <= GOLDEN_BYTES
    assert np.isfinite(golden.expected).all()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"expected": None},
        {"expected": [1.0]},
        {"expected": ["a"] * 28},
        {"columns": []},
        {"columns": {"x": [1.0]}},
        {"columns": {"x": [[1.0]], "z": [1.0], "c": ["u"]}, "expected": [1.0]},
        {"columns": {"x": [1.0], "z": [1.0], "c": [1.0]}, "expected": [1.0]},
        {"columns": {"x": [1.0], "z": [10**400], "c": ["u"]}, "expected": [1.0]},
    ],
)
def test_what_is_no_golden_file_is_refused(change: dict[str, Any]) -> None:
    model = model_of()
    document = json.loads(make_golden(model, COLUMNS, seed=1).to_json()) | change
    with pytest.raises(Corrupt, match=r"golden\.json"):
        Golden.from_json(json.dumps(document).encode(), model.schema)
