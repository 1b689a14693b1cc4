"""Configuration values refuse nonsense, naming field and range; they and the registry need no torch."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from learners import recipes
from learners.errors import UnknownModelError
from learners.models.registry import address, load
from learners.models.tabular import TabularNetwork
from learners.models.tabular_config import TabularConfig
from learners.recipe import RECIPES, Recipe
from learners.recipes import known
from learners.schedule import rate
from learners.schema import Schema


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("batch_rows", 1),
        ("batch_rows", 2.5),
        ("epochs", 0),
        ("max_steps", 0),
        ("schedule", "linear"),
        ("loss", "hinge"),
        ("average_share", 1.5),
        ("replay_share", 1.0),
        ("recency_rows", 0.0),
        ("memory_rows", -1),
        ("ewc_lambda", float("inf")),
        ("fisher_rows", 0),
        ("fisher_decay", 1.1),
        ("patience", True),
        ("fresh", 1),
    ],
)
def test_a_recipe_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"recipe: {field} must be"):
        replace(Recipe(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", ()),
        ("hidden", (0,)),
        ("numeric_embedding", "spline"),
        ("embedding_max", 0),
        ("dropout", 1.0),
    ],
)
def test_a_network_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"model: {field} must be"):
        replace(TabularConfig(), **{field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"numeric": ()},
        {"numeric": ("a", "a")},
        {"numeric": ("a",), "classes": ("x", "y")},
        {"numeric": ("a",), "task": "classification", "classes": ("x",)},
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        Schema(**fields)


def test_rates_warm_up_and_decay() -> None:
    recipe = Recipe(learning_rate=1.0, warmup_steps=3, schedule="cosine")
    rates = [rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == 0.25
    assert max(rates) == pytest.approx(1.0, rel=0.01)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.001


def test_recipes_by_name() -> None:
    assert RECIPES["ewc+replay"] == Recipe()
    assert [name for name, recipe in RECIPES.items() if recipe.fresh] == ["retrain"]
    penalised = {name for name, recipe in RECIPES.items() if recipe.ewc_lambda}
    assert penalised == {"ewc+replay", "auto", "ewc"}
    rehearsing = {name: recipe.rehearsal for name, recipe in RECIPES.items() if recipe.rehearsal != "er"}
    assert rehearsing == {name: name for name in ("der", "der++", "a-gem", "gdumb")}
    assert all(RECIPES[name].memory_rows for name in rehearsing)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mixup": 0.2, "cutmix": 0.2}, "mixup and cutmix"),
        ({"mixup": 0.2, "rehearsal": "der"}, "mixup and cutmix"),
        ({"compile": True, "checkpoint_activations": True}, "checkpoint_activations"),
        ({"rehearsal": "a-gem", "mixup": 0.2}, "'a-gem', which takes new and replayed rows apart"),
        ({"rehearsal": "a-gem", "replay_weight": "seen"}, "weighs no replayed rows"),
        ({"rehearsal": "gdumb", "ewc_lambda": 1.0, "adapt": True}, "ewc_lambda and adapt must be off"),
        ({"rehearsal": "gdumb", "ewc_lambda": 0.0, "fresh": True}, "fresh must be off"),
        ({"rehearsal": "gdumb", "memory_rows": 0}, "memory_rows"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Recipe(**fields)


def test_recipes_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def brought(value: object) -> Any:
        return lambda group: [SimpleNamespace(name=name, load=lambda: value) for name in ("mine", "naive")]

    known.cache_clear()
    monkeypatch.setattr(recipes, "entry_points", brought(Recipe(epochs=7.0)))
    assert known()["mine"].epochs == 7.0
    assert known()["naive"] == RECIPES["naive"]
    known.cache_clear()
    monkeypatch.setattr(recipes, "entry_points", brought({"epochs": 7.0}))
    with pytest.raises(TypeError, match=r"'mine' of cls\.recipes must be"):
        known()
    monkeypatch.undo()
    known.cache_clear()


def test_models_by_name() -> None:
    assert load("tabular") is TabularNetwork
    assert address("mine", {"mine": "my.package:Net"}) == "my.package:Net"
    assert address("tabular", {"tabular": "evil:Net"}) == "learners.models.tabular:TabularNetwork"
    with pytest.raises(UnknownModelError, match="did you mean 'tabular'"):
        load("tabluar")


def test_configuration_is_checked_without_torch() -> None:
    modules = "recipe", "schema", "errors", "rows", "models.tabular_config", "models.registry"
    code = (
        ";".join(f"import learners.{module}" for module in modules)
        + ";import sys;assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
