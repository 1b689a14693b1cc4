"""Wider networks compute the same function, and what was known about them keeps its price."""

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.columns import Categorical
from learners.capacity import held_back, wants_width
from learners.errors import UnsuitableModelError
from learners.fisher import diagonal_fisher
from learners.models.base import Model
from learners.models.network import wrapping
from learners.models.registry import load
from learners.models.widen import Kind, widen, wider_by
from learners.quadratic import Consolidation
from learners.rows import Rows
from learners.schema import Schema
from learners.widening import Widening

WIDER: dict[str, dict[str, Any]] = {  # to widths that are no multiples, one to more than twice
    "mlp": {"hidden": (9, 17)},
    "tabular": {"hidden": (11, 7)},
    "cnn": {"channels": (3, 7), "hidden": 11},
}
UNITS: tuple[Kind, ...] = ("copies", "fresh")
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (6, 7)},
    "tabular": {"hidden": (6, 7)},
    "cnn": {"shape": (1, 4, 4), "channels": (3, 4), "hidden": 5},
    "transformer": {"heads": 1, "head_width": 4, "depth": 1},
}


def table(categorical: bool) -> Rows:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{f}": rng.normal(size=40) for f in range(16)}
    if categorical:
        columns["c"] = Categorical(rng.integers(-1, 3, 40).astype(np.int32), ("a", "b", "c"))
    return Rows(columns, rng.integers(0, 3, 40).astype(np.float64), np.arange(40))


def network(name: str, seed: int = 0) -> tuple[Model, Rows]:
    rows = table(name == "tabular")
    numeric = tuple(f"x{f}" for f in range(16))
    schema = Schema(numeric, ("c",) if name == "tabular" else (), "classification", ("no", "yes", "maybe"))
    config: Any = CONFIGS[name]
    if name == "tabular":
        from learners.models.tabular_config import TabularConfig

        config = TabularConfig(**config)
    torch.manual_seed(seed)
    return load(name).fit_preprocessing(config, schema, rows).eval(), rows


def widened(name: str, units: Kind = "copies", noise: float = 0.0) -> tuple[Model, Model, Widening, Rows]:
    model, rows = network(name)
    wide, widening = widen(model, WIDER[name], units, np.random.default_rng(0), noise)
    return model, wide, widening, rows


def origins(model: Model, widening: Widening) -> dict[str, Tensor]:
    """Return, for each weight of the wider network, the flat index of the old one that it copies."""
    place = {n: torch.arange(p.numel()).reshape(p.shape) for n, p in model.named_parameters()}
    for n, axes in widening.axes.items():
        for axis in axes:
            place[n] = place[n].index_select(axis.dim, axis.origin_Q)
    return place


def ones(model: Model) -> dict[str, Tensor]:
    return {n: torch.ones(p.shape, dtype=torch.float64) for n, p in model.named_parameters()}


def penalty(weights: Mapping[str, Tensor], known: Consolidation) -> float:
    """Return sum F (theta - theta*)^2 in float64, by the definition."""
    return sum(
        float((known.importance[n] * (weights[n] - known.anchor[n]).square()).sum()) for n in known.importance
    )


def random_like(named: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=source, dtype=torch.float64) for name, t in named.items()}


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", sorted(WIDER))
def test_outputs_stay_up_to_rounding_and_widths_are_those_asked_for(name: str, units: Kind) -> None:
    model, wide, _, rows = widened(name, units)
    before, after = model(*model.encode(rows.columns)), wide(*wide.encode(rows.columns))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    spec = wide.spec()
    arguments = spec.get("arguments") or spec["config"]
    assert {key: arguments[key] for key in WIDER[name]} == json.loads(json.dumps(WIDER[name]))
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(WIDER))
def test_incoming_weights_are_copied_and_outgoing_weights_are_shared_out(name: str) -> None:
    model, wide, widening, _ = widened(name)
    old = dict(model.named_parameters())
    for n, place in origins(model, widening).items():
        outgoing = [axis.factor_Q for axis in widening.axes.get(n, ()) if axis.dim == 1]
        expected = old[n].flatten()[place]
        for share in outgoing:
            expected = expected * share.float().reshape(1, -1, *[1] * (expected.dim() - 2))
        torch.testing.assert_close(wide.get_parameter(n), expected)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", sorted(WIDER))
