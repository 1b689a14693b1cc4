"""How large each step is: linear warm-up, then constant, cosine (Loshchilov and Hutter 2017, arXiv:1608.03983), or plateau.

A plateau is when the validation loss no longer falls: the step size is cut by a factor each time, so that a training
needs no horizon. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from learners.recipe import Recipe

THRESHOLD = 1e-4  # share of the lowest loss by which a loss must lie below it to count as lower
PATIENCE = 2  # judgements in a row without a lower loss that make a plateau
FLOOR = 1e-3  # smallest multiplier of the step size


def rate(recipe: Recipe, step: int, steps: int, plateau: float = 1.0) -> float:
    """Return the step size of step `step` (from 0) of `steps`.

    Parameters
    ----------
    plateau
        Multiplier that `Plateau` has arrived at; the schedules `constant` and `cosine` ignore it.
    """
    warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    decay = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
        "plateau": plateau,
    }[recipe.schedule]
    return recipe.learning_rate * warmup * decay


@dataclass(frozen=True)
class Plateau:
    """What the validation losses so far make of the step size. JSON scalars: a snapshot keeps `scalars`."""

    multiplier: float = 1.0  # of the step size
    lowest: float | None = None  # loss since the first judgement
    waited: int = 0  # judgements since the loss was lower, or since the last cut

    def judge(self, *losses: float, factor: float = 0.5, patience: int = PATIENCE) -> Plateau:
        """Return what follows after one more validation.

        Parameters
        ----------
        losses
            Mean loss on each validation set, fresh rows and retained ones, say: their mean must fall.
        factor
            By which the step size is multiplied, in (0, 1).
        patience
            Judgements in a row without a lower loss that make a plateau, at least 1.

        Raises
        ------
        ValueError
            If there is no loss, or factor or patience is out of range.
        """
        if not losses or not 0 < factor < 1 or patience < 1:
            raise ValueError(
                "plateau: give at least one loss, a factor in (0, 1) and a patience of at least 1"
            )
        loss = sum(losses) / len(losses)
        if math.isfinite(loss) and (
            self.lowest is None or self.lowest - loss > THRESHOLD * abs(self.lowest)
        ):  # a loss that is no number is not lower
            return replace(self, lowest=loss, waited=0)
        if self.waited + 1 < patience:
            return replace(self, waited=self.waited + 1)
        return replace(self, multiplier=max(self.multiplier * factor, FLOOR), waited=0)

    @property
    def scalars(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        return asdict(self)

    @classmethod
    def restore(cls, scalars: Mapping[str, Any]) -> Self:
        """Return the plateau that `scalars` described."""
        return cls(**scalars)
