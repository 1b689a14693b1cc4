"""What each step sees: new and replayed rows, varied and mixed, with what each is to come to.

Shapes: N new rows of the training, B rows of a batch, new ones first, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from learners.batches import Batches, Index
from learners.class_balance import class_weights
from learners.encoded import Encoded
from learners.memory import Memory
from learners.mixing import Kind, mix
from learners.models.base import Inputs, Model
from learners.objective import Batch
from learners.recipe import Recipe
from learners.rehearsal import weights
from learners.seeds import AUGMENT, MIX, generator, torch_generator


@dataclass(frozen=True, eq=False)
class Step:
    """The batch of one step, and where its rows are from."""

    batch: Batch
    new: Index  # numbers of the new rows
    again: Index  # numbers of the new rows in the replayed part
    replayed: Index  # slots of the memory


class Feed:
    """Batches by step number: a pure function of seed and step while the memory stays as it is.

    Parameters
    ----------
    teacher
        (N, K of the parent) outputs that learning without forgetting holds on to, or None.
    """

    def __init__(
        self, model: Model, train: Encoded, memory: Memory, teacher: Tensor | None, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.train, self.memory, self.teacher = model, train, memory, teacher
        self.recipe, self.seed = recipe, seed
        rehearses = recipe.replay_share > 0 and recipe.rehearsal != "gdumb"
        chances = memory.weights(recipe.recency_rows) if rehearses else np.empty(0)
        outputs, classes = model.schema.outputs, model.schema.task == "classification"
        self._class_weight = (
            class_weights(train.target.cpu(), outputs, recipe.balance_classes) if classes else None
        )
        self.closed = _closed(train, memory, outputs) if classes and recipe.class_mask == "ace" else None
        again = 0.0 if self.closed is None else self.closed.current_share
        self.batches = Batches(len(train), chances, recipe, seed, again)

    def at(self, step: int) -> Step:
        """Return what step `step` sees."""
        new, again, replayed = self.batches.at(step)
        mine, slot = torch.from_numpy(np.concatenate([new, again])), torch.from_numpy(replayed)
        inputs = tuple(tensor.index_select(0, mine.to(tensor.device)) for tensor in self.train.inputs)
        target = self.train.target[mine]
        if len(slot):
            kept = zip(inputs, self.memory.inputs, strict=True)
            inputs = tuple(
                torch.cat([some, more.index_select(0, slot).to(some.device)]) for some, more in kept
            )
            target = torch.cat([target, self.memory.target[slot].to(target.device)])
        batch = self._varied(self._composed(inputs, target, mine, slot, len(new)), len(mine), step)
        return Step(batch, new, again, replayed)

    def _composed(self, inputs: Inputs, target: Tensor, mine: Tensor, slot: Tensor, new: int) -> Batch:
        rows, again = len(target), len(mine) - new
        kept = self.memory.outputs[slot] if self.recipe.distils and self.memory.outputs is not None else None
        known = None if kept is None else kept.isfinite().any(dim=1)
        weight = weights(self.recipe, (new, again, len(slot)), len(self.train), self.memory.seen, known)
        stored = teacher = teacher_weight = masked = None
        if weight.stored is not None and kept is not None:
            stored = torch.cat([torch.full((len(mine), kept.shape[1]), torch.nan), kept])
        if self.teacher is not None:
            teacher, teacher_weight = torch.zeros(rows, self.teacher.shape[1]), torch.zeros(rows)
            teacher[:new], teacher_weight[:new] = self.teacher[mine[:new]], 1 / new
        if self.closed is not None:
            masked = self.closed.to_replayed.repeat(rows, 1)
            masked[:new] = self.closed.to_new
        return Batch(
            inputs,
            target,
            weight.task.to(target.device),
            stored=_on(target.device, stored),
            stored_weight=_on(target.device, weight.stored),
            teacher=_on(target.device, teacher),
            teacher_weight=_on(target.device, teacher_weight),
            masked=_on(target.device, masked),
        )

    def _varied(self, batch: Batch, mine: int, step: int) -> Batch:
        recipe, inputs, weight = self.recipe, batch.inputs, batch.weight
        by_class = self._by_class(batch.target, mine)
        if recipe.augment:
            inputs = self.model.augment(inputs, torch_generator(self.seed, AUGMENT, step))
        if not (recipe.mixup or recipe.cutmix):
            return replace(batch, inputs=inputs, weight=weight * by_class)
        kind: Kind = "mixup" if recipe.mixup else "cutmix"
        random = generator(self.seed, MIX, step)
        mixed = mix(inputs, batch.target, kind, recipe.mixup or recipe.cutmix, random, self.model.image)
        return replace(
            batch,
            inputs=mixed.inputs,
            weight=weight * by_class,
            partner=mixed.target_b,
            partner_weight=weight * by_class[mixed.partner_B],
            partner_share=1 - mixed.share_B,
        )

    def _by_class(self, target: Tensor, mine: int) -> Tensor:
        """Return the (B,) factors of the task loss on each row's own target: a replayed row's is one."""
        factor = torch.ones(len(target))
        if self._class_weight is not None:
            factor[:mine] = self._class_weight[target[:mine].cpu()]
        return factor.to(target.device)


@dataclass(frozen=True, eq=False)
class Closed:
    """Classes that rows do not compete with."""

    to_new: Tensor  # (K,) new rows: all that the new rows are not of
    to_replayed: Tensor  # (K,) replayed rows: all that neither new rows nor the memory are of
    current_share: float  # of the new rows' classes among those that replayed rows compete with


def _closed(train: Encoded, memory: Memory, outputs: int) -> Closed:
    present = torch.bincount(train.target.cpu(), minlength=outputs) > 0
    seen = present.clone()
    seen[memory.target.long()] = True
    return Closed(~present, ~seen, float(present.sum() / seen.sum()))


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
