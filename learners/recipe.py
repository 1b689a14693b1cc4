"""How to learn: one frozen value. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

Loss = Literal["auto", "l1", "huber", "mse", "cross_entropy"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides its rows, its seed and its parent.

    Raises
    ------
    ValueError
        Naming the field and the range that it must lie in.
    """

    learning_rate: float = 2e-3  # peak step size of AdamW
    batch_rows: int = 128  # rows per step, new and replayed together
    epochs: float = 3.0  # passes over the new rows
    max_steps: int | None = None  # upper bound on optimiser steps; None = as epochs say
    schedule: Literal["constant", "cosine"] = "constant"  # of the step size, after warm-up
    warmup_steps: int = 10  # steps of linear warm-up, as Adam's first are of full size; a shorter training stays below the peak
    weight_decay: float = 0.0  # decoupled, per unit of step size
    clip_norm: float = 1.0  # largest norm of the gradient; 0 = do not clip
    loss: Loss = "auto"  # auto: cross-entropy for classes, absolute error otherwise
    patience: int = 0  # epochs without a better loss on tune rows before stopping; 0 = never stop early
    average_share: float = 0.5  # the last share of the steps whose iterates are averaged; 0 = last iterate

    replay_share: float = 0.5  # share of each batch drawn from memory, once there is one
    memory_rows: int = 20_000  # rows that the memory holds at most; 0 = no memory
    recency_rows: float | None = None  # half-life, in positions, of a row's chance of replay; None = uniform

    ewc_lambda: float = 100.0  # weight of the penalty, see learners.ewc; 0 = none
    fisher_rows: int = 512  # rows that the Fisher information is estimated on
    fisher_decay: float = 0.9  # what remains of the old Fisher information at each consolidation (gamma)

    fresh: bool = False  # start from new weights and preprocessing instead of the parent's

    def __post_init__(self) -> None:
        for field, allowed, holds in _RANGES:
            value = getattr(self, field)
            if not holds(value):
                raise ValueError(f"recipe: {field} must be {allowed}, not {value!r}")

    def rate(self, step: int, steps: int) -> float:
        """Return the step size of step `step` (from 0) of `steps`."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * warmup * decay


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[Any], bool]:
    return lambda value: (low < value if above else low <= value) and value <= high and not _is_bool(value)


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not _is_bool(value) and value >= low


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


_RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("learning_rate", "above 0 and at most 1", _number(0, 1, above=True)),
    ("batch_rows", "a whole number of at least 2", _whole(2)),
    ("epochs", "above 0 and at most 10000", _number(0, 10_000, above=True)),
    ("max_steps", "None or a whole number of at least 1", lambda value: value is None or _whole(1)(value)),
    ("schedule", "'constant' or 'cosine'", lambda value: value in ("constant", "cosine")),
    ("warmup_steps", "a whole number of at least 0", _whole(0)),
    ("weight_decay", "between 0 and 1", _number(0, 1)),
    ("clip_norm", "at least 0", _number(0)),
    (
        "loss",
        "one of auto, l1, huber, mse, cross_entropy",
        lambda value: value in ("auto", "l1", "huber", "mse", "cross_entropy"),
    ),
    ("patience", "a whole number of at least 0", _whole(0)),
    ("average_share", "between 0 and 1", _number(0, 1)),
    ("replay_share", "between 0 and 0.95", _number(0, 0.95)),
    ("memory_rows", "a whole number of at least 0", _whole(0)),
    ("recency_rows", "None or above 0", lambda value: value is None or _number(0, above=True)(value)),
    ("ewc_lambda", "at least 0 and finite", _number(0, 1e12)),
    ("fisher_rows", "a whole number of at least 1", _whole(1)),
    ("fisher_decay", "between 0 and 1", _number(0, 1)),
    ("fresh", "true or false", _is_bool),
)

_DEFAULT = Recipe()

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "ewc+replay": _DEFAULT,
        "naive": replace(_DEFAULT, ewc_lambda=0.0, replay_share=0.0, memory_rows=0),
        "replay": replace(_DEFAULT, ewc_lambda=0.0),
        "ewc": replace(_DEFAULT, ewc_lambda=1000.0, replay_share=0.0, memory_rows=0),
        "retrain": replace(
            _DEFAULT,
            ewc_lambda=0.0,
            replay_share=0.0,
            memory_rows=0,
            fresh=True,
            epochs=20.0,
            schedule="cosine",
            average_share=0.0,
        ),
    }
)
"""Recipes by name. Override fields with `dataclasses.replace`."""
