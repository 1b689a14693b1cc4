"""The whole state of a learner as named tensors and JSON: what is stored, moved and resumed from.

Tensor names: `model.*` weights and buffers; `ewc.*` and `si.*` what is consolidated (`importance`, `anchor`); `pending.*` and `path.*` what is not
yet; `units.*` how useful hidden units are; `memory.*` the rows held; `optimizer.*` Adam's moments; `rates.*` what is known of each layer's
gradient; while training also `training.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learners.continual_backprop import ContinualBackprop
from learners.errors import ResumeMismatchError
from learners.learner import Learner, Pending
from learners.memory import Memory
from learners.models.base import Model
from learners.models.registry import NO_EXTRA, load
from learners.quadratic import Consolidation
from learners.si import PathIntegral
from learners.slots import Allocate, in_ram

FORMAT = 3


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


def pack(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a learner's state beside its model's spec, as tensors and JSON."""
    tensors = {
        **prefixed("model", learner.model.state_dict()),
        **prefixed("ewc.importance", learner.ewc.importance),
        **prefixed("ewc.anchor", learner.ewc.anchor),
        **prefixed("si.importance", learner.si.importance),
        **prefixed("si.anchor", learner.si.anchor),
        **prefixed("pending", learner.pending.fisher),
        **prefixed("path", learner.path.tensors() if learner.path is not None else {}),
        **prefixed("units", learner.units.tensors() if learner.units is not None else {}),
        **prefixed("optimizer", learner.moments),
        **prefixed("rates", learner.rates),
        **prefixed("memory", learner.memory.tensors()),
    }
    meta = {
        "format": FORMAT,
        "holds": sorted({name.partition(".")[0] for name in tensors}),
        "learned_up_to": learner.learned_up_to,
        "updates": learner.updates,
        "regime": learner.regime,
        "balance": learner.balance,
        "classes": sorted(learner.classes),
        "cramped": learner.cramped,
        "pending_rows": learner.pending.rows,
        "memory": learner.memory.meta(),
    }
    return tensors, meta


def checkpoint_of(learner: Learner) -> Checkpoint:
    """Return a learner between two trainings at rest, to be stored: of `Training.finish`, without the course of the training."""
    tensors, meta = pack(learner)
    return Checkpoint(learner.model.spec(), tensors, meta | {"state": "finished"})


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


def restore_learner(
    checkpoint: Checkpoint, models: Mapping[str, str] = NO_EXTRA, allocate: Allocate = in_ram
) -> Learner:
    """Return the learner of a checkpoint, with tensors of its own.

    Raises
    ------
    UnknownModelError
        As for `restore_model`.
    ResumeMismatchError
        If another release wrote it, with another state, or it comes without a part of its state: its model still predicts.
    """
    meta, tensors = checkpoint.meta, checkpoint.tensors
    if meta["format"] != FORMAT:
        raise ResumeMismatchError(
            f"this learner was stored in format {meta['format']}, and {FORMAT} is read here: train a new one, with a fresh recipe"
        )
    lost = {*meta.get("holds", ())} - {name.partition(".")[0] for name in tensors}
    if lost:
        raise ResumeMismatchError(
            f"this checkpoint predicts, but comes without the learner's {', '.join(sorted(lost))}: read it with its "
            "learner tensors, or train a new one, with a fresh recipe"
        )
    path = under("path", tensors)
    learner = Learner(
        restore_model(checkpoint, models),
        Memory.restore(under("memory", tensors), meta["memory"], allocate=allocate),
        ewc=Consolidation(under("ewc.importance", tensors), under("ewc.anchor", tensors)),
        pending=Pending(under("pending", tensors), meta["pending_rows"]),
        si=Consolidation(under("si.importance", tensors), under("si.anchor", tensors)),
        moments={name: tensor.clone() for name, tensor in under("optimizer", tensors).items()},
        rates=under("rates", tensors),  # which are replaced, not written into
        learned_up_to=meta["learned_up_to"],
        updates=meta["updates"],
        regime=meta["regime"],
        balance=meta["balance"],
        classes=frozenset(meta["classes"]),
        cramped=meta["cramped"],
    )
    if units := under("units", tensors):
        learner.units = ContinualBackprop()
        learner.units.restore(units)
    if path:
        learner.path = PathIntegral.restore(path, learner.parameters())
    return learner
