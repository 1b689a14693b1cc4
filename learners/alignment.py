"""Gradient alignment: whether learning new rows helps or harms what is known, before a step is taken.

With g the mean gradient of the loss on new rows and h that on rows in memory, a small step along -g changes the memory's loss by
-g.h: transfer if g.h > 0, interference if g.h < 0 (Riemer et al. 2019, arXiv:1810.11910, eq. 3 and 4). In memory lie rows that
were learned, so h is small and a sample's |h|^2 is mostly noise. The rows are therefore cut into parts, whose mean gradients g_a
and h_b are independent: means over pairs of different parts have the right expectation,

    g.h = mean_ab g_a.h_b        |g|^2 = mean_(a != a') g_a.g_a'        |h|^2 = mean_(b != b') h_b.h_b'

and where |g|^2 or |h|^2 is not above zero there is no direction to compare: the weights are an optimum of these rows. The standard
error is that of a mean over both kinds of parts, (var_a mean_b + var_b mean_a) / A; it is on the safe side near cosines of one, where the
norms vary with the product. All that costs a forward and a backward pass of
at most twice `ROWS` rows.

Shapes: A parts of each kind, P parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from learners.encoded import Encoded
from learners.losses import RowLoss, row_loss
from learners.memory import Memory
from learners.models.base import Inputs, Model
from learners.recipe import Recipe
from learners.seeds import ALIGN, generator
from learners.similarity import Alignment

ROWS = 512  # of each kind, at most
PARTS = 8  # that they are cut into
REGIMES = 8  # of which cosines of their own are known, at most
LEAST = 2 * PARTS  # rows below which no direction is looked for


def measure(
    model: Model,
    new: Encoded,
    memory: Memory,
    recipe: Recipe,
    seed: int,
    by_regime: bool = False,
) -> Alignment | None:
    """Compare the gradients of new rows and of rows in memory, at the weights as they are.

    Parameters
    ----------
    model
        Is asked in eval mode; mode and gradients are left as they were.
    new, memory
        New rows, and those that were learned. Of more than `ROWS` a random sample is taken; with less than `LEAST` of a kind
        there are losses, but no cosine.
    recipe
        Whose loss counts.
    seed
        Of the samples.
    by_regime
        Whether the memory's strata are regimes. The `REGIMES` with most rows in the sample are then compared one by one.

    Returns
    -------
    Alignment | None
        Losses in the units of the train loss. None where one is not finite: the training will say in which batch.
    """
    random = generator(seed, ALIGN)
    chosen, kept = (torch.from_numpy(random.permutation(len(rows))[:ROWS]) for rows in (new, memory))
    loss = row_loss(recipe.loss, model.schema.task)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    try:
        new_loss, new_AP = _gradients(model, parameters, loss, new.inputs, new.target, chosen)
        if not math.isfinite(new_loss):
            return None
        constant = constant_loss(loss, new.target[chosen], model.schema.outputs)
        if not len(kept):
            return Alignment(new_loss, constant, rows=len(chosen))
        memory_loss, memory_AP = _gradients(model, parameters, loss, memory.inputs, memory.target, kept)
        cosine, error = _cosine(new_AP, memory_AP)
        regimes = _regimes(memory.stratum[kept]) if by_regime else {}
        alone = {}
        for name, mine in regimes.items():
            _, own_AP = _gradients(model, parameters, loss, memory.inputs, memory.target, kept[mine])
            alone[name] = _cosine(new_AP, own_AP)[0]
    finally:
        model.train(was_training)
    rows = len(chosen) + len(kept) + sum(map(len, regimes.values()))
    known = {name: value for name, value in alone.items() if value is not None}
    return Alignment(new_loss, constant, memory_loss, cosine, error, known, rows)


def constant_loss(loss: RowLoss, target_N: Tensor, outputs: int) -> float:
    """Return the mean loss of the best constant output: class frequencies, or the median."""
    if target_N.is_floating_point():
        out_K = target_N.median().reshape(1)
    else:
        out_K = (torch.bincount(target_N, minlength=outputs) / len(target_N)).log()
    return loss(out_K.expand(len(target_N), -1), target_N).mean().item()


def _gradients(
    model: Model, parameters: Sequence[Tensor], loss: RowLoss, inputs: Inputs, target: Tensor, index: Tensor
) -> tuple[float, Tensor]:
    """Return the mean loss of the rows at `index`, and the (A, P) mean gradients of their parts; no part without `LEAST` rows."""
    parts = index.tensor_split(PARTS) if len(index) >= LEAST else (index,)
    total, gradients, device = 0.0, [], parameters[0].device
    for part in parts:
        out_BK = model(*(tensor[part].to(device) for tensor in inputs))
        mean = loss(out_BK, target[part].to(device)).mean()
        total += mean.item() * len(part)
        if len(parts) > 1:
            found = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return total / len(index), torch.stack(gradients) if gradients else torch.empty(0, 0)


def _cosine(new_AP: Tensor, memory_AP: Tensor) -> tuple[float | None, float | None]:
    """Return the cosine between the two mean gradients and its standard error, without the noise of the parts."""
    if not (len(new_AP) and len(memory_AP)):
        return None, None
    dot_AA = (new_AP @ memory_AP.T).double()
    scale = math.sqrt(max(_square(new_AP), 0.0) * max(_square(memory_AP), 0.0))
    if not (scale > 0 and math.isfinite(scale)):
        return None, None
    variance = (dot_AA.mean(dim=1).var() + dot_AA.mean(dim=0).var()) / PARTS
    cosine = dot_AA.mean().item() / scale
    return min(max(cosine, -1.0), 1.0), math.sqrt(variance.item()) / scale


def _square(gradient_AP: Tensor) -> float:
    """Return the squared norm of the mean gradient, without the noise of the parts."""
    dot_AA = (gradient_AP @ gradient_AP.T).double()
    parts = len(gradient_AP)
    return ((dot_AA.sum() - dot_AA.trace()) / (parts * (parts - 1))).item()


def _regimes(regime_M: Tensor) -> dict[int, Tensor]:
    """Return which rows are of each of the regimes with most rows, of those with enough."""
    counts = Counter(regime_M.tolist()).most_common(REGIMES)
    return {name: (regime_M == name).nonzero()[:, 0] for name, rows in counts if rows >= LEAST}
