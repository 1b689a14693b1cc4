"""What each row of a batch weighs, by hand."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from learners.recipe import Recipe, Rehearsal
from learners.rehearsal import weights

Kind = Literal["batch", "seen"]
PARTS = [(6, 0, 2), (6, 3, 1), (5, 2, 7)]  # rows that are new, new in the replayed part, and from memory


def all_known(parts: tuple[int, int, int]) -> torch.Tensor:
    return torch.ones(parts[2], dtype=torch.bool)


@pytest.mark.parametrize("rehearsal", ["er", "der", "der++", "a-gem"])
def test_without_replayed_rows_it_is_the_mean_of_the_new_ones(rehearsal: Rehearsal) -> None:
    found = weights(Recipe(rehearsal=rehearsal), (8, 0, 0), 100, 300, torch.ones(0, dtype=torch.bool))
    assert found.task.tolist() == [1 / 8] * 8
    assert found.stored is None


def test_each_row_of_a_batch_weighs_the_same() -> None:
    found = weights(Recipe(), (6, 0, 2), 100, 300)
    assert found.task.tolist() == [1 / 8] * 8
    assert found.stored is None


def test_with_seen_the_loss_is_the_mean_over_all_rows_ever() -> None:
    found = weights(Recipe(replay_weight="seen"), (6, 0, 2), 100, 300)
    assert found.task.tolist() == pytest.approx([0.25 / 6] * 6 + [0.75 / 2] * 2)


def test_a_gem_has_two_means() -> None:
    found = weights(Recipe(rehearsal="a-gem"), (6, 3, 1), 100, 300)
    assert found.task.tolist() == pytest.approx([1 / 6] * 6 + [1 / 4] * 4)
    assert found.stored is None


@pytest.mark.parametrize(("kind", "replayed"), [("batch", 2 / 8), ("seen", 0.75)])
def test_der_replaces_the_task_loss_by_the_distance_and_der_plus_plus_adds_it(
    kind: Kind, replayed: float
) -> None:
    new = [(1 - replayed) / 6] * 6
    cases: list[tuple[Rehearsal, float]] = [("der", 0.0), ("der++", replayed / 2)]
    for rehearsal, task in cases:
        recipe = Recipe(rehearsal=rehearsal, replay_weight=kind)
        found = weights(recipe, (6, 0, 2), 100, 300, all_known((6, 0, 2)))
        assert found.stored is not None
        assert found.task.tolist() == pytest.approx([*new, task, task])
        assert found.stored.tolist() == pytest.approx([0.0] * 6 + [replayed / 2] * 2)


@pytest.mark.parametrize(("kind", "replayed"), [("batch", 4 / 10), ("seen", 0.75)])
def test_new_rows_in_the_replayed_part_weigh_as_it_does_and_have_no_outputs(
    kind: Kind, replayed: float
) -> None:
    parts = (6, 3, 1)
    new, again = [(1 - replayed) / 6] * 6, [replayed / 4] * 3
    cases: list[tuple[Rehearsal, float]] = [
        ("er", replayed / 4),
        ("der", 0.0),
        ("der++", replayed / 4),
    ]
    for rehearsal, last in cases:
        recipe = Recipe(rehearsal=rehearsal, replay_weight=kind)
        found = weights(recipe, parts, 100, 300, all_known(parts))
        assert found.task.tolist() == pytest.approx([*new, *again, last])
        if rehearsal == "er":
            assert found.stored is None
        else:
            assert found.stored is not None
            assert found.stored.tolist() == pytest.approx([0.0] * 9 + [replayed])


def test_der_learns_the_target_of_a_row_of_which_no_output_is_stored() -> None:
    known_M = torch.tensor([True, False, True, False])
    cases: list[tuple[Rehearsal, list[float]]] = [("der", [0.0, 0.1, 0.0, 0.1]), ("der++", [0.1] * 4)]
    for rehearsal, task in cases:
        found = weights(Recipe(rehearsal=rehearsal), (6, 0, 4), 100, 300, known_M)
        assert found.stored is not None
        assert found.task.tolist() == pytest.approx([0.1] * 6 + task)
        assert found.stored.tolist() == pytest.approx([0.0] * 6 + [0.1, 0.0, 0.1, 0.0])


def test_without_any_stored_output_der_is_experience_replay() -> None:
    for known_M in (None, torch.zeros(2, dtype=torch.bool)):
        found = weights(Recipe(rehearsal="der"), (6, 0, 2), 100, 300, known_M)
        assert found.task.tolist() == weights(Recipe(), (6, 0, 2), 100, 300).task.tolist()
        assert found.stored is None or not found.stored.any()


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", ["batch", "seen"])
@pytest.mark.parametrize("rehearsal", ["er", "der++", "der"])
def test_weights_sum_to_one(rehearsal: Rehearsal, kind: Kind, parts: tuple[int, int, int]) -> None:
    recipe = Recipe(rehearsal=rehearsal, replay_weight=kind)
    known = torch.zeros(parts[2], dtype=torch.bool) if rehearsal == "der" else all_known(parts)
    assert weights(recipe, parts, 100, 300, known).task.sum().item() == pytest.approx(1)
