"""What a newcomer passes first: it works, or the error names the field and the fix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detectors.columns import Categorical
from learners.errors import UnsuitableRowsError
from learners.models.registry import load
from learners.rows import Rows
from learners.schema import Schema

SCHEMA = Schema(("distance", "wind"), ("carrier",))


def frame(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=rows) for name in ("distance", "wind", "y")}
    return pd.DataFrame({**numbers, "carrier": rng.choice(["AA", "UA"], rows)}, index=np.arange(rows) + 1000)


def columns(df: pd.DataFrame, **others: Any) -> dict[str, Any]:
    carrier = Categorical.of(df["carrier"])
    return {"distance": df["distance"].to_numpy(), "wind": df["wind"].to_numpy(), "carrier": carrier} | others


def test_series_and_lists_are_rows_by_place_and_not_by_label() -> None:
    df = frame()
    rows = Rows(columns(df, wind=df["wind"], distance=list(df["distance"])), df["y"], [*range(60)])  # type: ignore[arg-type]
    plain = Rows(columns(df), df["y"].to_numpy(), np.arange(60))
    index = np.array([3, 1])
    for one, other in ((rows, plain), (rows.take(index), plain.take(index))):
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
    rows = Rows(columns(frame(), **{name: column}), np.zeros(60), np.arange(60))
    with pytest.raises(UnsuitableRowsError, match=said):
        load("tabular").fit_preprocessing(None, SCHEMA, rows)


@pytest.mark.parametrize(("name", "instead"), [("distance", "dist"), ("carrier", "carriers")])
def test_an_absent_column_is_called_missing(name: str, instead: str) -> None:
    given = columns(frame())
    given[instead] = given.pop(name)
    with pytest.raises(UnsuitableRowsError, match=f"'{name}' is missing .* did you mean '{instead}'?"):
        load("tabular").fit_preprocessing(None, SCHEMA, Rows(given, np.zeros(60), np.arange(60)))


@pytest.mark.parametrize("model", ["tabular", "mlp", "backbone"])
def test_a_configuration_may_be_a_table_with_lists(model: str) -> None:
    rows, schema = Rows(columns(frame()), np.zeros(60), np.arange(60)), Schema(("distance", "wind"))

    def built(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        config = {"arguments": arguments} if model == "backbone" else arguments
        network = load(model).fit_preprocessing(config, schema, rows)
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    assert built({"hidden": [5, 7]}) == built({"hidden": (5, 7)}) != built({})
    with pytest.raises(ValueError, match="'hiden' is no field of .*Config; did you mean 'hidden'?"):
        built({"hiden": [5]})
    with pytest.raises(ValueError, match="config must be a .*Config or a dict of its fields, not 3"):
        load(model).fit_preprocessing(3, schema, rows)
