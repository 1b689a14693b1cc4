"""A-GEM: the projection is equation 11, and the loop bounds its steps by the rows from memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.agem import project
from learners.learn import Training, start
from learners.models.mlp_config import MlpConfig
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema


def drawn(seed: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((4, 3), (4,), (1, 4))]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def opposed(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return a gradient and a reference of a negative product, as one joint vector though not for every parameter."""
    gradient, reference = drawn(seed), drawn(seed + 100)
    sign = -torch.sign(flat(gradient) @ flat(reference))
    return gradient, [sign * tensor for tensor in reference]


@pytest.mark.parametrize("seed", range(5))
def test_where_they_disagree_it_is_equation_11(seed: int) -> None:
    gradient, reference = opposed(seed)
    g, ref = flat(gradient), flat(reference)
    assert project(gradient, reference)
    assert torch.allclose(flat(gradient), g - (g @ ref) / (ref @ ref) * ref, rtol=0, atol=1e-14)
    assert abs(flat(gradient) @ ref) < 1e-12 * g.norm() * ref.norm()
    assert torch.equal(flat(reference), ref)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_nearest_gradient_that_does_not_point_against_the_reference(seed: int) -> None:
    gradient, reference = opposed(seed)
    g, ref = flat(gradient), flat(reference)
    project(gradient, reference)
    others = torch.randn(1000, len(g), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    allowed = others[others @ ref >= 0] + flat(gradient)
    assert ((allowed - g).norm(dim=1) >= (flat(gradient) - g).norm() - 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_where_they_agree_no_bit_changes(seed: int) -> None:
    gradient, reference = opposed(seed)
    reference = [-tensor for tensor in reference]
    before = flat(gradient)
    assert not project(gradient, reference)
    assert torch.equal(flat(gradient), before)


def test_a_reference_of_zero_bounds_nothing() -> None:
    gradient = drawn(0)
    before = flat(gradient)
    assert not project(gradient, [torch.zeros_like(tensor) for tensor in gradient])
    assert torch.equal(flat(gradient), before)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_reference_that_is_not_finite_leaves_no_gradient_to_step_by(value: float, sign: int) -> None:
    gradient, reference = opposed(0)
    reference[1][2] = sign * value
    project(gradient, reference)
    assert not flat(gradient).isfinite().all()


SCHEMA = Schema(("x", "z"))
RECIPE = replace(
    RECIPES["a-gem"],
    loss="mse",
    clip_norm=0.0,
    batch_rows=40,
    replay_share=0.25,
    epochs=5.0,
    average_share=0.0,
)


def line(first: int, count: int, slope: float) -> Rows:
    x, z = np.random.default_rng(first).normal(size=(2, count))
    return Rows({"x": x, "z": z}, slope * x + z, np.arange(first, first + count))


def contrary() -> Training:
    """Return a training on the opposite of what its parent learned."""
    training = start(
        None, line(0, 200, 1.0), RECIPE, schema=SCHEMA, model="mlp", config=MlpConfig(hidden=(8,))
    )
    while not training.done:
        training.step()
    return start(training.finish(), line(1000, 100, -1.0), RECIPE, seed=1)


def test_the_step_is_taken_along_the_projection_of_the_mean_gradients() -> None:
    training, opposing = contrary(), 0
    parameters = list(training.parameters.values())
    for step in range(5):
        seen = training.feed.at(step)
        new, replayed = len(seen.new), len(seen.replayed)
        assert new > replayed > 0
        error_B = training.model(*seen.batch.inputs)[:, 0] - seen.batch.target
        g, ref = (
            flat(list(torch.autograd.grad(half.square().mean() / 2, parameters, retain_graph=True)))
            for half in (error_B[:new], error_B[new:])
        )
        expected = g
        if g @ ref < 0:
            opposing += 1
            expected = g - (g @ ref) / (ref @ ref) * ref
        training.step()
        taken = flat([p.grad for p in parameters if p.grad is not None])
        assert torch.allclose(taken, expected, rtol=1e-4, atol=1e-6)
        assert taken @ ref >= -1e-5 * taken.norm() * ref.norm()
    assert opposing >= 1
