"""Pictures of continual learning: figures that are returned, never shown or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from learners.metric_curves import Evaluations
from learners.metrics import TransferMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NUMBERS = 12  # tasks up to which each cell of a matrix shows its score
LEGEND = 10  # lines up to which they are named in a legend


def draw_matrix(matrix: TransferMatrix) -> Figure:
    """Draw the scores as a heat map: a row per task learned, a column per task evaluated; darker is better."""
    size = max(3.5, min(1.5 + 0.55 * matrix.tasks, 9.0))
    figure, axes = _sheet(size + 1, size)
    colours = "Blues" if matrix.better == "higher" else "Blues_r"
    image = axes.imshow(np.ma.masked_invalid(matrix.score_TT), cmap=colours)
    figure.colorbar(image, ax=axes, label=f"score ({matrix.better} is better)")
    axes.set_xticks(range(matrix.tasks), matrix.names, rotation=45, ha="right")
    axes.set_yticks(range(matrix.tasks), matrix.names)
    axes.set(xlabel="evaluated on", ylabel="after learning", title="Scores by task")
    if matrix.tasks <= NUMBERS:
        for (i, j), score in np.ndenumerate(matrix.score_TT):
            if np.isfinite(score):
                dark = image.to_rgba(np.array([score]))[0, :3].sum() < 1.5
                axes.text(j, i, f"{score:.3g}", ha="center", va="center", size=8, color="w" if dark else "k")
    return figure


def draw_forgetting(matrix: TransferMatrix) -> Figure:
    """Draw each task's score from where it was learned to the end, and the mean over the tasks learned so far."""
    figure, axes = _sheet(7.0, 4.0)
    steps = np.arange(matrix.tasks)
    for j, name in enumerate(matrix.names):
        axes.plot(steps[j:], matrix.score_TT[j:, j], marker="o", markersize=3, label=name)
    means = [matrix.score_TT[i, : i + 1].mean() for i in steps]
    axes.plot(steps, means, color="black", linewidth=2, label="mean so far")
    axes.set_xticks(steps, matrix.names, rotation=45, ha="right")
    axes.set(xlabel="after learning", ylabel=f"score ({matrix.better} is better)", title="What is kept")
    _name(axes, matrix.tasks + 1)
    return figure


def draw_evaluations(evaluations: Evaluations) -> Figure:
    """Draw each task's score while all are learned, with the ends of tasks: a dip behind one is a stability gap."""
    figure, axes = _sheet(9.0, 4.0)
    steps, tasks = np.arange(len(evaluations.score_ET)), evaluations.score_ET.shape[1]
    for j in range(tasks):
        axes.plot(steps, evaluations.score_ET[:, j], linewidth=1, label=f"task {j + 1}")
    for end in evaluations.end_T[:-1]:
        axes.axvline(end, color="grey", linestyle=":", linewidth=1)
    axes.set(
        xlabel="evaluation",
        ylabel=f"score ({evaluations.better} is better)",
        title="Scores on the way; dotted: the end of a task",
    )
    _name(axes, tasks)
    return figure


def draw_errors(error_by_name: Mapping[str, Floats]) -> Figure:
    """Draw prequential errors along a stream, one line per learner."""
    figure, axes = _sheet(9.0, 4.0)
    for name, error_N in error_by_name.items():
        axes.plot(np.arange(1, len(error_N) + 1), error_N, linewidth=1, label=name)
    axes.set(xlabel="rows", ylabel="prequential error", title="Error before learning each row")
    _name(axes, len(error_by_name))
    return figure


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _name(axes: Axes, lines: int) -> None:
    axes.grid(alpha=0.3)
    if 1 < lines <= LEGEND:
        axes.legend(fontsize=8)
