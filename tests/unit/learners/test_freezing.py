"""Elastic freezing against its formula and its limits."""

import pytest
import torch
from torch import Tensor

from learners.freezing import damp, mobility, noted
from learners.quadratic import Consolidation


def importance(scale: float = 1.0) -> Consolidation:
    w = {"w": scale * torch.tensor([[4.0, 1.0], [0.0, 1.0]]), "b": scale * torch.tensor([2.0])}
    return Consolidation(w, {name: torch.zeros_like(values) for name, values in w.items()})


def step(freeze: float) -> dict[str, Tensor]:
    """One step of Adam from one, with elastic freezing."""
    parameters = {name: torch.ones_like(w).requires_grad_() for name, w in importance().importance.items()}
    multipliers = mobility([importance()], freeze)
    before = noted(parameters, multipliers)
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 0.3)
    torch.optim.Adam(parameters.values(), lr=0.1).step()
    damp(parameters, before, multipliers)
    return {name: p.detach() for name, p in parameters.items()}


def test_a_weight_of_mean_importance_goes_one_part_in_one_plus_strength() -> None:
    multipliers = mobility([importance()], 3.0)  # the mean over what has importance is 2
    torch.testing.assert_close(multipliers["b"], torch.tensor([1 / 4]))
    torch.testing.assert_close(multipliers["w"], torch.tensor([[1 / 7, 1 / 2.5], [1.0, 1 / 2.5]]))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_importance_does_not_matter(scale: float) -> None:
    expected, scaled = mobility([importance()], 3.0), mobility([importance(scale)], 3.0)
    for name, values in expected.items():
        torch.testing.assert_close(scaled[name], values)


def test_growth_does_not_change_what_was_known() -> None:
    grown = importance().aligned({"w": torch.ones(5, 2), "b": torch.ones(3)})
    expected, after = mobility([importance()], 3.0), mobility([grown], 3.0)
    torch.testing.assert_close(after["w"][:2], expected["w"])
    assert after["w"][2:].eq(1).all()


def test_strength_zero_is_plain_training_bit_for_bit() -> None:
    parameter = torch.ones(2, 2, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 0.3)
    torch.optim.Adam([parameter], lr=0.1).step()
    assert torch.equal(step(0.0)["w"], parameter)
    assert mobility([importance()], 0.0) == {} == mobility([Consolidation()], 5.0)


def test_weights_without_importance_are_free_and_others_stop_as_strength_grows() -> None:
    plain, frozen = step(0.0)["w"], step(1e12)["w"]
    assert torch.equal(frozen[1, 0], plain[1, 0])  # no importance: the same bits
    assert (frozen - 1).abs()[0].max() < 1e-9 < (plain - 1).abs().min()


def test_damping_is_the_proximal_step() -> None:
    before, after, w = torch.tensor([1.0]), torch.tensor([3.0]), importance().importance["b"]
    theta, degree = before.clone().requires_grad_(), w / 2.0
    for _ in range(200):  # descend |theta - after|^2 + 5 degree |theta - before|^2
        gradient = 2 * (theta - after) + 2 * 5.0 * degree * (theta - before)
        theta = (theta - 0.05 * gradient).detach()
    parameters = {"b": after.clone()}
    damp(parameters, {"b": before}, {"b": mobility([importance()], 5.0)["b"]})
    torch.testing.assert_close(parameters["b"], theta)


def test_degrees_of_several_kinds_of_importance_are_averaged() -> None:
    other = Consolidation({"b": torch.tensor([10.0])}, {"b": torch.zeros(1)})
    torch.testing.assert_close(mobility([importance(), other], 3.0)["b"], torch.tensor([1 / 4]))
    only_one = mobility([importance(), Consolidation()], 3.0)
    torch.testing.assert_close(only_one["w"], mobility([importance()], 3.0)["w"])
