"""Columns: taking and appending rows keeps every value."""

import numpy as np
import pandas as pd
import pytest

from detectors.columns import Categorical, concat, rows_of, take
from detectors.detector import KLDetector


def decode(column: Categorical) -> list[str | None]:
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


def test_concat_merges_vocabularies_and_keeps_values() -> None:
    first, second = ["b", None, "a"], ["c", "a", None]
    whole = concat([{"x": Categorical.of(first)}, {"x": Categorical.of(second)}])["x"]
    assert isinstance(whole, Categorical)
    assert decode(whole) == first + second
    assert whole.vocabulary == ("b", "a", "c")


@pytest.mark.parametrize("index", [np.array([2, 0]), np.array([True, False, True]), slice(1, None)])
def test_take_selects_the_same_rows_of_every_column(index: np.ndarray | slice) -> None:
    numbers, strings = np.array([1.0, 2.0, 3.0]), np.array(["a", "b", "c"])
    taken = take({"n": numbers, "s": Categorical.of(strings.tolist())}, index)
    assert isinstance(taken["s"], Categorical)
    assert isinstance(taken["n"], np.ndarray)
    assert taken["n"].tolist() == numbers[index].tolist()
    assert decode(taken["s"]) == strings[index].tolist()


def test_rows_and_faults() -> None:
    assert rows_of({}) == 0
    assert concat([]) == {}
    assert rows_of({"x": np.zeros(3)}) == 3
    with pytest.raises(ValueError, match="differ in length"):
        rows_of({"x": np.zeros(3), "y": np.zeros(2)})
    with pytest.raises(ValueError, match="numeric in one part"):
        concat([{"x": np.zeros(3)}, {"x": Categorical.of(["a", "b"])}])
    with pytest.raises(ValueError, match="differ in their columns"):
        concat([{"x": np.zeros(3)}, {"y": np.zeros(3)}])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        Categorical(np.array([1], dtype=np.int32), ("a",))


def test_categories_are_strings_or_missing() -> None:
    column = Categorical.of(["a", None, float("nan"), pd.NA, pd.NaT, "b"])  # type: ignore[list-item]  # as pandas has it
    assert column.codes.tolist() == [0, -1, -1, -1, -1, 1]
    with pytest.raises(TypeError, match="not int: 3; convert them with str"):
        Categorical.of(["a", 3])  # type: ignore[list-item]  # the fault is the point
    with pytest.raises(TypeError, match="not as one string"):
        Categorical.of("hello")


@pytest.mark.parametrize("column", [np.array(["a", "b"]), np.array([object(), 1.0]), ["x"]])
def test_what_is_no_number_is_told_by_its_name(column: object) -> None:
    detector = KLDetector()
    with pytest.raises(TypeError, match=r"column 'price' holds no numbers: pass floats, or Categorical\.of"):
        detector.profile({"price": column})  # type: ignore[dict-item]  # the fault is the point
    profile = detector.profile({"price": np.arange(100.0)})
    with pytest.raises(TypeError, match="column 'price' holds no numbers"):
        profile.count({"price": column})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="must be a vector"):
        profile.count({"price": np.zeros((2, 2))})
    with pytest.raises(TypeError, match="not a dict"):
        detector.compare(profile, {"price": np.zeros(2)})  # type: ignore[arg-type]
    assert detector.profile({"price": [1, 2, 3]}).rows == 3  # type: ignore[dict-item]  # lists of numbers are numbers
