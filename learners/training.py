"""The loop. Take steps until `done`, then `finish`; `snapshot` at any step between.

A light update costs milliseconds: rows are encoded once, and each step gathers by index. What a step does is a pure
function of weights, optimiser state, seed and step number, so a training resumed from a snapshot ends, on the CPU,
with the same bits as one that was never interrupted.

Shapes: N new rows, B rows of a batch, K outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learners import agem, freezing, quadratic
from learners.checkpoint import Checkpoint, pack, prefixed, under
from learners.compiled import Choice, compile_equal, compiled
from learners.continual_backprop import ContinualBackprop
from learners.encoded import Encoded
from learners.errors import DivergedError, EndedError
from learners.feed import Feed, Step
from learners.fisher import diagonal_fisher
from learners.growth import cramped
from learners.herding import herding_priority
from learners.learner import Learner, stratum_of
from learners.losses import row_loss
from learners.models.base import Inputs
from learners.objective import Batch, objective
from learners.optimizer import Optimizer
from learners.precision import forward
from learners.quadratic import Consolidation
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schedule import Plateau, rate
from learners.seeds import FISHER, FORWARD, RENEW, generator, seeded, torch_generator
from learners.selection import Selection
from learners.si import PathIntegral
from learners.similarity import Similarity

FORWARD_PASS = 1 / 3  # cost of a forward pass, in passes of forward and backward
EVALUATED_ROWS = 4096  # rows per pass without a gradient


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    step: int  # from 0
    loss: float  # objective on the batch, before the step
    penalty: float  # of staying near what was consolidated, before the step
    rate: float  # step size


@dataclass
class Progress:
    """Where a training is; plain JSON."""

    step: int = 0  # steps done
    passes: float = 0.0  # sample passes: forward and backward of one row = 1
    epoch_loss: float = 0.0  # sum of the batch losses of this epoch so far


class Training:
    """One training in progress; made by `start` or `resume`.

    Parameters
    ----------
    held_out
        Tune rows by name ("fresh", "retained"): what early stopping and the plateau look at.
    teacher
        (N, K of the parent) outputs of the parent on the train rows, or None.
    origin
        What tells these train rows from others, as by `identity`; plain JSON.
    """

    def __init__(
        self,
        learner: Learner,
        train: Encoded,
        held_out: Mapping[str, Encoded],
        teacher: Tensor | None,
        recipe: Recipe,
        seed: int,
        origin: Mapping[str, Any],
    ) -> None:
        self.origin = dict(origin)
        self.similarity: Similarity | None = None  # that the recipe was adapted to
        self.ended = False  # by `finish` or `conclude`
        self.learner, self.model, self.memory = learner, learner.model.train(), learner.memory
        self.train, self.held_out, self.recipe, self.seed = train, held_out, recipe, seed
        self.task = self.model.schema.task
        self.progress, self.curve = Progress(), list[dict[str, Any]]()
        self.parameters = learner.parameters()
        self.row_loss = row_loss(recipe.loss, self.task)
        self.feed = Feed(self.model, train, self.memory, teacher, recipe, seed)
        self.batches = self.feed.batches
        self.selection = Selection(recipe.patience, round(self.batches.steps * (1 - recipe.average_share)))
        self.plateau = Plateau()
        self.network = Choice(self.model, False, "not asked for")
        self.optimizer = Optimizer(self.parameters, recipe, learner.moments, learner.rates)
        consolidated = [
            (kept.aligned(self.parameters), strength)
            for kept, strength in ((learner.ewc, recipe.ewc_lambda), (learner.si, recipe.si_lambda))
            if kept.importance
        ]
        self.penalties = [(kept, strength) for kept, strength in consolidated if strength]
        if recipe.plasticity == "continual-backprop":
            learner.units = learner.units or ContinualBackprop()
        if recipe.si_lambda:
            begun = learner.path or PathIntegral(self.parameters)
            learner.path = begun.aligned(self.parameters)
        self.mobility = freezing.mobility([kept for kept, _ in consolidated], recipe.freeze)
        # (N, K) outputs of each row's last visit: they go into the memory with it.
        self.visited = (
            torch.full((len(train), self.model.schema.outputs), torch.nan) if recipe.distils else None
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
        EndedError
            If all steps are taken.
        """
        self._check_goes_on()
        if self.done:
            raise EndedError(
                f"all {self.progress.step} steps of this training are taken: call finish or conclude"
            )
        step, recipe, path = self.progress.step, self.recipe, self.learner.path
        seen = self.feed.at(step)
        loss, out_BK = self._gradient(seen, step)
        if path is not None:
            path.before_step(self.parameters)
        pulls = [quadratic.pull(self.parameters, kept, strength) for kept, strength in self.penalties]
        computed = bool(loss.isfinite())
        finite = computed and bool(self.optimizer.clip().isfinite())
        overflowed = computed and self.optimizer.overflowed(finite)
        if not (finite or overflowed):
            raise DivergedError(step, self._positions(seen))
        size = 0.0 if overflowed else rate(recipe, step, self.batches.steps, self.plateau.multiplier)
        if not overflowed:
            before = freezing.noted(self.parameters, self.mobility)
            self.optimizer.step(size)
            freezing.damp(self.parameters, before, self.mobility)
            if path is not None:
                path.after_step(self.parameters)
            if self.learner.units is not None:
                random = torch_generator(self.seed, RENEW, step)
                self.learner.units.after_step(self.model, seen.batch.inputs, self.optimizer.moments(), random)

        if self.visited is not None:
            self.visited[torch.from_numpy(seen.new)] = out_BK[: len(seen.new)].cpu()
        report = StepReport(step, loss.item(), float(sum(pulls)), size)
        self.progress.step += 1
        self.progress.passes += len(seen.batch)
        self.progress.epoch_loss += report.loss
        self.selection.include(self.progress.step, self.parameters)
        if self.progress.step % self.batches.steps_per_epoch == 0 or self.done:
            self._end_epoch()
        return report

    def snapshot(self) -> Checkpoint:
        """Return a checkpoint to resume from. Raises `EndedError` after `finish` or `conclude`."""
        self._check_goes_on()
        self.learner.moments, self.learner.rates = self.optimizer.moments(), self.optimizer.tensors()
        tensors = {
            **prefixed("training.best", self.selection.best),
            **prefixed("training.average", self.selection.average),
        }
        for name, tensor in (("visited", self.visited), ("teacher", self.feed.teacher)):
            if tensor is not None:
                tensors |= prefixed("training", {name: tensor})
        return self._checkpoint("training", tensors)

    def compile(self) -> None:
        """Measure whether this training gains from a compiled network, and take that if so."""
        self.network = compiled(self.model, self.feed.at(0).batch.inputs, self.batches.steps)

    def restore(self, snapshot: Checkpoint) -> None:
        """Go on where the snapshot was taken."""
        meta, tensors = snapshot.meta, under("training", snapshot.tensors)
        self.progress = Progress(meta["step"], meta["passes"], meta["epoch_loss"])
        self.curve = [dict(point) for point in meta["curve"]]
        device = self.train.target.device
        best, average = (
            {name: tensor.to(device) for name, tensor in under(kind, tensors).items()}
            for kind in ("best", "average")
        )
        self.selection.restore(meta, best, average)
        self.plateau = Plateau.restore(meta["plateau"])
        if meta["compiled"]:
            self.network = Choice(compile_equal(self.model), True, "as before the interruption")
        self.optimizer.restore(meta["optimizer"])
        if self.visited is not None:
            self.visited.copy_(tensors["visited"])

    def finish(self) -> Checkpoint:
        """Return the learner with what it learned, at rest; errors as for `conclude`."""
        self.conclude()
        return self._checkpoint("finished", {})

    def conclude(self) -> Learner:
        """Return the learner with what it learned, to go on with at once; `learners.checkpoint.checkpoint_of` stores it.

        Raises
        ------
        EndedError
            If the training has ended already: what it learned would count twice.
        """
        self._check_goes_on()
        self.ended = True
        recipe, learner = self.recipe, self.learner
        with torch.no_grad():
            for name, value in self.selection.chosen.items():
                self.parameters[name].copy_(value)
        learner.updates += 1
        fisher, rows = self._information() if recipe.needs_fisher else ({}, 0)
        learner.cramped = self._cramped(fisher)
        if recipe.needs_fisher:
            learner.pending = learner.pending.including(fisher, rows)
        if recipe.consolidate_every and learner.updates % recipe.consolidate_every == 0:
            learner.consolidate(recipe)
        learner.moments = self.optimizer.moments() if recipe.keep_optimizer else {}
        learner.rates = self.optimizer.tensors()
        learner.learned_up_to = max(int(self.train.position.max()), learner.learned_up_to or 0)
        if recipe.rehearsal != "gdumb":  # which was offered them before it began
            offer(learner, self.train, recipe, self._outputs_to_keep())
        self.model.eval()
        return learner

    def _check_goes_on(self) -> None:
        if self.ended:
            raise EndedError(
                "this training has ended: start another one from its learner, or store that with "
                "learners.checkpoint.checkpoint_of(learner)"
            )

    def _gradient(self, seen: Step, step: int) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the objective in the parameters; return its value, and the outputs of the batch."""
        batch, new = seen.batch, len(seen.new)
        self.optimizer.zero_grad()
        with seeded(self.seed, FORWARD, step):  # dropout, too, depends on seed and step alone
            if self.recipe.rehearsal == "a-gem" and len(batch) > new:
                bound, _ = self._backward(batch.rows(new, len(batch)))
                reference = [p.grad for p in self.parameters.values() if p.grad is not None]
                self.optimizer.zero_grad()
                loss, out_BK = self._backward(batch.rows(0, new))
                agem.project([p.grad for p in self.parameters.values() if p.grad is not None], reference)
                loss = torch.where(bound.isfinite(), loss, bound)  # one that is not finite bounds nothing
            else:
                loss, out_BK = self._backward(batch)
        self.optimizer.unscale()
        return loss, out_BK

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add the gradient of the objective, in parts; return its value, and the outputs."""
        total, outputs, recipe = torch.zeros(()), [], self.recipe
        for part in batch.parts(recipe.accumulate):
            out_BK = forward(
                self.network.network, part.inputs, recipe.precision, recipe.checkpoint_activations
            )
            loss = objective(out_BK, part, recipe, self.row_loss, self.task)
            self.optimizer.backward(loss)
            total = total + loss.detach()
            outputs.append(out_BK.detach())
        return total, torch.cat(outputs)

    def _information(self) -> tuple[dict[str, Tensor], int]:
        """Return the Fisher information of what was learned, and of how many rows it is."""
        recipe = self.recipe
        (inputs, target), rows = self._sample(), min(recipe.fisher_rows, len(self.train))
        fisher = diagonal_fisher(self.model, inputs, self.task, recipe.fisher, target, seed=self.seed)
        backward = self.model.schema.outputs if recipe.fisher == "exact" else 1
        self.progress.passes += rows * (FORWARD_PASS + (1 - FORWARD_PASS) * backward)
        return fisher, rows

    def _sample(self) -> tuple[Inputs, Tensor]:
        """Return inputs and targets of `fisher_rows` new rows, by chance."""
        order = generator(self.seed, FISHER).permutation(len(self.train))
        index = torch.from_numpy(order[: self.recipe.fisher_rows])
        return tuple(tensor[index] for tensor in self.train.inputs), self.train.target[index]

    def _cramped(self, fisher: dict[str, Tensor]) -> bool:
        """Whether the network is too small for the new rows beside what it knew; a recipe that does not adapt never looks."""
        alignment = None if self.similarity is None else self.similarity.alignment
        if alignment is None or alignment.memory_loss is None:
            return False
        inputs, target = self._sample()
        self.progress.passes += len(target) * FORWARD_PASS
        reached = self.row_loss(outputs_of(self.model, inputs), target).mean().item()
        held, strength = self.penalties[0] if self.penalties and fisher else (Consolidation(), 0.0)
        return cramped(reached, alignment.memory_loss, self.curve, held.importance, fisher, strength)

    def _outputs_to_keep(self) -> Tensor | None:
        """Return the (N, K) outputs to store: of the last visit, or of the rows as they are if only variations were visited."""
        if self.visited is None or not self.recipe.varies:
            return self.visited
        self.progress.passes += len(self.train) * FORWARD_PASS
        return outputs_of(self.model, self.train.inputs)

    def _end_epoch(self) -> None:
        progress = self.progress
        steps = (progress.step - 1) % self.batches.steps_per_epoch + 1
        self.curve.append({"step": progress.step, "loss": progress.epoch_loss / steps})
        progress.epoch_loss = 0.0
        if not self.held_out:
            return
        losses = {name: self._held_out_loss(rows) for name, rows in self.held_out.items()}
        progress.passes += sum(map(len, self.held_out.values())) * FORWARD_PASS
        self.curve[-1] |= losses
        if self.recipe.patience:
            self.selection.judge(sum(losses.values()) / len(losses), self.parameters)
        self.plateau = self.plateau.judge(*losses.values())

    def _held_out_loss(self, rows: Encoded) -> float:
        return self.row_loss(outputs_of(self.model, rows.inputs), rows.target).mean().item()

    def _positions(self, seen: Step) -> list[int]:
        replayed = self.memory.position[torch.from_numpy(seen.replayed)].tolist()
        return [*self.train.position[[*seen.new, *seen.again]].tolist(), *replayed]

    def _checkpoint(self, state: str, tensors: dict[str, Tensor]) -> Checkpoint:
        held, meta = pack(self.learner)
        meta |= {
            "state": state,
            **asdict(self.progress),
            **self.selection.scalars,
            "plateau": self.plateau.scalars,
            "optimizer": self.optimizer.scalars,
            "compiled": self.network.compiled,
            "steps": self.batches.steps,
            "curve": [dict(point) for point in self.curve],
            "recipe": asdict(self.recipe),
            "similarity": None if self.similarity is None else self.similarity.to_json(),
            "seed": self.seed,
            "train": self.origin,
        }
        return Checkpoint(self.model.spec(), held | tensors, meta)


