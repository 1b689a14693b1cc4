"""Any module by name: what surrounds it, how it grows, and what is said when it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.columns import Categorical, Columns, take
from learners.errors import UnknownModelError, UnsuitableModelError, UnsuitableRowsError
from learners.models.cnn_config import CnnConfig
from learners.models.mlp import Mlp
from learners.models.network import Network, wrapping
from learners.models.network_config import NetworkConfig
from learners.models.registry import BUILT_IN, CONFIGS, load
from learners.models.transformer import Block
from learners.models.transformer_config import TransformerConfig
from learners.rows import Rows
from learners.schema import Schema

SIDE = 6
NAMES = tuple(f"p{i}" for i in range(SIDE * SIDE))
CLASSES = Schema(NAMES, (), "classification", ("a", "b", "c"))
REGRESSION = Schema(NAMES)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (12, 8)},
    "cnn": {"shape": (1, SIDE, SIDE), "channels": (4, 6), "hidden": 10},
    "transformer": {"channels": SIDE, "heads": 2, "head_width": 4},
}
pytestmark = pytest.mark.filterwarnings("error")


def table(rows: int = 40, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x_NF = rng.gamma(2.0, size=(rows, len(NAMES))) * np.arange(1, len(NAMES) + 1)
    x_NF[rng.random(x_NF.shape) < 0.05] = np.nan
    columns: Columns = dict(zip(NAMES, np.asfortranarray(x_NF).T, strict=True))
    return Rows(columns, rng.integers(0, 3, rows).astype(np.float64), np.arange(rows))


def network(name: str, schema: Schema = CLASSES, **other: Any) -> Network:
    torch.manual_seed(0)
    model = load(name).fit_preprocessing({**ARGUMENTS[name], **other}, schema, table())
    assert isinstance(model, Network)
    return model


def head(model: Network) -> nn.Linear:
    layer = model.get_submodule("net.head")
    assert isinstance(layer, nn.Linear)
    return layer


@pytest.fixture(params=sorted(ARGUMENTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Plain(nn.Module):
    """The least that a class of one's own needs."""

    def __init__(self, inputs: int, outputs: int, shift: float = 0.0, sizes: Any = ()) -> None:
        super().__init__()
        self.head, self.shift, self.sizes = nn.Linear(inputs, outputs), shift, sizes

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(x_BF) + self.shift  # type: ignore[no-any-return]  # nn.Module returns Any


class Flat(Plain):
    """Returns (B,) for a regression."""

    def forward(self, x_BF: Tensor) -> Tensor:
        return super().forward(x_BF)[:, 0]


class Narrow(Plain):
    """Reads another number of features."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs + 1, outputs)


class Elsewhere(Plain):
    """More than its head depends on the number of outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(outputs))