def test_the_penalty_of_any_old_state_is_the_same(name: str, units: Kind, noise: float) -> None:
    model, _, widening, _ = widened(name, units, noise)
    weights = dict(model.named_parameters())
    known = Consolidation(random_like(weights, 1), random_like(weights, 2))
    carried = widening.consolidation(known)
    assert penalty(widening.values(known.anchor), carried) == 0.0
    for seed in (3, 4, 5):
        state = random_like(weights, seed)
        assert penalty(widening.values(state), carried) == pytest.approx(penalty(state, known), rel=1e-12)


@pytest.mark.parametrize("name", sorted(WIDER))
def test_copies_that_drift_apart_never_cost_less_than_the_old_weights_they_stand_for(name: str) -> None:
    model, _, widening, _ = widened(name)
    weights, unit = dict(model.named_parameters()), ones(model)
    fisher = random_like(weights, 1)
    factor, carried, place = widening.values(unit), widening.importance(fisher), origins(model, widening)
    share = {n: weight * factor[n].square() for n, weight in widening.importance(unit).items()}
    for seed in range(20):
        drift = {n: t - 0.5 for n, t in random_like(factor, seed).items()}
        for n, d in drift.items():
            meant = torch.zeros(weights[n].numel(), dtype=torch.float64)
            meant.index_add_(0, place[n].flatten(), (share[n] * d / factor[n]).flatten())
            old_cost = (fisher[n].flatten() * meant.square()).sum()
            assert (carried[n] * d.square()).sum() >= old_cost * (1 - 1e-12)


