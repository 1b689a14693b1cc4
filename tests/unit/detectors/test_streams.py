"""Streams with a known change: what changes does so by as much as was said, from the row that was said, and nothing else."""

import numpy as np
import pytest

from detectors.columns import Categorical, Columns, take
from detectors.streams import MISSING_BEFORE, SHARES_K, Recipe, reference_of, stream_of

ROWS, ONSET = 40_000, 20_000


def halves(recipe: Recipe) -> tuple[Columns, Columns]:
    stream = stream_of(recipe, ROWS, 0, onset=ONSET)
    return take(stream, slice(None, ONSET)), take(stream, slice(ONSET, None))


def numbers(columns: Columns) -> np.ndarray:
    return np.stack([column for column in columns.values() if not isinstance(column, Categorical)])


def test_a_mean_moves_in_the_moving_features_only() -> None:
    before, after = halves(Recipe("mean", 0.5, numeric=4, moving=2))
    assert numbers(before).mean(axis=1) == pytest.approx([0, 0, 0, 0], abs=0.03)
    assert numbers(after).mean(axis=1) == pytest.approx([0.5, 0.5, 0, 0], abs=0.03)


def test_a_variance_moves_and_the_mean_stays() -> None:
    before, after = halves(Recipe("variance", 1.5, numeric=2))
    assert numbers(before).var(axis=1) == pytest.approx([1, 1], abs=0.05)
    assert numbers(after).var(axis=1) == pytest.approx([1.5, 1], abs=0.06)
    assert numbers(after).mean(axis=1) == pytest.approx([0, 0], abs=0.03)


def test_more_values_go_missing() -> None:
    before, after = halves(Recipe("missing", 0.05, numeric=2))
    assert np.isnan(numbers(before)).mean(axis=1) == pytest.approx([MISSING_BEFORE, 0], abs=0.003)
    assert np.isnan(numbers(after)).mean(axis=1) == pytest.approx([0.05, 0], abs=0.005)


def test_neighbours_become_correlated_and_no_feature_moves_alone() -> None:
    before, after = halves(Recipe("correlation", 0.8, numeric=4, moving=2))
    assert np.corrcoef(numbers(before))[0, 1] == pytest.approx(0, abs=0.03)
    expected = np.eye(4)
    expected[0, 1] = expected[1, 0] = 0.8
    assert np.corrcoef(numbers(after)) == pytest.approx(expected, abs=0.03)
    assert numbers(after).var(axis=1) == pytest.approx(np.ones(4), abs=0.05)


def test_the_most_frequent_category_gets_another_name() -> None:
    before, after = halves(Recipe("category", 0.25, numeric=0, categorical=2))
    for name, share in (("c0", 0.25), ("c1", 0.0)):
        old, new = before[name], after[name]
        assert isinstance(old, Categorical)
        assert isinstance(new, Categorical)
        renamed = old.vocabulary.index("A")
        assert not (old.codes == renamed).any()
        assert (new.codes == renamed).mean() == pytest.approx(share * SHARES_K[0], abs=0.01)
        assert (new.codes == 0).mean() == pytest.approx((1 - share) * SHARES_K[0], abs=0.01)


def test_a_gradual_change_grows_in_a_line_and_then_stays() -> None:
    recipe = Recipe("mean", 10.0, numeric=1, over=10_000)
    values = numbers(stream_of(recipe, ROWS, 0, onset=ONSET))[0].reshape(-1, 2500).mean(axis=1)
    expected = [*[0] * 8, 1.25, 3.75, 6.25, 8.75, *[10] * 4]
    assert values == pytest.approx(expected, abs=0.1)


def test_a_reference_is_a_stream_without_its_change_and_the_seed_tells_all() -> None:
    recipe = Recipe("mean", 1.0, numeric=1)
    first, second = reference_of(recipe, 100, 3), stream_of(recipe, 100, 3, onset=None)
    assert np.array_equal(numbers(first), numbers(second))
    assert not np.array_equal(numbers(first), numbers(reference_of(recipe, 100, 4)))


@pytest.mark.parametrize(
    "values",
    [{"kind": "mean", "moving": 21}, {"kind": "category"}, {"kind": "correlation", "moving": 1}],
)
def test_more_moving_features_than_there_are_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="move"):
        Recipe(**values)  # type: ignore[arg-type]  # what a caller may get wrong
