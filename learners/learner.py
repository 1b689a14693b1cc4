"""What is known between two trainings: the model, what is consolidated, and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learners import ewc, si
from learners.continual_backprop import ContinualBackprop
from learners.memory import Memory
from learners.models.base import Model
from learners.quadratic import Consolidation
from learners.recipe import Recipe
from learners.schema import Task
from learners.si import PathIntegral

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Pending:
    """Fisher information of updates that are not consolidated yet: the mean over their rows."""

    fisher: Named = field(default_factory=dict)  # unnormalised
    rows: int = 0

    def including(self, fisher: Named, rows: int) -> Pending:
        """Return it with further rows; parameters that have grown or are new begin at nothing."""
        if not self.rows:
            return Pending(fisher, rows)
        old = Consolidation(self.fisher, self.fisher).aligned(fisher).importance
        share = rows / (self.rows + rows)
        mean = {name: share * value for name, value in fisher.items()}
        for name, value in old.items():
            mean[name] += (1 - share) * value
        return Pending(mean, self.rows + rows)


def stratum_of(target_N: Tensor, recipe: Recipe, task: Task, regime: int) -> Tensor:
    """Return the (N,) stratum of rows with these targets, of this regime, in a memory that the recipe balances.

    Raises
    ------
    ValueError
        If it balances classes where there are none.
    """
    if recipe.memory_balance == "class" or (recipe.memory_balance == "auto" and task == "classification"):
        if task != "classification":
            raise ValueError(
                "recipe: memory_balance 'class' needs classes: use 'regime' or 'none' for a regression"
            )
        return target_N.long()
    return torch.full((len(target_N),), regime if recipe.memory_balance == "regime" else 0)


@dataclass(eq=False)
class Learner:
    """A model that goes on learning. A training changes it in place and gives it back."""

    model: Model
    memory: Memory
    ewc: Consolidation = field(default_factory=Consolidation)
    pending: Pending = field(default_factory=Pending)
    si: Consolidation = field(default_factory=Consolidation)
    path: PathIntegral | None = None  # since the last consolidation
    units: ContinualBackprop | None = (
        None  # how useful each hidden unit is, where a recipe renews those that are not
    )
    moments: Named = field(default_factory=dict)  # of Adam, by parameter; where a recipe keeps them
    rates: Named = field(
        default_factory=dict
    )  # what is known of each layer's gradient, where step sizes are by layer
    learned_up_to: int | None = None  # newest position in the sample log
    updates: int = 0  # trainings so far
    regime: int = 0  # regimes before this one
    balance: str = "none"  # what the memory's strata are
    classes: frozenset[int] = frozenset()  # that there were rows of
    cramped: bool = False  # whether the last training ended for want of weights, see learners.growth

    def parameters(self) -> Named:
        """Return the weights that are learned, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def on(self, device: torch.device | str) -> Learner:
        """Return the learner with its weights, and what belongs to them, on that device; the memory stays where it is."""
        if self.model.target_scale.device == torch.device(device):
            return self
        self.model.to(device)
        self.ewc, self.si = (
            Consolidation(_moved(kept.importance, device), _moved(kept.anchor, device))
            for kept in (self.ewc, self.si)
        )
        self.pending = Pending(_moved(self.pending.fisher, device), self.pending.rows)
        if self.path is not None:
            self.path = PathIntegral.restore(_moved(self.path.tensors(), device), self.parameters())
        if self.units is not None:
            self.units.on(device)
        return self

    def forget(self, recipe: Recipe) -> None:
        """Drop what a recipe has no use for, and give the memory its size and its shares."""
        if not recipe.needs_fisher:
            self.ewc, self.pending = Consolidation(), Pending()
        if not recipe.si_lambda:
            self.si, self.path = Consolidation(), None
        if recipe.plasticity != "continual-backprop":
            self.units = None
        if not recipe.keep_optimizer:
            self.moments = {}
        if not recipe.layerwise:
            self.rates = {}
        self.memory.bytes_max = recipe.memory_bytes
        self.memory.resize(recipe.memory_rows)
        if self.balance != recipe.memory_balance:
            self.memory.divide(stratum_of(self.memory.target, recipe, self.model.schema.task, 0))
            self.balance = recipe.memory_balance

    def consolidate(self, recipe: Recipe) -> None:
        """Hold on to what was learned since the last time: the weights as they are become the anchor."""
        parameters = self.parameters()
        if self.pending.rows:
            self.ewc = ewc.consolidate(self.ewc, parameters, self.pending.fisher, recipe.fisher_decay)
            self.pending = Pending()
        if self.path is not None:
            self.si = si.consolidate(self.si, parameters, self.path, recipe.fisher_decay, recipe.si_damping)
            self.path = None


def _moved(named: Mapping[str, Tensor], device: torch.device | str) -> Named:
    return {name: tensor.to(device) for name, tensor in named.items()}
