"""The loop. Take steps until `done`, then `finish`; `snapshot` at any step between.

A light update costs milliseconds: rows are encoded once, and each step gathers by index. What a step does is a pure
function of weights, optimiser state, seed and step number, so a training resumed from a snapshot ends, on the CPU,
with the same bits as one that was never interrupted.

Shapes: B rows of a batch, K outputs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learners.batches import Batches
from learners.checkpoint import FORMAT, Checkpoint, pack_memory, pack_optimizer, prefixed
from learners.errors import DivergedError
from learners.ewc import Consolidation, consolidate, penalty
from learners.fisher import diagonal_fisher
from learners.losses import criterion
from learners.memory import Memory
from learners.models.base import Model
from learners.recipe import Recipe
from learners.rows import Rows
from learners.seeds import FISHER, FORWARD, generator, seeded
from learners.selection import Selection

FORWARD_PASS = 1 / 3  # cost of a forward pass, in passes of forward and backward


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    step: int  # from 0
    loss: float  # task loss on the batch, before the step
    penalty: float  # EWC penalty, before the step
    rate: float  # step size


@dataclass
class Progress:
    """Where a training is; plain JSON."""

    step: int = 0  # steps done
    passes: float = 0.0  # sample passes: forward and backward of one row = 1
    epoch_loss: float = 0.0  # sum of the batch losses of this epoch so far


class Training:
    """One training in progress; made by `start` or `resume`."""

    def __init__(
        self,
        model: Model,
        consolidation: Consolidation,
        memory: Memory,
        train: Rows,
        tune: Rows | None,
        recipe: Recipe,
        seed: int,
        learned_up_to: int | None,
    ) -> None:
        train = train.only(model.schema.features)  # memory holds what the model reads, and nothing else
        self.model, self.memory, self.train = model.train(), memory, train
        self.recipe, self.seed, self.learned_up_to = recipe, seed, learned_up_to
        self.progress, self.curve = Progress(), list[dict[str, Any]]()
        self.parameters = dict(model.named_parameters())
        self.consolidation = consolidation.aligned(self.parameters)
        self.criterion = criterion(recipe.loss, model.schema.task)
        replayed = memory.rows if recipe.replay_share else None
        self.batches = Batches(
            len(train), memory.weights(recipe.recency_rows) if replayed else np.empty(0), recipe, seed
        )
        self.inputs, self.target = _encoded(model, train, replayed)
        self.position = np.concatenate([train.position, replayed.position]) if replayed else train.position
        self.tune = _encoded(model, tune) if tune is not None and len(tune) and recipe.patience else None
        self.selection = Selection(recipe.patience, round(self.batches.steps * (1 - recipe.average_share)))
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), weight_decay=recipe.weight_decay, fused=True
        )

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the loss on tune rows stopped falling."""
        return self.selection.exhausted or self.progress.step >= self.batches.steps

    def step(self) -> StepReport:
        """Take one optimiser step.

        Raises
        ------
        DivergedError
            If the loss or its gradient is not finite. The weights stay as they were.
        """
        step, recipe = self.progress.step, self.recipe
        batch = self.batches.at(step)
        index_B = torch.from_numpy(batch)
        with seeded(self.seed, FORWARD, step):  # dropout, too, depends on seed and step alone
            out_BK = self.model(*(tensor[index_B] for tensor in self.inputs))
        loss = self.criterion(out_BK, self.target[index_B])
        elastic = penalty(self.parameters, self.consolidation, recipe.ewc_lambda)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss + elastic)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip_norm or math.inf)
        if not (loss.isfinite() and norm.isfinite()):
            raise DivergedError(step, self.position[batch].tolist())
        rate = recipe.rate(step, self.batches.steps)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

        report = StepReport(step, loss.item(), elastic.item(), rate)
        self.progress.step += 1
        self.progress.passes += len(batch)
        self.progress.epoch_loss += report.loss
        self.selection.include(self.progress.step, self.parameters)
        if self.progress.step % self.batches.steps_per_epoch == 0 or self.done:
            self._end_epoch()
        return report

    def snapshot(self) -> Checkpoint:
        """Return a checkpoint to resume from."""
        tensors = {
            **prefixed("fisher", self.consolidation.fisher),
            **prefixed("anchor", self.consolidation.anchor),
            **pack_optimizer(self.optimizer, self.model),
            **prefixed("best", self.selection.best),
            **prefixed("average", self.selection.average),
        }
        return self._checkpoint("training", self.memory, tensors, self.learned_up_to)

    def finish(self) -> Checkpoint:
        """Return the learner with what it learned consolidated: Fisher information, anchor and memory."""
        with torch.no_grad():
            for name, value in self.selection.chosen.items():
                self.parameters[name].copy_(value)
        consolidation = self._consolidate() if self.recipe.ewc_lambda else Consolidation()
        tensors = {**prefixed("fisher", consolidation.fisher), **prefixed("anchor", consolidation.anchor)}
        learned_up_to = max(int(self.train.position.max()), self.learned_up_to or 0)
        return self._checkpoint("finished", self.memory.offer(self.train), tensors, learned_up_to)

    def _consolidate(self) -> Consolidation:
        rows = min(self.recipe.fisher_rows, len(self.train))
        index = generator(self.seed, FISHER).permutation(len(self.train))[:rows]
        task = self.model.schema.task
        fisher = diagonal_fisher(
            self.model, tuple(tensor[torch.from_numpy(index)] for tensor in self.inputs), task
        )
        self.progress.passes += rows * (FORWARD_PASS + (1 - FORWARD_PASS) * self.model.schema.outputs)
        return consolidate(self.consolidation, self.parameters, fisher, self.recipe.fisher_decay)

    def _end_epoch(self) -> None:
        progress = self.progress
        steps = (progress.step - 1) % self.batches.steps_per_epoch + 1
        self.curve.append({"step": progress.step, "loss": progress.epoch_loss / steps})
        progress.epoch_loss = 0.0
        if self.tune is None:
            return
        loss = self._tune_loss(*self.tune)
        self.curve[-1]["tune"] = loss
        progress.passes += len(self.tune[1]) * FORWARD_PASS
        self.selection.judge(loss, self.parameters)

    @torch.no_grad()
    def _tune_loss(self, inputs: tuple[Tensor, ...], target: Tensor) -> float:
        self.model.eval()
        loss = self.criterion(self.model(*inputs), target).item()
        self.model.train()
        return loss

    def _checkpoint(
        self, state: str, memory: Memory, tensors: dict[str, Tensor], learned_up_to: int | None
    ) -> Checkpoint:
        held, memory_meta = pack_memory(memory)
        meta = {
            "format": FORMAT,
            "state": state,
            **asdict(self.progress),
            **self.selection.scalars,
            "steps": self.batches.steps,
            "curve": [dict(point) for point in self.curve],
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "train": identity(self.train),
            "learned_up_to": learned_up_to,
            "memory": memory_meta,
        }
        return Checkpoint(
            self.model.spec(), {**prefixed("model", self.model.state_dict()), **held, **tensors}, meta
        )


def identity(rows: Rows) -> dict[str, int]:
    """Return what tells these train rows from others."""
    first, last = int(rows.position.min()), int(rows.position.max())
    return {"rows": len(rows), "first": first, "last": last}


def _encoded(model: Model, *parts: Rows | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the arguments of `forward` and the targets, of all parts one after the other."""
    rows = [part for part in parts if part is not None]
    inputs = zip(*(model.encode(part.columns) for part in rows), strict=True)
    target = torch.cat([model.encode_target(part.target) for part in rows])
    return tuple(torch.cat(tensors) for tensors in inputs), target
