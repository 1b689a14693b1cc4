"""What replayed rows count for, beside new ones.

er      their task loss                                   (experience replay; Chaudhry et al. 2019, arXiv:1902.10486)
der     the distance to the outputs stored with them      (Buzzega et al. 2020, arXiv:2004.07211, eq. 5);
        their task loss where none are
der++   both                                              (eq. 6)
a-gem   their task loss, as a bound on the step alone     (learners.agem)
gdumb   nothing: a new network learns the memory alone    (Prabhu et al. 2020; learners.learn)

A batch has three parts, in this order: n new rows, a new rows that are replayed as if they were in the memory already, and m rows
from memory. There are rows of the second kind with asymmetric cross-entropy only (Caccia et al. 2022, arXiv:2104.05025): new rows then
compete among their own classes, so that they do not push down the old ones, and learn to be told from these in the replayed part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learners.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the rows of a batch."""

    task: Tensor  # (n + a + m,)
    stored: Tensor | None  # (n + a + m,) of the distance to stored outputs


def weights(
    recipe: Recipe, parts: tuple[int, int, int], rows: int, seen: int, known_M: Tensor | None = None
) -> Weights:
    """Return what each row of a batch weighs.

    New rows and replayed ones have the weights of their numbers in the batch, or ("seen") of the `rows` that are learned and those that were
    `seen` by the memory: then the loss is the mean over all rows ever, of which the memory is a sample. A-GEM takes the two gradients apart.

    Parameters
    ----------
    parts
        n, a and m of the module's docstring.
    rows
        New rows in the whole training.
    seen
        Rows that the memory had been offered before.
    known_M
        (m,) whether a row from memory has stored outputs; None if none has any. It has none if it was learned by a recipe that does not
        store them, or was never visited, as where `max_steps` ended the training.
    """
    new, again, memory = parts
    replayed = again + memory
    task, stored = torch.full((new + replayed,), 1 / new), torch.zeros(new + replayed)
    if not replayed:
        return Weights(task, None)
    if recipe.rehearsal == "a-gem":
        task[new:] = 1 / replayed
        return Weights(task, None)
    share = seen / (seen + rows) if recipe.replay_weight == "seen" else replayed / (new + replayed)
    task[:new] = (1 - share) / new
    task[new:] = share / replayed
    if not recipe.distils or known_M is None or not memory:
        return Weights(task, None)
    if recipe.rehearsal == "der":
        task[new + again :] *= ~known_M
    stored[new + again :] = known_M * (share / memory)
    return Weights(task, stored)
