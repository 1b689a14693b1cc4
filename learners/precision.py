"""Passes in half precision and with activations computed twice; outputs, losses and weights stay in float32.

bf16 has the range of float32 and needs no care. fp16 has not: the loss is multiplied by a scale before the backward
pass and the gradient divided by it after, and a step whose gradient overflowed is left out (Micikevicius et al. 2018,
arXiv:1710.03740). Checkpointing keeps the activations of segments of about sqrt(L) layers only and computes the others
again in the backward pass (Chen et al. 2016, arXiv:1604.06174); random numbers, too, so that dropout stays the same.

Shapes: B rows of a batch, L layers, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from learners.recipe import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def forward(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    precision: Precision = "fp32",
    checkpoint_activations: bool = False,
) -> Tensor:
    """Return out_BK in float32.

    Without a gradient to compute, nothing is kept in the first place, and `checkpoint_activations` changes nothing.
    Nor is a layer computed twice that counts its passes, as batch normalisation does.
    """
    kind = next(model.parameters()).device.type
    dtype = _DTYPES.get(precision)
    segmented = list(_segmented(model)) if checkpoint_activations and torch.is_grad_enabled() else []
    with torch.autocast(kind, dtype, enabled=dtype is not None), _replaced(segmented):
        return cast(Tensor, model(*inputs)).float()


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by in fp16: doubled after many steps without an overflow, halved after one.

    Powers of two, so that scaling changes no bit of a gradient that is in range. JSON scalars.
    """

    scale: float = 2.0**16
    clean: int = 0  # steps without overflow since the scale changed

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, self.scale)

    def after(self, finite: bool, growth_steps: int = 2000) -> LossScale:
        """Return the scale of the next step, given whether every gradient of this one was finite.

        A gradient that is not finite at scale 1 was no overflow of ours; see `exhausted`.
        """
        if not finite:
            return LossScale(max(self.scale / 2, 1.0))
        if self.clean + 1 >= growth_steps:
            return LossScale(min(self.scale * 2, 2.0**24))
        return LossScale(self.scale, self.clean + 1)

    @property
    def exhausted(self) -> bool:
        """Whether the scale cannot be halved any more: what is not finite now has diverged."""
        return self.scale <= 1.0

    @property
    def scalars(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        return asdict(self)

    @classmethod
    def restore(cls, scalars: Mapping[str, Any]) -> Self:
        """Return the scale that `scalars` described."""
        return cls(**scalars)


def _segmented(module: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Yield the outermost stacks of layers, and the blocks of lists, each with what replaces its `forward`."""
    for part in _outermost(module):
        stack = type(part).forward is nn.Sequential.forward
        yield part, partial(_in_segments, list(part.children())) if stack else partial(_again, part.forward)


def _outermost(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    stack = type(module).forward is nn.Sequential.forward
    if (stack or listed) and len(list(_layers(module))) > 1 and not _counts_passes(module):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, isinstance(module, nn.ModuleList))


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if any(True for _ in part.parameters(recurse=False)))


def _counts_passes(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())


@contextmanager
def _replaced(forwards: list[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Let these modules do something else when they are called."""
    for module, function in forwards:
        module.__dict__["forward"] = function
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.__dict__["forward"]


def _in_segments(modules: list[nn.Module], x: Tensor) -> Tensor:
    size = math.ceil(len(modules) / max(1, round(math.sqrt(len(modules)))))
    for first in range(0, len(modules), size):
        x = _again(partial(_chain, modules[first : first + size]), x)
    return x


def _chain(modules: list[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def _again(function: Any, *arguments: Any, **named: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=True, **named)
