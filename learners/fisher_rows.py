"""Sums over a batch of squared per-row gradients: in closed form where that holds, by torch.func where not.

Whether a closed form (`learners.fisher_layers`) holds is not assumed: on a few rows its gradients must add up to
autograd's. That leaves to torch.func layers with rows and time in one dimension, weights shared between layers or used by
functions, and parameters of no known layer.

Shapes: B rows of a batch, K outputs, S scores, T positions, C channels, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from learners.fisher_layers import CHUNK, Call, positions, recorded, squares
from learners.models.base import Inputs

Description = tuple[tuple[object, ...], ...]  # of a network: its modules, its weights, and what it reads

# Names of the layers whose closed form was proven, while the network is as described.
_PROVEN: WeakKeyDictionary[nn.Module, tuple[Description, tuple[str, ...]]] = WeakKeyDictionary()


class Score(Protocol):
    """What is differentiated: scores of each row's outputs, and of its label, if there is one."""

    def __call__(self, out_BK: Tensor, *, label_B: Tensor | None = None) -> Tensor:
        """Return scores_BS."""


def add_closed_form(
    layers: Mapping[str, nn.Module],
    calls: Mapping[str, list[Call]],
    scores_BS: Tensor,
    total_P: dict[str, Tensor],
) -> set[str]:
    """Add the batch's sum for those of the layers that were called; return the parameters dealt with."""
    layers = {name: layer for name, layer in layers.items() if name in calls}
    if not layers:
        return set()
    parts = {name: squares(layer, calls[name]) for name, layer in layers.items()}
    for scores_B in scores_BS.unbind(dim=1):
        received = _received(scores_B.sum(), layers, calls)
        for name, delta_BTC in received.items():
            for part in parts[name].values():
                part.add(delta_BTC)
    sums = {
        f"{name}.{kind}": part.total() for name, by_kind in parts.items() for kind, part in by_kind.items()
    }
    for name, values in sums.items():
        total_P[name] += values.reshape(total_P[name].shape)
    return set(sums)


def _received(
    total: Tensor, layers: Mapping[str, nn.Module], calls: Mapping[str, list[Call]]
) -> dict[str, Tensor]:
    """Return delta_BTC = d score / d output of each layer."""
    outputs = [call.output for name in layers for call in calls[name]]
    deltas = iter(torch.autograd.grad(total, outputs, retain_graph=True, materialize_grads=True))
    return {name: positions(layer, [next(deltas) for _ in calls[name]]) for name, layer in layers.items()}


def add_by_vmap(
    model: nn.Module,
    batch: Inputs,
    label_B: Tensor | None,
    score: Score,
    total_P: dict[str, Tensor],
    names: set[str],
) -> None:
    """Add the batch's sum for any parameter, from explicit per-row gradients of every score."""
    if not names:
        return
    parameters = {name: p.detach() for name, p in model.named_parameters() if name in names}

    def squared(*row: Tensor) -> dict[str, Tensor]:
        one = tuple(tensor[None] for tensor in row)

        def scores_of(parameters: dict[str, Tensor]) -> Tensor:
            out_1K = functional_call(model, parameters, one[: len(batch)])
            return score(out_1K, label_B=one[len(batch)] if label_B is not None else None)[0]

        scores_S, pull, *_ = vjp(scores_of, parameters)
        (gradients_SP,) = vmap(pull)(torch.eye(len(scores_S)).to(scores_S))
        return {name: gradient_SP.square().sum(dim=0) for name, gradient_SP in gradients_SP.items()}

    # No gradients but the functional ones, and of attention the form that can be mapped over rows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = model(*(tensor[:1] for tensor in batch)).shape[1] if label_B is None else 1
        size = outputs * sum(p.numel() for p in parameters.values())
        rows = batch if label_B is None else (*batch, label_B)
        for name, squares_BP in vmap(squared, chunk_size=max(1, CHUNK // size))(*rows).items():
            total_P[name] += squares_BP.sum(dim=0)


def layers_in_closed_form(
    model: nn.Module, probe: Inputs, score: Score, trained: Mapping[str, Tensor]
) -> dict[str, nn.Module]:
    """Return, by name, the layers whose closed-form gradients add up to those of autograd.

    That is a property of the network, not of its weights: what was proven of it is remembered, unless a gradient vanished.
    """
    described = _described(model, probe, trained)
    known = _PROVEN.get(model)
    if known is not None and known[0] == described:
        return {name: model.get_submodule(name) for name in known[1]}
    with recorded(model) as calls:
        scores_BS = score(model(*probe))
    total = (scores_BS * torch.linspace(1, 2, scores_BS.shape[1]).to(scores_BS)).sum()
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if name in calls
        and any(f"{name}.{kind}" in trained for kind in ("weight", "bias"))
        and all(len(call.input) == len(call.output) == len(probe[0]) for call in calls[name])
        and all(call.output.requires_grad for call in calls[name])
    }
    if not layers:
        return {}
    received = _received(total, layers, calls)
    found = {name: _adds_up(total, layer, calls[name], received[name]) for name, layer in layers.items()}
    if all(told for _, told in found.values()):
        _PROVEN[model] = described, tuple(name for name, (holds, _) in found.items() if holds)
    return {name: layers[name] for name, (holds, _) in found.items() if holds}


def _adds_up(total: Tensor, layer: nn.Module, calls: list[Call], delta_BTC: Tensor) -> tuple[bool, bool]:
    """Return whether the gradients add up, and whether they tell: all zeros would in any case."""
    parts = squares(layer, calls)
    parameters = [layer.get_parameter(kind) for kind in parts]
    expected = torch.autograd.grad(total, parameters, retain_graph=True, materialize_grads=True)
    largest = [float(g.abs().max()) for g in expected]
    holds = all(
        torch.allclose(part.gradient(delta_BTC).reshape(g.shape), g, rtol=1e-3, atol=1e-4 * most)
        for part, g, most in zip(parts.values(), expected, largest, strict=True)
    )
    return holds, all(0 < most < math.inf for most in largest)


def _described(model: nn.Module, probe: Inputs, trained: Mapping[str, Tensor]) -> Description:
    modules = tuple((name, type(module), id(module)) for name, module in model.named_modules())
    weights = tuple((name, tensor.shape) for name, tensor in trained.items())
    return modules, weights, tuple((tensor.dtype, tensor.shape[1:]) for tensor in probe)
