"""The Fisher information against mathematics: analytic, by a loop over rows, and for every batch size."""

import pytest
import torch
from torch import Tensor, nn

from learners.fisher import diagonal_fisher, normalised, scores
from learners.schema import Task


class Mixed(nn.Module):
    """Linear layers, an embedding, and parameters that only torch.func can deal with."""

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


def looped_fisher(model: nn.Module, inputs: tuple[Tensor, Tensor], task: Task) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in range(len(inputs[0])):
        for score in scores(model(*(t[row : row + 1] for t in inputs)), task)[0]:
            model.zero_grad()
            score.backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.square() / len(inputs[0])
    model.zero_grad()
    return total


def mixed_inputs(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4), torch.randint(0, 5, (rows,))


@pytest.mark.parametrize(("task", "outputs"), [("regression", 1), ("classification", 3)])
def test_equals_squared_gradients_row_by_row(task: Task, outputs: int) -> None:
    torch.manual_seed(0)
    model, inputs = Mixed(outputs), mixed_inputs(23)
    model(*inputs)  # running statistics that are not trivial
    fisher = diagonal_fisher(model, inputs, task)
    expected = looped_fisher(model.eval(), inputs, task)
    assert fisher.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(fisher[name], values, rtol=1e-4, atol=1e-7, msg=name)


def test_equals_the_analytic_fisher_of_logistic_regression() -> None:
    torch.manual_seed(1)
    model, x_BF = nn.Linear(4, 2), torch.randn(500, 4)
    fisher = diagonal_fisher(model, (x_BF,), "classification")
    p_B = model(x_BF).softmax(dim=1)[:, 1].detach()
    # d log p(y) / d w_1 = (y - p) x, so its expected square is p (1 - p) x^2; the same for w_0.
    expected_F = (p_B * (1 - p_B)) @ x_BF.square() / len(x_BF)
    torch.testing.assert_close(fisher["weight"], expected_F.expand(2, -1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(fisher["bias"], (p_B * (1 - p_B)).mean().expand(2), rtol=1e-5, atol=1e-8)


def test_equals_the_analytic_fisher_of_least_squares() -> None:
    model, x_BF = nn.Linear(3, 1), torch.randn(100, 3)
    fisher = diagonal_fisher(model, (x_BF,), "regression")
    torch.testing.assert_close(fisher["weight"][0], x_BF.square().mean(dim=0))
    torch.testing.assert_close(fisher["bias"], torch.ones(1))


@pytest.mark.parametrize("batch_rows", [1, 7, 23, 64])
def test_is_the_same_for_every_batch_size(batch_rows: int) -> None:
    torch.manual_seed(2)
    model, inputs = Mixed(3), mixed_inputs(23)
    whole = diagonal_fisher(model, inputs, "classification", batch_rows=1000)
    parts = diagonal_fisher(model, inputs, "classification", batch_rows=batch_rows)
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-4, atol=1e-8)


def test_leaves_modes_buffers_and_gradients_as_they_were() -> None:
    model, inputs = Mixed(1), mixed_inputs(9)
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
    model, inputs = Mixed(1), mixed_inputs(9)
    model.head.weight.requires_grad = False
    assert "head.weight" not in diagonal_fisher(model, inputs, "regression")


def test_normalised_has_trace_one_whatever_the_scale() -> None:
    fisher = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[5.0]])}
    one = normalised(fisher)
    tiny = normalised({name: 1e-6 * values for name, values in fisher.items()})
    assert sum(float(v.sum()) for v in one.values()) == pytest.approx(1)
    for name in fisher:
        torch.testing.assert_close(one[name], tiny[name])
    assert float(normalised({"a": torch.zeros(2)})["a"].sum()) == 0
