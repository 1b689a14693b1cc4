"""Which weights a training ends with: the best on tune rows, else the mean of the last iterates, else the last.

The mean of the last iterates of a constant step size does what a decaying one does, without knowing the end in
advance (Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Named = Mapping[str, Tensor]


class Selection:
    """Early stopping and averaging of one training.

    Parameters
    ----------
    patience
        Epochs without a lower loss on tune rows before training stops.
    average_after
        Step after which the iterates are averaged.
    """

    def __init__(self, patience: int, average_after: int) -> None:
        self.patience, self.average_after = patience, average_after
        self.best: dict[str, Tensor] = {}  # weights of the lowest loss on tune rows
        self.average: dict[str, Tensor] = {}  # mean of the iterates so far
        self.scalars: dict[str, Any] = {"best_loss": None, "best_epoch": None, "epoch": 0}  # JSON

    @property
    def chosen(self) -> Named:
        """The weights to end with; empty means the last."""
        return self.best or self.average

    @property
    def exhausted(self) -> bool:
        """Whether the loss on tune rows stopped falling."""
        best = self.scalars["best_epoch"]
        return best is not None and self.scalars["epoch"] - best >= self.patience

    @torch.no_grad()
    def include(self, step: int, parameters: Named) -> None:
        """Take the iterate after `step` steps into the mean."""
        if step > self.average_after:
            for name, parameter in parameters.items():
                mean = self.average.setdefault(name, torch.zeros_like(parameter))
                mean.lerp_(parameter, 1 / (step - self.average_after))

    def judge(self, loss: float, parameters: Named) -> None:
        """Note the loss on tune rows at the end of an epoch; one that is not finite is never the best."""
        self.scalars["epoch"] += 1
        best = self.scalars["best_loss"]
        if math.isfinite(loss) and (best is None or loss < best):
            self.scalars.update(best_loss=loss, best_epoch=self.scalars["epoch"])
            self.best = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def restore(self, scalars: Mapping[str, Any], best: Named, average: Named) -> None:
        """Go on from a snapshot."""
        self.scalars = {name: scalars[name] for name in self.scalars}
        self.best = {name: tensor.clone() for name, tensor in best.items()}
        self.average = {name: tensor.clone() for name, tensor in average.items()}
