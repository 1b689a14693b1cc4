"""What a newcomer passes first: it works, or the error names the field and the fix."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from detectors.columns import Categorical
from learners.checkpoint import Checkpoint, checkpoint_of, restore_learner, restore_model
from learners.errors import EndedError, ResumeMismatchError, UnsuitableRowsError
from learners.learn import Training, resume, start
from learners.metrics import TransferMatrix
from learners.models.registry import load
from learners.recipe import RECIPES, Recipe
from learners.rows import Rows
from learners.schema import Schema

SCHEMA = Schema(("distance", "wind"), ("carrier",))
NUMBERS = Schema(("distance", "wind"))
SHORT = Recipe(max_steps=2, batch_rows=30, memory_rows=40)
FRESH = replace(SHORT, fresh=True, ewc_lambda=0.0, replay_share=0.0, memory_rows=0)


def frame(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=rows) for name in ("distance", "wind", "y")}
    return pd.DataFrame({**numbers, "carrier": rng.choice(["AA", "UA"], rows)}, index=np.arange(rows) + 1000)


def columns(df: pd.DataFrame, **others: Any) -> dict[str, Any]:
    carrier = Categorical.of(df["carrier"])
    return {"distance": df["distance"].to_numpy(), "wind": df["wind"].to_numpy(), "carrier": carrier} | others


def test_series_and_lists_are_rows_by_place_and_not_by_label() -> None:
    df = frame()
    given = Rows(columns(df, wind=df["wind"], distance=list(df["distance"])), df["y"], [*range(60)])  # type: ignore[arg-type]
    plain = Rows(columns(df), df["y"].to_numpy(), np.arange(60))
    index = np.array([3, 1])
    for one, other in ((given, plain), (given.take(index), plain.take(index))):
        assert one.target.dtype == np.float64
        assert one.position.dtype == np.int64
        np.testing.assert_array_equal(one.target, other.target)
        np.testing.assert_array_equal(one.position, other.position)
        for name in ("distance", "wind"):
            np.testing.assert_array_equal(one.columns[name], other.columns[name])
    nullable = Rows({}, pd.Series([1, None]).astype(object), [4.0, 5.0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(nullable.target, [1.0, np.nan])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"target": np.zeros((60, 1))},
            r"target must be a vector, not of shape \(60, 1\): pass its \[:, 0\]",
        ),
        ({"position": np.zeros((60, 2), np.int64)}, r"position must be a vector, not of shape \(60, 2\)"),
        ({"position": np.arange(60) + 0.5}, "position must be whole numbers"),
        ({"target": np.array(["a"] * 60)}, "class indices 0 to K-1 in the order of schema.classes"),
        ({"target": pd.Series(["1"] * 60)}, "class indices 0 to K-1 in the order of schema.classes"),
        ({"target": pd.Series([pd.NA] * 60)}, "target must be numbers, NaN where"),
        ({"target": pd.date_range("2026", periods=60)}, "target must be numbers, NaN where"),
        ({"target": np.zeros(59)}, "differ in length"),
        ({"columns": frame()}, "columns must be a mapping, not a DataFrame: pass {name: column"),
        ({"columns": {"image": np.zeros((60, 4))}}, "column 'image' must be a vector"),
    ],
)
def test_rows_that_are_none_are_refused(changes: dict[str, Any], said: str) -> None:
    given = {"columns": columns(frame()), "target": np.zeros(60), "position": np.arange(60), **changes}
    with pytest.raises(UnsuitableRowsError, match=said):
        Rows(**given)


@pytest.mark.parametrize(
    ("name", "column", "said"),
    [
        (
            "carrier",
            frame()["carrier"],
            r"'carrier' is categorical: pass Categorical.of\(strings\), from detectors.columns",
        ),
        (
            "carrier",
            frame()["carrier"].astype("category"),
            r"'carrier' is categorical: pass Categorical.of\(",
        ),
        ("carrier", np.zeros(60), "'carrier' is categorical.* not a column of float64"),
        ("wind", frame()["carrier"], "'wind' is numeric, and its column holds no numbers"),
        ("wind", frame()["wind"].astype(str), "'wind' is numeric, and its column holds no numbers"),
        (
            "wind",
            pd.date_range("2026", periods=60),
            "'wind' is numeric, and its column holds no numbers but datetime",
        ),
        ("wind", Categorical.of(["x"] * 60), "'wind' is numeric, and its column categorical"),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_by_name(name: str, column: Any, said: str) -> None:
    train = Rows(columns(frame(), **{name: column}), np.zeros(60), np.arange(60))
    with pytest.raises(UnsuitableRowsError, match=said):
        load("tabular").fit_preprocessing(None, SCHEMA, train)


@pytest.mark.parametrize(("name", "instead"), [("distance", "dist"), ("carrier", "carriers")])
def test_an_absent_column_is_called_missing(name: str, instead: str) -> None:
    given = columns(frame())
    given[instead] = given.pop(name)
    with pytest.raises(UnsuitableRowsError, match=f"'{name}' is missing .* did you mean '{instead}'?"):
        load("tabular").fit_preprocessing(None, SCHEMA, Rows(given, np.zeros(60), np.arange(60)))


@pytest.mark.parametrize("model", ["tabular", "mlp", "backbone"])
def test_a_configuration_may_be_a_table_with_lists(model: str) -> None:
    train, schema = rows(), NUMBERS

    def built(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        config = {"arguments": arguments} if model == "backbone" else arguments
        network = load(model).fit_preprocessing(config, schema, train)
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    assert built({"hidden": [5, 7]}) == built({"hidden": (5, 7)}) != built({})
    with pytest.raises(ValueError, match=r"'hiden' is no field of .*Config; did you mean 'hidden'?"):
        built({"hiden": [5]})
    with pytest.raises(ValueError, match=r"config must be a .*Config or a dict of its fields, not 3"):
        load(model).fit_preprocessing(3, schema, train)


def rows(first: int = 0) -> Rows:
    df = frame()
    return Rows(columns(df), df["y"].to_numpy(), np.arange(first, first + 60))


def taken(training: Training) -> Training:
    while not training.done:
        training.step()
    return training


def test_a_training_ends_once() -> None:
    training = start(None, rows(), SHORT, schema=SCHEMA)
    taken(training)
    with pytest.raises(EndedError, match="all 2 steps of this training are taken: call finish or conclude"):
        training.step()
    learner = training.conclude()
    for again in (training.conclude, training.finish, training.snapshot, training.step):
        with pytest.raises(
            EndedError, match=r"this training has ended: .* learners.checkpoint.checkpoint_of"
        ):
            again()
    assert (learner.updates, learner.memory.seen) == (1, 60)


def test_a_learner_in_memory_is_stored_as_what_finish_returns() -> None:
    stored = checkpoint_of(taken(start(None, rows(), SHORT, schema=SCHEMA)).conclude())
    finished = taken(start(None, rows(), SHORT, schema=SCHEMA)).finish()
    assert stored.spec == finished.spec
    assert stored.meta == {name: finished.meta[name] for name in stored.meta}
    assert stored.tensors.keys() == finished.tensors.keys()
    assert all(torch.equal(tensor, finished.tensors[name]) for name, tensor in stored.tensors.items())
    one, two = (taken(start(parent, rows(60), SHORT, seed=1)).finish() for parent in (stored, finished))
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    with pytest.raises(ResumeMismatchError, match="a finished training cannot be resumed"):
        resume(stored, rows(), SHORT)


def test_a_snapshot_and_weights_alone_are_no_parents_of_an_update() -> None:
    training = start(None, rows(), SHORT, schema=SCHEMA)
    training.step()
    snapshot = training.snapshot()
    with pytest.raises(
        ResumeMismatchError, match=r"has not ended: go on with resume\(snapshot, rows, recipe\)"
    ):
        start(snapshot, rows(60), SHORT)
    whole = taken(training).finish()
    weights = {name: tensor for name, tensor in whole.tensors.items() if name.startswith("model.")}
    bare = Checkpoint(whole.spec, weights, whole.meta)
    with pytest.raises(ResumeMismatchError, match="predicts, but comes without the learner's ewc, memory"):
        start(bare, rows(60), SHORT)
    restore_model(bare)
    start(bare, rows(60), FRESH)  # which takes no more than what it says of the network


@pytest.mark.parametrize(
    ("model", "config", "schema"),
    [
        ("tabular", {"hidden": [6]}, SCHEMA),
        ("mlp", {"hidden": [6], "scale": "global"}, NUMBERS),
    ],
)
@pytest.mark.parametrize("at_rest", [True, False])
def test_a_fresh_network_is_described_by_its_parent(
    model: str, config: dict[str, Any], schema: Schema, at_rest: bool
) -> None:
    learner = taken(start(None, rows(), SHORT, schema=schema, model=model, config=config)).conclude()
    parent = checkpoint_of(learner) if at_rest else learner
    anew = start(parent, rows(60), FRESH)
    assert anew.model.spec() == learner.model.spec()
    assert anew.learner.updates == 0
    default = start(
        parent, rows(60), FRESH, schema=schema, model=model
    )  # given in full: nothing of the parent's
    assert default.model.spec() == load(model).fit_preprocessing(None, schema, rows(60)).spec()


def test_a_fresh_network_that_nothing_describes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schema: a new network needs one: pass schema=Schema\("):
        start(None, rows(), SHORT)
    parent = taken(start(None, rows(), SHORT, schema=NUMBERS, model="backbone")).conclude()
    with pytest.raises(ValueError, match="model: a network 'backbone' is not built anew from its spec alone"):
        start(parent, rows(), FRESH)


def test_names_of_features_may_be_a_list_but_not_a_string() -> None:
    listed = Schema(["x"], ["c"], "classification", ["a", "b"])  # type: ignore[arg-type]
    assert listed == Schema(("x",), ("c",), "classification", ("a", "b"))
    with pytest.raises(
        ValueError, match=r"schema: numeric must be a tuple of names, not a string: pass \('x',\)"
    ):
        Schema("x")  # type: ignore[arg-type]


def test_a_recipe_by_name_is_refused_with_the_place_of_recipes() -> None:
    with pytest.raises(TypeError, match=r"not 'der\+\+': pass learners.recipes.known\(\)\[name\]"):
        start(None, rows(), "der++", schema=SCHEMA)  # type: ignore[arg-type]


def test_a_recipe_takes_numbers_of_numpy_and_stores_plain_ones() -> None:
    recipe = replace(RECIPES["replay"], memory_rows=np.int64(5), learning_rate=np.float32(0.5))  # type: ignore[arg-type]
    assert recipe == replace(RECIPES["replay"], memory_rows=5, learning_rate=0.5)
    assert json.loads(json.dumps(asdict(recipe))) == asdict(recipe)
    with pytest.raises(ValueError, match="memory_rows must be a whole number"):
        replace(recipe, memory_rows=np.float64(5))  # type: ignore[arg-type]


def test_a_stored_learner_predicts_as_the_one_in_memory() -> None:
    learner = taken(start(None, rows(), SHORT, schema=SCHEMA)).conclude()
    again = restore_learner(checkpoint_of(learner))
    table = columns(frame())
    np.testing.assert_array_equal(again.model.predict(table), learner.model.predict(table))


def test_a_matrix_of_rows_has_names() -> None:
    matrix = TransferMatrix.of_rows([[0.5], [0.25, 1.0]], names=["spring", "summer"])
    assert matrix.names == ("spring", "summer")
    assert matrix.table().splitlines()[0] == "| learned | spring | summer |"
