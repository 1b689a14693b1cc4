"""Adapters leave the function as it is until they learn, and only they are learned, penalised and remembered."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from learners.checkpoint import Checkpoint, restore_model
from learners.errors import UnsuitableModelError
from learners.fisher import diagonal_fisher
from learners.learn import resume, start
from learners.models.base import Model
from learners.models.lora import Lora, lora_of
from learners.models.lora_config import LoraConfig
from learners.models.network import Network
from learners.models.registry import load
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema

NUMERIC = tuple(f"x{f}" for f in range(12))
SCHEMA = Schema(NUMERIC, (), "classification", ("no", "yes", "maybe"))
SHAPE = {"channels": 3, "heads": 2, "head_width": 4, "depth": 2}
CONFIG = LoraConfig(rank=3, alpha=5.0)
RECIPE = replace(RECIPES["ewc+replay"], epochs=2.0, learning_rate=0.02, batch_rows=16, memory_rows=20)


def table(seed: int, count: int = 40, classes: int = 3) -> Rows:
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(size=count) for name in NUMERIC}
    return Rows(columns, rng.integers(0, classes, count).astype(np.float64), np.arange(count))


def plain(name: str = "transformer", config: Any = SHAPE) -> Model:
    torch.manual_seed(0)
    return load(name).fit_preprocessing(config, SCHEMA, table(0)).eval()


def adapted(config: LoraConfig = CONFIG, disturbed: float = 0.0) -> Lora:
    model = Lora.fit_preprocessing(lora_of(plain(), config), SCHEMA, table(0)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(disturbed * torch.randn_like(parameter))
    return model


def learned(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def updates(config: LoraConfig, count: int = 2) -> Iterator[tuple[Model, Checkpoint]]:
    checkpoint = None
    for update in range(count):
        training = start(
            checkpoint, table(update), RECIPE, schema=SCHEMA, model="lora", config=lora_of(plain(), config)
        )
        while not training.done:
            training.step()
        checkpoint = training.finish()
        yield training.model, checkpoint


def test_new_adapters_change_no_prediction() -> None:
    rows = table(3)
    np.testing.assert_array_equal(adapted().predict(rows.columns), plain().predict(rows.columns))


def test_an_adapter_adds_its_scaled_product() -> None:
    model, source = adapted(disturbed=0.3), plain()
    layer, old = (m.get_submodule("net.blocks.1.query") for m in (model.inner, source))
    x = torch.randn(7, 8)
    a, b = (layer.get_parameter(f"lora_{part}.default.weight") for part in "AB")
    torch.testing.assert_close(layer(x), old(x) + 5.0 / 3 * x @ a.T @ b.T)


def test_only_adapters_learn_and_only_they_have_importance() -> None:
    names = {
        f"inner.net.blocks.{block}.{layer}.lora_{part}.default.weight"
        for block in (0, 1)
        for layer in ("query", "value")
        for part in "AB"
    }
    assert learned(adapted()).keys() == names
    source = {f"inner.{name}": tensor for name, tensor in plain().state_dict().items()}
    for model, checkpoint in updates(CONFIG):
        state = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
        assert all(torch.equal(state[name], tensor) for name, tensor in source.items())
        for kind in ("ewc.importance", "ewc.anchor"):
            held = {n.removeprefix(f"{kind}.") for n in checkpoint.tensors if n.startswith(f"{kind}.")}
            assert held == names
        start_value = learned(adapted())
        assert all(not torch.equal(value, start_value[n]) for n, value in learned(model).items())


def test_fisher_information_of_adapters_is_the_mean_of_squared_row_gradients() -> None:
    model, rows = adapted(disturbed=0.3), table(4, count=6)
    inputs = model.encode(rows.columns)
    fisher = diagonal_fisher(model, inputs, "classification")
    expected = {name: torch.zeros_like(value) for name, value in learned(model).items()}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for row in range(6):
        log_p_K = model(inputs[0][row : row + 1]).log_softmax(dim=1)[0]
        for k in range(3):
            gradients = torch.autograd.grad(log_p_K[k], list(parameters.values()), retain_graph=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                expected[name] += log_p_K[k].exp().detach() * gradient.square() / 6
    assert fisher.keys() == expected.keys()
    for name, value in fisher.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, trainable=("head",), targets=("expand", "embed"))]
)
def test_restored_from_spec_and_tensors_to_the_bit(config: LoraConfig) -> None:
    model, rows = adapted(config, disturbed=0.3), table(2)
    spec = json.loads(json.dumps(model.spec()))
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    again = restore_model(Checkpoint(spec, tensors_of(bytes_of(tensors)), {}))
    np.testing.assert_array_equal(again.predict(rows.columns), model.predict(rows.columns))
    assert again.spec() == model.spec()
    assert learned(again).keys() == learned(model).keys()


def test_a_training_resumed_ends_with_the_same_bits() -> None:
    config, rows = lora_of(plain(), replace(CONFIG, dropout=0.3)), table(0)

    def begun() -> Any:
        return start(None, rows, RECIPE, schema=SCHEMA, model="lora", config=config, seed=4)

    whole, broken = begun(), begun()
    while not whole.done:
        whole.step()
    broken.step()
    again = resume(broken.snapshot(), rows, RECIPE)
    while not again.done:
        again.step()
    ends = whole.finish().tensors, again.finish().tensors
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_merged_is_the_plain_network_with_the_same_predictions() -> None:
    model, rows = adapted(disturbed=0.3), table(5)
    merged = model.merged()
    assert isinstance(merged, Network)
    assert merged.spec() == plain().spec()
    assert {n: t.shape for n, t in merged.state_dict().items()} == {
        n: t.shape for n, t in plain().state_dict().items()
    }
    assert all(parameter.requires_grad for parameter in merged.parameters())
    before = model.predict(rows.columns)
    np.testing.assert_allclose(merged.predict(rows.columns), before, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(model.predict(rows.columns), before)  # the adapted one is as it was
    assert not np.allclose(before, plain().predict(rows.columns), atol=1e-3)


def test_any_linear_layer_of_any_network_by_name() -> None:
    for name, shape, targets in (
        ("mlp", {"hidden": (6, 7)}, ("body.2",)),
        ("tabular", None, ("body", "head")),
    ):
        source = plain(name, shape)
        config = lora_of(source, replace(CONFIG, targets=targets))
        model = Lora.fit_preprocessing(config, SCHEMA, table(0)).eval()
        np.testing.assert_array_equal(model.predict(table(1).columns), source.predict(table(1).columns))
        assert all("lora_" in parameter for parameter in learned(model))
        assert model.merged().spec() == source.spec()


def test_a_head_may_learn_beside_the_adapters() -> None:
    model = adapted(replace(CONFIG, trainable=("head",)))
    assert {"inner.net.head.weight", "inner.net.head.bias"} < learned(model).keys()
    model.grow_classes(("no", "yes", "maybe", "never"))
    assert model.predict(table(1).columns).shape == (40, 4)
    with pytest.raises(UnsuitableModelError, match="frozen head"):
        adapted().grow_classes(("no", "yes", "maybe", "never"))


@pytest.mark.parametrize("kill", [0, 2])
def test_adapters_go_on_learning_beside_a_head_that_grew_and_so_does_a_training_resumed(kill: int) -> None:
    config = lora_of(plain(), replace(CONFIG, trainable=("head",)))
    parent = start(None, table(0), RECIPE, schema=SCHEMA, model="lora", config=config)
    while not parent.done:
        parent.step()
    checkpoint, more = parent.finish(), table(1, classes=4)
    wider = replace(SCHEMA, classes=(*SCHEMA.classes, "never"))
    whole, broken = (start(checkpoint, more, RECIPE, schema=wider) for _ in range(2))
    assert whole.model.encode(more.columns)[0].shape == (
        40,
        len(NUMERIC),
    )  # rows, not features of a frozen network
    before = learned(whole.model)
    assert before.keys() == learned(parent.model).keys()
    while not whole.done:
        whole.step()
    after = learned(whole.model)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    for _ in range(kill):
        broken.step()
    again = resume(broken.snapshot(), more, RECIPE)
    while not again.done:
        again.step()
    ends = whole.finish().tensors, again.finish().tensors
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_without_peft_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnsuitableModelError, match=r"pip install 'cls-continual\[lora\]'"):
        adapted()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        UnsuitableModelError, match=r"no linear layer is in keys; name some of net\.embed, .*"
    ):
        adapted(replace(CONFIG, targets=("keys",)))
    wrong: dict[str, Any] = {"rank": 0, "alpha": 0.0, "dropout": 1.0, "targets": "query"}
    for field, value in wrong.items():
        with pytest.raises(ValueError, match=field):
            replace(CONFIG, **{field: value})
