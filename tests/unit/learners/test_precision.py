"""Half precision stays near float32; activations computed twice change no bit; loss scales come and go."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from learners.precision import LossScale, forward
from learners.recipe import Precision
from learners.seeds import FORWARD, seeded


class Blocks(nn.Module):
    """Embeddings, a list of blocks and a stack with dropout, as transformers and the tabular network have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(5, 16), nn.Embedding(3, 16)])
        layers = (nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True) for _ in range(3))
        self.blocks = nn.ModuleList(layers)
        self.body = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, codes_BC: Tensor) -> Tensor:
        x = torch.stack([embedding(codes_BC[:, c]) for c, embedding in enumerate(self.embeddings)], dim=1)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(self.body(x.mean(dim=1))))


def perceptron() -> nn.Sequential:
    widths = [20] + [64] * 8
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))


def inputs_of(model: nn.Module, device: str = "cpu") -> tuple[Tensor]:
    draws = torch.Generator().manual_seed(1)
    if isinstance(model, Blocks):
        return (torch.randint(0, 3, (32, 2), generator=draws).to(device),)
    return (torch.randn(32, 20, generator=draws).to(device),)


def passed(model: nn.Module, **settings: Any) -> list[Tensor]:
    """Return outputs, gradients and buffers of a pass."""
    device = next(model.parameters()).device
    model.zero_grad()
    with seeded(0, FORWARD, 3):
        out_BK = forward(model, inputs_of(model, str(device)), **settings)
    torch.autograd.backward(functional.cross_entropy(out_BK, torch.arange(32, device=device) % 4))
    torch.rand(1)  # a draw between forward and backward of others must not matter either
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [
        out_BK.detach(),
        *(gradient.clone() for gradient in gradients),
        *(b.clone() for b in model.buffers()),
    ]


@pytest.fixture(params=[Blocks, perceptron, normalised])
def model(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    with seeded(0, FORWARD):
        module: nn.Module = request.param()
    yield module
    assert all("forward" not in vars(part) for part in module.modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_computed_twice_change_no_bit_not_even_with_dropout(
    model: nn.Module, precision: Precision
) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = passed(model, precision=precision)
    model.load_state_dict(state)
    twice = passed(model, precision=precision, checkpoint_activations=True)
    assert len(plain) == len(twice)
    assert all(torch.equal(a, b) for a, b in zip(plain, twice, strict=True))


def held_bytes(model: nn.Module, checkpoint_activations: bool) -> int:
    """Return the bytes of activations that a backward pass waits for."""
    held = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes if tensor.grad_fn is not None else 0  # parameters and inputs are there anyway
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(model, inputs_of(model), checkpoint_activations=checkpoint_activations)
    return held


def test_fewer_activations_are_kept() -> None:
    for module in (Blocks(), perceptron()):
        assert held_bytes(module, True) < held_bytes(module, False) / 4


def assert_near(full: list[Tensor], half: list[Tensor]) -> None:
    """Outputs within 2 %, the whole gradient within 5 % of their length: a few of eight bits of mantissa."""
    assert all(b.dtype == torch.float32 for b in half)
    assert not torch.equal(full[0], half[0])
    assert (full[0] - half[0]).norm() <= 0.02 * full[0].norm()
    gradient, near = (torch.cat([g.flatten() for g in tensors[1:]]) for tensors in (full, half))
    assert (gradient - near).norm() <= 0.05 * gradient.norm()


def test_outputs_and_gradients_of_bf16_are_near_and_in_float32(model: nn.Module) -> None:
    model.eval()
    full, half = passed(model)[: -len(list(model.buffers())) or None], passed(model, precision="bf16")
    assert_near(full, half[: len(full)])


def test_fp32_is_the_plain_pass_to_the_bit(model: nn.Module) -> None:
    with seeded(0, FORWARD, 3):
        plain = model(*inputs_of(model))
    assert torch.equal(passed(model)[0], plain)


def test_no_gradient_no_checkpoint() -> None:
    model = perceptron().eval()
    with torch.no_grad():
        assert torch.equal(
            forward(model, inputs_of(model), checkpoint_activations=True), model(*inputs_of(model))
        )


def test_a_failing_pass_leaves_the_model_as_it_was() -> None:
    model = perceptron()
    with pytest.raises(RuntimeError):
        forward(model, (torch.zeros(2, 3),), checkpoint_activations=True)
    assert all("forward" not in vars(part) for part in model.modules())


# ------------------------------------------------------------------------------------------ loss scale
def test_scaling_a_loss_and_unscaling_its_gradient_changes_no_bit() -> None:
    model, scale = perceptron().eval(), LossScale()
    loss = forward(model, inputs_of(model)).square().mean()
    plain = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    torch.autograd.backward(loss * scale.scale)
    scale.unscale(model.parameters())
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))  # type: ignore[arg-type]


def test_small_gradients_survive_fp16_only_when_scaled() -> None:
    layer = nn.Linear(4, 1, bias=False)
    x_BF, tiny = torch.ones(8, 4), 1e-9
    for scale, survives in ((LossScale(1.0), False), (LossScale(), True)):
        layer.zero_grad()
        torch.autograd.backward(forward(layer, (x_BF,), precision="fp16").sum() * tiny * scale.scale)
        scale.unscale(layer.parameters())
        assert layer.weight.grad is not None
        assert torch.allclose(layer.weight.grad, torch.full((1, 4), 8 * tiny), rtol=1e-2, atol=0) == survives


def test_scale_halves_on_overflow_and_doubles_after_clean_steps() -> None:
    scale = LossScale(8.0).after(False)
    assert scale == LossScale(4.0, 0)
    scale = scale.after(True, growth_steps=3).after(True, growth_steps=3)
    assert scale == LossScale(4.0, 2)
    assert scale.after(True, growth_steps=3) == LossScale(8.0, 0)
    assert scale.after(False) == LossScale(2.0, 0)
    assert LossScale(2.0).after(False).exhausted
    assert LossScale(1.0).after(False) == LossScale(1.0)
    assert LossScale(2.0**24).after(True, growth_steps=1).scale == 2.0**24


def test_an_overflow_is_found_and_the_next_scale_works() -> None:
    layer, scale = nn.Linear(1, 1, bias=False), LossScale()
    for _ in range(20):
        layer.zero_grad()
        out_BK = forward(layer, (torch.ones(1, 1),), precision="fp16")
        torch.autograd.backward(out_BK.sum() * 100 * scale.scale)
        scale.unscale(layer.parameters())
        assert layer.weight.grad is not None
        finite = math.isfinite(layer.weight.grad.item())
        if finite:
            break
        scale = scale.after(finite)
    assert scale.scale == 2.0**9  # 100 * 2^9 is the largest below 65504
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == 100


def test_scale_resumes_from_json() -> None:
    scale = LossScale().after(False).after(True)
    assert LossScale.restore(json.loads(json.dumps(scale.scalars))) == scale


# ------------------------------------------------------------------------------------------------ CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_cuda_is_near_float32(model: nn.Module, precision: Precision) -> None:
    model.to("cuda").eval()
    full = passed(model)[: -len(list(model.buffers())) or None]
    half = passed(model, precision=precision)[: len(full)]
    assert all(tensor.device.type == "cuda" for tensor in half)
    assert_near(full, half)


@pytest.mark.gpu
def test_activations_computed_twice_on_cuda_draw_the_same_dropout() -> None:
    model = perceptron().to("cuda")
    for a, b in zip(passed(model), passed(model, checkpoint_activations=True), strict=True):
        torch.testing.assert_close(a, b)
