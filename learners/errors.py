"""What can go wrong in learning.

LearnerError
├── NoUsableRowsError    (ValueError)   nothing labelled to learn from
├── UnsuitableRowsError  (ValueError)   columns or targets that the model cannot read
├── UnsuitableModelError (ValueError)   a network that cannot be built, or whose outputs do not fit the task
├── UnknownModelError    (LookupError)  no model of that name
├── ResumeMismatchError  (ValueError)   the snapshot belongs to another training
├── EndedError           (RuntimeError) a training that has come to its end is asked to go on
└── DivergedError                       the loss is no longer a finite number

CannotWorkWarning        (UserWarning)  the recipe has no chance on these rows
"""

from __future__ import annotations

from collections.abc import Sequence


class LearnerError(Exception):
    """Anything that this package raises on purpose."""


class NoUsableRowsError(LearnerError, ValueError):
    """Not one of the rows that were given carries a finite target."""


class UnsuitableRowsError(LearnerError, ValueError):
    """A column is absent or of the wrong kind, or a target is not a class of the task."""


class UnsuitableModelError(LearnerError, ValueError):
    """A network cannot be built from its arguments, or does not return one output per class."""


class UnknownModelError(LearnerError, LookupError):
    """No model of that name is built in, registered as an entry point or configured."""


class ResumeMismatchError(LearnerError, ValueError):
    """The snapshot was taken of a training on other rows or by another recipe."""


class EndedError(LearnerError, RuntimeError):
    """A training ends once; then its learner goes on in another one."""


class DivergedError(LearnerError):
    """The loss or its gradient is not finite; the weights are those before the step.

    Parameters
    ----------
    step
        Number of the optimiser step, from 0.
    positions
        Positions in the sample log of the rows in that batch.
    """

    def __init__(self, step: int, positions: Sequence[int]) -> None:
        self.step = step
        self.positions = tuple(positions)
        shown = ", ".join(map(str, self.positions[:8])) + (", ..." if len(self.positions) > 8 else "")
        super().__init__(
            f"loss is not finite at step {step}, in the batch of rows at positions {shown}: lower learning_rate, "
            "set clip_norm above 0, or look for huge values in these rows"
        )

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, tuple[int, ...]]]:
        """Cross process boundaries with both arguments."""
        return type(self), (self.step, self.positions)


class CannotWorkWarning(UserWarning):
    """A training begins that cannot come to what its recipe is for."""
