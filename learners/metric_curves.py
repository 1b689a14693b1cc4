"""Measures of continual learning between the ends of tasks: speed of learning, temporary forgetting, and error on a stream.

Shapes: E evaluations in the order of training, T tasks, B batches, N rows of a stream.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from learners.metric_summary import Better
from learners.metrics import TransferMatrix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stability:
    """How low a learner fell on the way (De Lange et al. 2023, arXiv:2205.13452); scores in their unit."""

    worst: float | None  # min-ACC: mean over earlier tasks of the worst score since they were learned
    worst_case: float  # WC-ACC: of all tasks: the last one's final score, and the worst ones of the others
    gap: float | None  # by how much the worst scores of earlier tasks lie below their final ones, at least 0
    windowed_forgetting: (
        float  # largest fall within a window of evaluations, mean over tasks; positive is worse
    )
    windowed_plasticity: float  # largest rise, the same way; positive is better
    window: int  # evaluations

    def table(self) -> str:
        """Return the measures as rows of a Markdown table."""
        lines = ["| measure | value |", "| --- | ---: |"]
        for name, value in asdict(self).items():
            lines.append(f"| {name.replace('_', ' ')} | {'' if value is None else f'{value:.4g}'} |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Evaluations:
    """Scores on every task, while the tasks are learned one after another.

    Parameters
    ----------
    score_ET : float array, shape (E, T)
        NaN where nothing was measured, which only tasks that are not learned yet may have.
    task_E : int array, shape (E,)
        Task that was trained at each evaluation, from 0, in order; the last evaluation of each is taken to be its end.
    better
        Whether higher scores are better (accuracies), or lower ones (losses).

    Raises
    ------
    ValueError
        If tasks do not follow each other from 0 to T - 1, or a task was not evaluated after its end.
    """

    score_ET: Floats
    task_E: NDArray[np.int64]
    better: Better = "higher"

    def __post_init__(self) -> None:
        score_ET, task_E = np.asarray(self.score_ET, np.float64), np.asarray(self.task_E, np.int64)
        if score_ET.ndim != 2 or task_E.shape != score_ET.shape[:1]:
            raise ValueError(
                f"score_ET has shape {score_ET.shape}, task_E {task_E.shape}: they need one row, one entry per evaluation"
            )
        if not np.array_equal(np.unique(task_E), np.arange(score_ET.shape[1])) or (np.diff(task_E) < 0).any():
            raise ValueError(
                f"task_E must name the tasks 0 to {score_ET.shape[1] - 1} in order, each at least once"
            )
        end_T = np.searchsorted(task_E, np.arange(score_ET.shape[1]), side="right") - 1
        due_ET = np.arange(len(score_ET))[:, None] >= end_T
        if (due_ET & ~np.isfinite(score_ET)).any():
            e, task = np.argwhere(due_ET & ~np.isfinite(score_ET))[0]
            raise ValueError(
                f"score_ET[{e}, {task}] is no number: a task that has been learned is evaluated each time"
            )
        object.__setattr__(self, "score_ET", score_ET)
        object.__setattr__(self, "task_E", task_E)

    @property
    def end_T(self) -> NDArray[np.intp]:
        """Evaluation at the end of each task, shape (T,)."""
        return np.searchsorted(self.task_E, np.arange(self.score_ET.shape[1]), side="right") - 1

    def matrix(self) -> TransferMatrix:
        """Return the scores at the ends of the tasks alone."""
        return TransferMatrix(self.score_ET[self.end_T], self.better)

    def stability(self, window: int = 10) -> Stability:
        """Measure how low scores fell, up to the last evaluation.

        Parameters
        ----------
        window
            Evaluations within which falls and rises are looked for, at least 2; all if there are fewer.
        """
        if window < 2:
            raise ValueError(f"window must span at least 2 evaluations, not {window}")
        sign, end_T = 1.0 if self.better == "higher" else -1.0, self.end_T
        height_ET = sign * self.score_ET
        final_T, tasks = height_ET[-1], height_ET.shape[1]
        low_T = np.array([height_ET[end + 1 :, j].min() for j, end in enumerate(end_T[:-1])])
        falls = [_largest_fall(height_ET[:, j], window) for j in range(tasks)]
        rises = [_largest_fall(-height_ET[:, j], window) for j in range(tasks)]
        return Stability(
            worst=sign * float(low_T.mean()) if tasks > 1 else None,
            worst_case=sign * (float(final_T[-1]) + float(low_T.sum())) / tasks,
            gap=float((final_T[:-1] - low_T).mean()) if tasks > 1 else None,
            windowed_forgetting=float(np.mean(falls)),
            windowed_plasticity=float(np.mean(rises)),
            window=window,
        )


def _largest_fall(height_E: Floats, window: int) -> float:
    """Return by how much a value lies below an earlier one of the same window, at most; 0 if it never does."""
    height_E = height_E[np.isfinite(height_E)]
    if height_E.size < 2:
        return 0.0
    before = np.concatenate((np.full(window - 1, -np.inf), height_E))
    highest_E = sliding_window_view(before, window).max(axis=1)
    return float((highest_E - height_E).max())


def learning_curve_area(score_TB: Floats) -> float:
    """Return the area below the mean learning curve, LCA (Chaudhry et al. 2019, arXiv:1812.00420).

    Parameters
    ----------
    score_TB : float array, shape (T, B + 1)
        Score on each task before its training and after each of its first B batches.

    Returns
    -------
    float
        Mean over tasks and batches, in units of the score: with accuracies 1 for a learner that knows each task beforehand.

    Raises
    ------
    ValueError
        If there is no score, or one is no number.
    """
    score_TB = np.asarray(score_TB, np.float64)
    if score_TB.ndim != 2 or not score_TB.size or not np.isfinite(score_TB).all():
        raise ValueError(
            f"score_TB must be finite scores of tasks by batches, not of shape {score_TB.shape} with gaps"
        )
    return float(score_TB.mean())


def prequential_error(loss_N: Floats) -> Floats:
    """Return the mean of all losses so far at each row of a stream, shape (N,): each row is predicted before it is learned."""
    loss_N = _losses(loss_N)
    return np.asarray(np.cumsum(loss_N) / np.arange(1, loss_N.size + 1))


def prequential_error_fading(loss_N: Floats, factor: float) -> Floats:
    """Return the prequential error that forgets (Gama, Sebastiao and Rodrigues 2013), shape (N,).

    At row i it is S_i / B_i with S_i = L_i + factor S_{i-1} and B_i = 1 + factor B_{i-1}.

    Parameters
    ----------
    loss_N
        Losses in the order of the stream.
    factor
        Above 0 and at most 1, which forgets nothing; 0.995 looks back over some 200 rows.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"factor must lie above 0 and at most at 1, not be {factor}")
    loss_N = _losses(loss_N)
    total = weight = 0.0
    faded_N = np.empty(loss_N.size)
    for i, loss in enumerate(loss_N.tolist()):
        total, weight = loss + factor * total, 1 + factor * weight
        faded_N[i] = total / weight
    return faded_N


def prequential_error_window(loss_N: Floats, rows: int) -> Floats:
    """Return the mean of the newest `rows` losses at each row, of all where they are fewer; shape (N,)."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")
    loss_N = _losses(loss_N)
    held_N = np.minimum(np.arange(1, loss_N.size + 1), rows)
    if loss_N.size <= rows:
        return np.asarray(np.cumsum(loss_N) / held_N)
    padded = np.concatenate((np.zeros(rows - 1), loss_N))
    return np.asarray(sliding_window_view(padded, rows).sum(axis=1) / held_N)


def _losses(loss_N: Floats) -> Floats:
    loss_N = np.asarray(loss_N, np.float64)
    if loss_N.ndim != 1 or not np.isfinite(loss_N).all():
        raise ValueError("loss_N must be a vector of finite losses: leave rows without a label out")
    return loss_N
