"""The penalty against its closed form, and what consolidation keeps."""

import pytest
import torch
from torch import Tensor

from learners.ewc import Consolidation, consolidate, penalty


def example() -> tuple[dict[str, Tensor], Consolidation]:
    torch.manual_seed(0)
    parameters = {"w": torch.randn(3, 2, requires_grad=True), "b": torch.randn(3, requires_grad=True)}
    fisher = {name: torch.rand_like(p) for name, p in parameters.items()}
    return parameters, Consolidation(fisher, {name: torch.randn_like(p) for name, p in parameters.items()})


def test_gradient_equals_the_closed_form() -> None:
    parameters, known = example()
    torch.autograd.backward(penalty(parameters, known, 7.0))
    for name, parameter in parameters.items():
        expected = 7.0 * known.fisher[name] * (parameter.detach() - known.anchor[name])
        torch.testing.assert_close(parameter.grad, expected)


def test_value_is_half_lambda_times_the_weighted_square() -> None:
    known = Consolidation({"w": torch.tensor([2.0, 0.5])}, {"w": torch.tensor([1.0, 1.0])})
    assert float(penalty({"w": torch.tensor([4.0, 3.0])}, known, 10.0)) == pytest.approx(
        5 * (2 * 9 + 0.5 * 4)
    )


def test_is_zero_at_the_anchor_and_without_consolidation() -> None:
    parameters, known = example()
    assert float(penalty(dict(known.anchor), known, 1e6)) == 0.0
    assert penalty(parameters, Consolidation(), 1e6).item() == 0.0


def test_online_consolidation_decays_the_old_and_normalises_the_new() -> None:
    parameters, known = example()
    latest = {name: 100 * torch.rand_like(p) for name, p in parameters.items()}
    trace = sum(float(values.sum()) for values in latest.values())
    after = consolidate(known, parameters, latest, gamma=0.8)
    for name, parameter in parameters.items():
        torch.testing.assert_close(after.fisher[name], 0.8 * known.fisher[name] + latest[name] / trace)
        assert torch.equal(after.anchor[name], parameter.detach())


def test_the_anchor_is_a_copy() -> None:
    parameters, known = example()
    after = consolidate(known, parameters, dict(known.fisher), gamma=0.5)
    with torch.no_grad():
        parameters["w"].add_(1.0)
    assert penalty(parameters, after, 1.0).item() > 0


def test_grown_rows_new_and_vanished_parameters() -> None:
    known = Consolidation(
        {"grown": torch.ones(2, 3), "vanished": torch.ones(4), "reshaped": torch.ones(2, 5)},
        {"grown": torch.zeros(2, 3), "vanished": torch.zeros(4), "reshaped": torch.zeros(2, 5)},
    )
    parameters = {"grown": torch.ones(5, 3), "new": torch.ones(2), "reshaped": torch.ones(2, 6)}
    aligned = known.aligned(parameters)
    assert aligned.fisher["grown"][:, 0].tolist() == [1, 1, 0, 0, 0]
    assert "vanished" not in aligned.fisher
    assert "new" not in aligned.fisher
    assert float(penalty(parameters, aligned, 2.0)) == 6.0  # two known rows of three weights, nothing else
