"""The whole state of a learner as named tensors and JSON: what is stored, moved and resumed from.

Tensor names: `model.*` weights and buffers; `fisher.*` and `anchor.*` the consolidation; `memory.*` the rows held;
while training also `optimizer.*`, `best.*` (early stopping) and `average.*` (of the iterates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learners.ewc import Consolidation
from learners.memory import Memory, from_arrays, to_arrays
from learners.models.base import Model
from learners.models.registry import NO_EXTRA, load

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A learner at rest."""

    spec: dict[str, Any]  # JSON: what the model is, see Model.spec
    tensors: dict[str, Tensor]  # by name, see above
    meta: dict[str, Any]  # JSON: progress, curve, recipe, memory, learned_up_to


def prefixed(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors under `prefix.`: a snapshot must not change when training goes on."""
    return {
        f"{prefix}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in named.items()
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def restore_model(checkpoint: Checkpoint, models: Mapping[str, str] = NO_EXTRA) -> Model:
    """Return the model of a checkpoint, on the CPU, in eval mode.

    Raises
    ------
    UnknownModelError
        If nothing installed or in `models` ("module:Class" by name) bears the model's name.
    """
    with torch.random.fork_rng(devices=()):
        model = load(checkpoint.spec["name"], models).from_spec(checkpoint.spec)
    model.load_state_dict(under("model", checkpoint.tensors))
    return model.eval()


def restore_consolidation(checkpoint: Checkpoint) -> Consolidation:
    """Return the Fisher information and the anchor of a checkpoint."""
    return Consolidation(under("fisher", checkpoint.tensors), under("anchor", checkpoint.tensors))


def pack_memory(memory: Memory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the memory as tensors and JSON. The tensors share its rows, which never change."""
    arrays, vocabularies = to_arrays(memory.rows) if memory.rows is not None else ({}, {})
    meta = {
        "capacity": memory.capacity,
        "seen": memory.seen,
        "seed": memory.seed,
        "vocabularies": vocabularies,
    }
    return {f"memory.{name}": torch.from_numpy(array) for name, array in arrays.items()}, meta


def restore_memory(checkpoint: Checkpoint) -> Memory:
    """Return the memory of a checkpoint."""
    meta, tensors = checkpoint.meta["memory"], under("memory", checkpoint.tensors)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    rows = from_arrays(arrays, meta["vocabularies"]) if arrays else None
    return Memory(rows, meta["capacity"], meta["seen"], meta["seed"])


def pack_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter name."""
    return {
        name: tensor
        for parameter_name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        for name, tensor in prefixed("optimizer", {f"{parameter_name}.{key}": value}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the packed state back."""
    packed = under("optimizer", checkpoint.tensors)
    for name, parameter in model.named_parameters():
        state = under(name, packed)
        if state:
            optimizer.state[parameter] = {
                key: value.to(parameter.device if key != "step" else "cpu", copy=True)
                for key, value in state.items()
            }
