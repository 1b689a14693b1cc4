"""How to learn: one frozen value. Torch-free, so that configuration is checked without torch.

A recipe is a composition: a task loss, penalties, a memory and a rule of rehearsal, any of them or all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Literal

from learners.recipe_check import check

Loss = Literal["auto", "l1", "huber", "mse", "cross_entropy"]
Schedule = Literal["constant", "cosine", "plateau"]
Precision = Literal["fp32", "bf16", "fp16"]
Rehearsal = Literal["er", "der", "der++", "a-gem", "gdumb"]
FisherKind = Literal["exact", "sampled", "empirical"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides its rows, its seed and its parent.

    Raises
    ------
    ValueError
        Naming the field and the range that it must lie in, or the two fields that exclude each other.
    """

    # The step
    learning_rate: float = 2e-3  # peak step size of AdamW
    batch_rows: int = 128  # rows per step, new and replayed together
    accumulate: int = (
        1  # parts that a batch is passed through the network in, one after the other; bounds memory
    )
    epochs: float = 3.0  # passes over the new rows
    max_steps: int | None = None  # upper bound on optimiser steps; None = as epochs say
    schedule: Schedule = (
        "constant"  # of the step size, after warm-up; plateau: halved when the tune loss stops falling
    )
    warmup_steps: int = 10  # steps of linear warm-up, as Adam's first are of full size; a shorter training stays below the peak
    layerwise: float = (
        0.0  # how far step sizes follow the gradient variance of their layer, 0 to 1; 0 = one for all
    )
    weight_decay: float = 0.0  # decoupled, per unit of step size
    clip_norm: float = 1.0  # largest norm of the gradient; 0 = do not clip
    keep_optimizer: bool = False  # go on with the parent's moments of Adam, for streams of very small updates
    precision: Precision = "fp32"  # of the passes; losses and weights stay in fp32
    checkpoint_activations: bool = False  # compute activations twice instead of keeping them
    compile: bool = False  # compile the network where that is faster and equal

    # The task loss
    loss: Loss = "auto"  # auto: cross-entropy for classes, absolute error otherwise
    balance_classes: float = (
        0.0  # power of the inverse class frequency that new rows weigh, 0 to 1; 0 = each row the same
    )
    class_mask: Literal["none", "ace"] = (
        "none"  # ace: new rows compete only among the classes of the new rows
    )
    augment: bool = False  # show variations of each row, of models that have any (images)
    mixup: float = 0.0  # alpha of MixUp; 0 = off
    cutmix: float = 0.0  # alpha of CutMix; 0 = off

    # What it ends with
    patience: int = 0  # epochs without a better loss on tune rows, fresh and retained, before stopping; 0 = never stop early; else the mean of iterates is not used
    average_share: float = 0.5  # the last share of the steps whose iterates are averaged; 0 = last iterate

    # Rehearsal
    rehearsal: Rehearsal = "er"  # what the memory is used for, once there is one; see learners.rehearsal
    replay_share: float = 0.5  # share of each batch drawn from memory
    replay_weight: Literal["batch", "seen"] = (
        "batch"  # of replayed rows in the loss: their share of the batch, or of all rows seen
    )
    distil_weight: float = 0.5  # weight of the squared distance to stored outputs (DER's alpha)
    recency_rows: float | None = None  # half-life, in positions, of a row's chance of replay; None = uniform

    # Memory
    memory_rows: int = 20_000  # rows that it holds at most; 0 = no memory
    memory_bytes: int | None = None  # bytes that its rows take at most; None = as rows say
    memory_balance: Literal["none", "class", "regime", "auto"] = (
        "none"  # what has equal shares of it; auto: classes, if there are any
    )
    memory_order: Literal["random", "herding"] = "random"  # which rows of a share stay
    memory_disk: bool = False  # keep the rows in files that are mapped into memory, at `allocate`

    # Penalties
    ewc_lambda: float = 0.01  # weight of elastic weight consolidation, see learners.ewc; 0 = none
    fisher: FisherKind = "exact"  # how the Fisher information is estimated
    fisher_rows: int = 512  # rows that it is estimated on
    fisher_decay: float = 0.9  # what remains of the old information at each consolidation (gamma)
    consolidate_every: int = 1  # updates between two consolidations; 0 = only when a new regime begins
    si_lambda: float = 0.0  # weight of synaptic intelligence, see learners.si; 0 = none
    si_damping: float = 0.1  # its xi, in squared displacements
    lwf_lambda: float = (
        0.0  # weight of staying with the parent's outputs on new rows (learning without forgetting); 0 = none
    )
    lwf_temperature: float = 2.0  # that these are softened by

    # Parameters
    freeze: float = 0.0  # how strongly important weights are held, see learners.freezing; 0 = not at all
    plasticity: Literal["none", "shrink-perturb", "continual-backprop"] = (
        "none"  # guard against its loss: at the start of a regime, or unit by unit
    )
    fresh: bool = False  # start from new weights and preprocessing instead of the parent's
    adapt: bool = (
        False  # let the likeness of the new regime to earlier ones change the recipe, see learners.auto
    )
    widest: int = (
        1024  # units that a hidden layer may grow to, when a recipe that adapts finds it too small; 0 = never
    )

    def __post_init__(self) -> None:
        check(self)
        for field, value in vars(self).items():  # numpy's become plain ones: a recipe is stored as JSON
            if not isinstance(value, bool) and isinstance(value, Real):
                object.__setattr__(self, field, int(value) if isinstance(value, Integral) else float(value))

    @property
    def needs_fisher(self) -> bool:
        """Whether the Fisher information of what was learned is of use later."""
        return self.ewc_lambda > 0 or (self.freeze > 0 and self.si_lambda == 0)

    @property
    def distils(self) -> bool:
        """Whether outputs are stored with the rows in memory."""
        return self.rehearsal in ("der", "der++") and self.memory_rows > 0

    @property
    def varies(self) -> bool:
        """Whether rows are shown in variations of themselves."""
        return self.augment or self.mixup > 0 or self.cutmix > 0


_DEFAULT = Recipe()
_NO_PENALTY = replace(_DEFAULT, ewc_lambda=0.0)
_ALONE = replace(_NO_PENALTY, replay_share=0.0, memory_rows=0)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "ewc+replay": _DEFAULT,
        "auto": replace(_DEFAULT, adapt=True),
        "naive": _ALONE,
        "replay": _NO_PENALTY,
        "der": replace(_NO_PENALTY, rehearsal="der"),
        "der++": replace(_NO_PENALTY, rehearsal="der++"),
        "a-gem": replace(_NO_PENALTY, rehearsal="a-gem"),
        "gdumb": replace(
            _NO_PENALTY,
            rehearsal="gdumb",
            memory_balance="auto",
            replay_share=0.0,
            epochs=20.0,
            schedule="cosine",
            average_share=0.0,
        ),
        "ewc": replace(_ALONE, ewc_lambda=0.2),
        "si": replace(_ALONE, si_lambda=0.1),
        "lwf": replace(_ALONE, lwf_lambda=1.0),
        "retrain": replace(_ALONE, fresh=True, epochs=20.0, schedule="cosine", average_share=0.0),
    }
)
"""Recipes by name. Override fields with `dataclasses.replace`."""
