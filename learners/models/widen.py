"""A wider network with the outputs of the one that it grows from; `learners.widening` has the mathematics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from detectors.columns import Categorical, Columns
from learners.errors import UnsuitableModelError
from learners.models.base import Model
from learners.schema import Schema
from learners.widening import Axis, Widening, copied, freshly

M = TypeVar("M", bound=Model)
Kind = Literal["copies", "fresh"]
Layer = nn.Linear | nn.Conv1d | nn.Conv2d
_UNIT_BY_UNIT = (  # what may stand between two layers: no unit meets another
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
)  # fmt: skip


@torch.no_grad()
def widen(
    model: M, wider: Mapping[str, Any], units: Kind, generator: np.random.Generator, noise: float = 0.0
) -> tuple[M, Widening]:
    """Return a wider network with the outputs of this one, and how anything known by parameter widens with it.

    Moments of an optimiser do not carry over: begin it anew.

    Parameters
    ----------
    model
        Left as it is. Its hidden layers, `nn.Linear` or convolutions, are joined by what acts unit by unit.
    wider
        Arguments of the model that are to be others, by name, as in its configuration: {"hidden": (800, 800)}.
    units
        copies: of old units, as in Net2Net; their weights inherit importance, so that a penalty binds the new capacity
        too. fresh: units that nothing reads yet, bound by nothing; take them where a memory is rehearsed, which keeps
        them from drowning what is known.
    generator
        Draws which units are copied, their noise, and the weights of fresh ones.
    noise
        Of incoming weights of copies, in standard deviations of their layer's; 0.1 moves outputs by a few percent. With
        0 the function is kept, and without dropout the copies learn in lockstep: for ever the narrower network.

    Raises
    ------
    UnsuitableModelError
        If other parameters would change than the widths of such layers, one would become narrower, or the outputs
        would not stay.
    """
    twin = _untrained(model, wider, generator)
    axes = _axes(model, twin, units, generator)
    old = dict(model.named_parameters())
    offset = {
        name: _offset(old[name], fresh, units, noise, generator)
        for name, fresh in twin.named_parameters()
        if any(axis.dim == 0 for axis in axes.get(name, ()))
    }
    widening = Widening(axes, offset)
    state = widening.values(model.state_dict())
    misfits = [name for name, tensor in twin.state_dict().items() if state[name].shape != tensor.shape]
    if misfits:
        raise UnsuitableModelError(
            f"cannot widen {', '.join(misfits)}: only hidden layers joined by activations, dropout and pooling can be wider"
        )
    twin.load_state_dict(state)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(old[name].requires_grad)
    if not noise:
        _check_function(model, twin, generator)
    return twin.train(model.training), widening


def wider_by(model: Model, factor: float) -> dict[str, Any]:
    """Return the arguments, for `widen`, with which every hidden layer has `factor` times its units, rounded up."""
    spec = model.spec()
    arguments = spec.get("arguments") or spec.get("config") or {}
    widths = {name: arguments[name] for name in ("hidden", "channels") if name in arguments}
    return {
        name: math.ceil(width * factor)
        if isinstance(width, int)
        else tuple(math.ceil(w * factor) for w in width)
        for name, width in widths.items()
        if name == "hidden" or not isinstance(width, int)  # a single `channels` is the layout of the features
    }


def _untrained(model: M, wider: Mapping[str, Any], generator: np.random.Generator) -> M:
    spec = model.spec()
    place = next((place for place in ("arguments", "config") if place in spec), None)
    if place is None:
        raise UnsuitableModelError(
            f"model {spec['name']!r} has no widths of its own: widen the network inside, then wrap it"
        )
    if not wider:
        raise UnsuitableModelError("`wider` is empty: name the arguments that are to be wider")
    plain = {name: value if isinstance(value, int) else list(value) for name, value in wider.items()}
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        twin = type(model).from_spec({**spec, place: {**spec[place], **plain}})
    return twin.to(model.target_scale.device)


def _axes(
    model: Model, twin: Model, units: Kind, generator: np.random.Generator
) -> dict[str, tuple[Axis, ...]]:
    """Return how the parameters widen around each hidden layer that has more units in the twin."""
    axes: dict[str, tuple[Axis, ...]] = {}
    widths = {name: len(layer.weight) for name, layer in twin.named_modules() if isinstance(layer, Layer)}
    for (name, layer), (following, reader) in pairwise(_chain(model)):
        before, after, read = len(layer.weight), widths[name], reader.weight.shape[1]
        if after == before:
            continue
        if after < before or read % before:
            raise UnsuitableModelError(f"{name} cannot go from {before} to {after} units")
        new = copied(before, after, generator) if units == "copies" else freshly(before, after)
        for parameter in (f"{name}.weight", f"{name}.bias"):
            axes[parameter] = (*axes.get(parameter, ()), new.rows)
        axes[f"{following}.weight"] = (new.columns(read // before),)
    return axes


def _offset(old: Tensor, fresh: Tensor, units: Kind, noise: float, generator: np.random.Generator) -> Tensor:
    """Return what is added to a layer's widened parameter: nothing for old units."""
    added = fresh.detach().clone()
    if units == "copies":
        scale = noise * float(old.std(correction=0))
        added = torch.from_numpy(generator.normal(0.0, 1.0, tuple(fresh.shape)) * scale).to(fresh)
    added[: len(old)] = 0
    return added


def _chain(model: nn.Module) -> list[tuple[str, Layer]]:
    """Return the layers at the end of the network that are joined unit by unit, in their order."""
    chain: list[tuple[str, Layer]] = []
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    for name, module in reversed(leaves):
        if isinstance(module, Layer) and getattr(module, "groups", 1) == 1:
            chain.append((name, module))
        elif not isinstance(module, _UNIT_BY_UNIT):
            break
    return chain[::-1]


def _check_function(model: Model, twin: Model, generator: np.random.Generator) -> None:
    """Refuse a twin whose outputs differ, as where layers run in another order than they are registered in."""
    columns = _examples(model.schema, generator)
    modes = [(module, module.training) for network in (model, twin) for module in network.modules()]
    before, after = (network.eval()(*network.encode(columns)) for network in (model, twin))
    for module, mode in modes:
        module.training = mode
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().mean())):
        raise UnsuitableModelError(
            f"model {model.spec()['name']!r} would compute another function when wider: its hidden layers must "
            "run in the order in which they are registered, joined by activations, dropout and pooling"
        )


def _examples(schema: Schema, generator: np.random.Generator, rows: int = 8) -> Columns:
    numeric = {name: generator.normal(size=rows) for name in schema.numeric}
    unknown = Categorical(np.full(rows, -1, dtype=np.int32), ())
    return {**numeric, **dict.fromkeys(schema.categorical, unknown)}
