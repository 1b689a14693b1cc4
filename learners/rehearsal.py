"""What replayed rows count for, beside new ones. Shapes: n new and m replayed rows of a batch.

er      their task loss                                   (experience replay; Chaudhry et al. 2019, arXiv:1902.10486)
der     the distance to the outputs stored with them      (Buzzega et al. 2020, arXiv:2004.07211, eq. 5)
der++   both                                              (eq. 6)
a-gem   their task loss, as a bound on the step alone     (learners.agem)
gdumb   nothing: a new network learns the memory alone    (Prabhu et al. 2020; learners.learn)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the rows of a batch, new ones first."""

    task: Tensor  # (n + m,)
    stored: Tensor | None  # (n + m,) of the distance to stored outputs


def weights(recipe: Recipe, new: int, replayed: int, rows: int, seen: int) -> Weights:
    """Return what each row of a batch of `new` and `replayed` rows weighs.

    The two parts have the weights of their sizes in the batch, or ("seen") of the `rows` that are learned and those that were `seen` by
    the memory: then the loss is the mean over all rows ever, of which the memory is a sample. A-GEM takes the two gradients apart.

    Parameters
    ----------
    rows
        New rows in the whole training.
    seen
        Rows that the memory had been offered before.
    """
    task, stored = torch.full((new + replayed,), 1 / new), torch.zeros(new + replayed)
    if not replayed:
        return Weights(task, None)
    if recipe.rehearsal == "a-gem":
        task[new:] = 1 / replayed
        return Weights(task, None)
    share = seen / (seen + rows) if recipe.replay_weight == "seen" else replayed / (new + replayed)
    task[:new] = (1 - share) / new
    task[new:] = 0.0 if recipe.rehearsal == "der" else share / replayed
    if recipe.rehearsal not in ("der", "der++"):
        return Weights(task, None)
    stored[new:] = share / replayed
    return Weights(task, stored)
