"""Squared per-row gradients of a layer's parameters in closed form, from what enters it and what its output receives.

A layer is applied at T positions of each row: times, pixels, or calls if it is shared. With a its input and
delta = d score / d output, the gradient of one row sums over the positions *before* it is squared:

    weight of a linear layer     G_OI = sum_t delta_tO a_tI       a convolution is a linear layer on patches, per group
    weight of an embedding       G_v  = sum_t [code_t = v] delta_t
    weight of a normalisation    G_C  = sum_t delta_tC xhat_tC    xhat: the input, normalised
    bias of any                  G_O  = sum_t delta_tO

With one position the sum over rows of G^2 is (delta^2)' (a^2), as cheap as a backward pass (Goodfellow 2015,
arXiv:1510.01799), and linear in delta^2: several scores need but one product.

Shapes: B rows, T positions, G groups, I inputs and O outputs of a group, C channels, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 1 << 22  # numbers that explicit per-row gradients may take at a time

_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm)  # channels come last
_SECOND = (nn.Conv1d, nn.Conv2d, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)  # channels come second


@dataclass
class Call:
    """One application of a layer to a batch."""

    input: Tensor
    output: Tensor


class Squares(Protocol):
    """The sum over rows of squared gradients of one parameter, as scores are added."""

    def add(self, delta_BTC: Tensor) -> None:
        """Add the squared per-row gradients of one score."""

    def total(self) -> Tensor:
        """Return the sum so far, in the order of the parameter's entries."""

    def gradient(self, delta_BTC: Tensor) -> Tensor:
        """Return the gradient itself, summed over rows."""


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[Call]]]:
    """Collect the calls of the layers known here, by name; later in-place operations work on copies."""
    calls: dict[str, list[Call]] = {}
    handles = []
    for name, layer in model.named_modules():
        if not _is_known(layer):
            continue

        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> Tensor:
            if args:  # else the input came by keyword, and torch.func deals with the layer
                calls.setdefault(name, []).append(Call(args[0].detach(), output))
            return output.clone()

        handles.append(layer.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def squares(layer: nn.Module, calls: list[Call]) -> dict[str, Squares]:
    """Return what accumulates the squares of the layer's parameters, by their names within the layer."""
    parts = {"weight": _weight(layer, calls), "bias": Pointwise(None)}
    trained = {name for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    return {name: part for name, part in parts.items() if name in trained}


def positions(layer: nn.Module, outputs: list[Tensor]) -> Tensor:
    """Return (B, T, C): tensors of the outputs' shapes, by position; the calls one after the other."""
    if isinstance(layer, _SECOND):
        return torch.cat([t.reshape(*t.shape[:2], -1).transpose(1, 2) for t in outputs], dim=1)
    channels = math.prod(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else outputs[0].shape[-1]
    return torch.cat([t.reshape(len(t), -1, channels) for t in outputs], dim=1)


class Outer:
    """The weight of a linear layer, or of a convolution."""

    def __init__(self, input_BTGI: Tensor, outputs: int) -> None:
        self.input_BTGI, groups = input_BTGI, input_BTGI.shape[2]
        self.sum_GOI = torch.zeros(groups, outputs // groups, input_BTGI.shape[3]).to(input_BTGI)
        self.square_BGO: Tensor | None = None  # with one position: delta^2, summed over scores

    def add(self, delta_BTC: Tensor) -> None:
        """Add the squared per-row gradients of one score."""
        delta_BTGO = self._grouped(delta_BTC)
        if delta_BTGO.shape[1] == 1:
            square_BGO = delta_BTGO[:, 0].square()
            self.square_BGO = square_BGO if self.square_BGO is None else self.square_BGO.add_(square_BGO)
            return
        rows = max(1, CHUNK // (self.sum_GOI.numel() + self.input_BTGI[0].numel()))
        for delta, a in zip(torch.split(delta_BTGO, rows), torch.split(self.input_BTGI, rows), strict=True):
            gradient_BGOI = delta.permute(0, 2, 3, 1) @ a.transpose(1, 2)
            self.sum_GOI += gradient_BGOI.square_().sum(dim=0)

    def total(self) -> Tensor:
        """Return the sum so far, in the order of the parameter's entries."""
        if self.square_BGO is not None:
            self.sum_GOI += self.square_BGO.permute(1, 2, 0) @ self.input_BTGI[:, 0].square().transpose(0, 1)
            self.square_BGO = None
        return self.sum_GOI

    def gradient(self, delta_BTC: Tensor) -> Tensor:
        """Return the gradient itself, summed over rows."""
        gradient_BGOI = self._grouped(delta_BTC).permute(0, 2, 3, 1) @ self.input_BTGI.transpose(1, 2)
        return gradient_BGOI.sum(dim=0)

    def _grouped(self, delta_BTC: Tensor) -> Tensor:
        return delta_BTC.reshape(*delta_BTC.shape[:2], self.input_BTGI.shape[2], -1)


class Lookup:
    """The weight of an embedding."""

    def __init__(self, code_BT: Tensor, layer: nn.Embedding) -> None:
        self.codes = layer.num_embeddings
        self.sum_VC = torch.zeros_like(layer.weight)
        self.known_BT1 = code_BT[:, :, None].ne(-1 if layer.padding_idx is None else layer.padding_idx)
        row_B1 = torch.arange(len(code_BT), device=code_BT.device)[:, None]
        # Each row's different codes, and which of them a position looks up.
        self.pairs_U, self.pair_BT = torch.unique(row_B1 * self.codes + code_BT, return_inverse=True)

    def add(self, delta_BTC: Tensor) -> None:
        """Add the squared per-row gradients of one score."""
        self.sum_VC.index_add_(0, self.pairs_U % self.codes, self._by_pair(delta_BTC).square_())

    def total(self) -> Tensor:
        """Return the sum so far, in the order of the parameter's entries."""
        return self.sum_VC

    def gradient(self, delta_BTC: Tensor) -> Tensor:
        """Return the gradient itself, summed over rows."""
        gradient_VC = torch.zeros_like(self.sum_VC)
        return gradient_VC.index_add_(0, self.pairs_U % self.codes, self._by_pair(delta_BTC))

    def _by_pair(self, delta_BTC: Tensor) -> Tensor:
        by_pair_UC = delta_BTC.new_zeros(len(self.pairs_U), delta_BTC.shape[2])
        return by_pair_UC.index_add_(0, self.pair_BT.flatten(), (delta_BTC * self.known_BT1).flatten(0, 1))


class Pointwise:
    """The weight of a normalisation, or a bias, whose factor is one."""

    def __init__(self, factor_BTC: Tensor | None) -> None:
        self.factor_BTC = factor_BTC
        self.sum_C: Tensor | float = 0.0

    def add(self, delta_BTC: Tensor) -> None:
        """Add the squared per-row gradients of one score."""
        self.sum_C = self.sum_C + self._rows(delta_BTC).square().sum(dim=0)

    def total(self) -> Tensor:
        """Return the sum so far, in the order of the parameter's entries."""
        assert isinstance(self.sum_C, Tensor), "no score was added"
        return self.sum_C

    def gradient(self, delta_BTC: Tensor) -> Tensor:
        """Return the gradient itself, summed over rows."""
        return self._rows(delta_BTC).sum(dim=0)

    def _rows(self, delta_BTC: Tensor) -> Tensor:
        return (delta_BTC if self.factor_BTC is None else delta_BTC * self.factor_BTC).sum(dim=1)


def _is_known(layer: nn.Module) -> bool:
    """Tell whether the closed forms hold for the layer as it is set."""
    if type(layer) not in _LAST + _SECOND:  # a subclass may do anything
        return False
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) or layer.running_mean is not None


def _weight(layer: nn.Module, calls: list[Call]) -> Squares:
    inputs = [call.input for call in calls]
    match layer:
        case nn.Linear():
            return Outer(positions(layer, inputs)[:, :, None], layer.weight.shape[0])
        case nn.Conv1d() | nn.Conv2d():
            patches_BTI = torch.cat([_patches(layer, x) for x in inputs], dim=1)
            return Outer(patches_BTI.reshape(*patches_BTI.shape[:2], layer.groups, -1), layer.weight.shape[0])
        case nn.Embedding():
            return Lookup(torch.cat([code.reshape(len(code), -1) for code in inputs], dim=1), layer)
        case _:
            return Pointwise(positions(layer, [_standardised(layer, x) for x in inputs]))


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return (B, T, C x kernel): what each position of the output reads."""
    one = isinstance(layer, nn.Conv1d)
    x_BCHW = x[:, :, None] if one else x
    kernel, dilation, stride = (
        (1, *size) if one else size for size in (layer.kernel_size, layer.dilation, layer.stride)
    )
    assert not isinstance(layer.padding, str), "see _is_known"
    padding = (0, *layer.padding) if one else layer.padding
    return functional.unfold(x_BCHW, kernel, dilation, padding, stride).transpose(1, 2)


def _standardised(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a normalisation's output before weight and bias."""
    match layer:
        case nn.LayerNorm():
            return functional.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
        case nn.GroupNorm():
            return functional.group_norm(x, layer.num_groups, None, None, layer.eps)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return functional.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
        case _:
            raise AssertionError(f"no closed form for {type(layer).__name__}")
