"""What judges the soak finds what is wrong: rollouts that took a step twice, promotions that do not follow, answers of no version."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.serving import Asked
from tests.chaos.serving_round import Fault, unexplained, wrong_answers
from tests.chaos.truths import broken_chain, illegal


def told(*kinds: str) -> list[Any]:
    return [SimpleNamespace(kind=f"rollout.{kind}", payload={"rollout": 1}) for kind in kinds]


def rollout(state: str) -> Any:
    return SimpleNamespace(id=1, version=2, state=state)


PROMOTED = SimpleNamespace(rollout_id=1)
REJECTION = SimpleNamespace(kind="rejection", version=2)
ROLLBACK = SimpleNamespace(kind="rollback", version=2)


@pytest.mark.parametrize(
    ("state", "kinds", "made", "known"),
    [
        ("shadow", ["shadow"], [], []),
        ("done", ["shadow", "held", "canary", "canary", "promoted", "done"], [PROMOTED], []),
        ("done", ["promoted", "done"], [PROMOTED], []),
        ("rejected", ["shadow", "canary", "rejected"], [], [REJECTION]),
        ("rolled_back", ["shadow", "canary", "promoted", "rolled_back"], [PROMOTED], [ROLLBACK]),
    ],
)
def test_a_rollout_on_its_way_or_at_its_end_is_legal(
    state: str, kinds: list[str], made: list[Any], known: list[Any]
) -> None:
    assert illegal([rollout(state)], told(*kinds), made, known, 2) == []


@pytest.mark.parametrize(
    ("state", "kinds", "made", "known"),
    [
        ("shadow", ["shadow", "shadow"], [], []),  # a step twice
        ("canary", ["canary"], [], []),  # a step left out
        ("canary", ["shadow", "canary", "canary", "canary"], [], []),  # a canary too many
        ("watching", ["shadow", "canary", "promoted"], [PROMOTED, PROMOTED], []),  # two promotions
        ("watching", ["shadow", "canary", "promoted"], [], []),  # none
        ("rejected", ["shadow", "rejected"], [], []),  # the ledger does not say why
        ("rejected", ["shadow", "rejected"], [], [REJECTION, REJECTION]),
        ("done", ["promoted", "rolled_back"], [PROMOTED], [ROLLBACK]),  # not what was told
    ],
)
def test_a_rollout_that_is_elsewhere_than_its_steps_lead_is_found(
    state: str, kinds: list[str], made: list[Any], known: list[Any]
) -> None:
    assert illegal([rollout(state)], told(*kinds), made, known, 2) != []


def test_two_rollouts_at_a_time_are_found() -> None:
    found = [rollout("waiting"), SimpleNamespace(id=2, version=3, state="waiting")]
    assert illegal(found, [], [], [], 2) == ["several at a time: {'waiting': 2}"]


def promotion(version: int, previous: int | None, reason: str = "better") -> Any:
    return SimpleNamespace(version=version, previous=previous, reason=reason)


def entry(kind: str, version: int, reason: str = "better") -> Any:
    return SimpleNamespace(kind=kind, version=version, reason=reason)


def test_promotions_follow_from_one_another_a_rollback_goes_to_what_was_before() -> None:
    made = [promotion(1, None), promotion(2, 1), promotion(2, 1, "rebased: x"), promotion(1, None, "worse")]
    known = [
        entry("promotion", 1),
        entry("promotion", 2),
        entry("promotion", 1, "worse"),
        entry("rollback", 2, "worse"),
    ]
    assert broken_chain(made, known) == []
    assert broken_chain(made, known[:3]) == ["version 1 follows None, but 2 was champion"]
    assert broken_chain(made[:2], known[:1]) == ["the ledger promoted [1], the rows [1, 2]"]
    assert broken_chain([promotion(1, None), promotion(1, 1)], [entry("promotion", 1)] * 2) != []


def test_an_answer_that_is_not_of_the_version_that_it_names_is_found() -> None:
    asked = Asked(answers={"a": (1, 0.5), "b": (2, 10.5)})
    assert wrong_answers(asked, {1: 0.5, 2: 10.5}) == []
    assert len(wrong_answers(asked, {1: 0.5, 2: 10.6})) == 1
    assert len(wrong_answers(asked, {1: 0.5})) == 1


@pytest.mark.parametrize(
    ("trouble", "explained"),
    [
        ((1.2, 1.3, "ConnectError"), True),
        ((1.2, 1.3, "503 not ready"), True),
        ((1.2, 1.3, "500 oops"), False),  # never
        ((3.0, 3.1, "ConnectError"), False),  # after it was back
        ((0.1, 0.2, "429 too much"), False),  # before it was killed
    ],
)
def test_only_a_killed_predictor_may_refuse_or_hang_up(
    trouble: tuple[float, float, str], explained: bool
) -> None:
    faults = [Fault("serve killed", 1.0, 2.0, killed=1.0), Fault("database away", 0.0, 0.5)]
    assert (unexplained(Asked(troubles=[trouble]), faults) == []) == explained
