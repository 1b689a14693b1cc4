"""What is said of recipes that cannot work, and that nothing is said of those that can."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from learners.advice import cannot_work
from learners.recipe import RECIPES, Recipe
from learners.schema import Schema

CLASSES = Schema(("x",), task="classification", classes=("a", "b"))
NUMBER = Schema(("x",))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("schema", [CLASSES, NUMBER], ids=["classification", "regression"])
def test_every_named_recipe_works_while_the_classes_stay(name: str, schema: Schema) -> None:
    assert cannot_work(RECIPES[name], schema) == []


@pytest.mark.parametrize("name", RECIPES)
def test_new_classes_need_old_rows(name: str) -> None:
    alone = {"ewc": "ewc_lambda", "si": "si_lambda", "lwf": "lwf_lambda"}
    said = cannot_work(RECIPES[name], CLASSES, new_classes=True)
    assert len(said) == (name in alone)
    assert all(alone[name] in text and "memory_rows" in text for text in said)


def test_all_that_protects_alone_is_named() -> None:
    recipe = replace(RECIPES["ewc"], si_lambda=1.0, freeze=2.0)
    (said,) = cannot_work(recipe, CLASSES, new_classes=True)
    assert said.startswith("ewc_lambda and si_lambda and freeze alone")
    no_replay = replace(RECIPES["ewc+replay"], replay_share=0.0)
    assert "Set memory_rows and replay_share" in cannot_work(no_replay, CLASSES, new_classes=True)[0]


@pytest.mark.parametrize("name", ["der", "der++", "a-gem"])
@pytest.mark.parametrize("field", ["memory_rows", "replay_share"])
def test_rehearsal_needs_rows_and_a_share(name: str, field: str) -> None:
    nothing: dict[str, Any] = {field: 0}
    (said,) = cannot_work(replace(RECIPES[name], **nothing), NUMBER)
    assert repr(name) in said
    assert f"{field} 0" in said


def test_classes_that_are_masked_need_old_rows() -> None:
    (said,) = cannot_work(replace(RECIPES["naive"], class_mask="ace"), CLASSES)
    assert "class_mask" in said


@pytest.mark.parametrize(
    "changes", [{"ewc_lambda": 1.0}, {"freeze": 1.0}, {"memory_rows": 9, "replay_share": 0.5}]
)
def test_fresh_weights_have_nothing_to_stay_with(changes: dict[str, Any]) -> None:
    (said,) = cannot_work(replace(RECIPES["retrain"], **changes), NUMBER, new_classes=True)
    assert "fresh" in said
    assert [*changes][-1] in said


def test_a_regression_has_no_classes() -> None:
    recipe = replace(Recipe(), balance_classes=0.5, class_mask="ace")
    assert [text.split()[0] for text in cannot_work(recipe, NUMBER)] == [
        "balance_classes",
        "class_mask",
    ]
    assert cannot_work(recipe, CLASSES) == []


def test_adapting_needs_something_that_is_kept() -> None:
    (said,) = cannot_work(replace(RECIPES["naive"], adapt=True), NUMBER)
    assert said.startswith("adapt ")
    for name in ("replay", "ewc", "si", "lwf"):
        assert cannot_work(replace(RECIPES[name], adapt=True), NUMBER) == []


def test_is_free_of_torch() -> None:
    code = "import sys, learners.advice; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
