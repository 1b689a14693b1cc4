"""The network compiled, where that pays: measured before a training, never assumed.

On a CPU it rarely does: compiling took 7 to 80 seconds, a perceptron of 784-400-400-10 became 14 % slower, and the
tabular network at most 8 % faster. So only trainings long enough to win the compilation back are considered at all. A
compiled network may round differently: a resumed training repeats the choice of its snapshot, by `compile_equal`,
instead of measuring again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from learners.seeds import FORWARD, seeded

WORTHWHILE_SECONDS = 120.0  # of eager passes in the whole training, below which compiling is not tried
GAIN = 0.9  # share of the eager time that a compiled pass may take at most
PASSES = 20  # forward and backward of each, in turn; the fastest counts


@dataclass(frozen=True)
class Choice:
    """Which network to call, and why."""

    network: nn.Module  # takes the model's arguments; shares its parameters
    compiled: bool
    reason: str
    eager_seconds: float | None = None  # of one forward and backward pass
    compiled_seconds: float | None = None


def compiled(model: nn.Module, inputs: tuple[Tensor, ...], steps: int) -> Choice:
    """Return the compiled network if that is faster and computes the same, else the model itself.

    Neither weights, buffers, gradients nor generators change.

    Parameters
    ----------
    inputs
        One batch as the training will see it.
    steps
        Steps that the training will take: compiling must be worth it.
    """
    (eager,) = _fastest(model, [model], inputs)
    if eager * steps < WORTHWHILE_SECONDS:
        return Choice(
            model, False, f"{steps} steps take {eager * steps:.1f} s: too few to compile for", eager
        )
    try:
        network = compile_equal(model)
        same = _equal(_passed(model, model, inputs), _passed(model, network, inputs))
        eager, seconds = _fastest(model, [model, network], inputs)
    except RuntimeError as error:  # what torch raises without a compiler, or for code that it cannot follow
        return Choice(model, False, f"it does not compile: {str(error).strip().splitlines()[0]}", eager)
    if not same:
        return Choice(model, False, "compiled, it computes something else", eager, seconds)
    measured = f"{eager * 1e3:.2f} ms a pass, compiled {seconds * 1e3:.2f} ms"
    if seconds > GAIN * eager:
        return Choice(model, False, measured, eager, seconds)
    return Choice(network, True, measured, eager, seconds)


def compile_equal(model: nn.Module) -> nn.Module:
    """Return the compiled network; its dropout draws what the model's own would."""
    return cast(nn.Module, torch.compile(model, options={"fallback_random": True}))


def _passed(model: nn.Module, network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return outputs and gradients, and leave no trace."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with seeded(0, FORWARD):
        out_BK = network(*inputs)
    loss = out_BK.square().mean()
    gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
    for buffer, before in buffers:
        buffer.copy_(before)
    return [out_BK.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _equal(eager: list[Tensor], other: list[Tensor]) -> bool:
    """Whether each tensor is equal up to rounding, by its length."""
    return len(eager) == len(other) and all(
        bool((a - b).norm() <= 1e-4 * a.norm() + 1e-6) for a, b in zip(eager, other, strict=True)
    )


def _fastest(model: nn.Module, networks: list[nn.Module], inputs: tuple[Tensor, ...]) -> list[float]:
    """Return the seconds of each network's fastest pass; they take turns, so that a busy moment hits them all."""
    seconds = [math.inf] * len(networks)
    for _ in range(PASSES):
        for n, network in enumerate(networks):
            _synchronise(inputs)
            start = time.perf_counter()
            _passed(model, network, inputs)
            _synchronise(inputs)
            seconds[n] = min(seconds[n], time.perf_counter() - start)
    return seconds


def _synchronise(inputs: tuple[Tensor, ...]) -> None:
    if any(tensor.is_cuda for tensor in inputs):
        torch.cuda.synchronize()
