"""Runtimes: equal to eager torch or not taken, and eager whenever another fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import create_engine
from structlog.testing import capture_logs
from torch import Tensor

from cls.config import ServeConfig
from cls.golden import make_golden
from cls.serving import follow, runtime
from cls.serving.follow import Follower, Route
from cls.serving.models import LoadedModel, ModelCache
from cls.serving.onnx_graph import Graphs, export
from detectors.columns import Categorical, Columns, take
from learners.models.base import Model
from learners.models.registry import load
from learners.models.tabular import TabularNetwork
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import MemoryArtifacts

RNG = np.random.default_rng(5)
ROWS = 400
COMPILE_SECONDS = 20.0
COLUMNS: Columns = {
    "x": np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.normal(size=ROWS)),
    "z": RNG.normal(size=ROWS),
    "c": Categorical.of(RNG.choice(["u", "v", "w"], ROWS).tolist()),
}


def model_of(classes: tuple[str, ...] = (), seed: int = 0, embedding: str = "piecewise") -> Model:
    torch.manual_seed(seed)
    schema = Schema(("x", "z"), ("c",), "classification" if classes else "regression", classes)
    target = RNG.integers(0, 2, ROWS).astype(float) if classes else 5 * RNG.normal(size=ROWS)
    config = {"hidden": [32], "numeric_embedding": embedding}
    return TabularNetwork.fit_preprocessing(config, schema, Rows(COLUMNS, target, np.arange(ROWS))).eval()


class Ready(Graphs):
    """Graphs of this process: the child's seconds are spent in one test alone."""

    def __init__(self) -> None:
        super().__init__({})

    def _make(self, model: Model) -> bytes | str:
        return export(model)


@pytest.fixture(scope="module")
def ready() -> Ready:
    pytest.importorskip("onnxruntime")
    return Ready()


@pytest.mark.parametrize(
    ("embedding", "classes"), [("plain", ()), ("periodic", ("no", "yes")), ("piecewise", ())]
)
def test_onnx_answers_as_eager_does_for_any_number_of_rows(
    ready: Ready, embedding: str, classes: tuple[str, ...]
) -> None:
    model = model_of(classes, embedding=embedding)
    choice = runtime.choose(model, make_golden(model, COLUMNS, 0), "onnx", ready)
    assert (choice.name, choice.refused) == ("onnx", {})
    fast = LoadedModel("s", 1, model, runtime=choice)
    for rows in (1, 2, 77, ROWS):
        some = take(COLUMNS, slice(0, rows))
        assert np.allclose(fast.predict(some), model.predict(some), rtol=0, atol=1e-5 * 5)


def test_a_child_makes_one_graph_for_all_versions_of_an_architecture_whose_vocabulary_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    graphs = Graphs({})
    first, second = model_of(seed=1), model_of(seed=2)
    second.grow({"c": Categorical.of(["new", "newer"])})
    with torch.no_grad():
        second.get_parameter("embeddings.0.weight").normal_()
    made = []
    child = graphs._make

    def counted(model: Model) -> bytes | str:
        made.append(model)
        return child(model)

    monkeypatch.setattr(graphs, "_make", counted)
    columns: Columns = {**COLUMNS, "c": Categorical.of(RNG.choice(["u", "new", "newer", "?"], ROWS).tolist())}
    for model in (first, second):
        choice = runtime.choose(model, None, "onnx", graphs)
        assert (choice.name, choice.refused) == ("onnx", {})
        fast = LoadedModel("s", 1, model, runtime=choice)
        assert np.allclose(fast.predict(columns), model.predict(columns), rtol=0, atol=5e-5)
    assert made == [first]


def test_many_threads_may_run_one_session(ready: Ready) -> None:
    model = model_of()
    fast = LoadedModel("s", 1, model, runtime=runtime.choose(model, None, "onnx", ready))
    expected = model.predict(COLUMNS)

    def ask(first: int) -> bool:
        some = slice(first, first + 7)
        return np.allclose(fast.predict(take(COLUMNS, some)), expected[some], rtol=0, atol=5e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(380)))


@pytest.mark.parametrize("off", [2e-5, float("nan")])
def test_a_runtime_that_answers_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    model = model_of()

    def build(model: Model, graph: bytes) -> Callable[..., Tensor]:
        return lambda *inputs: model(*inputs) * (1 + off) + off

    monkeypatch.setattr(runtime, "_onnx", build)
    monkeypatch.setattr(Graphs, "get", lambda self, model: b"")
    choice = runtime.choose(model, None, "onnx", Graphs({}))
    assert choice.name == "eager"
    assert "expected" in choice.refused["onnx"]
    assert choice.to_json()["refused"] == dict(choice.refused)


