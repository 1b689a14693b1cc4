"""A version as one ONNX graph: raw columns in, predictions out; the preprocessing is inside.

One input per feature, by its name: numbers as double (N, 1), missing is NaN; categories as string (N, 1), missing is any text that is no
category. A regression has the output "prediction" (N,) in target units; a classification "label" (N,) and "probabilities" (N, K).
The graph is written node by node, without torch: standard operators of opset 17, and LabelEncoder of ai.onnx.ml 3.

Shapes: N rows, F numeric features, T bins, K outputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.errors import Refused
from learners.models.standard import CLIP

MODELS = ("mlp", "tabular")
EXTRA = "install cls-continual[onnx]: it brings onnx and onnxruntime"
_IR, _OPSET, _ML = 8, 17, 3

Tensors = Mapping[str, NDArray[Any]]


def onnx_graph(spec: Mapping[str, Any], tensors: Tensors, about: Mapping[str, str]) -> bytes:
    """Return an ONNX file.

    Parameters
    ----------
    spec
        What the model's `spec()` returned.
    tensors
        Its state, by name.
    about
        Written into the file as metadata.

    Raises
    ------
    Refused
        If the model has no such graph, or onnx is not installed.
    """
    if spec["name"] not in MODELS:
        raise Refused(
            f"model {spec['name']!r} has no ONNX graph: only {' and '.join(MODELS)} have; export format cls"
        )
    try:
        import onnx
    except ImportError as error:
        raise Refused(f"the ONNX file needs onnx: {EXTRA}") from error
    graph = _Graph(onnx, spec)
    outputs = _outputs(
        graph, spec, tensors, (_tabular if spec["name"] == "tabular" else _mlp)(graph, spec, tensors)
    )
    made = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "cls", graph.inputs, outputs, graph.constants),
        producer_name="cls",
        ir_version=_IR,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET), onnx.helper.make_opsetid("ai.onnx.ml", _ML)],
    )
    onnx.helper.set_model_props(made, {**about, "schema": json.dumps(_schema(spec))})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def onnx_predictor(
    data: bytes, spec: Mapping[str, Any]
) -> Callable[[Mapping[str, Sequence[Any]]], NDArray[np.float64]]:
    """Return what predicts with an ONNX file: plain columns by name to (N,) or (N, K).

    Raises
    ------
    Refused
        If onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused(f"an ONNX file that was not tried is not exported: {EXTRA}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[-1].name

    def predict(columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
        given: dict[str, NDArray[Any]] = {
            name: np.asarray(columns[name], np.float64)[:, None] for name in spec["numeric"]
        }
        for name in spec.get("categorical", ()):
            missing = unknown(spec["vocabularies"][name])
            texts = [missing if text is None else text for text in columns[name]]
            given[name] = np.array(texts, dtype=object)[:, None]
        return np.asarray(session.run([output], given)[0], np.float64)

    return predict


def unknown(vocabulary: Sequence[str]) -> str:
    """Return a text that is no category: what stands for missing."""
    text = ""
    while text in vocabulary:
        text += "?"
    return text


def _schema(spec: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: list(spec.get(name, ())) for name in ("numeric", "categorical", "classes")}
    return named | {"task": spec["task"]}


class _Graph:
    """Nodes, inputs and constants as they are added; inner names never meet those of features."""

    def __init__(self, onnx: Any, spec: Mapping[str, Any]) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.constants: list[Any] = []
        self._features = {*spec["numeric"], *spec.get("categorical", ())}

    def name(self, wish: str) -> str:
        """Return a name that no feature has."""
        while wish in self._features:
            wish += "_"
        return wish

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = output or self.name(f"cls.{kind}.{len(self.nodes)}")
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant; returns its name."""
        name = self.name(f"cls.constant.{len(self.constants)}")
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def input(self, name: str, kind: str) -> str:
        """Add an input of one column; returns its name."""
        self.inputs.append(self.output(name, kind, ["N", 1]))
        return name

    def output(self, name: str, kind: str, shape: list[Any]) -> Any:
        """Return the description of a value."""
        return self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, kind), shape)


def _numbers(graph: _Graph, spec: Mapping[str, Any], tensors: Tensors, clip: bool) -> tuple[str, str]:
    """Return x_NF float, 0 where missing, and missing_NF bool."""
    raw = graph.node("Concat", *(graph.input(name, "DOUBLE") for name in spec["numeric"]), axis=1)
    missing = graph.node("Or", graph.node("IsNaN", raw), graph.node("IsInf", raw))
    mean = graph.constant(tensors["numeric_mean"], np.float64)
    known = graph.node("Where", missing, mean, raw)
    x = graph.node(
        "Div", graph.node("Sub", known, mean), graph.constant(tensors["numeric_scale"], np.float64)
    )
    if clip:
        x = graph.node("Clip", x, graph.constant(-CLIP, np.float64), graph.constant(CLIP, np.float64))
    return graph.node("Cast", x, to=graph.onnx.TensorProto.FLOAT), missing


def _mlp(graph: _Graph, spec: Mapping[str, Any], tensors: Tensors) -> str:
    x, _ = _numbers(graph, spec, tensors, clip=spec["scale"] != "none")
    for layer in range(len(spec["arguments"]["hidden"])):
        x = graph.node("Relu", _linear(graph, tensors, f"net.body.{2 * layer}", x))
    return _linear(graph, tensors, "net.head", x)


def _tabular(graph: _Graph, spec: Mapping[str, Any], tensors: Tensors) -> str:
    parts: list[str] = []
    if spec["numeric"]:
        x, missing = _numbers(graph, spec, tensors, clip=True)
        parts = [x, graph.node("Cast", missing, to=graph.onnx.TensorProto.FLOAT)]
        parts += _embedded_numbers(graph, spec, tensors, x)
    for c, name in enumerate(spec["categorical"]):
        vocabulary = spec["vocabularies"][name]
        text = graph.node("Reshape", graph.input(name, "STRING"), graph.constant([-1], np.int64))
        code = graph.node(
            "LabelEncoder",
            text,
            domain="ai.onnx.ml",
            keys_strings=vocabulary or [""],
            values_int64s=list(range(1, len(vocabulary) + 1)) or [0],
            default_int64=0,
        )
        parts.append(
            graph.node("Gather", graph.constant(tensors[f"embeddings.{c}.weight"], np.float32), code)
        )
    out = graph.node("Concat", *parts, axis=1)
    for layer in range(len(spec["config"]["hidden"])):
        out = graph.node("Relu", _linear(graph, tensors, f"body.{3 * layer}", out))  # dropout is at rest
    return _linear(graph, tensors, "head", out)


def _embedded_numbers(graph: _Graph, spec: Mapping[str, Any], tensors: Tensors, x: str) -> list[str]:
    """Return what `learners.models.numeric` puts beside a value and its missing indicator."""
    kind = spec["config"]["numeric_embedding"]
    if kind == "plain":
        return []
    x_NF1 = graph.node("Unsqueeze", x, graph.constant([2], np.int64))
    width = len(spec["numeric"]) * spec["config"]["embedding_bins"]
    flat = graph.constant([-1, width], np.int64)
    if kind == "periodic":
        frequency = graph.constant(
            2 * math.pi * tensors["numeric.frequency_FT"].astype(np.float64), np.float32
        )
        angle = graph.node("Mul", x_NF1, frequency)
        return [graph.node("Reshape", graph.node(wave, angle), flat) for wave in ("Sin", "Cos")]
    passed = graph.node("Sub", x_NF1, graph.constant(tensors["numeric.low"], np.float32))
    passed = graph.node("Div", passed, graph.constant(tensors["numeric.span"], np.float32))
    limits = graph.constant(0.0, np.float32), graph.constant(1.0, np.float32)
    return [graph.node("Reshape", graph.node("Clip", passed, *limits), flat)]


def _linear(graph: _Graph, tensors: Tensors, name: str, x: str) -> str:
    weight, bias = (graph.constant(tensors[f"{name}.{part}"], np.float32) for part in ("weight", "bias"))
    return graph.node("Gemm", x, weight, bias, transB=1)


def _outputs(graph: _Graph, spec: Mapping[str, Any], tensors: Tensors, out: str) -> list[Any]:
    """Add what is made of out_NK; the numbers come last."""
    wide = graph.node("Cast", out, to=graph.onnx.TensorProto.DOUBLE)
    if spec["task"] == "regression":
        scaled = graph.node("Mul", wide, graph.constant(tensors["target_scale"], np.float64))
        moved = graph.node("Add", scaled, graph.constant(tensors["target_location"], np.float64))
        name = graph.node("Reshape", moved, graph.constant([-1], np.int64), output=graph.name("prediction"))
        return [graph.output(name, "DOUBLE", ["N"])]
    classes = graph.constant(np.array(spec["classes"], dtype=object), object)
    best = graph.node("ArgMax", wide, axis=1, keepdims=0)
    label = graph.node("Gather", classes, best, output=graph.name("label"))
    shares = graph.node("Softmax", wide, axis=1, output=graph.name("probabilities"))
    return [graph.output(label, "STRING", ["N"]), graph.output(shares, "DOUBLE", ["N", len(spec["classes"])])]
