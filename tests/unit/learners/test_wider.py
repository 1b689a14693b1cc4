"""A learner that is given a wider network goes on where it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.checkpoint import restore_learner
from learners.learn import start
from learners.learner import Learner
from learners.models.widen import Kind
from learners.quadratic import Consolidation
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema
from learners.wider import with_width

SCHEMA = Schema(("x", "y"), (), "classification", ("no", "yes"))
RECIPE = replace(
    RECIPES["ewc+replay"], epochs=3.0, learning_rate=0.02, batch_rows=16, memory_rows=30, si_lambda=0.5
)


def table(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 60))
    return Rows({"x": x, "y": y}, (x + seed * y > 0).astype(np.float64), np.arange(60 * seed, 60 * seed + 60))


def learn(parent: Learner | None, seed: int) -> Learner:
    training = start(
        parent, table(seed), RECIPE, schema=SCHEMA, model="mlp", config={"hidden": (5, 6)}, seed=seed
    )
    while not training.done:
        training.step()
    return training.conclude()


def cost(learner: Learner, known: Consolidation) -> float:
    parameters = learner.parameters()
    return sum(
        float((w * (parameters[name] - known.anchor[name]).square()).sum().detach())
        for name, w in known.importance.items()
    )


@pytest.mark.parametrize("units", ["copies", "fresh"])
def test_it_predicts_the_same_and_what_it_knows_costs_the_same(units: Kind) -> None:
    narrow = learn(learn(None, 1), 2)
    with torch.no_grad():  # away from the anchor
        for parameter in narrow.parameters().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    wide = with_width(narrow, {"hidden": (8, 13)}, units, np.random.default_rng(0))
    columns = table(3).columns
    np.testing.assert_allclose(wide.model.predict(columns), narrow.model.predict(columns), rtol=1e-4)
    for known, was in ((wide.ewc, narrow.ewc), (wide.si, narrow.si)):
        assert known.importance.keys() == was.importance.keys() != set()
        assert cost(wide, known) == pytest.approx(cost(narrow, was), rel=1e-4)
        assert cost(narrow, was) > 0
    assert wide.memory is narrow.memory
    assert not wide.moments


def test_it_learns_on_and_is_restored() -> None:
    narrow = learn(None, 1)
    wide = with_width(narrow, {"hidden": (8, 13)}, "fresh", np.random.default_rng(0))
    training = start(wide, table(2), RECIPE, seed=2)
    assert training.step().penalty == pytest.approx(0.0, abs=1e-9)  # at the anchor still
    while not training.done:
        training.step()
    again = restore_learner(training.finish())
    columns = table(3).columns
    np.testing.assert_array_equal(again.model.predict(columns), training.model.eval().predict(columns))
    assert again.model.get_parameter("net.head.weight").shape == (2, 13)
    assert again.model.get_parameter("net.head.weight")[:, 6:].abs().min() > 0  # the new units are read


def test_the_decrease_of_the_loss_is_shared_out_and_none_is_lost() -> None:
    narrow = learn(None, 1)
    path = start(narrow, table(2), RECIPE, seed=2)
    path.step()
    path.step()
    learner = path.learner
    assert learner.path is not None
    wide = with_width(learner, {"hidden": (8, 13)}, "copies", np.random.default_rng(0))
    assert wide.path is not None
    for name, omega in learner.path.omega.items():
        torch.testing.assert_close(wide.path.omega[name].sum(), omega.sum())
    assert wide.path.origin["net.head.weight"].shape == (2, 13)
