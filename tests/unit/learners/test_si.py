"""The path integral against the decrease of a known loss."""

import pytest
import torch
from torch import Tensor

from learners.quadratic import Consolidation, pull
from learners.si import PathIntegral, consolidate

CURVATURE = torch.tensor([4.0, 1.0, 0.0])


def loss(theta: Tensor) -> Tensor:
    return 0.5 * (CURVATURE * (theta - 1.0) ** 2).sum()


def descend(parameters: dict[str, Tensor], path: PathIntegral, steps: int, rate: float = 1e-3) -> None:
    theta = parameters["theta"]
    for _ in range(steps):
        (theta.grad,) = torch.autograd.grad(loss(theta), [theta])
        path.before_step(parameters)
        theta.grad.add_(100.0)  # penalties and clipping come later and are no part of the task
        theta.grad.sub_(100.0)
        with torch.no_grad():
            theta -= rate * theta.grad
        path.after_step(parameters)


def test_path_integral_is_each_parameters_share_in_the_decrease_of_the_loss() -> None:
    theta = torch.tensor([0.0, 3.0, 5.0], requires_grad=True)
    path, parameters = PathIntegral({"theta": theta}), {"theta": theta}
    start = 0.5 * CURVATURE * (theta.detach() - 1) ** 2
    descend(parameters, path, 2000)
    decrease = start - 0.5 * CURVATURE * (theta.detach() - 1) ** 2
    torch.testing.assert_close(path.omega["theta"], decrease, rtol=5e-3, atol=1e-6)


def test_gradient_is_noted_before_penalties_change_it() -> None:
    theta = torch.zeros(2, requires_grad=True)
    path = PathIntegral({"theta": theta})
    theta.grad = torch.tensor([1.0, -2.0])
    path.before_step({"theta": theta})
    theta.grad.mul_(1e3)
    with torch.no_grad():
        theta += torch.tensor([-0.5, 0.5])
    path.after_step({"theta": theta})
    assert path.omega["theta"].tolist() == [0.5, 1.0]


def test_importance_is_the_damped_ratio_and_never_negative() -> None:
    theta = torch.tensor([2.0, 1.0, 1.0], requires_grad=True)
    path = PathIntegral({"theta": theta})
    path.omega["theta"] = torch.tensor([3.0, 0.5, -1.0])
    path.origin["theta"] = torch.tensor([0.0, 1.0, 0.0])
    raw = torch.tensor([3.0 / (4 + 0.1), 0.5 / 0.1, 0.0])
    before = Consolidation({"theta": torch.ones(3)}, {"theta": torch.zeros(3)})
    after = consolidate(before, {"theta": theta}, path, gamma=0.5, damping=0.1)
    torch.testing.assert_close(after.importance["theta"], 0.5 + raw / raw.mean())
    assert torch.equal(after.anchor["theta"], theta.detach())
    theta.data.add_(1.0)
    assert float(pull({"theta": theta}, after, 2.0)) == pytest.approx(float(after.importance["theta"].sum()))


def test_a_path_restored_midway_ends_with_the_same_bits() -> None:
    whole, halves = (torch.tensor([0.0, 3.0, 5.0], requires_grad=True) for _ in range(2))
    path = PathIntegral({"theta": whole})
    descend({"theta": whole}, path, 20)
    first = PathIntegral({"theta": halves})
    descend({"theta": halves}, first, 10)
    second = PathIntegral.restore(first.tensors(), {"theta": halves})
    descend({"theta": halves}, second, 10)
    for name, values in path.tensors().items():
        assert torch.equal(values, second.tensors()[name])


def test_grown_rows_begin_their_path_where_they_appear() -> None:
    theta = torch.ones(2, 2, requires_grad=True)
    path = PathIntegral({"theta": theta, "gone": torch.ones(3, requires_grad=True)})
    path.omega["theta"].fill_(4.0)
    grown = torch.full((3, 2), 7.0, requires_grad=True)
    restored = path.aligned({"theta": grown, "fixed": torch.ones(1)})
    assert restored.aligned({"theta": grown, "fixed": torch.ones(1)}) is restored
    assert restored.omega["theta"].tolist() == [[4, 4], [4, 4], [0, 0]]
    assert restored.origin["theta"].tolist() == [[1, 1], [1, 1], [7, 7]]
    assert restored.omega.keys() == {"theta"}