def identity(rows: Rows) -> dict[str, Any]:
    """Return what tells train rows from others; plain JSON."""
    position, digest = rows.position, hashlib.blake2b(digest_size=16)
    for values in (position, rows.target):
        digest.update(np.ascontiguousarray(values).tobytes())
    first, last = int(position.min()), int(position.max())
    return {"rows": len(position), "first": first, "last": last, "digest": digest.hexdigest()}


@torch.no_grad()
def outputs_of(model: torch.nn.Module, inputs: Inputs) -> Tensor:
    """Return the (N, K) outputs in eval mode; the mode is left as it was."""
    was_training = model.training
    model.eval()
    firsts = range(0, len(inputs[0]), EVALUATED_ROWS)
    out_NK = torch.cat(
        [model(*(tensor[first : first + EVALUATED_ROWS] for tensor in inputs)) for first in firsts]
    )
    model.train(was_training)
    return out_NK


def offer(learner: Learner, rows: Encoded, recipe: Recipe, outputs: Tensor | None = None) -> None:
    """Let the memory see rows, each once and in order."""
    stratum = stratum_of(rows.target, recipe, learner.model.schema.task, learner.regime)
    priority = None
    if recipe.memory_order == "herding" and learner.memory.capacity:
        learner.model.eval()
        with torch.no_grad():
            features_NH = learner.model.represent(*rows.inputs)
        uniform = learner.memory.uniform(len(rows))
        priority = herding_priority(features_NH, stratum, uniform, most=learner.memory.capacity)
    learner.memory.offer(
        rows.inputs, rows.target, torch.from_numpy(rows.position), stratum, outputs=outputs, priority=priority
    )
