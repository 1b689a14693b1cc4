"""A version as one ONNX graph: raw columns in, predictions out; the preprocessing is inside.

One input per feature, by its name: numbers as double (N, 1), missing is NaN; categories as string (N, 1), missing is any text that is no
category. A regression has the output "prediction" (N,) in target units; a classification "label" (N,) and "probabilities" (N, K).
The network itself is torch's own export of it, as `cls serve` runs it too; what stands before and behind, `Model.encode` and
`Model.decode`, is numpy and strings, and written here node by node.

Shapes: N rows, F numeric and C categorical features, K outputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.errors import Refused
from cls.serving.onnx_graph import Graphs, available
from learners.models.base import Model
from learners.models.network import Network
from learners.models.standard import CLIP
from learners.models.tabular import TabularNetwork

EXTRA = "install cls-continual[onnx]: it brings onnx, onnxscript and onnxruntime"
_ML = 3  # version of ai.onnx.ml


def onnx_graph(network: Model, graphs: Graphs, about: Mapping[str, str]) -> bytes:
    """Return an ONNX file.

    Parameters
    ----------
    network
        Without a backbone or adapters around it.
    graphs
        Where the graph of the network itself comes from.
    about
        Written into the file as metadata.

    Raises
    ------
    Refused
        If the network has no such graph, or onnx is not installed.
    """
    if not available():
        raise Refused(f"the ONNX file needs onnx: {EXTRA}")
    own = type(network).encode not in (TabularNetwork.encode, Network.encode)
    if own or not isinstance(network, TabularNetwork | Network):
        raise Refused(
            f"model {network.spec()['name']!r} encodes rows by code of its own, which no graph has; export format cls"
        )
    import onnx

    made = onnx.load_from_string(graphs.get(network))
    graph = _Graph(onnx, network.schema.features)
    output = graph.put(made.graph, _encoded(graph, network))
    outputs = _decoded(graph, network, output)
    made.graph.CopyFrom(onnx.helper.make_graph(graph.nodes, "cls", graph.inputs, outputs, graph.constants))
    made.producer_name = "cls"
    made.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", _ML))
    onnx.helper.set_model_props(made, {**about, "schema": json.dumps(_schema(network))})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def onnx_predictor(
    data: bytes, network: Model
) -> Callable[[Mapping[str, Sequence[Any]]], NDArray[np.float64]]:
    """Return what predicts with the ONNX file of a network: plain columns by name to (N,) or (N, K)."""
    import onnxruntime  # an optional extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[-1].name
    missing = {name: unknown(vocabulary) for name, vocabulary in vocabularies(network).items()}

    def predict(columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
        given: dict[str, NDArray[Any]] = {
            name: np.asarray(columns[name], np.float64)[:, None] for name in network.schema.numeric
        }
        for name, text in missing.items():
            texts = [text if value is None else value for value in columns[name]]
            given[name] = np.array(texts, dtype=object)[:, None]
        return np.asarray(session.run([output], given)[0], np.float64)

    return predict


def vocabularies(network: Model) -> dict[str, list[str]]:
    """Return the categories of each categorical feature."""
    names = network.schema.categorical
    if not isinstance(network, TabularNetwork):  # an operator's own knows its categories alone
        return {name: [] for name in names}
    return dict(zip(names, network.vocabularies, strict=True))


def unknown(vocabulary: Sequence[str]) -> str:
    """Return a text that is no category: what stands for missing."""
    text = ""
    while text in vocabulary:
        text += "?"
    return text


def _schema(network: Model) -> dict[str, Any]:
    schema = network.schema
    named = {"numeric": schema.numeric, "categorical": schema.categorical, "classes": schema.classes}
    return {name: list(values) for name, values in named.items()} | {"task": schema.task}


class _Graph:
    """Nodes, inputs and constants as they are added; inner names never meet those of features."""

    def __init__(self, onnx: Any, features: Sequence[str]) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.constants: list[Any] = []
        self._features = set(features)
        self._prefix = "cls."
        while any(name.startswith(self._prefix) for name in features):
            self._prefix += "_"

    def put(self, inner: Any, inputs: Sequence[str]) -> str:
        """Add the nodes of a whole graph that reads some values; returns the name of its output.

        Parameters
        ----------
        inner
            A GraphProto; it is changed.
        inputs
            One value for each of its inputs.
        """
        prefix = f"{self._prefix}network."
        self.onnx.compose.add_prefix_graph(inner, prefix, inplace=True)
        own = {value.name for value in inner.initializer}
        read = dict(zip((one.name for one in inner.input if one.name not in own), inputs, strict=True))
        for node in inner.node:
            node.input[:] = [read.get(name, name) for name in node.input]
            del node.metadata_props[:]  # where in whose files the exporter found it
        self.nodes += inner.node
        self.constants += inner.initializer
        return str(inner.output[0].name)

    def name(self, wish: str) -> str:
        """Return a name that no feature has."""
        while wish in self._features:
            wish += "_"
        return wish

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = output or f"{self._prefix}{kind}.{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant; returns its name."""
        name = f"{self._prefix}constant.{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def input(self, name: str, kind: str) -> str:
        """Add an input of one column; returns its name."""
        self.inputs.append(self.output(name, kind, ["N", 1]))
        return name

    def output(self, name: str, kind: str, shape: list[Any]) -> Any:
        """Return the description of a value."""
        return self.onnx.helper.make_tensor_value_info(name, getattr(self.onnx.TensorProto, kind), shape)


