"""What a recipe may say: the range of each field, and fields that exclude each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

if TYPE_CHECKING:
    from learners.recipe import Recipe


# What only the weights of a parent give a meaning to.
_OF_A_PARENT = (
    "ewc_lambda",
    "si_lambda",
    "lwf_lambda",
    "freeze",
    "keep_optimizer",
    "fresh",
    "adapt",
    "recency_rows",
)


class Range(NamedTuple):
    """What a field may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def check(recipe: Recipe) -> None:
    """Raise `ValueError`, naming the field, if a recipe is none."""
    for field, allowed in RANGES.items():
        value = getattr(recipe, field)
        if not allowed.holds(value):
            raise ValueError(f"recipe: {field} must be {allowed.words}, not {value!r}")
    for field, choices in _choices().items():
        value = getattr(recipe, field)
        if value not in choices:
            raise ValueError(f"recipe: {field} must be one of {', '.join(choices)}, not {value!r}")
    for reason, together in _contradictions(recipe):
        if together:
            raise ValueError(f"recipe: {reason}")


def misfits(recipe: Recipe, task: str) -> Iterator[tuple[str, str]]:
    """Yield each field that a task does not allow, and why: a training with it would fail."""
    classes = task == "classification"
    if recipe.loss != "auto" and (recipe.loss == "cross_entropy") != classes:
        fitting = "'cross_entropy'" if classes else "'l1', 'huber', 'mse'"
        yield "loss", f"recipe: loss {recipe.loss!r} does not fit a {task}: use {fitting} or 'auto'"
    if recipe.memory_balance == "class" and not classes:
        yield (
            "memory_balance",
            "recipe: memory_balance 'class' needs classes: use 'regime' or 'none' for a regression",
        )


def _contradictions(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """Yield what excludes each other, and whether a recipe asks for it."""
    mixes = recipe.mixup > 0 or recipe.cutmix > 0
    asks_outputs = recipe.distils or recipe.lwf_lambda > 0 or recipe.class_mask == "ace"
    yield "mixup and cutmix exclude each other: set one of them to 0", recipe.mixup > 0 and recipe.cutmix > 0
    yield (
        "mixup and cutmix do not go with der, lwf_lambda or class_mask: no outputs are known of mixtures",
        mixes and asks_outputs,
    )
    yield (
        "compile and checkpoint_activations exclude each other: set one of them to false",
        recipe.compile and recipe.checkpoint_activations,
    )
    apart = recipe.rehearsal == "a-gem"
    yield (
        "mixup and cutmix do not go with rehearsal 'a-gem', which takes new and replayed rows apart",
        apart and mixes,
    )
    yield (
        "replay_weight 'seen' does not go with rehearsal 'a-gem', which weighs no replayed rows",
        apart and recipe.replay_weight == "seen",
    )
    anew = recipe.rehearsal == "gdumb"
    yield (
        "rehearsal 'gdumb' learns from the memory alone: memory_rows must be above 0",
        anew and not recipe.memory_rows,
    )
    kept = [name for name in _OF_A_PARENT if getattr(recipe, name)]
    yield f"rehearsal 'gdumb' learns new weights: {' and '.join(kept)} must be off", anew and bool(kept)


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """Return the values of the fields that are one of a few words."""
    from learners.recipe import Recipe

    hints = get_type_hints(Recipe)
    return {
        field: words
        for field, hint in hints.items()
        if (words := get_args(hint)) and isinstance(words[0], str)
    }


def _number(low: float, high: float = math.inf) -> Range:
    most = "" if high == math.inf else f" and at most {high:g}"
    return Range(
        f"a number of at least {low:g}{most}",
        lambda value: _is_number(value) and low <= value <= high and value < math.inf,
    )


def _above(low: float, high: float) -> Range:
    return Range(
        f"a number above {low:g} and at most {high:g}",
        lambda value: _is_number(value) and low < value <= high,
    )


def _whole(low: int) -> Range:
    return Range(
        f"a whole number of at least {low}",
        lambda value: _is_number(value) and isinstance(value, Integral) and int(value) >= low,
    )


def _or_none(allowed: Range) -> Range:
    return Range(f"None or {allowed.words}", lambda value: value is None or allowed.holds(value))


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real)


_SWITCH = Range("true or false", lambda value: isinstance(value, bool))

RANGES: dict[str, Range] = {
    "learning_rate": _above(0, 1),
    "batch_rows": _whole(2),
    "accumulate": _whole(1),
    "epochs": _above(0, 10_000),
    "max_steps": _or_none(_whole(1)),
    "warmup_steps": _whole(0),
    "layerwise": _number(0, 1),
    "weight_decay": _number(0, 1),
    "clip_norm": _number(0),
    "keep_optimizer": _SWITCH,
    "checkpoint_activations": _SWITCH,
    "compile": _SWITCH,
    "balance_classes": _number(0, 1),
    "augment": _SWITCH,
    "mixup": _number(0, 100),
    "cutmix": _number(0, 100),
    "patience": _whole(0),
    "average_share": _number(0, 1),
    "replay_share": _number(0, 0.95),
    "distil_weight": _number(0, 1e6),
    "recency_rows": _or_none(_above(0, 1e15)),
    "memory_rows": _whole(0),
    "memory_bytes": _or_none(_whole(1)),
    "memory_disk": _SWITCH,
    "ewc_lambda": _number(0, 1e12),
    "fisher_rows": _whole(1),
    "fisher_decay": _number(0, 1),
    "consolidate_every": _whole(0),
    "si_lambda": _number(0, 1e12),
    "si_damping": _above(0, 1e6),
    "lwf_lambda": _number(0, 1e6),
    "lwf_temperature": _above(0, 100),
    "freeze": _number(0, 1e6),
    "fresh": _SWITCH,
    "adapt": _SWITCH,
    "widest": _whole(0),
}
