"""Measures on matrices that were worked out by hand, and what must hold between them on any."""

import json

import numpy as np
import pytest

from learners.metrics import TransferMatrix

NAN = np.nan
HAND = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.4], [0.6, 0.9, 1.0]]
UNTRAINED = np.array([0.1, 0.1, 0.2])


def hand(untrained: np.ndarray | None = None, joint: np.ndarray | None = None) -> TransferMatrix:
    return TransferMatrix(np.array(HAND), names=("a", "b", "c"), untrained_T=untrained, joint_T=joint)


def test_measures_of_a_matrix_worked_out_by_hand() -> None:
    found = hand(UNTRAINED, np.array([0.9, 0.9, 0.9])).summary()
    assert found.average == pytest.approx((0.6 + 0.9 + 1.0) / 3)
    assert found.average_throughout == pytest.approx((0.9 + 0.7 + 0.8 + 0.6 + 0.9 + 1.0) / 6)
    assert found.backward_transfer == pytest.approx((-0.3 + 0.1) / 2)
    assert found.backward_transfer_throughout == pytest.approx((-0.2 - 0.3 + 0.1) / 3)
    assert found.forward_transfer == pytest.approx(((0.2 - 0.1) + (0.4 - 0.2)) / 2)
    assert found.forgetting == pytest.approx((0.3 - 0.1) / 2)
    assert found.relative_forgetting == pytest.approx((0.3 / 0.9 - 0.1 / 0.8) / 2)
    assert found.intransigence == pytest.approx((0.0 + 0.1 - 0.1) / 3)


def test_losses_have_the_same_transfer_and_forgetting_as_the_scores_that_they_turn_around() -> None:
    scores = hand(UNTRAINED)
    losses = TransferMatrix(1 - np.array(HAND), "lower", untrained_T=1 - UNTRAINED)
    mine, theirs = losses.summary(), scores.summary()
    assert mine.average == pytest.approx(1 - theirs.average)
    for name in ("backward_transfer", "backward_transfer_throughout", "forward_transfer", "forgetting"):
        assert getattr(mine, name) == pytest.approx(getattr(theirs, name)), name


def test_relative_forgetting_of_losses_is_their_rise_over_the_least() -> None:
    minutes = TransferMatrix(np.array([[8.0, NAN, NAN], [10.0, 5.0, NAN], [12.0, 5.0, 7.0]]), "lower")
    assert minutes.forgetting() == pytest.approx((4.0 + 0.0) / 2)
    assert minutes.relative_forgetting() == pytest.approx((0.5 + 0.0) / 2)
    assert minutes.backward_transfer() == pytest.approx(-2.0)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_backward_transfer_is_minus_forgetting_where_each_task_is_best_right_after_it(better: str) -> None:
    rng = np.random.default_rng(0)
    for tasks in range(2, 8):
        learned_T = rng.uniform(0.6, 1.0, tasks)
        score_TT = learned_T - rng.uniform(0, 0.5, (tasks, tasks))
        score_TT[np.diag_indices(tasks)] = learned_T
        matrix = TransferMatrix(score_TT if better == "higher" else -score_TT, better)  # type: ignore[arg-type]
        assert matrix.backward_transfer() == pytest.approx(-matrix.forgetting())
        assert matrix.forgetting() >= 0


def test_forgetting_is_at_least_what_backward_transfer_lost() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        matrix = TransferMatrix(rng.random((5, 5)))
        assert matrix.forgetting() >= -matrix.backward_transfer() - 1e-12


def test_a_class_incremental_learner_that_forgets_all_but_the_last_task() -> None:
    """Split MNIST without any measure against it: 20% (van de Ven et al. 2022, 19.9), the last of five tasks."""
    matrix = TransferMatrix.of_rows([[0.0] * i + [1.0] for i in range(5)])
    found = matrix.summary()
    assert found.average == pytest.approx(0.2)
    assert found.backward_transfer == -1
    assert found.forgetting == found.relative_forgetting == 1
    assert found.forward_transfer is None


