"""What runs a version: eager torch, ONNX Runtime or torch.compile, chosen by measurement among those whose answers are equal.

Measured here for the tabular network on one thread, in microseconds of a forward pass (1, 32, 256 rows):

    [128, 128], 42,000 weights     eager  85  130  350    onnx 27  59  290    compile 110 100 415
    [512, 448], 328,000 weights    eager 120  350 2100    onnx 46 235 1860    compile  94 327 2115

ONNX Runtime takes 10 ms of a new version's weights, and seconds once per architecture, which a child process spends. Compiling takes 24 s of
an empty cache and 3 s of a full one, in this process, at each version: it is not tried unless it is asked for. Choosing happens while the
version already answers, eagerly: a promotion never waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import geometric_mean, median

import numpy as np
import torch
from torch import Tensor

from cls.domain import Json
from cls.golden import Golden, make_golden
from cls.serving.onnx_graph import Graphs, available
from detectors.columns import take
from learners.models.base import Inputs, Model

SIZES = (1, 32, 256)  # rows that are measured
TOLERANCE = 1e-5  # largest difference from eager, in scales of the target, or of probability
GAIN = 0.95  # what another runtime takes, relative to eager, to be chosen
_SECONDS = 0.01  # of measuring one runtime at one size
_MOST, _LEAST = 30, 5  # runs

Forward = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Choice:
    """What runs a version."""

    name: str
    forward: Forward
    micros: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by runtime and rows
    refused: Mapping[str, str] = field(default_factory=dict)  # why another does not

    def to_json(self) -> Json:
        """Return what people want to know of it."""
        micros = {
            name: {str(rows): round(value, 1) for rows, value in by_rows.items()}
            for name, by_rows in self.micros.items()
        }
        found: Json = {"runtime": self.name, "microseconds": micros}
        return found | ({"refused": dict(self.refused)} if self.refused else {})


def choose(model: Model, golden: Golden | None, wanted: str, graphs: Graphs) -> Choice:
    """Return what runs a model.

    Parameters
    ----------
    golden
        Rows to try on; without them, those in which all is missing, unknown or extreme.
    wanted
        auto: the fastest. Another: that one, if its answers are equal, however fast it is. What fails falls back to eager.
    graphs
        Where ONNX graphs come from.
    """
    names = [] if wanted == "eager" else [wanted]
    if wanted == "auto":
        names = ["onnx"] if available() else []
    if not names:
        return Choice("eager", model)
    rows = (golden or make_golden(model, {}, seed=0)).columns
    runners: dict[str, Forward] = {"eager": model}
    refused: dict[str, str] = {}
    with torch.inference_mode():
        count = len(next(iter(rows.values())))
        inputs = {size: model.encode(take(rows, np.arange(size) % count)) for size in SIZES}
        for name in names:
            try:
                runner = _onnx(model, graphs.get(model)) if name == "onnx" else _compiled(model)
                _check(model, runner, inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is: eager runs every model
                refused[name] = f"{type(error).__name__}: {error}"[:500]
            else:
                runners[name] = runner
        micros = {name: {size: _micros(run, inputs[size]) for size in SIZES} for name, run in runners.items()}
    best = min(runners, key=lambda name: _relative(micros[name], micros["eager"]))
    if wanted in runners:
        best = wanted
    elif _relative(micros[best], micros["eager"]) > GAIN:
        best = "eager"
    return Choice(best, runners[best], micros, refused)


def _check(model: Model, forward: Forward, inputs: Mapping[int, Inputs]) -> None:
    """Compare a runtime's answers with eager ones; raises `Corrupt`."""
    for given in inputs.values():
        eager = Golden({}, model.decode(model(*given)))
        eager.check(model, model.decode(forward(*given)), TOLERANCE)


def _micros(forward: Forward, inputs: Inputs) -> float:
    """Return the median time of a forward pass in microseconds."""
    taken: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() < until):
        begun = time.perf_counter()
        forward(*inputs)
        taken.append(time.perf_counter() - begun)
    return 1e6 * median(taken)


def _relative(micros: Mapping[int, float], eager: Mapping[int, float]) -> float:
    return geometric_mean([micros[size] / eager[size] for size in SIZES])


def _onnx(model: Model, graph: bytes) -> Forward:
    """Return a session over an architecture's graph with this model's weights; its `run` may be called by many threads."""
    import onnxruntime  # an optional extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    weights = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
        for name, tensor in model.state_dict().items()
    }
    for name, value in weights.items():
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def forward(
        *inputs: Tensor, _weights: object = weights
    ) -> Tensor:  # the session does not copy them: they live as long
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return forward


def _compiled(model: Model) -> Forward:
    compiled: Forward = torch.compile(model, dynamic=True, fullgraph=True)
    return compiled
