"""What is no number stops a training at once; what is too large for fp16 alone is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.errors import DivergedError
from learners.learn import Training, start
from learners.models.mlp_config import MlpConfig
from learners.precision import LossScale
from learners.recipe import RECIPES, Precision, Recipe
from learners.rows import Rows
from learners.schema import Schema

ALONE = replace(RECIPES["naive"], loss="mse", batch_rows=20)
A_GEM = replace(RECIPES["a-gem"], loss="mse", batch_rows=20)


def rows(first: int, count: int = 100, outlier: float = 0.0) -> Rows:
    """Return rows whose last target is an outlier, if any."""
    x = np.random.default_rng(first).normal(size=count)
    target = x.copy()
    target[-1] += outlier
    return Rows({"x": x}, target, np.arange(first, first + count))


def begun(recipe: Recipe, outlier: float = 0.0) -> Training:
    return start(
        None,
        rows(0, outlier=outlier),
        recipe,
        schema=Schema(("x",)),
        model="mlp",
        config=MlpConfig(hidden=(8,)),
    )


def after(recipe: Recipe) -> Training:
    """Return a training after another one, whose rows are in the memory."""
    first = begun(recipe)
    while not first.done:
        first.step()
    return start(first.finish(), rows(1000), recipe, seed=1)


def weights(training: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in training.parameters.values()])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_not_finite_is_never_an_overflow(precision: Precision) -> None:
    training = begun(replace(ALONE, precision=precision, batch_rows=100), outlier=1e300)
    before = weights(training)
    with pytest.raises(DivergedError) as caught:
        training.step()
    assert 99 in caught.value.positions
    assert torch.equal(weights(training), before)


def test_a_gradient_that_overflows_by_the_scale_alone_costs_a_step_and_half_the_scale() -> None:
    training, left_out = begun(replace(ALONE, precision="fp16", epochs=6.0), outlier=1e3), 0
    while not training.done:
        before = weights(training)
        scale = training.optimizer.scale
        assert scale is not None
        report = training.step()
        assert np.isfinite(report.loss)
        if report.rate == 0:
            left_out += 1
            assert torch.equal(weights(training), before)
            assert training.optimizer.scale == LossScale(scale.scale / 2)
        else:
            assert not torch.equal(weights(training), before)
    assert 0 < left_out < training.batches.steps / 2


def test_what_overflows_without_any_scale_has_diverged() -> None:
    training = begun(replace(ALONE, precision="fp16", batch_rows=100), outlier=1e8)
    training.optimizer.scale = LossScale(1.0)
    with pytest.raises(DivergedError) as caught:
        training.step()
    assert 99 in caught.value.positions


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gem_stops_where_the_loss_of_replayed_rows_is_not_finite(
    precision: Precision, value: float
) -> None:
    training = after(replace(A_GEM, precision=precision))
    training.step()
    training.memory.target[:] = value
    before = weights(training)
    with pytest.raises(DivergedError) as caught:
        training.step()
    assert torch.equal(weights(training), before)
    assert min(caught.value.positions) < 100  # rows of the memory are named
    assert max(caught.value.positions) >= 1000


def test_a_gem_takes_no_step_by_a_bound_that_overflowed() -> None:
    training = after(replace(A_GEM, precision="fp16"))
    training.memory.target[:] = 1e4
    before = weights(training)
    assert training.step().rate == 0
    assert torch.equal(weights(training), before)