def test_a_score_from_before_a_task_was_learned_counts_as_its_best() -> None:
    """Chaudhry et al.: the maximum is over all models so far."""
    matrix = TransferMatrix(np.array([[0.9, 0.8, 0.0], [0.9, 0.5, 0.0], [0.9, 0.6, 0.7]]))
    assert matrix.forgetting() == pytest.approx((0.0 + 0.2) / 2)
    assert matrix.backward_transfer() == pytest.approx((0.0 + 0.1) / 2)


def test_one_task_has_an_average_and_nothing_else() -> None:
    matrix = TransferMatrix(np.array([[0.7]]))
    found = matrix.summary()
    assert (found.average, found.backward_transfer, found.forgetting) == (0.7, None, None)
    for measure in (matrix.forgetting, matrix.backward_transfer, matrix.relative_forgetting):
        with pytest.raises(ValueError, match="at least two"):
            measure()


def test_until_is_where_the_learner_stood_then() -> None:
    early = hand(UNTRAINED).until(2)
    assert early.names == ("a", "b")
    assert early.average() == pytest.approx(0.75)
    assert early.forgetting() == pytest.approx(0.2)
    assert early.forward_transfer() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="from 1 to 3"):
        hand().until(4)


def test_forward_transfer_asks_for_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="untrained_T"):
        hand().forward_transfer()
    late = TransferMatrix(np.array([[0.9, NAN], [0.8, 0.9]]), names=("a", "b"), untrained_T=np.zeros(2))
    with pytest.raises(ValueError, match="'b'"):
        late.forward_transfer()
    assert late.summary().forward_transfer is None
    with pytest.raises(ValueError, match="joint_T"):
        hand().intransigence()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([[1.0, 2.0]], "square"),
        ([1.0, 2.0], "square"),
        (np.zeros((0, 0)), "square"),
        ([[1.0, NAN], [NAN, 1.0]], r"score_TT\[1, 0\] is missing.*until\(1\)"),
        ([[1.0, 1.0], [np.inf, 1.0]], "infinite"),
    ],
)
def test_a_matrix_that_is_none_is_refused(scores: list[list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransferMatrix(np.array(scores))


def test_what_is_not_one_per_task_is_refused() -> None:
    for others in ({"names": ("a",)}, {"untrained_T": np.zeros(2)}, {"joint_T": np.zeros(4)}):
        with pytest.raises(ValueError, match="one entry per task, 3"):
            TransferMatrix(np.array(HAND), **others)
    with pytest.raises(ValueError, match="'higher' or 'lower'"):
        TransferMatrix(np.array(HAND), "larger")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row 1 must hold 2 to 2"):
        TransferMatrix.of_rows([[1.0], [1.0]])
    with pytest.raises(ValueError, match="positive"):
        TransferMatrix(np.zeros((2, 2))).relative_forgetting()


def test_values_are_frozen_and_return_from_json() -> None:
    scores = np.array(HAND)
    matrix = TransferMatrix(scores, untrained_T=UNTRAINED)
    scores[0, 0] = 0.0
    assert matrix.score_TT[0, 0] == 0.9
    with pytest.raises(ValueError, match="read-only"):
        matrix.score_TT[0, 0] = 0.0
    partial = TransferMatrix.of_rows([[0.5], [0.25, 1.0]], "lower")
    for value in (matrix, partial):
        read = TransferMatrix.from_json(json.loads(json.dumps(value.to_json(), allow_nan=False)))
        assert np.array_equal(read.score_TT, value.score_TT, equal_nan=True)
        assert read.summary() == value.summary()
    assert json.loads(json.dumps(matrix.summary().to_json()))["tasks"] == 3


def test_tables_are_markdown() -> None:
    rows = TransferMatrix.of_rows([[0.5], [0.25, 1.0]]).table().splitlines()
    assert rows[2:] == ["| 1 | 0.5 |  |", "| 2 | 0.25 | 1 |"]
    table = hand().summary().table().splitlines()
    assert table[2].startswith("| average | 0.8333 |")
    assert any(row.startswith("| forgetting | +0.1 |") for row in table)
    assert any(row.startswith("| intransigence |  |") for row in table)
    assert len({row.count("|") for row in table}) == 1
