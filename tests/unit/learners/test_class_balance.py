"""Loss weights: closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from learners.class_balance import class_weights

TARGET_N = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


def test_full_strength_is_rows_over_classes_times_count() -> None:
    assert class_weights(TARGET_N, 3, 1.0).tolist() == pytest.approx([100 / 180, 100 / 90, 100 / 30])


def test_no_strength_leaves_the_loss_exactly_as_it_is() -> None:
    assert class_weights(TARGET_N, 3, 0.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
def test_weights_have_mean_one_over_the_rows_and_the_ratio_that_tau_asks_for(tau: float) -> None:
    weight_K = class_weights(TARGET_N, 3, tau).double()
    assert weight_K[TARGET_N].mean().item() == pytest.approx(1.0, abs=1e-6)
    assert (weight_K[2] / weight_K[0]).item() == pytest.approx(6**tau, rel=1e-6)


def test_every_class_has_the_same_share_of_the_loss_at_full_strength() -> None:
    weight_K = class_weights(TARGET_N, 3, 1.0)
    loss_N = functional.cross_entropy(torch.zeros(100, 3), TARGET_N, weight=weight_K, reduction="none")
    share_K = [loss_N[TARGET_N.eq(k)].sum().item() for k in range(3)]
    assert share_K == pytest.approx([share_K[0]] * 3, rel=1e-5)


def test_classes_without_rows_weigh_nothing_and_nothing_is_not_a_number() -> None:
    assert class_weights(torch.tensor([1, 1, 3]), 4, 1.0).tolist() == pytest.approx([0.0, 0.75, 0.0, 1.5])
    assert class_weights(torch.empty(0, dtype=torch.int64), 2, 0.5).tolist() == [0.0, 0.0]