class Headless(nn.Sequential):
    """No layer is called head."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs))


def own(module: type[nn.Module], schema: Schema = CLASSES, **arguments: Any) -> Network:
    return wrapping("mine", module).fit_preprocessing(arguments, schema, table())


def test_every_built_in_has_a_configuration() -> None:
    assert CONFIGS.keys() == BUILT_IN.keys()
    assert ARGUMENTS.keys() == {name for name, config in CONFIGS.items() if issubclass(config, NetworkConfig)}


@pytest.mark.parametrize("schema", [CLASSES, REGRESSION])
def test_spec_and_state_restore_it_to_the_bit(name: str, schema: Schema) -> None:
    model, columns = network(name, schema), table(50, seed=1).columns
    again = load(name).from_spec(json.loads(json.dumps(model.spec())))
    again.load_state_dict(model.state_dict())
    assert np.array_equal(again.predict(columns), model.predict(columns))
    assert again.spec() == model.spec()
    assert set(model.spec()) == {"name", "format", "arguments", "scale", "numeric", "task", "classes"}


def test_arguments_of_ones_own_class_come_back_as_tuples() -> None:
    model = own(Plain, shift=1.5, sizes=[[1, 2], [3]])
    again = type(model).from_spec(json.loads(json.dumps(model.spec())))
    assert isinstance(again.net, Plain)
    assert (again.net.shift, again.net.sizes) == (1.5, ((1, 2), (3,)))
    assert model.scale == "standard"


def test_scales_are_those_of_the_train_rows_and_missing_is_zero(name: str) -> None:
    columns = table().columns
    raw_NF = np.stack([np.asarray(columns[p]) for p in NAMES], axis=1)
    missing_NF = np.isnan(raw_NF)
    (standard_NF,) = network(name, scale="standard").encode(columns)
    expected_NF = (raw_NF - np.nanmean(raw_NF, axis=0)) / np.nanstd(raw_NF, axis=0)
    np.testing.assert_allclose(
        standard_NF.numpy(), np.where(missing_NF, 0, expected_NF), rtol=1e-5, atol=1e-6
    )
    (raw,) = network(name, scale="none").encode(columns)
    assert np.array_equal(raw.numpy(), np.where(missing_NF, 0, raw_NF).astype(np.float32))
    (one_NF,) = network(name, scale="global").encode(dict.fromkeys(NAMES, np.array([1.0, 3.0])))
    assert len(set(one_NF[0].tolist())) == 1
    assert float(one_NF[1, 0] - one_NF[0, 0]) == pytest.approx(2 / np.nanstd(raw_NF), rel=0.05)


def test_infinite_is_missing_and_outliers_are_bounded(name: str) -> None:
    columns = {**table(3).columns, "p0": np.array([np.inf, np.nan, 1e30])}
    model = network(name)
    assert model.encode(columns)[0][:, 0].tolist() == [0.0, 0.0, 10.0]
    assert np.isfinite(model.predict(columns)).all()
    assert np.isfinite(model.predict(dict.fromkeys(NAMES, np.full(2, np.nan)))).all()


def test_blocks_change_no_value() -> None:
    model, rows = network("mlp"), table(20_000, seed=3)  # more rows than a block of 36 columns holds
    whole = model.encode(rows.columns)[0]
    index = np.array([0, 7_280, 7_281, 7_282, 14_563, 19_999])
    assert torch.equal(model.encode(rows.take(index).columns)[0], whole[torch.from_numpy(index)])


def test_a_regression_answers_in_target_units(name: str) -> None:
    rows = replace(table(), target=1e6 + 1e3 * table().target)
    model = load(name).fit_preprocessing(ARGUMENTS[name], REGRESSION, rows)
    out_N = model.eval()(*model.encode(rows.columns))[:, 0].double()
    expected_N = out_N * model.target_scale + model.target_location
    np.testing.assert_allclose(model.predict(rows.columns), expected_N.detach().numpy(), rtol=1e-9)
    standard_N = model.encode_target(rows.target)
    back_N = standard_N.double() * model.target_scale + model.target_location
    np.testing.assert_allclose(back_N.numpy(), rows.target, rtol=1e-6)


@pytest.mark.parametrize("schema", [CLASSES, REGRESSION])
def test_no_rows_predict_nothing(name: str, schema: Schema) -> None:
    assert len(network(name, schema).predict(table(0).columns)) == 0


def test_batches_of_prediction_change_nothing(name: str) -> None:
    model, columns = network(name), table(2500, seed=2).columns
    whole_NK = model.predict(columns)
    parts_NK = [model.predict(take(columns, slice(i, i + 500))) for i in range(0, 2500, 500)]
    np.testing.assert_allclose(np.concatenate(parts_NK), whole_NK, atol=1e-6)
    assert whole_NK.sum(axis=1) == pytest.approx(1)


def test_represent_is_what_the_head_reads(name: str) -> None:
    model = network(name).eval()
    inputs = model.encode(table().columns)
    features_BH = model.represent(*inputs)
    assert torch.equal(head(model)(features_BH), model(*inputs))
    headless = own(Headless)
    assert torch.equal(headless.represent(*inputs), headless(*inputs))


def test_a_head_that_grows_keeps_its_rows_to_the_bit_and_its_outputs(name: str) -> None:
    model = network(name).eval()
    inputs, before = model.encode(table().columns), dict(model.state_dict())
    before = {key: value.clone() for key, value in before.items()}
    out_BK = model(*inputs)
    model.grow_classes(("a", "b", "c", "d", "e"))
    assert model.schema.classes == ("a", "b", "c", "d", "e")
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[key][: len(value)] if value.ndim else after[key], value)
        for key, value in before.items()
    )
    np.testing.assert_allclose(model(*inputs)[:, :3].detach(), out_BK.detach(), rtol=1e-5, atol=1e-6)
    assert model.predict(table().columns).shape == (40, 5)
    again = load(name).from_spec(json.loads(json.dumps(model.spec())))
    again.load_state_dict(after)
    assert np.array_equal(again.predict(table().columns), model.predict(table().columns))
    assert int(model.encode_target(np.array([4.0]))) == 4
    weight = head(model).weight
    model.grow_classes(("a", "b"))
    assert head(model).weight is weight


def test_old_outputs_are_the_same_sums() -> None:
    """On whole numbers, where no order of adding rounds, they are equal to the bit."""
    model = network("mlp", scale="none").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((16 * parameter).round())
    x_BF = torch.randint(-3, 4, (64, len(NAMES))).float()
    out_BK = model(x_BF)
    model.grow_classes(tuple("abcdefghijk"))
    assert torch.equal(model(x_BF)[:, :3], out_BK)
    bias_K = head(model).bias
    assert torch.equal(model(x_BF)[:, 3:], bias_K[:3].mean().expand(64, 8))


def test_a_frozen_head_stays_frozen_and_random_numbers_untouched() -> None:
    model = network("mlp")
    head(model).requires_grad_(False)
    state = torch.random.get_rng_state()
    model.grow_classes(("a", "b", "c", "d"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(p.requires_grad for p in head(model).parameters())


@pytest.mark.parametrize(
    ("module", "fix"), [(Headless, "nn.Linear called head"), (Elsewhere, "gain would be of another shape")]
)
def test_what_cannot_grow_says_why_and_stays(module: type[nn.Module], fix: str) -> None:
    model = own(module)
    before = model.spec()
    with pytest.raises(UnsuitableModelError, match=fix):
        model.grow_classes(("a", "b", "c", "d"))
    assert model.spec() == before
    assert model.predict(table().columns).shape == (40, 3)
    with pytest.raises(UnsuitableModelError, match=r"must begin with a, b, c, .* not a, c, b, d"):
        model.grow_classes(("a", "c", "b", "d"))
    with pytest.raises(UnsuitableModelError, match="no classes"):
        network("mlp", REGRESSION).grow_classes(("d",))


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (
            Plain,
            {"depth": 3},
            r"cannot be built with inputs=36, outputs=1, depth=3: .*'depth'.*correct the model's",
        ),
        (Flat, {}, r"returns \(2,\) for 2 rows, not \(2, 1\).*one for a regression"),
        (Narrow, {}, r"does not read rows of shape \(2, 36\).*must map"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_with_the_fix(
    module: type[nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsuitableModelError, match=f"model 'mine' .{module.__name__}.*{message}"):
        own(module, REGRESSION, **arguments)


def test_categories_are_refused_by_name() -> None:
    with pytest.raises(UnsuitableModelError, match="leave carrier out, or use model 'tabular'"):
        own(Plain, Schema(NAMES, ("carrier",)))
    columns = {**table(1).columns, "p3": Categorical.of(["x"])}
    with pytest.raises(UnsuitableRowsError, match="p3"):
        own(Plain).encode(columns)


def test_trying_a_class_leaves_its_mode() -> None:
    class Norm(Plain):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.norm = nn.BatchNorm1d(inputs)
            self.norm.eval()

        def forward(self, x_BF: Tensor) -> Tensor:
            return super().forward(self.norm(x_BF))

    model = own(Norm)
    assert model.training
    assert isinstance(model.net, Norm)
    assert not model.net.norm.training
    assert int(model.net.norm.num_batches_tracked or 0) == 0


def test_a_name_is_found_wrapped_or_said_to_be_absent() -> None:
    assert load("mlp") is load("mlp")
    assert load("mlp").build is Mlp  # type: ignore[attr-defined]  # a Network
    assert load("mine", {"mine": "torch.nn:Linear"}) is not load("other", {"other": "torch.nn:Linear"})
    for place in ("no.such.module:Net", "torch.nn:Lineer"):
        with pytest.raises(UnknownModelError, match=f"'mine' should be {place}"):
            load("mine", {"mine": place})
    with pytest.raises(UnknownModelError, match="which is no class"):
        load("mine", {"mine": "torch:__version__"})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"hidden": ()}, "hidden must be one or more"),
        ("mlp", {"hidden": (4, 1.5)}, "hidden must be a whole number from 1 to 65536, not 1.5"),
        ("mlp", {"scale": "log"}, "scale must be standard, global or none"),
        ("cnn", {"shape": (28, 28)}, "shape must be channels, height and width"),
        ("cnn", {"shift": -1}, "shift must be"),
        ("transformer", {"heads": 0}, "heads must be"),
        ("transformer", {"depth": True}, "depth must be"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"model: {message}"):
        CONFIGS[name](**arguments)


@pytest.mark.parametrize(
    ("config", "features", "message"),
    [
        (
            CnnConfig(),
            36,
            r"shape \[1, 28, 28\] has 784 pixels, but there are 36 numeric features; set shape",
        ),
        (CnnConfig(shape=(1, 3, 12)), 36, "2 convolutions, each of which halves.* 3 by 12 has room for 1"),
        (TransformerConfig(channels=5), 36, "36 are no whole number of steps of 5"),
    ],
)
def test_features_that_cannot_be_laid_out_are_refused(
    config: CnnConfig | TransformerConfig, features: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config.check_features(features)
    name = "cnn" if isinstance(config, CnnConfig) else "transformer"
    with pytest.raises(UnsuitableModelError, match=message):
        load(name).fit_preprocessing(config, CLASSES, table())


def test_augmenting_moves_each_image_by_whole_pixels() -> None:
    model = network("cnn", shift=2)
    inputs = model.encode(table(60).columns)
    one, two = (model.augment(inputs, torch.Generator().manual_seed(5))[0] for _ in range(2))
    other = model.augment(inputs, torch.Generator().manual_seed(6))[0]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    padded_BHW = nn.functional.pad(inputs[0].reshape(-1, 1, SIDE, SIDE), (2, 2, 2, 2), mode="replicate")[:, 0]
    seen = set()
    for image, row in zip(padded_BHW, one, strict=True):
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(image[y : y + SIDE, x : x + SIDE].flatten(), row)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(5))


def test_what_has_no_augmentation_stays() -> None:
    inputs = network("mlp").encode(table().columns)
    assert network("mlp").augment(inputs, torch.Generator())[0] is inputs[0]
    still = network("cnn", shift=0)
    assert torch.equal(still.augment(inputs, torch.Generator())[0], inputs[0])


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    block, reference = Block(2, 4, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([block.query.bias, torch.randn(8), block.value.bias]))
        reference.out_proj.load_state_dict(block.output.state_dict())
    x_BSW = torch.randn(3, 5, 8)
    normal_BSW = block.norm_attention(x_BSW)
    expected_BSW = x_BSW + reference(normal_BSW, normal_BSW, normal_BSW, need_weights=False)[0]
    with torch.no_grad():
        block.contract.weight.zero_()
        block.contract.bias.zero_()
    torch.testing.assert_close(block(x_BSW), expected_BSW)


def test_the_order_of_steps_matters() -> None:
    model = network("transformer").eval()
    (x_BF,) = model.encode(table().columns)
    turned_BF = x_BF.reshape(-1, SIDE, SIDE).flip(1).flatten(1)
    assert not torch.allclose(model(x_BF), model(turned_BF), atol=1e-3)
    with torch.no_grad():
        model.get_parameter("net.position_SW").zero_()
    torch.testing.assert_close(model(x_BF), model(turned_BF))
