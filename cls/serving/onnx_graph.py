"""A model's network as an ONNX graph, made in a process of its own: it takes seconds, of which a server has none to give.

    python -m cls.serving.onnx_graph DIRECTORY    reads the checkpoint there and writes GRAPH beside it

The graph is one of an architecture, not of a version: it names its weights as the model does, so that those of another version take their
place when a session is made. `cls.serving.runtime` does that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import torch

from cls.checkpoints import pack, restore, unpack
from cls.errors import Refused
from cls.golden import make_golden
from cls.layout import MODEL, SPEC, to_json
from learners.checkpoint import Checkpoint, prefixed
from learners.models.base import Model

GRAPH, MODELS = "graph.onnx", "models.json"
SECONDS = 120.0  # that an export may take
_NICE = 19
_BY_VERSION = (
    "vocabularies",
)  # of a specification: grows from version to version, and is no part of the graph


def available() -> bool:
    """Whether the extra `onnx` is installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def export(model: Model) -> bytes:
    """Return a model's forward pass as a graph for any number of rows, unoptimised, its weights named as in its state."""
    rows = make_golden(model, {}, seed=0).columns
    with torch.no_grad():
        inputs = model.encode(rows)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            model, inputs, dynamo=True, optimize=False, verbose=False, dynamic_shapes=dynamic
        )
    if program is None:
        raise Refused("the exporter returned nothing")
    return bytes(program.model_proto.SerializeToString())


class Graphs:
    """Graphs by architecture; each is made once.

    Parameters
    ----------
    models
        The operator's own models, "module:Class" by name.
    """

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = models
        self._made: dict[bytes, bytes | str] = {}  # a graph, or why there is none
        self._lock = Lock()  # held while one is made: one at a time

    def get(self, model: Model) -> bytes:
        """Return the graph of a model, waiting for it; raises `Refused` if it cannot be made."""
        spec = {name: value for name, value in model.spec().items() if name not in _BY_VERSION}
        key = to_json(spec | {"state": sorted(model.state_dict())})
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(model)
            made = self._made[key]
        if isinstance(made, str):
            raise Refused(f"no ONNX graph: {made}")
        return made

    def _make(self, model: Model) -> bytes | str:
        files = pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {}))
        files = {name: files[name] for name in (MODEL, SPEC)} | {MODELS: to_json(dict(self._models))}
        with TemporaryDirectory(prefix="cls-onnx-") as name:
            folder = Path(name)
            for file, data in files.items():
                (folder / file).write_bytes(data)
            command = [sys.executable, "-m", "cls.serving.onnx_graph", name]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            try:
                done = subprocess.run(  # noqa: S603 - our own module
                    command, env=environment, capture_output=True, timeout=SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if done.returncode:
                return done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:500]
            return (folder / GRAPH).read_bytes()


def _main(folder: Path) -> None:
    os.nice(_NICE)
    torch.set_num_threads(1)
    models = json.loads((folder / MODELS).read_text())
    model = restore(unpack({name: (folder / name).read_bytes() for name in (MODEL, SPEC)}), models)
    (folder / GRAPH).write_bytes(export(model))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
