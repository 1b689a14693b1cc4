"""Measures of continual learning on a matrix of scores: what was kept, what was lost, what helped.

Shapes: T tasks in the order of learning. R[i, j] is the score on task j after learning task i (Lopez-Paz and Ranzato 2017,
arXiv:1706.08840). Scores are accuracies (better = "higher") or losses (better = "lower"); all measures but the averages are differences of
scores, in their unit, that are turned so that the sign means the same for both:

    positive is better   backward_transfer, forward_transfer
    positive is worse    forgetting, relative_forgetting (Chaudhry et al. 2018, arXiv:1801.10112), intransigence (the same)

Where each task is best right after it was learned, backward transfer is minus forgetting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.metric_summary import Better, Summary

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Scores on each task after learning each task.

    Parameters
    ----------
    score_TT : float array, shape (T, T)
        R[i, j]: row i after learning task i, column j for the score on task j. NaN where nothing was measured: tasks that are
        not learned yet need no score, but for `forward_transfer`.
    better
        Whether higher scores are better (accuracies), or lower ones (losses).
    names
        Of the tasks; their numbers from 1 if none are given.
    untrained_T : float array, shape (T,), optional
        Scores of an untrained model: what `forward_transfer` is compared with.
    joint_T : float array, shape (T,), optional
        Scores on task j of a model trained on tasks 1 to j together: what `intransigence` is compared with.

    Raises
    ------
    ValueError
        If the matrix is not square or empty, a score is infinite or, of a task that was learned, missing; or names or the scores
        of other models are not one per task.
    """

    score_TT: Floats
    better: Better = "higher"
    names: tuple[str, ...] = ()
    untrained_T: Floats | None = None
    joint_T: Floats | None = None

    def __post_init__(self) -> None:
        score_TT = np.array(self.score_TT, dtype=np.float64)
        if score_TT.ndim != 2 or score_TT.shape[0] != score_TT.shape[1] or not score_TT.size:
            raise ValueError(
                f"score_TT must be square, a row and a column per task, not of shape {score_TT.shape}"
            )
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better must be 'higher' or 'lower', not {self.better!r}")
        tasks = len(score_TT)
        names = tuple(self.names) or tuple(str(task + 1) for task in range(tasks))
        for field, value in (("names", names), ("untrained_T", self.untrained_T), ("joint_T", self.joint_T)):
            if value is not None and len(value) != tasks:
                raise ValueError(f"{field} must have one entry per task, {tasks}, not {len(value)}")
        if np.isinf(score_TT).any():
            raise ValueError("score_TT holds an infinite score: leave it out as NaN, or bound the loss")
        for i, j in np.argwhere(np.isnan(score_TT)):
            if j <= i:
                raise ValueError(
                    f"score_TT[{i}, {j}] is missing: task {names[j]!r} has been learned before, evaluate it"
                    f" after task {names[i]!r}, too; or cut the matrix with until({i})"
                )
        score_TT.flags.writeable = False
        object.__setattr__(self, "score_TT", score_TT)
        object.__setattr__(self, "names", names)

    @classmethod
    def of_rows(
        cls, rows: Sequence[Sequence[float]], better: Better = "higher", names: Sequence[str] = ()
    ) -> TransferMatrix:
        """Build a matrix from one row per task learned, each at least as long as the tasks learned by then."""
        tasks = len(rows)
        score_TT = np.full((tasks, tasks), np.nan)
        for i, row in enumerate(rows):
            if not i < len(row) <= tasks:
                raise ValueError(f"row {i} must hold {i + 1} to {tasks} scores, not {len(row)}")
            score_TT[i, : len(row)] = row
        return cls(score_TT, better, tuple(names))

    @property
    def tasks(self) -> int:
        """Number of tasks, T."""
        return len(self.score_TT)

    @property
    def sign(self) -> float:
        """1 where higher scores are better, else -1."""
        return 1.0 if self.better == "higher" else -1.0

    @cached_property
    def learned_T(self) -> Floats:
        """Score on each task right after it was learned, shape (T,)."""
        return np.diag(self.score_TT).copy()

    @property
    def final_T(self) -> Floats:
        """Score on each task at the end, shape (T,)."""
        final_T: Floats = self.score_TT[-1]
        return final_T

    @cached_property
    def best_T(self) -> Floats:
        """Best score on each task but the last before the last was learned, shape (T - 1,); scores from before learning it count."""
        before_TT = self.sign * self.score_TT[:-1, :-1]
        return self.sign * np.fmax.reduce(before_TT, axis=0) if self.tasks > 1 else np.zeros(0)

    @property
    def forgotten_T(self) -> Floats:
        """What is lost of each task but the last, shape (T - 1,)."""
        return self.sign * (self.best_T - self.final_T[:-1])

    def until(self, tasks: int) -> TransferMatrix:
        """Return the matrix of the first `tasks` tasks: where the learner stood then."""
        if not 1 <= tasks <= self.tasks:
            raise ValueError(f"tasks must lie from 1 to {self.tasks}, not be {tasks}")
        cut = [None if part is None else part[:tasks] for part in (self.untrained_T, self.joint_T)]
        return TransferMatrix(self.score_TT[:tasks, :tasks], self.better, self.names[:tasks], *cut)

    def average(self) -> float:
        """Return the mean score on all tasks at the end; with accuracies, ACC."""
        return float(self.final_T.mean())

    def average_throughout(self) -> float:
        """Return the mean of R[i, j] over all tasks j learned by i."""
        return float(self.score_TT[np.tril_indices(self.tasks)].mean())

    def backward_transfer(self) -> float:
        """Return the mean over j < T of R[T, j] - R[j, j] (BWT). Raises `ValueError` for one task."""
        self._need_two("backward_transfer")
        return self.sign * float((self.final_T - self.learned_T)[:-1].mean())

    def backward_transfer_throughout(self) -> float:
        """Return the mean over all i > j of R[i, j] - R[j, j]. Raises `ValueError` for one task."""
        self._need_two("backward_transfer_throughout")
        change_TT = self.score_TT - self.learned_T
        return self.sign * float(change_TT[np.tril_indices(self.tasks, -1)].mean())

    def forward_transfer(self) -> float:
        """Return the mean over j > 1 of R[j - 1, j] less the untrained score (FWT).

        Raises
        ------
        ValueError
            For one task, without `untrained_T`, or if a task was not evaluated before it was learned.
        """
        self._need_two("forward_transfer")
        if self.untrained_T is None:
            raise ValueError("forward_transfer needs untrained_T, the scores of an untrained model")
        ahead = np.diag(self.score_TT, 1) - np.asarray(self.untrained_T, np.float64)[1:]
        if np.isnan(ahead).any():
            task = self.names[int(np.flatnonzero(np.isnan(ahead))[0]) + 1]
            raise ValueError(
                f"forward_transfer needs the score on task {task!r} after the one before it, and untrained"
            )
        return self.sign * float(ahead.mean())

    def forgetting(self) -> float:
        """Return the mean over j < T of max_{i < T} R[i, j] - R[T, j]. Raises `ValueError` for one task."""
        self._need_two("forgetting")
        return float(self.forgotten_T.mean())

    def relative_forgetting(self) -> float:
        """Return the mean of what is forgotten of each task as a share of its best score.

        Raises
        ------
        ValueError
            For one task, or if a best score is zero or negative: of it there is no share.
        """
        self._need_two("relative_forgetting")
        if (self.best_T <= 0).any():
            task = self.names[int(np.flatnonzero(self.best_T <= 0)[0])]
            raise ValueError(f"relative_forgetting needs positive scores; the best on task {task!r} is not")
        return float((self.forgotten_T / self.best_T).mean())

    def intransigence(self) -> float:
        """Return the mean over j of the joint score less R[j, j]. Raises `ValueError` without `joint_T`."""
        if self.joint_T is None:
            raise ValueError("intransigence needs joint_T, the scores of models trained on all tasks so far")
        return self.sign * float((np.asarray(self.joint_T, np.float64) - self.learned_T).mean())

    def summary(self) -> Summary:
        """Return all measures that this matrix tells."""
        many = self.tasks > 1
        ahead = many and self.untrained_T is not None and not np.isnan(np.diag(self.score_TT, 1)).any()
        return Summary(
            self.better,
            self.tasks,
            self.average(),
            self.average_throughout(),
            self.backward_transfer() if many else None,
            self.backward_transfer_throughout() if many else None,
            self.forward_transfer() if ahead else None,
            self.forgetting() if many else None,
            self.relative_forgetting() if many and (self.best_T > 0).all() else None,
            None if self.joint_T is None else self.intransigence(),
        )

    def table(self) -> str:
        """Return the matrix as a Markdown table: a row per task learned, a column per task evaluated."""
        lines = [
            "| learned | " + " | ".join(self.names) + " |",
            "| --- |" + " ---: |" * self.tasks,
        ]
        for name, row in zip(self.names, self.score_TT, strict=True):
            cells = ["" if np.isnan(score) else f"{score:.4g}" for score in row]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types, None for what was not measured; `from_json` reads them back."""
        return {
            "better": self.better,
            "names": list(self.names),
            "scores": [_plain(row) for row in self.score_TT],
            "untrained": None if self.untrained_T is None else _plain(self.untrained_T),
            "joint": None if self.joint_T is None else _plain(self.joint_T),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TransferMatrix:
        """Read what `to_json` wrote."""
        others = [document[name] for name in ("untrained", "joint")]
        untrained, joint = (None if row is None else np.array(row, np.float64) for row in others)
        scores = np.array(document["scores"], dtype=np.float64)
        return cls(scores, document["better"], tuple(document["names"]), untrained, joint)

    def _need_two(self, measure: str) -> None:
        if self.tasks < 2:
            raise ValueError(f"{measure} compares tasks: it needs at least two, there is one")


def _plain(row: Floats) -> list[float | None]:
    return [None if np.isnan(score) else float(score) for score in row]
