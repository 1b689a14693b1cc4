"""Which weights a training ends with."""

import math

import pytest
import torch

from learners.selection import Selection


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_only_a_finite_loss_can_be_the_best(bad: float) -> None:
    selection, theta = Selection(patience=2, average_after=0), torch.zeros(1)
    for loss in (bad, 3.0, bad, 2.0):
        theta += 1
        selection.judge(loss, {"theta": theta})
        assert not selection.exhausted
    assert selection.chosen["theta"].item() == 4
    for loss in (bad, bad):
        theta += 1
        selection.judge(loss, {"theta": theta})
    assert selection.exhausted
    assert selection.chosen["theta"].item() == 4
    assert selection.scalars["best_loss"] == 2.0