@pytest.mark.parametrize("name", sorted(WIDER))
def test_the_fisher_information_of_copies_is_what_was_carried_over_times_their_share(name: str) -> None:
    model, wide, widening, rows = widened(name)
    inputs, unit = model.encode(rows.columns), ones(model)
    old, new = (diagonal_fisher(net, inputs, "classification") for net in (model, wide))
    carried, factor = widening.importance(old), widening.values(unit)
    for n, weight in widening.importance(unit).items():
        share = (weight * factor[n].square()).float()
        torch.testing.assert_close(new[n], carried[n] * share, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", sorted(WIDER))
def test_fresh_units_are_read_by_nothing_yet_and_cost_nothing(name: str) -> None:
    model, wide, widening, _ = widened(name, "fresh")
    unit, old = ones(model), dict(model.named_parameters())
    for n, weight in widening.importance(unit).items():
        known = tuple(slice(size) for size in old[n].shape)
        assert torch.equal(weight[known], unit[n])
        assert weight.sum() == unit[n].numel()
        assert torch.equal(wide.get_parameter(n)[known], old[n])
    head = next(n for n in old if n.endswith("head.weight"))
    assert wide.get_parameter(head)[:, old[head].shape[1] :].count_nonzero() == 0
    body = next(iter(widening.offset))
    assert wide.get_parameter(body)[len(old[body]) :].std() > 0


@pytest.mark.parametrize("name", sorted(WIDER))
def test_a_wider_network_is_restored_from_its_spec_to_the_bit_and_the_old_one_is_untouched(name: str) -> None:
    model, before = network(name)[0], {n: t.clone() for n, t in network(name)[0].state_dict().items()}
    wide, _ = widen(model, WIDER[name], "copies", np.random.default_rng(0))
    again = load(name).from_spec(json.loads(json.dumps(wide.spec())))
    again.load_state_dict(wide.state_dict())
    rows = table(name == "tabular")
    np.testing.assert_array_equal(again.predict(rows.columns), wide.predict(rows.columns))
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    same, _ = widen(model, WIDER[name], "copies", np.random.default_rng(0))
    assert all(torch.equal(t, same.state_dict()[n]) for n, t in wide.state_dict().items())


def descend(model: Model, x: Tensor, target: Tensor) -> float:
    """Return the loss after 400 steps of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss = torch.zeros(())
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(x)[:, 0] - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return loss.item()


def test_new_units_learn_where_they_are_fresh_or_noisy_and_equal_copies_do_not() -> None:
    schema, rows = Schema(tuple(f"x{f}" for f in range(8))), table(categorical=False)
    torch.manual_seed(0)
    teacher, narrow = (load("mlp").fit_preprocessing({"hidden": (h,)}, schema, rows) for h in (16, 3))
    x = torch.randn(256, 8)
    with torch.no_grad():
        target = teacher(3 * x)[:, 0]
        target = (target - target.mean()) / target.std()
    stuck, rng = descend(narrow, x, target), np.random.default_rng(0)
    kinds: tuple[tuple[Kind, float], ...] = (("copies", 0.0), ("copies", 0.1), ("fresh", 0.0))
    copies, noisy, fresh = (
        descend(widen(narrow, {"hidden": (24,)}, units, rng, noise)[0], x, target) for units, noise in kinds
    )
    assert copies > 0.7 * stuck  # still three units
    assert noisy < 0.3 * stuck
    assert fresh < 0.1 * stuck


def test_noise_moves_new_copies_alone() -> None:
    model, wide, _, _ = widened("mlp", noise=0.1)
    first = "net.body.0.weight"
    assert torch.equal(wide.get_parameter(first)[:6], model.get_parameter(first))
    exact = widened("mlp")[1].get_parameter(first)
    moved = (wide.get_parameter(first) - exact)[6:] / model.get_parameter(first).std(correction=0)
    assert 0.05 < moved.std().item() < 0.2


def test_what_is_frozen_stays_frozen_and_the_mode_is_kept() -> None:
    model, _ = network("mlp")
    model.get_submodule("net.body.0").requires_grad_(False)
    wide, _ = widen(model.train(), {"hidden": (8, 8)}, "copies", np.random.default_rng(0))
    frozen = {n for n, p in wide.named_parameters() if not p.requires_grad}
    assert frozen == {"net.body.0.weight", "net.body.0.bias"}
    assert wide.training


def test_information_about_other_parameters_passes_through() -> None:
    _, _, widening, _ = widened("tabular")
    stale = torch.rand(2, 3)  # an embedding has grown since
    known = Consolidation({"embeddings.0.weight": stale}, {"embeddings.0.weight": stale})
    assert torch.equal(widening.consolidation(known).importance["embeddings.0.weight"], stale)


class Mixing(nn.Module):
    """Adds to each hidden unit another one."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 4) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x_BF: Tensor) -> Tensor:
        hidden_BH = self.body(x_BF)
        return cast(Tensor, self.head(hidden_BH + 2 * hidden_BH.flip(1)))


def test_what_cannot_be_widened_is_refused() -> None:
    model, rows = network("mlp")
    rng = np.random.default_rng(0)
    with pytest.raises(UnsuitableModelError, match="from 6 to 5"):
        widen(model, {"hidden": (5, 7)}, "copies", rng)
    with pytest.raises(UnsuitableModelError, match="cannot widen"):
        widen(network("transformer")[0], {"head_width": 8}, "copies", rng)
    with pytest.raises(UnsuitableModelError, match="`wider` is empty"):
        widen(model, {}, "copies", rng)
    mixing = wrapping("mixing", Mixing).fit_preprocessing({"hidden": 4}, model.schema, rows)
    with pytest.raises(UnsuitableModelError, match="another function"):
        widen(mixing, {"hidden": 6}, "copies", rng)


def test_widths_times_a_factor() -> None:
    assert wider_by(network("mlp")[0], 2) == {"hidden": (12, 14)}
    assert wider_by(network("cnn")[0], 1.5) == {"channels": (5, 6), "hidden": 8}
    wide, _ = widen(
        network("tabular")[0], wider_by(network("tabular")[0], 1.1), "fresh", np.random.default_rng(0)
    )
    assert wide.spec()["config"]["hidden"] == [7, 8]


def test_held_back_is_the_way_to_the_new_optimum_not_gone() -> None:
    needed, known = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, 3.0, 5.0])
    start, aim = torch.zeros(3), torch.tensor([1.0, 1.0, 1.0])
    theta = (needed * aim + 2 * known * start) / (needed + 2 * known)  # least of the new loss and the penalty
    expected = float((needed * (aim - theta)).sum() / needed.sum())
    assert held_back({"w": known}, {"w": needed}, strength=2.0) == pytest.approx(expected)
    assert held_back({}, {"w": needed}, strength=2.0) == 0.0
    assert held_back({"w": known}, {"w": needed}, strength=0.0) == 0.0
    assert held_back({"w": known}, {"w": torch.zeros(3)}, strength=1.0) == 0.0
    assert held_back({"w": known}, {"w": needed}, strength=1e9) == pytest.approx(1.0)


def test_width_is_wanted_where_new_rows_fit_badly_and_weights_are_bound() -> None:
    assert wants_width(0.5, [0.2, 0.3], held=0.8)
    assert wants_width(0.5, [0.2, 0.3])
    assert not wants_width(0.5, [0.2, 0.3], held=0.1)  # noisier, not fuller
    assert not wants_width(0.31, [0.2, 0.3], held=0.9)
    assert not wants_width(0.5, [])
    assert not wants_width(float("nan"), [0.2])
