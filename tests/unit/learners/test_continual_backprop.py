"""Continual backpropagation against its formulas."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from learners.continual_backprop import DECAY, PERIOD, ContinualBackprop
from learners.seeds import INITIAL, RENEW, seeded, torch_generator

X_BF = torch.randn(32, 6, generator=torch.Generator().manual_seed(3))


class Network(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(6, 20), nn.Dropout(0.2), nn.Linear(20, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.dropout(self.first(x_BF).relu())))


def network() -> Network:
    with seeded(0, INITIAL):
        return Network()


def after(
    renewal: ContinualBackprop, model: nn.Module, steps: range, moments: dict[str, Tensor] | None = None
) -> int:
    return sum(
        renewal.after_step(model, (X_BF,), moments or {}, torch_generator(0, RENEW, step)) for step in steps
    )


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_utility_is_the_running_mean_of_activation_times_outgoing_weights() -> None:
    model, renewal, utility_H = network(), ContinualBackprop(rate=0.0), torch.zeros(20)
    for look in range(5):
        with torch.no_grad():
            model.last.weight.mul_(1.1)
            contribution_H = model.first(X_BF).relu().mean(dim=0) * model.last.weight.abs().sum(dim=0)
        decay = DECAY**PERIOD
        utility_H = decay * utility_H + (1 - decay) * contribution_H
        after(renewal, model, range(look * PERIOD, (look + 1) * PERIOD))
    assert torch.allclose(renewal.tensors()["first.utility"], utility_H)
    assert renewal.tensors()["first.age"].tolist() == [5 * PERIOD] * 20


def test_rate_zero_changes_no_bit_of_the_network_and_neither_does_looking() -> None:
    model = network()
    before = weights(model)
    assert after(ContinualBackprop(rate=0.0), model, range(1000)) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert model.training


def test_as_many_units_are_replaced_as_the_rate_says_and_none_before_it_is_mature() -> None:
    model, renewal = network(), ContinualBackprop(rate=1e-3, maturity=200)
    assert after(renewal, model, range(200)) == 0
    replaced = after(renewal, model, range(200, 5200))
    # each replacement leaves the pool of mature units for 200 steps: r = rate (20 - 200 r) a step
    assert replaced == pytest.approx(5000 * 1e-3 * 20 / (1 + 1e-3 * 200), abs=2)


def test_the_units_of_least_utility_go_and_the_outputs_hardly_change() -> None:
    model = network().eval()
    with torch.no_grad():
        model.last.weight[:, [4, 11]] *= 1e-3  # of no use
        model.first.weight[7], model.first.bias[7] = 0.0, 1e-6  # dead, but for a constant
    before, outputs = weights(model), model(X_BF)
    renewal = ContinualBackprop(rate=3 / 20 / PERIOD, maturity=PERIOD)
    assert after(renewal, model, range(2 * PERIOD)) == 3
    changed_H = model.first.weight.ne(before[0]).any(dim=1)
    assert changed_H.nonzero().flatten().tolist() == [4, 7, 11]
    assert (model.first.weight[changed_H].abs() <= 6**-0.5).all()
    assert not model.first.bias[changed_H].any()
    assert not model.last.weight[:, changed_H].any()
    assert torch.equal(model.last.weight[:, ~changed_H], before[2][:, ~changed_H])
    assert (model(X_BF) - outputs).abs().max() < 1e-3
    assert renewal.tensors()["first.age"][changed_H].tolist() == [0, 0, 0]


def test_what_a_unit_gave_on_average_goes_into_the_next_bias() -> None:
    model = network().eval()
    with torch.no_grad():
        model.first.weight.zero_()
        model.first.bias.fill_(2.0)  # every unit gives two, whatever the input: replacing one changes nothing
    outputs = model(X_BF)
    assert after(ContinualBackprop(rate=0.5 / PERIOD, maturity=PERIOD), model, range(2 * PERIOD)) == 10
    torch.testing.assert_close(model(X_BF), outputs)


def test_adams_moments_of_replaced_weights_begin_anew_and_others_stay() -> None:
    model = network()
    moments = {
        f"{name}.{key}": torch.rand_like(p)
        for name, p in model.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    before = {name: tensor.clone() for name, tensor in moments.items()}
    incoming = model.first.weight.detach().clone()
    after(ContinualBackprop(rate=0.2 / PERIOD, maturity=PERIOD), model, range(2 * PERIOD), moments)
    new_H = model.first.weight.ne(incoming).any(dim=1)
    assert new_H.sum() == 4
    for name, units_last in (("first.weight", False), ("first.bias", False), ("last.weight", True)):
        first, second = (
            moments[f"{name}.{key}"].T if units_last else moments[f"{name}.{key}"]
            for key in ("exp_avg", "exp_avg_sq")
        )
        assert not first[new_H].any()
        assert (second[new_H] == second[new_H].flatten()[0]).all()
        kept = before[f"{name}.exp_avg"]
        assert torch.equal(first[~new_H], (kept.T if units_last else kept)[~new_H])
    assert torch.equal(moments["last.bias.exp_avg"], before["last.bias.exp_avg"])


def test_state_resumes_to_the_bit() -> None:
    whole, renewal = network(), ContinualBackprop(rate=2e-3, maturity=30)
    after(renewal, whole, range(105))
    kept, resumed = renewal.tensors(), network()
    resumed.load_state_dict(whole.state_dict())
    after(renewal, whole, range(105, 400))
    again = ContinualBackprop(rate=2e-3, maturity=30)
    again.restore(kept)
    after(again, resumed, range(105, 400))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in renewal.tensors().items())


def test_a_layer_that_was_widened_begins_with_young_units() -> None:
    renewal = ContinualBackprop(rate=0.0)
    after(renewal, network(), range(50))
    widened = network()
    widened.first, widened.last = nn.Linear(6, 30), nn.Linear(30, 3)
    after(renewal, widened, range(50, 60))
    assert renewal.tensors()["first.age"].tolist() == [PERIOD] * 30


@pytest.mark.parametrize("frozen", ["first.weight", "last.weight", "first.bias", "last.bias"])
def test_layers_of_which_a_part_is_frozen_are_left_alone(frozen: str) -> None:
    model, renewal = network(), ContinualBackprop(rate=1.0, maturity=0)
    model.get_parameter(frozen).requires_grad_(False)
    before = weights(model)
    assert after(renewal, model, range(50)) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    model.requires_grad_(True)
    assert after(renewal, model, range(50, 60)) == 20


def test_a_network_without_hidden_relu_layers_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    assert after(ContinualBackprop(rate=1.0, maturity=0), model, range(50)) == 0


@pytest.mark.gpu
def test_a_network_on_cuda_is_renewed_as_on_the_cpu() -> None:
    here, there = network(), network().cuda()
    moments = {
        f"{n}.{key}": torch.ones_like(p)
        for n, p in there.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    renewals = [ContinualBackprop(rate=0.2 / PERIOD, maturity=PERIOD) for _ in range(2)]
    for step in range(2 * PERIOD):
        for model, renewal, state in (
            (here, renewals[0], dict[str, Tensor]()),
            (there, renewals[1], moments),
        ):
            inputs = (X_BF.to(model.last.weight.device),)
            renewal.after_step(model, inputs, state, torch_generator(0, RENEW, step))
    for a, b in zip(weights(here), weights(there), strict=True):
        torch.testing.assert_close(a, b.cpu())
