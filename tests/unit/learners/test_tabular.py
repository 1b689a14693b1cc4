"""The tabular network: preprocessing, growth, its description, and its twin in numpy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from detectors.columns import Categorical, Columns
from learners.errors import UnsuitableModelError, UnsuitableRowsError
from learners.models.tabular import TabularNetwork
from learners.models.tabular_config import NumericEmbedding, TabularConfig
from learners.models.tabular_numpy import Predictor, load
from learners.rows import Rows
from learners.schema import Schema, Task

REGRESSION = Schema(("x", "far", "constant", "absent"), ("colour", "empty"))
CLASSES = replace(REGRESSION, task="classification", classes=("a", "b", "c"))


def table(rows: int, seed: int = 0, colours: tuple[str, ...] = ("red", "green", "blue")) -> Rows:
    rng = np.random.default_rng(seed)
    columns: Columns = {
        "x": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        "far": (1_000_000_000 + rng.integers(0, 4, rows)).astype(np.float64),
        "constant": np.full(rows, 7.25),
        "absent": np.full(rows, np.nan),
        "colour": Categorical(rng.integers(-1, len(colours), rows).astype(np.int32), colours),
        "empty": Categorical(np.full(rows, -1, dtype=np.int32), ()),
    }
    return Rows(columns, rng.integers(0, 3, rows).astype(np.float64), np.arange(rows))


def network(
    schema: Schema = REGRESSION, kind: NumericEmbedding = "plain", rows: Rows | None = None
) -> TabularNetwork:
    torch.manual_seed(0)
    config = TabularConfig(hidden=(16, 8), numeric_embedding=kind, embedding_bins=5)
    return TabularNetwork.fit_preprocessing(config, schema, rows or table(300))


def as_frame(columns: Columns) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: [None if code < 0 else column.vocabulary[code] for code in column.codes]
            if isinstance(column, Categorical)
            else column
            for name, column in columns.items()
        }
    )


def test_numbers_are_standardised_and_missing_is_marked() -> None:
    rows = table(2000)
    numeric_BF, _ = network(rows=rows).encode(rows.columns)
    x, far, constant, absent = numeric_BF.T
    assert float(x.nanmean()) == pytest.approx(0, abs=1e-5)
    assert float(x[~x.isnan()].std()) == pytest.approx(1, abs=1e-2)
    assert float(far.std()) == pytest.approx(1, abs=1e-2)  # small steps on a large offset survive
    assert constant.tolist() == [0.0] * 2000
    assert absent.isnan().all()
    assert int(x.isnan().sum()) == int(np.isnan(np.asarray(rows.columns["x"])).sum())


def test_infinite_is_missing_and_outliers_are_bounded() -> None:
    model, rows = network(), table(3)
    columns = {**rows.columns, "x": np.array([np.inf, np.nan, 1e30])}
    x = model.encode(columns)[0][:, 0]
    assert x.isnan().tolist() == [True, True, False]
    assert float(x[2]) == 10.0
    prediction = model.predict(columns)
    assert np.isfinite(prediction).all()


@pytest.mark.parametrize("schema", [REGRESSION, CLASSES])
@pytest.mark.parametrize("kind", ["plain", "periodic", "piecewise"])
def test_spec_and_state_restore_it_exactly(schema: Schema, kind: NumericEmbedding) -> None:
    model = network(schema, kind)
    model.grow(table(20, colours=("violet", "red")).columns)
    again = TabularNetwork.from_spec(json.loads(json.dumps(model.spec())))
    again.load_state_dict(model.state_dict())
    assert np.array_equal(again.predict(table(50).columns), model.predict(table(50).columns))
    assert again.spec() == model.spec()


@pytest.mark.parametrize(("schema", "shape"), [(REGRESSION, (40,)), (CLASSES, (40, 3))])
@pytest.mark.parametrize("kind", ["plain", "periodic", "piecewise"])
def test_numpy_twin_predicts_the_same(
    tmp_path: Path, schema: Schema, shape: tuple[int, ...], kind: NumericEmbedding
) -> None:
    model = network(schema, kind)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps({"spec": model.spec(), "meta": {}}))
    columns = table(40, seed=5, colours=("blue", "never seen", "red")).columns
    expected = model.predict(columns)
    assert expected.shape == shape
    np.testing.assert_allclose(load(tmp_path).predict(as_frame(columns)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schema", [Schema(("x", "far")), Schema((), ("colour",))])
@pytest.mark.parametrize("kind", ["plain", "periodic", "piecewise"])
def test_features_of_one_kind_alone(tmp_path: Path, schema: Schema, kind: NumericEmbedding) -> None:
    model, columns = network(schema, kind), table(30, seed=2).columns
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps({"spec": model.spec(), "meta": {}}))
    np.testing.assert_allclose(
        load(tmp_path).predict(as_frame(columns)), model.predict(columns), rtol=1e-5, atol=1e-5
    )


def test_numpy_twin_imports_neither_torch_nor_us() -> None:
    source = Path(load.__code__.co_filename).read_text(encoding="utf-8")
    imports = {
        line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    assert imports <= {"__future__", "json", "collections", "pathlib", "typing", "numpy", "safetensors"}


def test_growing_changes_no_prediction() -> None:
    model, columns = network(), table(60, colours=("red", "violet", "grey")).columns
    before = model.predict(columns)
    model.grow(columns)
    assert set(model.vocabularies[0]) == {"red", "green", "blue", "violet", "grey"}
    assert np.array_equal(model.predict(columns), before)
    model.grow(columns)
    assert len(model.vocabularies[0]) == 5
    codes = model.encode(columns)[1][:, 0]
    assert int(codes.max()) == 5  # and the new ones are told apart from now on


def test_classes_are_added_to_the_head() -> None:
    model, columns = network(CLASSES).eval(), table(60, colours=("red", "violet")).columns
    inputs, before = model.encode(columns), {name: t.clone() for name, t in model.state_dict().items()}
    out_BK = model(*inputs)
    assert torch.equal(model.head(model.represent(*inputs)), out_BK)
    model.grow_classes(("a", "b", "c", "d"))
    assert model.schema.classes == ("a", "b", "c", "d")
    after = model.state_dict()
    assert all(torch.equal(after[name][: len(t)] if t.ndim else after[name], t) for name, t in before.items())
    np.testing.assert_allclose(model(*inputs)[:, :3].detach(), out_BK.detach(), rtol=1e-5, atol=1e-6)
    again = TabularNetwork.from_spec(json.loads(json.dumps(model.spec())))
    again.load_state_dict(after)
    assert np.array_equal(again.predict(columns), model.predict(columns))
    twin = Predictor(model.spec(), {name: tensor.numpy() for name, tensor in after.items()})
    np.testing.assert_allclose(twin.predict(as_frame(columns)), model.predict(columns), rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsuitableModelError, match="no classes"):
        network().grow_classes(("d",))


def test_vocabularies_are_bounded() -> None:
    rows = table(500, colours=tuple(f"c{i}" for i in range(50)))
    model = TabularNetwork.fit_preprocessing(TabularConfig(vocabulary_max=10), REGRESSION, rows)
    model.grow(table(500, seed=1, colours=tuple(f"d{i}" for i in range(50))).columns)
    assert len(model.vocabularies[0]) == 10


def test_the_order_of_a_vocabulary_does_not_matter() -> None:
    model, rows = network(), table(60)
    column = rows.columns["colour"]
    assert isinstance(column, Categorical)
    turned = Categorical(
        np.where(column.codes < 0, -1, 2 - column.codes).astype(np.int32), column.vocabulary[::-1]
    )
    assert np.array_equal(model.predict({**rows.columns, "colour": turned}), model.predict(rows.columns))


@pytest.mark.parametrize("target", [np.full(50, 3.0), np.r_[np.full(49, 3.0), 4.0]])
def test_a_constant_target_is_harmless(target: np.ndarray) -> None:
    model = network(rows=replace(table(50), target=target))
    assert float(model.target_location) == 3.0
    assert 0 < float(model.target_scale) <= 1
    assert np.isfinite(model.predict(table(50).columns)).all()


def test_probabilities_sum_to_one_and_the_mode_is_restored() -> None:
    model = network(CLASSES).train()
    assert model.predict(table(30).columns).sum(axis=1) == pytest.approx(1)
    assert model.training


@pytest.mark.parametrize(
    ("name", "column"),
    [("x", Categorical(np.zeros(3, dtype=np.int32), ("a",))), ("colour", np.zeros(3))],
)
def test_a_column_of_the_wrong_kind_is_named(name: str, column: np.ndarray | Categorical) -> None:
    with pytest.raises(UnsuitableRowsError, match=name):
        network().encode({**table(3).columns, name: column})
    absent = {key: value for key, value in table(3).columns.items() if key != name}
    with pytest.raises(UnsuitableRowsError, match=name):
        network().encode(absent)


@pytest.mark.parametrize("target", [0.5, -1.0, 3.0])
def test_a_target_that_is_no_class_is_refused(target: float) -> None:
    with pytest.raises(UnsuitableRowsError, match="0 to 2"):
        network(CLASSES).encode_target(np.array([1.0, target]))


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_no_rows_predict_nothing(task: Task) -> None:
    model, columns = network(REGRESSION if task == "regression" else CLASSES, "piecewise"), table(0).columns
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert len(model.predict(columns)) == 0
    assert len(Predictor(model.spec(), state).predict(as_frame(columns))) == 0
