"""Layer-wise step sizes: closed forms on gradients of known signal and noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learners.layer_rates import FIRST, LIMIT, LayerRates

NAMES = ["a.weight", "a.bias", "b.weight", "c.weight"]
SIZES = {"a.weight": (20, 30), "a.bias": (20,), "b.weight": (500,), "c.weight": (40, 10)}
NOISE = {"a": 1.0, "b": 2.0, "c": 4.0}  # standard deviation; the mean of every entry is one


def stream(
    rates: LayerRates,
    steps: int = 1500,
    scale: dict[str, float] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> LayerRates:
    """Let the rates see gradients, and Adam's running mean of them."""
    draws, means = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for _ in range(steps):
        gradients = {
            name: (scale or {}).get(name[0], 1.0)
            * (1 + NOISE[name[0]] * torch.randn(SIZES[name], generator=draws))
            for name in NAMES
        }
        gradients = {name: gradient.to(device) for name, gradient in gradients.items()}
        rates.observe(gradients, means)
        for name, gradient in gradients.items():
            means[name] = torch.lerp(means.get(name, torch.zeros_like(gradient)), gradient, 0.1)
    return rates


def test_multipliers_are_the_root_of_one_over_one_plus_relative_variance_over_their_mean() -> None:
    gamma = torch.tensor([1 / (1 + sd**2) for sd in NOISE.values()], dtype=torch.float64)
    expected = (gamma / gamma.log().mean().exp()).sqrt()
    multipliers = stream(LayerRates(NAMES, 1.0)).multipliers()
    assert list(multipliers) == ["a", "b", "c"]
    assert list(multipliers.values()) == pytest.approx(expected.tolist(), rel=0.05)


def test_half_the_strength_is_the_root() -> None:
    full, half = (stream(LayerRates(NAMES, strength)).multipliers() for strength in (1.0, 0.5))
    assert list(half.values()) == pytest.approx([rate**0.5 for rate in full.values()])


def test_no_strength_is_exactly_one_step_size_for_all() -> None:
    assert stream(LayerRates(NAMES, 0.0), 50).multipliers() == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_the_size_of_a_gradient_alone_says_nothing() -> None:
    plain = stream(LayerRates(NAMES, 1.0), 200).multipliers()
    scaled = stream(LayerRates(NAMES, 1.0), 200, {"a": 1e-3, "c": 50.0}).multipliers()
    assert list(scaled.values()) == pytest.approx(list(plain.values()), rel=1e-4)


def test_a_layer_of_pure_noise_or_of_none_stays_within_the_limits() -> None:
    rates, draws = LayerRates(["still.weight", "noise.weight"], 1.0), torch.Generator().manual_seed(0)
    one = torch.ones(50)
    for _ in range(100):
        noise = torch.randn(50, generator=draws)
        rates.observe(
            {"still.weight": one, "noise.weight": noise}, {"still.weight": one, "noise.weight": -noise}
        )
    assert rates.multipliers() == {"still": LIMIT, "noise": pytest.approx(1 / LIMIT)}


def test_layers_without_gradient_or_mean_take_the_plain_step() -> None:
    rates, one = LayerRates(["a.weight", "frozen.weight"], 1.0), torch.ones(5)
    rates.observe({"a.weight": one}, {})
    for _ in range(FIRST):
        rates.observe({"a.weight": one}, {"a.weight": one})
    assert rates.multipliers() == {"a": 1.0, "frozen": 1.0}


def test_the_first_steps_are_plain() -> None:
    assert set(stream(LayerRates(NAMES, 1.0), FIRST - 1).multipliers().values()) == {1.0}


def test_state_resumes_to_the_bit() -> None:
    whole = stream(stream(LayerRates(NAMES, 1.0), 40), 30, seed=1)
    resumed = LayerRates(NAMES, 1.0)
    resumed.restore(stream(LayerRates(NAMES, 1.0), 40).tensors())
    assert stream(resumed, 30, seed=1).multipliers() == whole.multipliers()


def test_without_state_or_with_that_of_other_layers_it_begins_anew() -> None:
    for tensors in ({}, stream(LayerRates(NAMES, 1.0), 40).tensors()):
        rates = LayerRates(["a.weight", "d.weight"], 1.0)
        rates.restore(tensors)
        assert rates.tensors()["observed"] == 0
        assert rates.multipliers() == {"a": 1.0, "d": 1.0}


def test_a_snapshot_does_not_change_with_later_steps() -> None:
    rates = stream(LayerRates(NAMES, 1.0), 40)
    snapshot = rates.tensors()
    kept = {name: tensor.clone() for name, tensor in snapshot.items()}
    stream(rates, 10)
    assert all(torch.equal(snapshot[name], kept[name]) for name in kept)


@pytest.mark.gpu
def test_gradients_on_cuda_give_the_same_multipliers() -> None:
    here, there = (stream(LayerRates(NAMES, 1.0), 60, device=device) for device in ("cpu", "cuda"))
    assert list(there.multipliers().values()) == pytest.approx(list(here.multipliers().values()), rel=1e-4)
