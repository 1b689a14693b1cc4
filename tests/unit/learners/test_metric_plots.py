"""Figures show the numbers they are given, and are neither shown nor written."""

import io
import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learners.metric_curves import Evaluations
from learners.metric_plots import draw_errors, draw_evaluations, draw_forgetting, draw_matrix
from learners.metrics import TransferMatrix

MATRIX = TransferMatrix.of_rows([[0.9], [0.7, 0.8], [0.6, 0.85, 1.0]])


def drawn(figure: Figure) -> Axes:
    """Return the axes of a figure that can be drawn."""
    figure.savefig(io.BytesIO(), format="png")
    return figure.axes[0]


def test_a_matrix_is_drawn_with_its_scores_and_names() -> None:
    axes = drawn(draw_matrix(MATRIX))
    assert [text.get_text() for text in axes.texts] == ["0.9", "0.7", "0.8", "0.6", "0.85", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]


def test_lines_are_the_columns_from_where_each_task_was_learned() -> None:
    lines = drawn(draw_forgetting(MATRIX)).get_lines()
    assert [list(np.asarray(line.get_ydata())) for line in lines[:3]] == [[0.9, 0.7, 0.6], [0.8, 0.85], [1.0]]
    assert np.asarray(lines[3].get_ydata()).tolist() == [0.9, 0.75, (0.6 + 0.85 + 1.0) / 3]


def test_ends_of_tasks_and_errors_by_learner() -> None:
    evaluations = Evaluations(np.random.default_rng(0).random((9, 3)), np.repeat(np.arange(3), 3))
    dotted = [
        line for line in drawn(draw_evaluations(evaluations)).get_lines() if line.get_linestyle() == ":"
    ]
    assert [np.asarray(line.get_xdata())[0] for line in dotted] == [2, 5]
    errors = {"ours": np.array([1.0, 0.5]), "theirs": np.array([1.0, 1.0])}
    legend = drawn(draw_errors(errors)).get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "theirs"]


def test_no_window_is_asked_for() -> None:
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
