"""Which rows a step learns from: every new row once an epoch, and chances as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from learners.batches import Batches
from learners.recipe import Recipe

MEMORY = 40
LONG = Recipe(batch_rows=100, replay_share=0.5, epochs=400.0)


def drawn(batches: Batches) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    new, again, slots = zip(*(batches.at(step) for step in range(batches.steps)), strict=True)
    return np.concatenate(new), np.concatenate(again), np.concatenate(slots)


@pytest.mark.parametrize("seed", [1, 2])
def test_replay_draws_uniformly_from_the_memory(seed: int) -> None:
    counts = np.bincount(drawn(Batches(100, np.ones(MEMORY), LONG, seed))[2], minlength=MEMORY)
    assert counts.sum() == 400 * 100
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("seed", [1, 2])
def test_replay_draws_by_the_chances_of_the_memory(seed: int) -> None:
    chances = np.exp2(-np.arange(MEMORY) / 7)
    counts = np.bincount(drawn(Batches(100, chances, LONG, seed))[2], minlength=MEMORY)
    expected = counts.sum() * chances / chances.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert stats.chisquare(counts).pvalue < 1e-9


def test_draws_of_two_steps_are_independent() -> None:
    batches = Batches(100, np.ones(4), replace(LONG, batch_rows=4), 3)
    slots = np.array([batches.at(step)[2][:2] for step in range(4000)])
    pairs = np.bincount(slots[:-1, 0] * 4 + slots[1:, 0], minlength=16)
    within = np.bincount(slots[:, 0] * 4 + slots[:, 1], minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3
    assert stats.chisquare(within).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("rows", [100, 1013])
def test_every_new_row_is_seen_once_an_epoch_and_replayed_ones_have_their_share(
    rows: int, share: float
) -> None:
    recipe = replace(LONG, replay_share=share, epochs=2.0)
    batches = Batches(rows, np.ones(MEMORY), recipe, 1)
    new, again, slots = drawn(batches)
    assert batches.steps == 2 * batches.steps_per_epoch == 2 * int(np.ceil(rows / (100 * (1 - share)) - 1e-9))
    assert np.bincount(new[:rows]).tolist() == np.bincount(new[rows:]).tolist() == [1] * rows
    assert not np.array_equal(new[:rows], new[rows:])
    assert len(again) == 0
    sizes = np.array([[len(part) for part in batches.at(step)] for step in range(batches.steps)])
    assert np.ptp(sizes[:, 0]) <= 1
    assert np.abs(sizes[:, 2] - sizes[:, 0] * share / (1 - share)).max() < 1
    assert len(slots) / len(new) == pytest.approx(share / (1 - share), rel=0.01)


def test_new_rows_have_their_share_of_the_replayed_part_uniformly() -> None:
    batches = Batches(20, np.ones(MEMORY), LONG, 1, again=0.3)
    new, again, slots = drawn(batches)
    assert len(again) / (len(again) + len(slots)) == pytest.approx(0.3)
    assert len(again) + len(slots) == len(new)
    many = Batches(20, np.ones(MEMORY), replace(LONG, replay_share=0.9, epochs=300.0), 1, again=0.3)
    _, again, slots = drawn(many)
    assert stats.chisquare(np.bincount(again, minlength=20)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(slots, minlength=MEMORY)).pvalue > 1e-3


def test_without_a_memory_batches_are_of_new_rows() -> None:
    batches = Batches(1000, np.empty(0), LONG, 1)
    assert batches.replay_share == 0
    new, again, slots = batches.at(3)
    assert (len(new), len(again), len(slots)) == (100, 0, 0)


def test_a_step_is_a_pure_function_of_seed_and_number() -> None:
    first, second = (Batches(300, np.ones(MEMORY), LONG, 1, again=0.2) for _ in range(2))
    there = [first.at(step) for step in range(20)]
    back = [second.at(step) for step in reversed(range(20))][::-1]
    for one, other in zip(there, back, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(there[0][2], Batches(300, np.ones(MEMORY), LONG, 2, again=0.2).at(0)[2])


@pytest.mark.parametrize(("most", "steps"), [(None, 7), (5, 5), (50, 7)])
def test_steps_are_those_of_the_epochs_and_at_most_the_recipes(most: int | None, steps: int) -> None:
    recipe = Recipe(batch_rows=100, replay_share=0.0, epochs=2.1, max_steps=most)
    assert Batches(300, np.empty(0), recipe, 1).steps == steps
