"""The Fisher information against mathematics: analytic, by a loop over rows, and for every batch size."""

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learners.fisher import Kind, diagonal_fisher, drawn, normalised, scores
from learners.schema import Task
from learners.seeds import FISHER, generator

Inputs = tuple[Tensor, ...]
ROWS = 11


class Mixed(nn.Module):
    """Linear layers, an embedding, a shared layer, and parameters that only torch.func can deal with."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.scale = nn.Parameter(torch.randn(4))
        self.shared = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(7)
        self.body = nn.Sequential(nn.Linear(7, 6), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(6, outputs)
        self.idle = nn.Parameter(torch.randn(2))

    def forward(self, x_BF: Tensor, code_B: Tensor) -> Tensor:
        x_BF = self.shared(self.shared(x_BF * self.scale).tanh())
        out: Tensor = self.head(self.body(self.norm(torch.cat([x_BF, self.embedding(code_B)], dim=1))))
        return out


class Images(nn.Module):
    """Convolutions with stride, padding, dilation and groups, normalisations, and two branches."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0))
        self.batch_norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4, padding=2, dilation=2, bias=False)
        self.group_norm = nn.GroupNorm(2, 8)
        self.same = nn.Conv2d(2, 3, 3, padding="same")
        self.row = nn.Conv1d(3, 4, 3, stride=2, padding=1, groups=1)
        self.twice = nn.Conv1d(4, 4, 3, padding=1)
        self.drop = nn.Dropout1d(0.5)
        self.head = nn.Linear(12, outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        left = self.group_norm(self.depthwise(self.batch_norm(self.first(x_BCHW)).relu())).tanh()
        right = self.row(self.same(x_BCHW).mean(dim=2))
        right = self.twice(self.twice(right).tanh())
        pooled = torch.cat([left.mean(dim=(2, 3)), self.drop(right).amax(dim=2)], dim=1)
        return cast(Tensor, self.head(pooled))


class Sequences(nn.Module):
    """Codes embedded along time, layers at every step, layer norm, attention, positions of their own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.position = nn.Parameter(torch.randn(5, 4))
        self.step = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.both = nn.LayerNorm((5, 4))
        self.flat = nn.Linear(4, 3)
        self.head = nn.Linear(3, outputs)

    def forward(self, code_BT: Tensor) -> Tensor:
        x_BTC = self.norm(self.step(self.embedding(code_BT) + self.position))
        x_BTC = self.both(x_BTC + self.attention(x_BTC, x_BTC, x_BTC, need_weights=False)[0])
        flat = self.flat(x_BTC.reshape(-1, 4)).relu()  # rows and steps as one dimension
        return cast(Tensor, self.head(flat.reshape(len(code_BT), -1, 3).mean(dim=1)))


class Tied(nn.Module):
    """Weights used where no layer's call tells: shared between layers, and by a function."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.back = nn.Linear(4, 6, bias=False)
        self.back.weight = self.embedding.weight
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, outputs)

    def forward(self, code_BT: Tensor) -> Tensor:
        x_BF = self.back(self.embedding(code_BT).mean(dim=1)).tanh()
        x_BF = functional.linear(self.twice(input=x_BF).tanh(), self.twice.weight)
        return cast(Tensor, self.head(x_BF))


