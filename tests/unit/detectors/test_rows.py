"""Rows one at a time fall into the bins that their columns would."""

import numpy as np
import pytest

from detectors.columns import Categorical, Columns
from detectors.profile import build_profile
from detectors.rows import RowBins, Value
from detectors.sequential import assign

RNG = np.random.default_rng(0)
PROFILE = build_profile(
    {
        "normal": RNG.normal(size=2000),
        "count": RNG.poisson(2, size=2000).astype(np.float64),
        "constant": np.full(2000, 4.0),
        "letter": Categorical.of(RNG.choice(["a", "b", "c"], 2000).tolist()),
    }
)


def test_a_row_has_the_bins_of_its_column() -> None:
    numbers: list[Value] = [
        -9.0,
        0.0,
        1,
        2.0,
        4.0,
        np.nextafter(4.0, 5),
        9e300,
        np.nan,
        np.inf,
        -np.inf,
        None,
    ]
    letters: list[Value] = ["a", "b", "c", "new", None]
    rows: list[list[Value]] = [[x, x, x, letters[i % 5]] for i, x in enumerate(numbers)]
    column = np.array([np.nan if x is None else x for x in numbers], dtype=np.float64)
    columns: Columns = {
        **dict.fromkeys(("normal", "count", "constant"), column),
        "letter": Categorical.of(None if row[3] is None else str(row[3]) for row in rows),
    }
    found = np.concatenate([RowBins(PROFILE).assign(row) for row in rows])
    assert np.array_equal(found, assign(PROFILE, columns))


def test_edges_belong_to_the_bin_above_them() -> None:
    edges = PROFILE.features[0].to_json()["edges"]
    found = [RowBins(PROFILE).assign([edge, None, None, None])[0, 0] for edge in edges]
    assert found == list(range(1, len(edges) + 1))


def test_too_few_values_and_text_for_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        RowBins(PROFILE).assign([1.0])
    with pytest.raises(TypeError):
        RowBins(PROFILE).assign(["a", 1.0, 1.0, "a"])
