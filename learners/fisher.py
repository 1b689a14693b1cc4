"""The diagonal of the Fisher information: the mean over rows of squared per-row gradients.

For a row x the model states p(y | x), and F_i = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta_i)^2, the inner mean
taken exactly (Kunstner et al. 2019, arXiv:1905.12558: neither the labels nor the square of a batch's mean gradient
give this). Classification: a mean over the predicted classes. Regression: p is Gaussian with unit variance in
standardised units, so the inner mean is (d out / d theta_i)^2.

For a linear layer out = a W' + b the per-row gradient is the outer product of delta = d score / d out and a, so the
sum of its squares is (delta^2)' (a^2): as cheap as a backward pass (Goodfellow 2015, arXiv:1510.01799). An embedding
adds delta^2 to the row it looked up. Every other parameter goes through torch.func.

Shapes: B rows of a batch, K outputs, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from learners.models.base import Inputs
from learners.schema import Task


def diagonal_fisher(model: nn.Module, inputs: Inputs, task: Task, batch_rows: int = 512) -> dict[str, Tensor]:
    """Return the diagonal Fisher information by parameter name, unnormalised.

    Parameters
    ----------
    model
        Runs in eval mode meanwhile; its mode and gradients are left as they were.
    inputs
        Arguments of `forward`, at least one row.
    task
        Kind of the outputs.
    batch_rows
        Rows per pass. Bounds memory, does not change the result.
    """
    fisher_P = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    with _evaluating(model):
        for first in range(0, len(inputs[0]), batch_rows):
            batch = tuple(tensor[first : first + batch_rows] for tensor in inputs)
            closed = _add_closed_form(model, batch, task, fisher_P)
            _add_by_vmap(model, batch, task, fisher_P, fisher_P.keys() - closed)
    return {name: total / len(inputs[0]) for name, total in fisher_P.items()}


def normalised(fisher_P: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the information scaled to trace one.

    The penalty is then lambda/2 times a weighted mean of squared weight displacements, so that one lambda means the
    same whatever the size of the network, the scale of the loss or the confidence of the model (Schwarz et al. 2018,
    arXiv:1805.06370, normalise for the same reason). Without any information it stays zero.
    """
    trace = sum(float(values.double().sum()) for values in fisher_P.values())
    return {name: values / trace for name, values in fisher_P.items()} if trace > 0 else fisher_P


def scores(out_BK: Tensor, task: Task) -> Tensor:
    """Return scores_BK whose squared gradients, summed over K, are each row's Fisher information."""
    if task == "regression":
        return out_BK
    return out_BK.softmax(dim=1).sqrt().detach() * out_BK.log_softmax(dim=1)


@dataclass
class _Call:
    """One application of a layer to a batch."""

    name: str
    layer: nn.Linear | nn.Embedding
    input: Tensor
    output: Tensor


def _add_closed_form(model: nn.Module, batch: Inputs, task: Task, fisher_P: dict[str, Tensor]) -> set[str]:
    """Add the batch's sum for linear layers and embeddings; return the parameters dealt with."""
    with torch.enable_grad(), _recording(model) as calls:
        scores_BK = scores(model(*batch), task)
    calls = [call for call in calls if _has_closed_form(call, calls)]
    if not calls:
        return set()
    for scores_B in scores_BK.unbind(dim=1):
        outputs = [call.output for call in calls]
        deltas = torch.autograd.grad(scores_B.sum(), outputs, retain_graph=True, materialize_grads=True)
        for call, delta_BO in zip(calls, deltas, strict=True):
            weight, square_BO = f"{call.name}.weight", delta_BO.square()
            if isinstance(call.layer, nn.Embedding):
                fisher_P[weight].index_add_(0, call.input, square_BO)
                continue
            if weight in fisher_P:
                fisher_P[weight].addmm_(square_BO.T, call.input.detach().square())
            if f"{call.name}.bias" in fisher_P:
                fisher_P[f"{call.name}.bias"].add_(square_BO.sum(dim=0))
    return {f"{call.name}.{kind}" for call in calls for kind in ("weight", "bias")}


def _add_by_vmap(
    model: nn.Module, batch: Inputs, task: Task, fisher_P: dict[str, Tensor], names: set[str]
) -> None:
    """Add the batch's sum for any parameter, from explicit per-row gradients."""
    if not names:
        return
    parameters = {name: p.detach() for name, p in model.named_parameters() if name in names}

    def score(parameters: dict[str, Tensor], k: Tensor, *row: Tensor) -> Tensor:
        out_1K = functional_call(model, parameters, tuple(tensor[None] for tensor in row))
        return scores(out_1K, task)[0].gather(0, k[None])[0]

    gradients: Callable[..., dict[str, Tensor]] = vmap(grad(score), in_dims=(None, None, *(0 for _ in batch)))
    with torch.no_grad():  # for all but the functional gradients
        for k in range(model(*batch).shape[1]):
            for name, gradient_BP in gradients(parameters, torch.tensor(k), *batch).items():
                fisher_P[name].add_(gradient_BP.square().sum(dim=0))


def _has_closed_form(call: _Call, calls: list[_Call]) -> bool:
    """Tell whether the layer saw each row once: no time axis, no sharing, no padding."""
    alone = sum(other.layer is call.layer for other in calls) == 1
    if isinstance(call.layer, nn.Embedding):
        trained = call.layer.weight.requires_grad and call.layer.padding_idx is None
        return alone and trained and call.input.dim() == 1 and not call.layer.scale_grad_by_freq
    return alone and call.input.dim() == 2 and call.output.requires_grad


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[_Call]]:
    """Collect the calls of linear layers and embeddings; later in-place operations work on copies."""
    calls: list[_Call] = []
    handles = []
    for name, layer in model.named_modules():
        if type(layer) not in (nn.Linear, nn.Embedding):
            continue

        def record(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> Tensor:
            assert isinstance(layer, nn.Linear | nn.Embedding)
            calls.append(_Call(name, layer, args[0], output))
            return output.clone()

        handles.append(layer.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
