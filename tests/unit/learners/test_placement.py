"""The loop on a GPU: the same learning within tolerance, and snapshots that go on there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.learn import Checkpoint, Training, resume, start
from learners.models.tabular_config import TabularConfig
from learners.recipe import RECIPES, Precision
from learners.rows import Rows
from learners.schema import Schema

SCHEMA = Schema(("x", "z"), (), "classification", ("a", "b", "c"))
CONFIG = TabularConfig(hidden=(32, 32))
RECIPE = replace(
    RECIPES["der++"],
    ewc_lambda=0.01,
    si_lambda=0.01,
    lwf_lambda=0.1,
    memory_rows=60,
    memory_balance="class",
    class_mask="ace",
)


def regime(first: int) -> Rows:
    rng = np.random.default_rng(first)
    x, z = rng.normal(size=(2, 200))
    return Rows(
        {"x": x, "z": z}, np.digitize(x + z, [-0.5, 0.5]).astype(float), np.arange(first, first + 200)
    )


def run(training: Training) -> Checkpoint:
    while not training.done:
        training.step()
    return training.finish()


def learned(device: str) -> Checkpoint:
    parent = run(start(None, regime(0), RECIPE, schema=SCHEMA, config=CONFIG, device=device))
    return run(start(parent, regime(200), RECIPE, seed=1, new_regime=True, device=device))


def assert_close(one: Checkpoint, other: Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert not tensor.is_cuda
        torch.testing.assert_close(
            tensor, other.tensors[name], rtol=1e-2, atol=1e-3, equal_nan=True, msg=name
        )


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_learns() -> None:
    assert_close(learned("cuda"), learned("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_resumes_on_a_gpu(precision: Precision) -> None:
    recipe = replace(RECIPE, precision=precision)
    parent = run(start(None, regime(0), recipe, schema=SCHEMA, config=CONFIG, device="cuda"))
    whole = run(start(parent, regime(200), recipe, device="cuda"))
    training = start(parent, regime(200), recipe, device="cuda")
    training.step()
    assert_close(run(resume(training.snapshot(), regime(200), recipe, device="cuda")), whole)
