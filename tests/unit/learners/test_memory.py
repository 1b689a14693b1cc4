"""The reservoir: right inclusion probabilities, however the rows arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from detectors.columns import Categorical
from learners.memory import Memory, from_arrays, to_arrays
from learners.rows import Rows


def numbered(first: int, count: int) -> Rows:
    number = np.arange(first, first + count)
    category = Categorical((number % 3 - 1).astype(np.int32), ("even", "odd"))
    return Rows({"x": number.astype(np.float64), "c": category}, number.astype(np.float64), number)


def filled(capacity: int, cuts: list[int], seed: int) -> Memory:
    memory, first = Memory.empty(capacity, seed), 0
    for count in cuts:
        memory, first = memory.offer(numbered(first, count)), first + count
    return memory


def positions(memory: Memory) -> list[int]:
    return [] if memory.rows is None else memory.rows.position.tolist()


def test_every_row_is_held_with_the_same_probability() -> None:
    rows, capacity, trials = 60, 10, 4000
    held = np.zeros(rows)
    for seed in range(trials):
        held[positions(filled(capacity, [7, 30, 1, 22], seed))] += 1
    assert held.sum() == trials * capacity
    # Without replacement: counts are negatively correlated, which the factor corrects.
    statistic = chisquare(held).statistic / (1 - capacity / rows) * (rows - 1) / rows
    assert statistic < 59 + 4.5 * np.sqrt(2 * 59)
    assert statistic > 59 - 4.5 * np.sqrt(2 * 59)


@given(
    cuts=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    capacity=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_how_rows_are_cut_into_batches_does_not_matter(cuts: list[int], capacity: int, seed: int) -> None:
    memory, whole = filled(capacity, cuts, seed), filled(capacity, [sum(cuts)], seed)
    assert positions(memory) == positions(whole)
    assert memory.seen == sum(cuts)
    assert len(memory) == min(capacity, sum(cuts))


def test_rows_stay_whole() -> None:
    memory = filled(15, [40, 40], seed=3)
    assert memory.rows is not None
    x, category = memory.rows.columns["x"], memory.rows.columns["c"]
    assert isinstance(category, Categorical)
    assert isinstance(x, np.ndarray)
    assert np.array_equal(x, memory.rows.position)
    assert np.array_equal(memory.rows.target, memory.rows.position)
    names = [None if code < 0 else category.vocabulary[code] for code in category.codes]
    assert names == [(None, "even", "odd")[p % 3] for p in memory.rows.position]


def test_vocabulary_is_bounded_by_the_rows_held() -> None:
    memory = Memory.empty(10, seed=0)
    for first in range(0, 500, 50):
        number = np.arange(first, first + 50)
        names = Categorical(np.arange(50, dtype=np.int32), tuple(f"id{n}" for n in number))
        memory = memory.offer(Rows({"id": names}, number.astype(np.float64), number))
    assert memory.rows is not None
    column = memory.rows.columns["id"]
    assert isinstance(column, Categorical)
    assert len(column.vocabulary) == 10
    assert [column.vocabulary[code] for code in column.codes] == [f"id{p}" for p in memory.rows.position]


def test_shrinking_keeps_a_part_and_growing_never_invents() -> None:
    memory = filled(20, [100], seed=1)
    small = memory.resized(8)
    assert len(small) == small.capacity == 8
    assert set(positions(small)) <= set(positions(memory))
    assert memory.resized(50).capacity == 20  # it has turned rows away: more room would favour the new
    assert filled(20, [10], seed=1).resized(50).capacity == 50
    assert len(memory.resized(0)) == 0
    assert len(memory.resized(0).offer(numbered(0, 5))) == 0
    assert positions(memory.resized(0).resized(9).offer(numbered(0, 5))) == [0, 1, 2, 3, 4]


def test_recency_halves_the_weight_at_the_half_life() -> None:
    memory = Memory.empty(100, seed=0).offer(numbered(0, 41))
    weights = memory.weights(recency_rows=20)
    assert weights[-1] == 1.0
    assert weights[-21] == pytest.approx(0.5)
    assert weights[0] == pytest.approx(0.25)
    assert memory.weights(None).tolist() == [1.0] * 41


def test_arrays_and_back() -> None:
    rows = filled(15, [40], seed=3).rows
    assert rows is not None
    again = from_arrays(*to_arrays(rows))
    category, expected = again.columns["c"], rows.columns["c"]
    assert isinstance(category, Categorical)
    assert isinstance(expected, Categorical)
    assert np.array_equal(category.codes, expected.codes)
    assert category.vocabulary == expected.vocabulary
    assert np.array_equal(np.asarray(again.columns["x"]), np.asarray(rows.columns["x"]))
    assert np.array_equal(again.target, rows.target)
    assert np.array_equal(again.position, rows.position)
