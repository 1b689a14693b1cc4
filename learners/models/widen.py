"""A wider network with the outputs of the one that it grows from; `learners.widening` has the mathematics.

Shapes: N units of a layer, Q units of the wider one, S inputs of the next layer per unit (pixels of a channel).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from detectors.columns import Categorical, Columns
from learners.errors import UnsuitableModelError
from learners.models.base import Model
from learners.schema import Schema
from learners.widening import Axis, Widening, copies

M = TypeVar("M", bound=Model)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d
_KEEPS_SCALE = (  # f(s z) = s f(z) for s > 0, unit by unit
    nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


@torch.no_grad()
def widen(
    model: M, wider: Mapping[str, Any], generator: np.random.Generator, scale_max: float = 2.0
) -> tuple[M, Widening]:
    """Return a wider network with the outputs of this one, and how anything known by parameter widens with it.

    Moments of an optimiser do not carry over: begin it anew.

    Parameters
    ----------
    model
        Left as it is. Its hidden layers, `nn.Linear` or convolutions, follow each other by ReLU, dropout and pooling.
    wider
        Arguments of the model that are to be others, by name, as in its configuration: {"hidden": (800, 800)}.
    generator
        Draws which units are copied, each at most once more often than another, and their scales.
    scale_max
        Scales s of the copies are log-uniform from 1/scale_max to scale_max. With 1 they are identical, and only
        dropout sets them apart.

    Raises
    ------
    UnsuitableModelError
        If other parameters would change than the widths of such layers, one would become narrower, or the outputs
        would not stay.
    """
    if not 1 <= scale_max < float("inf"):
        raise ValueError(f"scale_max must be at least 1 and finite, not {scale_max}")
    twin = _untrained(model, wider)
    widening = _widening(model, twin, generator, scale_max)
    old = dict(model.named_parameters())
    state = widening.values(model.state_dict())
    misfits = [name for name, tensor in twin.state_dict().items() if state[name].shape != tensor.shape]
    if misfits:
        raise UnsuitableModelError(
            f"cannot widen {', '.join(misfits)}: only layers joined by ReLU, dropout and pooling can be wider"
        )
    twin.load_state_dict(state)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(old[name].requires_grad)
    _check_function(model, twin, generator)
    return twin.train(model.training), widening


def wider_by(model: Model, factor: float) -> dict[str, Any]:
    """Return the arguments, for `widen`, with which every hidden layer has `factor` times its units, rounded up."""
    arguments = _arguments(model.spec())
    widths = {
        name: value
        for name, value in arguments.items()
        if name == "hidden" or (name == "channels" and not isinstance(value, int))
    }
    return {
        name: _times(value, factor) if isinstance(value, int) else tuple(_times(v, factor) for v in value)
        for name, value in widths.items()
    }


def _times(width: int, factor: float) -> int:
    return int(np.ceil(width * factor))


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return dict(spec.get("arguments") or spec.get("config") or {})


def _untrained(model: M, wider: Mapping[str, Any]) -> M:
    spec = model.spec()
    place = next((place for place in ("arguments", "config") if place in spec), None)
    if place is None or not wider:
        raise UnsuitableModelError(f"model {spec['name']!r} has no widths to change: give some in `wider`")
    plain = {name: value if isinstance(value, int) else list(value) for name, value in wider.items()}
    with torch.random.fork_rng(devices=()):
        twin = type(model).from_spec({**spec, place: {**spec[place], **plain}})
    return twin.to(model.target_scale.device)


def _widening(model: Model, twin: Model, generator: np.random.Generator, scale_max: float) -> Widening:
    """Return the axes of each pair of layers between which there are more units in the twin."""
    axes: dict[str, tuple[Axis, ...]] = {}
    layers = {name: layer for name, layer in twin.named_modules() if isinstance(layer, Layer)}
    for (name, layer), (following, reader) in pairwise(_chain(model)):
        units, wanted = len(layer.weight), len(layers[name].weight)
        if wanted == units:
            continue
        if wanted < units or reader.weight.shape[1] % units:
            raise UnsuitableModelError(f"{name} cannot go from {units} to {wanted} units")
        origin_Q, scale_Q, share_Q = copies(units, wanted, generator, scale_max)
        rows = Axis(0, origin_Q, scale_Q, share_Q)
        inputs = reader.weight.shape[1] // units  # S
        each = torch.arange(inputs)
        columns = Axis(
            1,
            (origin_Q[:, None] * inputs + each).flatten(),
            (share_Q / scale_Q).repeat_interleave(inputs),
            share_Q.repeat_interleave(inputs),
        )
        for parameter in (f"{name}.weight", f"{name}.bias"):
            axes[parameter] = (*axes.get(parameter, ()), rows)
        axes[f"{following}.weight"] = (columns,)
    return Widening(axes)


def _chain(model: nn.Module) -> list[tuple[str, Layer]]:
    """Return the layers at the end of the network that are joined by functions that keep scale, in their order."""
    chain: list[tuple[str, Layer]] = []
    for name, module in reversed(list(_leaves(model))):
        if isinstance(module, Layer) and getattr(module, "groups", 1) == 1:
            chain.append((name, module))
        elif not isinstance(module, _KEEPS_SCALE):
            break
    return chain[::-1]


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if not any(module.children()))


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
            "follow each other in the order in which they are registered, joined by ReLU, dropout and pooling"
        )


def _examples(schema: Schema, generator: np.random.Generator, rows: int = 8) -> Columns:
    unknown = Categorical(np.full(rows, -1, dtype=np.int32), ())
    numeric = {name: generator.normal(size=rows) for name in schema.numeric}
    return {**numeric, **dict.fromkeys(schema.categorical, unknown)}
