"""What happens between the ends of tasks, against values worked out by hand and plain loops."""

import numpy as np
import pytest

from learners.metric_curves import (
    Evaluations,
    learning_curve_area,
    prequential_error,
    prequential_error_fading,
    prequential_error_window,
)

NAN = np.nan
# The first task falls to 0.3 while the second begins and recovers: what the ends of tasks do not show.
DIP = np.array([[0.5, NAN], [0.9, 0.1], [0.3, 0.6], [0.7, 0.8], [0.9, 0.9]])
TASKS = np.array([0, 0, 1, 1, 1])


def test_a_stability_gap_that_the_ends_of_tasks_hide() -> None:
    evaluations = Evaluations(DIP, TASKS)
    assert evaluations.matrix().forgetting() == 0
    found = evaluations.stability(window=3)
    assert found.worst == pytest.approx(0.3)
    assert found.worst_case == pytest.approx(0.9 / 2 + 0.3 / 2)
    assert found.gap == pytest.approx(0.6)
    assert found.windowed_forgetting == pytest.approx((0.6 + 0.0) / 2)
    assert found.windowed_plasticity == pytest.approx((0.6 + 0.7) / 2)


def test_worst_case_is_the_weighing_of_the_paper() -> None:
    """WC-ACC = A(last) / k + (1 - 1/k) min-ACC."""
    rng = np.random.default_rng(0)
    evaluations = Evaluations(rng.random((40, 4)), np.repeat(np.arange(4), 10))
    found = evaluations.stability()
    assert found.worst is not None
    assert found.worst_case == pytest.approx(evaluations.score_ET[-1, -1] / 4 + 0.75 * found.worst)


def test_losses_have_the_same_gap_as_the_scores_that_they_turn_around() -> None:
    scores, losses = Evaluations(DIP, TASKS).stability(3), Evaluations(1 - DIP, TASKS, "lower").stability(3)
    assert losses.worst == pytest.approx(0.7)  # of losses the highest
    assert losses.worst_case == pytest.approx(1 - scores.worst_case)
    assert losses.gap == pytest.approx(scores.gap)
    assert losses.windowed_forgetting == pytest.approx(scores.windowed_forgetting)
    assert losses.windowed_plasticity == pytest.approx(scores.windowed_plasticity)


@pytest.mark.parametrize("window", [2, 3, 7, 100])
def test_windowed_forgetting_equals_a_loop_over_all_pairs(window: int) -> None:
    score_E1 = np.random.default_rng(1).random((30, 1))
    falls = [score_E1[m, 0] - score_E1[n, 0] for n in range(30) for m in range(max(n - window + 1, 0), n)]
    found = Evaluations(score_E1, np.zeros(30, np.int64)).stability(window)
    assert found.windowed_forgetting == pytest.approx(max(falls))
    assert found.windowed_plasticity == pytest.approx(-min(falls))
    assert found.worst is found.gap is None  # there is no earlier task
    assert found.worst_case == pytest.approx(score_E1[-1, 0])


@pytest.mark.parametrize(
    ("scores", "tasks", "words"),
    [
        (DIP, [0, 0, 1, 1], "one entry per evaluation"),
        (DIP, [0, 1, 0, 1, 1], "in order"),
        (DIP, [0, 0, 0, 0, 0], "0 to 1 in order, each at least once"),
        (np.where(DIP == 0.3, NAN, DIP), TASKS, r"score_ET\[2, 0\]"),
    ],
)
def test_evaluations_that_leave_a_gap_are_refused(scores: np.ndarray, tasks: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Evaluations(scores, np.array(tasks))


def test_a_window_spans_two_evaluations() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Evaluations(DIP, TASKS).stability(1)


def test_tables_and_json_hold_every_measure() -> None:
    found = Evaluations(DIP, TASKS).stability(3)
    assert "| worst case | 0.6 |" in found.table()
    assert found.to_json()["window"] == 3


def test_learning_curve_area_of_fast_and_slow_learners() -> None:
    assert learning_curve_area(np.ones((3, 11))) == 1  # knows each task beforehand
    assert learning_curve_area(np.linspace(0, 1, 11)[None]) == pytest.approx(0.5)
    assert learning_curve_area(np.array([[0.1, 0.5], [0.3, 0.9]])) == pytest.approx((0.2 + 0.7) / 2)
    with pytest.raises(ValueError, match="finite"):
        learning_curve_area(np.array([[0.1, NAN]]))


def test_prequential_errors_worked_out_by_hand() -> None:
    loss = np.array([1.0, 0.0, 4.0, 1.0])
    assert prequential_error(loss).tolist() == [1.0, 0.5, pytest.approx(5 / 3), 1.5]
    assert prequential_error_window(loss, 2).tolist() == [1.0, 0.5, 2.0, 2.5]
    fading = [1.0, 0.5 / 1.5, 4.25 / 1.75, 3.125 / 1.875]
    assert prequential_error_fading(loss, 0.5) == pytest.approx(fading)


def test_prequential_errors_meet_where_nothing_is_forgotten() -> None:
    loss = np.random.default_rng(2).exponential(size=500)
    assert prequential_error_fading(loss, 1.0) == pytest.approx(prequential_error(loss))
    assert prequential_error_window(loss, 500) == pytest.approx(prequential_error(loss))
    assert prequential_error_window(loss, 1) == pytest.approx(loss)
    window = prequential_error_window(loss, 50)
    assert window[200] == pytest.approx(loss[151:201].mean())


def test_a_fading_factor_looks_back_as_far_as_it_says() -> None:
    """After a change, a factor of 0.99 has forgotten the old level but for 0.99^n."""
    loss = np.concatenate((np.zeros(2000), np.ones(300)))
    assert prequential_error_fading(loss, 0.99)[-1] == pytest.approx(1 - 0.99**300, abs=1e-6)


@pytest.mark.parametrize("loss", [[1.0, NAN], [[1.0]]])
def test_losses_that_are_none_are_refused(loss: list[float]) -> None:
    with pytest.raises(ValueError, match="without a label"):
        prequential_error(np.array(loss))
    with pytest.raises(ValueError, match="rows"):
        prequential_error_window(np.ones(3), 0)
    with pytest.raises(ValueError, match="factor"):
        prequential_error_fading(np.ones(3), 0.0)
