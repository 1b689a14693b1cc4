"""The penalty against its closed form, and what consolidation keeps."""

import pytest
import torch
from torch import Tensor

from learners.ewc import consolidate
from learners.quadratic import Consolidation, pull


def example() -> tuple[dict[str, Tensor], Consolidation]:
    torch.manual_seed(0)
    parameters = {"w": torch.randn(3, 2, requires_grad=True), "b": torch.randn(3, requires_grad=True)}
    importance = {name: torch.rand_like(p) for name, p in parameters.items()}
    return parameters, Consolidation(
        importance, {name: torch.randn_like(p) for name, p in parameters.items()}
    )


def elastic(parameters: dict[str, Tensor], known: Consolidation, strength: float) -> Tensor:
    """The formula, to be differentiated by autograd."""
    terms = [(w * (parameters[name] - known.anchor[name]) ** 2).sum() for name, w in known.importance.items()]
    return strength / 2 * torch.stack(terms).sum()


def test_pull_adds_the_gradient_of_the_formula_and_returns_its_value() -> None:
    parameters, known = example()
    expected = torch.autograd.grad(elastic(parameters, known, 7.0), list(parameters.values()))
    earlier = {name: torch.randn_like(p) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = earlier[name].clone()
    value = pull(parameters, known, 7.0)
    torch.testing.assert_close(value, elastic(parameters, known, 7.0).detach())
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, earlier[name] + gradient)


def test_value_is_half_lambda_times_the_weighted_square() -> None:
    known = Consolidation({"w": torch.tensor([2.0, 0.5])}, {"w": torch.tensor([1.0, 1.0])})
    theta = torch.tensor([4.0, 3.0], requires_grad=True)
    assert float(pull({"w": theta}, known, 10.0)) == pytest.approx(5 * (2 * 9 + 0.5 * 4))
    torch.testing.assert_close(theta.grad, torch.tensor([60.0, 10.0]))


def test_is_zero_at_the_anchor_and_without_consolidation() -> None:
    parameters, known = example()
    at_anchor = {name: p.clone().requires_grad_() for name, p in known.anchor.items()}
    assert float(pull(at_anchor, known, 1e6)) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in at_anchor.values())
    assert float(pull(parameters, Consolidation(), 1e6)) == 0.0


def test_strength_zero_touches_no_gradient() -> None:
    parameters, known = example()
    assert float(pull(parameters, known, 0.0)) == 0.0
    assert all(p.grad is None for p in parameters.values())


def test_parameters_that_are_fixed_are_passed_over() -> None:
    parameters, known = example()
    parameters["w"].requires_grad_(False)
    only_b = Consolidation({"b": known.importance["b"]}, known.anchor)
    assert float(pull(parameters, known, 3.0)) == float(pull(parameters, only_b, 3.0)) > 0
    assert parameters["w"].grad is None


def test_online_consolidation_decays_the_old_and_normalises_the_new() -> None:
    parameters, known = example()
    latest = {name: 100 * torch.rand_like(p) for name, p in parameters.items()}
    mean = torch.cat([values.flatten() for values in latest.values()]).mean()
    after = consolidate(known, parameters, latest, gamma=0.8)
    for name, parameter in parameters.items():
        torch.testing.assert_close(after.importance[name], 0.8 * known.importance[name] + latest[name] / mean)
        assert torch.equal(after.anchor[name], parameter.detach())


def test_the_anchor_is_a_copy() -> None:
    parameters, known = example()
    after = consolidate(known, parameters, dict(known.importance), gamma=0.5)
    with torch.no_grad():
        parameters["w"].add_(1.0)
    assert float(pull(parameters, after, 1.0)) > 0


def test_alignment_costs_nothing_when_shapes_fit() -> None:
    parameters, known = example()
    assert known.aligned(parameters) is known


def test_grown_rows_and_columns_new_and_vanished_parameters() -> None:
    known = Consolidation(
        {
            "grown": torch.ones(2, 3),
            "wider": torch.ones(2, 5),
            "gone": torch.ones(4),
            "smaller": torch.ones(9),
        },
        {
            "grown": torch.zeros(2, 3),
            "wider": torch.zeros(2, 5),
            "gone": torch.zeros(4),
            "smaller": torch.ones(9),
        },
    )
    shapes = {"grown": (5, 3), "new": (2,), "wider": (3, 6), "smaller": (8,)}
    parameters = {name: torch.ones(shape, requires_grad=True) for name, shape in shapes.items()}
    aligned = known.aligned(parameters)
    assert aligned.importance["grown"][:, 0].tolist() == [1, 1, 0, 0, 0]
    assert aligned.importance["wider"].sum() == 10
    assert "gone" not in aligned.importance
    assert "new" not in aligned.importance
    assert not aligned.importance["smaller"].any()  # what is no continuation is unknown
    assert float(pull(parameters, aligned, 2.0)) == 6.0 + 10.0  # known rows and columns, nothing else
    grown = parameters["grown"].grad
    assert grown is not None
    assert grown[:, 0].tolist() == [2, 2, 0, 0, 0]
    after = consolidate(
        known, parameters, {name: torch.ones_like(p) for name, p in parameters.items()}, gamma=1.0
    )
    assert (after.importance["grown"][:, 0] > 1.5).tolist() == [True, True, False, False, False]