def _encoded(graph: _Graph, network: TabularNetwork | Network) -> list[str]:
    """Add what the network's `encode` does; returns x_NF float, and codes_NC of a tabular network."""
    numbers = [graph.input(name, "DOUBLE") for name in network.schema.numeric]
    raw = graph.node("Concat", *numbers, axis=1) if numbers else ""
    if isinstance(network, Network):
        return [_standardised(graph, network, raw, missing=0.0, clip=network.scale != "none")]
    texts = [_code(graph, name, vocabulary) for name, vocabulary in vocabularies(network).items()]
    codes = graph.node("Concat", *texts, axis=1) if texts else ""
    kinds = graph.onnx.TensorProto
    return [
        _standardised(graph, network, raw, missing=math.nan, clip=True)
        if numbers
        else _nothing(graph, codes, kinds.FLOAT),
        codes or _nothing(graph, raw, kinds.INT64),
    ]


def _standardised(
    graph: _Graph, network: TabularNetwork | Network, raw: str, *, missing: float, clip: bool
) -> str:
    absent = graph.node("Or", graph.node("IsNaN", raw), graph.node("IsInf", raw))
    mean, scale = (
        graph.constant(tensor.numpy(), np.float64) for tensor in (network.numeric_mean, network.numeric_scale)
    )
    x = graph.node("Div", graph.node("Sub", raw, mean), scale)
    if clip:
        x = graph.node("Clip", x, graph.constant(-CLIP, np.float64), graph.constant(CLIP, np.float64))
    x = graph.node("Where", absent, graph.constant(missing, np.float64), x)
    return graph.node("Cast", x, to=graph.onnx.TensorProto.FLOAT)


def _code(graph: _Graph, name: str, vocabulary: Sequence[str]) -> str:
    return graph.node(
        "LabelEncoder",
        graph.input(name, "STRING"),
        domain="ai.onnx.ml",
        keys_strings=list(vocabulary) or [""],
        values_int64s=list(range(1, len(vocabulary) + 1)) or [0],
        default_int64=0,
    )


def _nothing(graph: _Graph, like_NX: str, kind: int) -> str:
    """Return a value of as many rows as another, and no column."""
    ends = [graph.constant([end], np.int64) for end in (0, 0, 1)]  # columns 0 to 0 of axis 1
    return graph.node("Cast", graph.node("Slice", like_NX, *ends), to=kind)


def _decoded(graph: _Graph, network: Model, out_NK: str) -> list[Any]:
    """Add what `Model.decode` does; the numbers come last."""
    schema = network.schema
    wide = graph.node("Cast", out_NK, to=graph.onnx.TensorProto.DOUBLE)
    if schema.task == "regression":
        scaled = graph.node("Mul", wide, graph.constant(network.target_scale.item(), np.float64))
        moved = graph.node("Add", scaled, graph.constant(network.target_location.item(), np.float64))
        name = graph.node("Reshape", moved, graph.constant([-1], np.int64), output=graph.name("prediction"))
        return [graph.output(name, "DOUBLE", ["N"])]
    classes = graph.constant(np.array(schema.classes, dtype=object), object)
    best = graph.node("ArgMax", wide, axis=1, keepdims=0)
    label = graph.node("Gather", classes, best, output=graph.name("label"))
    shares = graph.node("Softmax", wide, axis=1, output=graph.name("probabilities"))
    return [graph.output(label, "STRING", ["N"]), graph.output(shares, "DOUBLE", ["N", len(schema.classes)])]
