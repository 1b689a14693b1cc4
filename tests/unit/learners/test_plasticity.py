"""Measures of plasticity in closed form, shrink and perturb, and a stream of tasks that plain training stops learning."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learners.continual_backprop import ContinualBackprop
from learners.plasticity import dormant_share, effective_rank, hidden_layers, shrink_and_perturb
from learners.seeds import INITIAL, RENEW, seeded, torch_generator


def perceptron(seed: int = 0) -> nn.Sequential:
    with seeded(seed, INITIAL):
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


class Net(nn.Module):
    """Two hidden layers, the second written as a function; a layer without ReLU; one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5))
        self.middle, self.twice, self.head = nn.Linear(5, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x_BF: Tensor) -> Tensor:
        x = self.middle(self.body(x_BF).relu()).tanh()
        out_BK: Tensor = self.head(self.twice(self.twice(x).relu()).relu())
        return out_BK


def test_hidden_layers_are_found_by_what_flows_however_it_is_written() -> None:
    model, x_BF = Net(), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    hidden = hidden_layers(model, (x_BF,))
    assert [(layer.name, layer.following) for layer in hidden] == [("body.0", "body.3"), ("body.3", "middle")]
    assert torch.equal(hidden[0].features_BH, model.body[0](x_BF).relu())  # without dropout
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_positions_of_sequences_are_rows_of_features() -> None:
    hidden = hidden_layers(perceptron(), (torch.zeros(3, 5, 10),))
    assert [layer.features_BH.shape for layer in hidden] == [(15, 32), (15, 32)]


def test_dormant_units_are_those_below_a_share_of_their_layers_mean() -> None:
    activity_H = torch.tensor([0.0, 0.024, 0.026, 3.95])  # mean one
    features_BH = torch.stack([activity_H * 0.5, activity_H * 1.5])
    assert dormant_share([features_BH]) == 0.5
    assert dormant_share([features_BH, torch.ones(2, 4)]) == 0.25
    assert dormant_share([torch.zeros(2, 4)]) == 1.0
    assert dormant_share([]) == 0.0


def test_effective_rank_counts_equal_directions_and_weighs_unequal_ones() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(4 / 3**0.75)
    assert effective_rank(torch.zeros(3, 3)) == 0


def test_shrink_and_perturb_is_its_formula_and_leaves_what_has_no_fresh_weights() -> None:
    parameters = {"a": torch.tensor([1.0, -2.0]), "grown": torch.ones(3), "new": torch.ones(1)}
    shrink_and_perturb(parameters, {"a": torch.tensor([10.0, 20.0]), "grown": torch.ones(2)}, 0.5, 0.1)
    assert parameters["a"].tolist() == [1.5, 1.0]
    assert parameters["grown"].tolist() == [1.0, 1.0, 1.0]
    assert parameters["new"].tolist() == [1.0]


Guard = Literal["none", "shrink-perturb", "continual-backprop"]


def learned(guard: Guard, tasks: int = 30, steps: int = 100) -> list[float]:
    """Return the accuracy after each of many tasks, whose 64 rows have labels at random: each is new to memorise."""
    model, draws, renewal = (
        perceptron(),
        torch.Generator().manual_seed(1),
        ContinualBackprop(1e-3, maturity=50),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    accuracies = []
    for task in range(tasks):
        x_BF = torch.randn(64, 10, generator=draws)
        target_B = torch.randint(0, 4, (64,), generator=draws)
        if guard == "shrink-perturb" and task:
            fresh = dict(perceptron(task).named_parameters())
            shrink_and_perturb(dict(model.named_parameters()), fresh, 0.5, 0.5)
        for step in range(task * steps, (task + 1) * steps):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(x_BF), target_B))
            optimizer.step()
            if guard == "continual-backprop":
                moments = {
                    f"{name}.{key}": value
                    for name, parameter in model.named_parameters()
                    for key, value in optimizer.state[parameter].items()
                }
                renewal.after_step(model, (x_BF,), moments, torch_generator(0, RENEW, step))
        accuracies.append((model(x_BF).argmax(dim=1) == target_B).double().mean().item())
    return accuracies


def test_plain_training_loses_the_ability_to_learn() -> None:
    accuracies = learned("none")
    assert accuracies[0] > 0.95
    assert sum(accuracies[-5:]) / 5 < 0.6


@pytest.mark.parametrize("guard", ["shrink-perturb", "continual-backprop"])
def test_a_guarded_network_learns_the_last_tasks_as_well_as_the_first(guard: Guard) -> None:
    accuracies = learned(guard)
    assert sum(accuracies[-5:]) / 5 > 0.95
