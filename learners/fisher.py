"""The diagonal of the Fisher information: the mean over rows of squared per-row gradients.

For a row x the model states p(y | x), and F_i = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta_i)^2. Regression: p is
Gaussian with unit variance in standardised units. The inner mean is taken

- exactly: over the predicted classes; for regression it is (d out / d theta_i)^2, summed over outputs;
- sampled: at one label per row, drawn from the model. Unbiased, one backward pass whatever the number of classes;
- empirically: at the given labels. Cheap, but not the Fisher information: it also measures how wrong the model is
  (Kunstner et al. 2019, arXiv:1905.12558).

Rows are squared one by one: the square of a batch's mean gradient would depend on the batch and vanish at an optimum.
How is in `learners.fisher_rows`.

Shapes: B rows of a batch, N rows, K outputs, S scores, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from learners.fisher_layers import recorded
from learners.fisher_rows import add_by_vmap, add_closed_form, layers_in_closed_form
from learners.models.base import Inputs
from learners.schema import Task
from learners.seeds import FISHER, generator

Kind = Literal["exact", "sampled", "empirical"]

_LABELS = 1  # stream of random numbers, beside that of the choice of rows


def diagonal_fisher(
    model: nn.Module,
    inputs: Inputs,
    task: Task,
    kind: Kind = "exact",
    target: Tensor | None = None,
    batch_rows: int = 256,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the diagonal Fisher information by parameter name, unnormalised, of what requires gradients.

    Parameters
    ----------
    model
        Runs in eval mode meanwhile; its modes and gradients are left as they were. No row's output may depend on
        other rows.
    inputs
        Arguments of `forward`, at least one row.
    task
        Kind of the outputs.
    kind
        How the mean over labels is taken, see above.
    target
        (N,) class indices or standardised targets; read by "empirical" alone.
    batch_rows
        Rows per pass. Bounds memory, does not change the result.
    seed
        Of the labels of "sampled".

    Raises
    ------
    ValueError
        If "empirical" is asked for without targets.
    """
    if kind == "empirical" and target is None:
        raise ValueError("fisher: kind 'empirical' needs target, the labels of the rows")
    total_P = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    rows, random = len(inputs[0]), generator(seed, FISHER, _LABELS)
    score = partial(scores, task=task)
    with _evaluating(model), torch.enable_grad():
        layers = layers_in_closed_form(model, _probe(inputs, batch_rows), score, total_P)
        for first in range(0, rows, batch_rows):
            batch = tuple(tensor[first : first + batch_rows] for tensor in inputs)
            with recorded(model) as calls:
                out_BK = model(*batch)
            label_B = None
            if kind == "sampled":
                label_B = drawn(out_BK.detach(), task, random)
            elif kind == "empirical" and target is not None:
                label_B = target[first : first + batch_rows]
            closed = add_closed_form(layers, calls, score(out_BK, label_B=label_B), total_P)
            add_by_vmap(model, batch, label_B, score, total_P, total_P.keys() - closed)
    return {name: values / rows for name, values in total_P.items()}


def normalised(fisher_P: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the information scaled to a mean of one over all weights.

    Unscaled it is in nats per row: it vanishes as a model becomes confident, so that lambda would follow the number of
    epochs and classes. Of trace one (Schwarz et al. 2018, arXiv:1805.06370), it spreads over all P weights, and each is
    pulled less the more there are. Yet a step of Adam moves each weight by the step size, whatever its gradient and
    however many there are: what must stay the same is the pull on a weight, and lambda w_i (theta_i - theta*_i) of
    mean w one does so. Over 37 pairs of tasks (five data sets, widths 32 to 400, 2 to 12 epochs) one lambda, 0.2, then
    kept 77% of what each pair's own best lambda gains over none; 54% in nats, 53% with maximum one, 51% with trace one.

    Without any information it stays zero.
    """
    total = sum(float(values.double().sum()) for values in fisher_P.values())
    mean = total / max(1, sum(values.numel() for values in fisher_P.values()))
    return {name: values / mean if mean > 0 else values for name, values in fisher_P.items()}


def scores(out_BK: Tensor, task: Task, label_B: Tensor | None = None) -> Tensor:
    """Return scores_BS whose squared gradients, summed over S, are each row's information.

    Without labels the mean over them is exact; with labels the only score is their log-likelihood.
    """
    if label_B is None:
        if task == "regression":
            return out_BK
        return out_BK.softmax(dim=1).sqrt().detach() * out_BK.log_softmax(dim=1)
    if task == "regression":
        return -(out_BK - label_B.reshape(out_BK.shape)).square().sum(dim=1, keepdim=True) / 2
    return out_BK.log_softmax(dim=1).gather(1, label_B[:, None])


def drawn(out_BK: Tensor, task: Task, random: np.random.Generator) -> Tensor:
    """Return a label per row, drawn from the model. Row after row, so that batches draw what the whole would."""
    if task == "regression":
        return out_BK + torch.from_numpy(random.standard_normal(tuple(out_BK.shape))).to(out_BK)
    uniform_B1 = torch.from_numpy(random.random((len(out_BK), 1))).to(out_BK.device)
    cumulative_BK = out_BK.double().softmax(dim=1).cumsum(dim=1)
    return (cumulative_BK < uniform_B1).sum(dim=1).clamp_max(out_BK.shape[1] - 1)


def _probe(inputs: Inputs, batch_rows: int) -> Inputs:
    """Return a few rows; as many as no batch has, so that a time axis is not taken for the rows of every batch."""
    sizes = {batch_rows, len(inputs[0]), len(inputs[0]) % batch_rows}
    count = next(count for count in range(2, 6) if count not in sizes)
    index = torch.arange(count) % len(inputs[0])
    return tuple(tensor[index] for tensor in inputs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
