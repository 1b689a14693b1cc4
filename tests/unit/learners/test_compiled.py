"""Which network is chosen, and that measuring leaves no trace. Compilers take half a minute: most tests stand in for one."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learners import compiled as module
from learners.compiled import WORTHWHILE_SECONDS, compile_equal, compiled


class Slow(nn.Module):
    """A network whose passes take two milliseconds, with everything that a measurement could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x_BF: Tensor) -> Tensor:
        time.sleep(0.002)
        return self.fast(x_BF)

    def fast(self, x_BF: Tensor) -> Tensor:
        out_BK: Tensor = self.body(x_BF)
        return out_BK


X_BF = torch.linspace(-1, 1, 64).reshape(16, 4)
FOREVER = 10**9  # steps


def chosen(monkeypatch: pytest.MonkeyPatch, network: Any) -> module.Choice:
    def compile_to(model: nn.Module) -> Any:
        if isinstance(network, Exception):
            raise network
        return lambda *inputs: network(model, *inputs)

    monkeypatch.setattr(module, "compile_equal", compile_to)
    return compiled(Slow(), (X_BF,), FOREVER)


def test_a_faster_equal_network_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, Slow.fast)
    assert choice.compiled
    assert choice.eager_seconds is not None
    assert choice.compiled_seconds is not None
    assert choice.compiled_seconds < choice.eager_seconds
    assert "ms a pass" in choice.reason


def test_an_equal_network_that_is_not_faster_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, Slow.forward)
    assert not choice.compiled
    assert isinstance(choice.network, Slow)


def test_a_network_that_computes_something_else_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, lambda model, x_BF: model.fast(x_BF) * 1.001)
    assert not choice.compiled
    assert "something else" in choice.reason


def test_without_a_compiler_the_model_itself_is_chosen_and_the_reason_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = chosen(monkeypatch, RuntimeError("No working C++ compiler found\nat great length"))
    assert not choice.compiled
    assert choice.reason == "it does not compile: No working C++ compiler found"


def test_a_short_training_does_not_even_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compile_equal", lambda model: pytest.fail("compiled"))
    choice = compiled(Slow(), (X_BF,), int(WORTHWHILE_SECONDS))
    assert not choice.compiled
    assert "too few" in choice.reason


def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Slow()
    model.zero_grad()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = torch.get_rng_state()
    monkeypatch.setattr(module, "compile_equal", lambda network: network.fast)
    compiled(model, (X_BF,), FOREVER)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_compiled_network_computes_the_same_and_draws_the_same_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    try:
        network = compile_equal(model)
        assert module._equal(module._passed(model, model, (X_BF,)), module._passed(model, network, (X_BF,)))
    except RuntimeError as error:
        pytest.skip(f"no compiler: {str(error).splitlines()[0]}")
