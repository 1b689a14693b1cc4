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
from learners.memory_slots import Memory
from learners.mixing import Kind, mix
from learners.models.base import Model
from learners.objective import Batch
from learners.recipe import Recipe
from learners.rehearsal import weights
from learners.seeds import AUGMENT, MIX, generator, torch_generator


@dataclass(frozen=True, eq=False)
class Step:
    """The batch of one step, and where its rows are from."""

    batch: Batch
    new: Index  # numbers of the new rows
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
        self.batches = Batches(len(train), chances, recipe, seed)
        outputs, classes = model.schema.outputs, model.schema.task == "classification"
        self._class_weight = self._closed = None
        if classes and recipe.balance_classes:
            self._class_weight = class_weights(train.target, outputs, recipe.balance_classes)
        if classes and recipe.class_mask == "ace":
            self._closed = torch.bincount(train.target, minlength=outputs) == 0

    def at(self, step: int) -> Step:
        """Return what step `step` sees."""
        new, replayed = self.batches.at(step)
        new_n, slot_m = torch.from_numpy(new), torch.from_numpy(replayed)
        inputs = tuple(tensor[new_n] for tensor in self.train.inputs)
        target = self.train.target[new_n]
        if len(replayed):
            kept = zip(inputs, self.memory.inputs, strict=True)
            inputs = tuple(torch.cat([mine, theirs[slot_m]]) for mine, theirs in kept)
            target = torch.cat([target, self.memory.target[slot_m]])
        return Step(self._varied(self._composed(inputs, target, new_n, slot_m), step), new, replayed)

    def _composed(self, inputs: tuple[Tensor, ...], target: Tensor, new_n: Tensor, slot_m: Tensor) -> Batch:
        new, replayed = len(new_n), len(slot_m)
        weight = weights(self.recipe, new, replayed, len(self.train), self.memory.seen)
        task = weight.task
        if self._class_weight is not None:
            task[:new] *= self._class_weight[target[:new]]
        stored = teacher = teacher_weight = masked = None
        if weight.stored is not None and self.memory.outputs is not None:
            outputs_mK = self.memory.outputs[slot_m]
            stored = torch.cat([outputs_mK.new_full((new, outputs_mK.shape[1]), torch.nan), outputs_mK])
        if self.teacher is not None:
            teacher = torch.zeros(new + replayed, self.teacher.shape[1])
            teacher[:new] = self.teacher[new_n]
            teacher_weight = torch.zeros(new + replayed)
            teacher_weight[:new] = 1 / new
        if self._closed is not None:
            masked = torch.zeros(new + replayed, len(self._closed), dtype=torch.bool)
            masked[:new] = self._closed
        return Batch(
            inputs,
            target,
            task,
            stored=stored,
            stored_weight=weight.stored,
            teacher=teacher,
            teacher_weight=teacher_weight,
            masked=masked,
        )

    def _varied(self, batch: Batch, step: int) -> Batch:
        recipe, inputs = self.recipe, batch.inputs
        if recipe.augment:
            inputs = self.model.augment(inputs, torch_generator(self.seed, AUGMENT, step))
        if not (recipe.mixup or recipe.cutmix):
            return replace(batch, inputs=inputs)
        kind: Kind = "mixup" if recipe.mixup else "cutmix"
        random = generator(self.seed, MIX, step)
        mixed = mix(inputs, batch.target, kind, recipe.mixup or recipe.cutmix, random, self.model.image)
        return replace(batch, inputs=mixed.inputs, partner=mixed.target_b, partner_share=1 - mixed.share_B)
