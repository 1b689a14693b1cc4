"""What a model reads and what it predicts. Torch-free, so that configuration is checked without torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class Schema:
    """Names of the features and the kind of the target.

    Raises
    ------
    ValueError
        If there is no feature, a name occurs twice, or the classes do not fit the task.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...] = ()
    task: Task = "regression"
    classes: tuple[str, ...] = ()  # labels in the order of their index; empty for regression

    def __post_init__(self) -> None:
        for field in ("numeric", "categorical", "classes"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise ValueError(f"schema: {field} must be a tuple of names, not a string: pass ({names!r},)")
            object.__setattr__(self, field, tuple(names))
        names = self.features
        if not names:
            raise ValueError("schema: at least one numeric or categorical feature is needed")
        if len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"schema: features named twice: {', '.join(twice)}")
        if self.task not in ("regression", "classification"):
            raise ValueError(f"schema: task must be 'regression' or 'classification', not {self.task!r}")
        if self.task == "regression" and self.classes:
            raise ValueError("schema: a regression has no classes")
        if self.task == "classification" and len(set(self.classes)) < 2:
            raise ValueError("schema: a classification needs at least two distinct classes")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features."""
        return self.numeric + self.categorical

    @property
    def outputs(self) -> int:
        """Number of network outputs: one per class, or one."""
        return len(self.classes) or 1