def test_a_runtime_that_fails_or_is_no_faster_leaves_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(Graphs, "_make", lambda self, model: "the exporter is broken")
    monkeypatch.setattr(runtime, "available", lambda: True)
    for wanted in ("auto", "onnx"):
        choice = runtime.choose(model, None, wanted, Graphs({}))
        assert choice.name == "eager"
        assert "the exporter is broken" in choice.refused["onnx"]
    monkeypatch.setattr(
        runtime, "_onnx", lambda model, graph: lambda *inputs: (model(*inputs), model(*inputs))[0]
    )
    monkeypatch.setattr(Graphs, "get", lambda self, model: b"")
    choice = runtime.choose(model, None, "auto", Graphs({}))
    assert (choice.name, choice.refused) == ("eager", {})
    assert choice.micros.keys() == {"eager", "onnx"}
    assert all(micros.keys() == {1, 32, 256} for micros in choice.micros.values())


@pytest.mark.parametrize("error", [RuntimeError("no C++ compiler"), SystemError("it crashed")])
def test_what_does_not_compile_is_answered_eagerly_and_the_reason_kept(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Tensor) -> Tensor:  # torch compiles at the first call
        raise error

    monkeypatch.setattr(torch, "compile", lambda model, **_: fails)
    model = model_of()
    choice = runtime.choose(model, None, "compile", Graphs({}))
    assert (choice.name, choice.forward) == ("eager", model)
    assert choice.refused == {"compile": f"{type(error).__name__}: {error}"}


COMPILED = """
import numpy as np, torch
from cls.serving import runtime
from cls.serving.onnx_graph import Graphs
from learners.models.registry import load
from learners.rows import Rows
from learners.schema import Schema
torch.set_num_threads(1)
columns = {"x": np.linspace(-2, 2, 40)}
rows = Rows(columns, np.linspace(0, 9, 40), np.arange(40))
model = load("mlp").fit_preprocessing({"hidden": [4]}, Schema(("x",)), rows).eval()
choice = runtime.choose(model, None, "compile", Graphs({}))
assert (choice.name, choice.refused) == ("compile", {}), choice
assert choice.micros.keys() == {"eager", "compile"}
inputs = model.encode(columns)
with torch.inference_mode():
    assert np.allclose(model.decode(choice.forward(*inputs)), model.predict(columns), rtol=0, atol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_network_is_really_compiled_and_answers_as_eager_does(tmp_path: Path) -> None:
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    command = [sys.executable, "-c", COMPILED]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"this machine is too busy to compile within {COMPILE_SECONDS:.0f} s")
    assert done.returncode == 0, done.stderr.decode()


def test_a_runtime_that_takes_long_is_told_once_and_eager_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SLOW_SECONDS", 0.0)
    made = threading.Event()

    def slow(model: Model, *_: object) -> runtime.Choice:
        assert made.wait(30)
        return runtime.Choice("eager", model, refused={"compile": "RuntimeError: no C++ compiler"})

    monkeypatch.setattr(follow, "choose", slow)
    served = LoadedModel("s", 1, model_of())
    follower = Follower(
        ("s",),
        create_engine("sqlite://"),
        ModelCache(create_engine("sqlite://"), MemoryArtifacts(), {}),
        settings=ServeConfig(runtime="compile"),
    )
    follower._routes["s"] = Route(served)
    with capture_logs() as said:
        for _ in range(3):
            follower._improve()
            time.sleep(0.002)
        assert follower.serving("s") is served
        [looking] = follower._choosing.values()
        made.set()
        looking.join(30)
    assert [(one["event"], one["log_level"]) for one in said] == [
        ("runtime is slow to make: eager answers", "warning"),
        ("runtime chosen", "warning"),
    ]
    assert said[1]["refused"] == {"compile": "RuntimeError: no C++ compiler"}


def test_without_the_extra_auto_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available", lambda: False)
    model = model_of()
    choice = runtime.choose(model, None, "auto", Graphs({}))
    assert (choice.name, choice.micros) == ("eager", {})
    assert choice.forward is model


def test_a_network_of_numbers_runs_in_onnx_too(ready: Ready) -> None:
    columns: Columns = {f"p{i}": RNG.normal(size=50) for i in range(16)}
    rows = Rows(columns, RNG.normal(size=50), np.arange(50))
    model = load("mlp").fit_preprocessing({"hidden": [8]}, Schema(tuple(columns)), rows).eval()
    choice = runtime.choose(model, make_golden(model, columns, 0), "onnx", ready)
    assert (choice.name, choice.refused) == ("onnx", {})
