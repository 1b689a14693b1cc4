"""A frozen backbone never changes, and its head learns from features that are computed once."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from detectors.columns import Categorical
from learners.errors import UnsuitableModelError
from learners.fisher import diagonal_fisher
from learners.learn import resume, start
from learners.models.backbone import Backbone
from learners.models.backbone_config import BackboneConfig, belongs
from learners.models.base import Model
from learners.models.inner import backbone_of
from learners.models.registry import load
from learners.models.tabular_config import TabularConfig
from learners.models.widen import widen
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema, Task

NUMERIC = tuple(f"x{f}" for f in range(16))
TRAINED: dict[str, Any] = {
    "mlp": {"hidden": (6, 7)},
    "cnn": {"shape": (1, 4, 4), "channels": (3,), "hidden": 5},
    "transformer": {"channels": 4, "heads": 2, "head_width": 4, "depth": 2},
    "tabular": TabularConfig(hidden=(6, 7), dropout=0.5),
}


def table(seed: int, count: int = 40, classes: int = 3, categorical: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {name: 5 + rng.normal(size=count) for name in NUMERIC}
    if categorical:
        columns["c"] = Categorical(rng.integers(-1, 3, count).astype(np.int32), ("a", "b", "c"))
    return Rows(columns, rng.integers(0, classes, count).astype(np.float64), np.arange(count))


def schema_of(name: str, classes: tuple[str, ...] = ("no", "yes", "maybe")) -> Schema:
    task: Task = "classification" if classes else "regression"
    return Schema(NUMERIC, ("c",) if name == "tabular" else (), task, classes)


def trained(name: str) -> Model:
    torch.manual_seed(0)
    rows = table(0, categorical=name == "tabular")
    return load(name).fit_preprocessing(TRAINED[name], schema_of(name), rows).eval()


def backbone(
    name: str,
    trainable: tuple[str, ...] = ("head",),
    fresh: bool = True,
    classes: tuple[str, ...] = ("a", "b"),
) -> Backbone:
    config = backbone_of(trained(name), trainable, fresh)
    rows = table(1, classes=2, categorical=name == "tabular")
    return Backbone.fit_preprocessing(config, schema_of(name, classes), rows)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_a_head_alone_reads_the_features_of_the_trained_network(name: str) -> None:
    model, rows = backbone(name), table(1, categorical=name == "tabular")
    source = trained(name)
    (features_BH,) = model.train().encode(rows.columns)
    assert torch.equal(features_BH, source.represent(*source.encode(rows.columns)))
    assert not features_BH.requires_grad
    whole = model.inner.eval()(*model.inner.encode(rows.columns))
    torch.testing.assert_close(model(features_BH), whole)
    assert model.represent(features_BH) is features_BH


@pytest.mark.parametrize("name", sorted(TRAINED))
@pytest.mark.parametrize("trainable", [("head",), ("head", "norm", "body", "hidden")])
def test_training_changes_what_is_trainable_and_nothing_else(name: str, trainable: tuple[str, ...]) -> None:
    recipe = replace(RECIPES["ewc+replay"], epochs=2.0, learning_rate=0.01, memory_rows=20)
    schema, categorical = schema_of(name, ("a", "b")), name == "tabular"
    parent = None
    config = backbone_of(trained(name), trainable)
    for update in range(2):
        rows = table(1 + update, classes=2, categorical=categorical)
        training = start(parent, rows, recipe, schema=schema, model="backbone", config=config, seed=1)
        before = state(training.model)
        while not training.done:
            training.step()
        parent = training.finish()
        changed = {n for n, tensor in state(training.model).items() if not torch.equal(tensor, before[n])}
        learned = {n for n, p in training.model.named_parameters() if p.requires_grad}
        assert changed == learned
        assert learned == {n for n in before if belongs(n, trainable) and "target" not in n}
    assert parent is not None
    about = {n for n in parent.tensors if n.startswith(("ewc.", "si.", "pending.", "optimizer."))}
    assert about
    assert all(belongs(n, trainable) for n in about)


def test_fisher_information_is_that_of_the_head_in_closed_form() -> None:
    model, rows = backbone("mlp"), table(1)
    (features_BH,) = model.encode(rows.columns)
    fisher = diagonal_fisher(model, (features_BH,), "classification")
    p_BK = model(features_BH).softmax(dim=1).detach()
    assert fisher.keys() == {"inner.net.head.weight", "inner.net.head.bias"}
    variance_BK = p_BK * (1 - p_BK)  # of a softmax: E (y - p)^2
    expected = variance_BK.T @ features_BH.square() / len(features_BH)
    torch.testing.assert_close(fisher["inner.net.head.weight"], expected)


@pytest.mark.parametrize("trainable", [("head",), ("head", "blocks.1")])
def test_restored_from_spec_and_tensors_to_the_bit(trainable: tuple[str, ...]) -> None:
    model, rows = backbone("transformer", trainable), table(2)
    spec = json.loads(json.dumps(model.spec()))
    again = load(spec["name"]).from_spec(spec)
    again.load_state_dict(tensors_of(bytes_of(state(model))))
    np.testing.assert_array_equal(again.predict(rows.columns), model.predict(rows.columns))
    assert again.schema == model.schema
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]
    assert len({tensor.data_ptr() for tensor in model.state_dict().values()}) == len(model.state_dict())


def test_frozen_layers_stay_in_eval_mode() -> None:
    model = backbone("tabular").train()
    assert all(not module.training for module in model.inner.get_submodule("body").modules())
    assert model.inner.get_submodule("head").training
    partly = backbone("tabular", ("head", "body")).train()
    assert partly.inner.get_submodule("body").training
    assert not partly.eval().inner.get_submodule("body").training


def test_parts_that_are_kept_go_on_from_where_they_were_trained() -> None:
    classes = schema_of("mlp").classes
    kept, fresh, source = (
        backbone("mlp", fresh=False, classes=classes), backbone("mlp", classes=classes), trained("mlp")
    )  # fmt: skip
    rows = table(3)
    np.testing.assert_allclose(kept.predict(rows.columns), source.predict(rows.columns), rtol=1e-6)
    assert not torch.equal(
        fresh.inner.get_parameter("net.head.weight"), source.get_parameter("net.head.weight")
    )


def test_another_task_has_a_head_and_a_target_scale_of_its_own() -> None:
    rows = table(4)
    rows = replace(rows, target=100 + 10 * np.asarray(rows.columns["x0"], dtype=np.float64))
    model = Backbone.fit_preprocessing(backbone_of(trained("cnn")), schema_of("cnn", ()), rows)
    assert float(model.target_location) == pytest.approx(np.median(rows.target))
    assert model.predict(rows.columns).shape == (40,)
    assert model.encode_target(rows.target).abs().max() < 10


def test_classes_are_added_to_a_head_that_learns_and_refused_by_a_frozen_one() -> None:
    model, rows = backbone("mlp"), table(5)
    before = model(*model.encode(rows.columns))
    model.grow_classes(("a", "b", "c"))
    after = model(*model.encode(rows.columns))
    assert model.schema.classes == ("a", "b", "c")
    torch.testing.assert_close(after[:, :2], before)
    frozen = backbone("mlp", ("body.2",), fresh=False, classes=schema_of("mlp").classes)
    with pytest.raises(UnsuitableModelError, match="frozen head"):
        frozen.grow_classes(("no", "yes", "maybe", "d"))


@pytest.mark.parametrize("trainable", [("head",), ("head", "body.2")])
def test_a_network_that_learns_anew_from_memory_keeps_its_frozen_part(trainable: tuple[str, ...]) -> None:
    recipe = replace(RECIPES["gdumb"], max_steps=1, learning_rate=1e-9, memory_rows=20)
    config, schema = backbone_of(trained("mlp"), trainable), schema_of("mlp")
    parent = start(None, table(0), recipe, schema=schema, model="backbone", config=config)
    parent.step()
    given, frozen = state(trained("mlp")), 0
    child = start(parent.finish(), table(1), recipe, seed=1)
    for name, tensor in state(child.model).items():
        plain = name.removeprefix("inner.")
        if belongs(plain, trainable):
            assert not torch.equal(tensor, parent.model.state_dict()[name])
        elif "target" not in plain:
            frozen += 1
            assert torch.equal(tensor, given[plain])
    assert frozen


@pytest.mark.parametrize("trainable", [("head",), ("head", "body.2")])
def test_with_a_head_that_grew_the_same_parts_learn_and_a_training_resumed_ends_alike(
    trainable: tuple[str, ...],
) -> None:
    recipe = replace(RECIPES["ewc+replay"], epochs=2.0, batch_rows=16, memory_rows=20)
    parent = start(
        None,
        table(0),
        recipe,
        schema=schema_of("mlp"),
        model="backbone",
        config=backbone_of(trained("mlp"), trainable),
    )
    while not parent.done:
        parent.step()
    checkpoint, more = parent.finish(), table(1, classes=4)
    whole, broken = (
        start(checkpoint, more, recipe, schema=schema_of("mlp", ("no", "yes", "maybe", "never")))
        for _ in range(2)
    )
    before = state(whole.model)
    while not whole.done:
        whole.step()
    after = state(whole.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {name for name, p in whole.model.named_parameters() if belongs(name, trainable)}
    assert changed == learned == parent.parameters.keys()
    broken.step()
    again = resume(broken.snapshot(), more, recipe)
    while not again.done:
        again.step()
    ends = whole.finish().tensors, again.finish().tensors
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_new_categories_leave_a_frozen_network_as_it_is() -> None:
    model, rows = backbone("tabular"), table(6, categorical=True)
    columns = {**rows.columns, "c": Categorical(np.zeros(40, dtype=np.int32), ("brand new",))}
    before = model.predict(columns)
    model.grow(columns)
    np.testing.assert_allclose(model.predict(columns), before, rtol=1e-6)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "inner.head.weight",
        "inner.head.bias",
    }


def test_an_inner_network_by_name_brings_its_own_weights() -> None:
    config = {"model": "mlp", "arguments": {"hidden": [3]}, "trainable": ("head",)}
    model = Backbone.fit_preprocessing(config, schema_of("mlp"), table(0))
    assert model.encode(table(0).columns)[0].shape == (40, 3)


def test_what_does_not_fit_is_refused() -> None:
    rows = table(0, classes=2)
    with pytest.raises(UnsuitableModelError, match="widen the network inside"):
        widen(backbone("mlp"), {"hidden": (9, 9)}, "fresh", np.random.default_rng(0))
    with pytest.raises(UnsuitableModelError, match=r"nothing of tail .* name some of .*net\.head"):
        backbone("mlp", ("tail",), fresh=False, classes=schema_of("mlp").classes)
    with pytest.raises(UnsuitableModelError, match=r"net\.head\.bias, .* do not fit"):
        backbone("mlp", fresh=False)
    other = Schema(NUMERIC[:-1], (), "classification", ("a", "b"))
    with pytest.raises(UnsuitableModelError, match="same features"):
        Backbone.fit_preprocessing(backbone_of(trained("mlp")), other, rows)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"trainable": "head"}, "trainable must be a list"),
        ({"model": 3}, "model must be a name"),
        ({"arguments": 3}, "arguments must be a table"),
        ({"spec": {"name": "mlp"}}, "spec and weights belong together"),
    )
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            BackboneConfig(**arguments)