class TimeFirst(nn.Module):
    """A layer whose first dimension is time, of any length: also as long as the batch."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(3, 3), nn.Linear(3, outputs)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.step(x_BTC.transpose(0, 1)).tanh().mean(dim=0)))


MODELS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], Inputs]]] = {
    "mixed": (Mixed, lambda rows: (torch.randn(rows, 4), torch.randint(0, 5, (rows,)))),
    "images": (Images, lambda rows: (torch.randn(rows, 2, 7, 6),)),
    "sequences": (Sequences, lambda rows: (torch.randint(0, 7, (rows, 5)),)),
    "tied": (Tied, lambda rows: (torch.randint(0, 6, (rows, 3)),)),
    "time first": (TimeFirst, lambda rows: (torch.randn(rows, rows, 3),)),
}


def example(name: str, outputs: int, rows: int = ROWS) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    build, draw = MODELS[name]
    model, inputs = build(outputs), draw(rows)
    model(*inputs)  # running statistics that are not trivial
    return model, inputs


def looped_fisher(model: nn.Module, inputs: Inputs, task: Task, label_B: Tensor | None) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in range(len(inputs[0])):
        label = label_B[row : row + 1] if label_B is not None else None
        for score in scores(model(*(t[row : row + 1] for t in inputs)), task, label)[0]:
            model.zero_grad()
            score.backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.square() / len(inputs[0])
    model.zero_grad()
    return total


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize(("task", "outputs"), [("regression", 1), ("classification", 3)])
@pytest.mark.parametrize("name", MODELS)
def test_equals_squared_gradients_row_by_row(name: str, task: Task, outputs: int, kind: Kind) -> None:
    model, inputs = example(name, outputs)
    target = torch.randn(ROWS) if task == "regression" else torch.randint(0, outputs, (ROWS,))
    fisher = diagonal_fisher(model, inputs, task, kind, target, batch_rows=4, seed=5)
    model.eval()
    random = generator(5, FISHER, 1)
    labels = {"exact": None, "sampled": drawn(model(*inputs).detach(), task, random), "empirical": target}
    expected = looped_fisher(model, inputs, task, labels[kind])
    assert fisher.keys() == expected.keys()
    for parameter, values in expected.items():
        atol = 1e-5 * float(values.max()) + 1e-9
        torch.testing.assert_close(fisher[parameter], values, rtol=1e-3, atol=atol, msg=parameter)


@pytest.mark.parametrize("kind", ["exact", "sampled"])
@pytest.mark.parametrize("name", MODELS)
def test_is_the_same_for_every_batch_size(name: str, kind: Kind) -> None:
    model, inputs = example(name, 3)
    whole = diagonal_fisher(model, inputs, "classification", kind, batch_rows=1000)
    for batch_rows in (1, 2, 5, ROWS):
        parts = diagonal_fisher(model, inputs, "classification", kind, batch_rows=batch_rows)
        for parameter, values in whole.items():
            atol = 1e-5 * float(values.max()) + 1e-9
            torch.testing.assert_close(parts[parameter], values, rtol=1e-3, atol=atol)


def test_equals_the_analytic_fisher_of_logistic_regression() -> None:
    torch.manual_seed(1)
    model, x_BF = nn.Linear(4, 2), torch.randn(500, 4)
    fisher = diagonal_fisher(model, (x_BF,), "classification")
    p_B = model(x_BF).softmax(dim=1)[:, 1].detach()
    # d log p(y) / d w_1 = (y - p) x, so its expected square is p (1 - p) x^2; the same for w_0.
    expected_F = (p_B * (1 - p_B)) @ x_BF.square() / len(x_BF)
    torch.testing.assert_close(fisher["weight"], expected_F.expand(2, -1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(fisher["bias"], (p_B * (1 - p_B)).mean().expand(2), rtol=1e-5, atol=1e-8)


def test_equals_the_analytic_fisher_of_a_softmax_over_classes() -> None:
    torch.manual_seed(2)
    model, x_BF = nn.Linear(3, 7), 2 * torch.randn(200, 3)
    p_BK = model(x_BF).softmax(dim=1).detach()
    target_B = torch.randint(0, 7, (200,))
    # d log p(y) / d w_k = ([y = k] - p_k) x
    exact_KF = (p_BK * (1 - p_BK)).T @ x_BF.square() / 200
    empirical_KF = (functional.one_hot(target_B, 7) - p_BK).square().T @ x_BF.square() / 200
    exact = diagonal_fisher(model, (x_BF,), "classification")["weight"]
    torch.testing.assert_close(exact, exact_KF, rtol=1e-5, atol=1e-7)
    empirical = diagonal_fisher(model, (x_BF,), "classification", "empirical", target_B)["weight"]
    torch.testing.assert_close(empirical, empirical_KF, rtol=1e-5, atol=1e-7)


def test_equals_the_analytic_fisher_of_least_squares() -> None:
    torch.manual_seed(3)
    model, x_BF, target_B = nn.Linear(3, 1), torch.randn(100, 3), torch.randn(100)
    fisher = diagonal_fisher(model, (x_BF,), "regression")
    torch.testing.assert_close(fisher["weight"][0], x_BF.square().mean(dim=0))
    torch.testing.assert_close(fisher["bias"], torch.ones(1))
    residual_B = (model(x_BF)[:, 0] - target_B).detach()
    empirical = diagonal_fisher(model, (x_BF,), "regression", "empirical", target_B)
    torch.testing.assert_close(empirical["bias"], residual_B.square().mean()[None])


@pytest.mark.parametrize(("task", "outputs"), [("regression", 2), ("classification", 4)])
def test_sampled_labels_give_the_exact_information_on_average(task: Task, outputs: int) -> None:
    torch.manual_seed(4)
    model, x_BF = nn.Linear(2, outputs), torch.randn(1, 2).repeat(40_000, 1)
    exact = diagonal_fisher(model, (x_BF[:1],), task)["bias"]
    sampled = diagonal_fisher(model, (x_BF,), task, "sampled", seed=6, batch_rows=10_000)["bias"]
    # One row's square is at most 1 (classes) or of mean 1 and variance 2 (chi-square): 5 standard errors.
    assert (sampled - exact).abs().max() < 5 * math.sqrt(2 / 40_000)
    again, other = (diagonal_fisher(model, (x_BF,), task, "sampled", seed=seed)["bias"] for seed in (6, 7))
    torch.testing.assert_close(again, sampled, rtol=1e-4, atol=0)
    assert not torch.allclose(other, sampled, rtol=1e-4)


def test_empirical_asks_for_labels() -> None:
    with pytest.raises(ValueError, match="needs target"):
        diagonal_fisher(nn.Linear(2, 2), (torch.ones(3, 2),), "classification", "empirical")


def test_leaves_modes_buffers_and_gradients_as_they_were() -> None:
    model, inputs = example("mixed", 1)
    assert isinstance(model, Mixed)
    model.train()
    model.norm.eval()  # a frozen part stays frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    diagonal_fisher(model, inputs, "regression")
    assert model.training
    assert model.body.training
    assert not model.norm.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_have_no_information() -> None:
    model, inputs = example("mixed", 1)
    whole = diagonal_fisher(model, inputs, "regression")
    assert isinstance(model, Mixed)
    for frozen in (model.head.weight, model.embedding.weight, model.shared.bias, model.scale):
        frozen.requires_grad = False
    left = diagonal_fisher(model, inputs, "regression")
    assert whole.keys() - left.keys() == {"head.weight", "embedding.weight", "shared.bias", "scale"}
    for name, values in left.items():
        torch.testing.assert_close(values, whole[name])


def test_a_closed_form_that_vanishing_gradients_could_not_refute_is_tried_again() -> None:
    model, inputs = example("tied", outputs=2)
    head = cast(Tied, model).head
    known = torch.randn_like(head.weight)
    with torch.no_grad():
        head.weight.zero_()
        diagonal_fisher(model, inputs, "regression")
        head.weight.copy_(known)
    fisher = diagonal_fisher(model, inputs, "regression")
    looped = looped_fisher(model, inputs, "regression", None)
    for name, expected in looped.items():
        torch.testing.assert_close(fisher[name], expected, rtol=1e-4, atol=1e-6)


def test_a_layer_of_another_kind_is_proven_anew() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (torch.randn(ROWS, 3),)
    diagonal_fisher(model, inputs, "regression")
    model[0] = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    fisher = diagonal_fisher(model, inputs, "regression")
    for name, expected in looped_fisher(model, inputs, "regression", None).items():
        torch.testing.assert_close(fisher[name], expected, rtol=1e-4, atol=1e-6)


def test_normalised_has_mean_one_whatever_the_scale() -> None:
    fisher = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[5.0]])}
    one = normalised(fisher)
    tiny = normalised({name: 1e-6 * values for name, values in fisher.items()})
    assert float(torch.cat([v.flatten() for v in one.values()]).mean()) == pytest.approx(1)
    for name in fisher:
        torch.testing.assert_close(one[name], tiny[name])
    assert float(normalised({"a": torch.zeros(2)})["a"].sum()) == 0
    assert normalised({}) == {}
