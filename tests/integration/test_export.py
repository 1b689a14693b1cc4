"""What is exported predicts what the version predicts, wherever it is read; nothing is overwritten by accident."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

from cls.checkpoints import pack
from cls.cli.main import app
from cls.domain import ModelVersion
from cls.elsewhere.export import MANIFEST, ROWS, TOLERANCE, Format, _network, export, made_up, plain
from cls.elsewhere.export_onnx import onnx_predictor
from cls.errors import Corrupt, Refused
from cls.golden import make_golden
from cls.layout import GOLDEN, MODEL, SPEC
from cls.ports import ArtifactStore
from cls.serving import onnx_graph
from cls.serving.onnx_graph import Graphs
from detectors.columns import Categorical, Column, Columns, take
from learners.checkpoint import Checkpoint, prefixed
from learners.models.base import Inputs, Model
from learners.models.network import wrapping
from learners.models.registry import load
from learners.models.tabular import TabularNetwork
from learners.rows import Rows
from learners.schema import Schema
from storage.artifacts import DiskArtifacts, MemoryArtifacts
from storage.db import open_database, transaction
from storage.schema import upgrade
from storage.streams import ensure_stream
from storage.versions import add_version

MIXED = Schema(("distance", "prediction", "wind speed"), ("carrier", "never"))
NUMBERS = Schema(("distance", "prediction", "wind speed"))

GRAPHS: dict[bytes, bytes] = {}  # made in this process, by the network's files


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the start of a child for each graph; that it makes the same is tested beside it."""

    def made(self: Graphs, model: Model) -> bytes:
        files = pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {}))
        key = files[MODEL] + files[SPEC]
        if key not in GRAPHS:
            GRAPHS[key] = onnx_graph.export(model)
        return GRAPHS[key]

    monkeypatch.setattr(Graphs, "_make", made)


def table(schema: Schema, rows: int = 400) -> Rows:
    rng = np.random.default_rng(3)
    columns: dict[str, Column] = {
        name: np.where(rng.random(rows) < 0.1, np.nan, 1e6 * f + rng.normal(size=rows))
        for f, name in enumerate(schema.numeric)
    }
    for name in schema.categorical:
        known = ("", "AA", "it's | ü") if name == "carrier" else ()
        codes = rng.integers(-1, len(known), rows).astype(np.int32)
        columns[name] = Categorical(codes, known)
    classes = len(schema.classes) or 100
    return Rows(columns, rng.integers(0, classes, rows).astype(np.float64), np.arange(rows))


def trained(name: str, schema: Schema, **arguments: Any) -> Model:
    """A network whose weights are no longer what they began with."""
    torch.manual_seed(0)
    model = load(name).fit_preprocessing(arguments, schema, table(schema))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def classes_of(schema: Schema) -> Schema:
    return dataclasses.replace(schema, task="classification", classes=("no", "yes", "perhaps"))


def stored(model: Model, artifacts: ArtifactStore, *, golden: bool = True) -> ModelVersion:
    files = pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {}))
    if golden:
        files[GOLDEN] = make_golden(model, table(model.schema).columns, seed=1).to_json()
    sums = {name: artifacts.put(data) for name, data in files.items()}
    return ModelVersion(
        "trips", 4, "d" * 64, 3, 9, "ewc", 10, 0, 10, {}, {}, datetime(2026, 1, 1, tzinfo=UTC), sums
    )


def write(model: Model, to: Path, form: Format = "cls", **options: Any) -> Any:
    artifacts = MemoryArtifacts()
    return export(stored(model, artifacts), artifacts, to, form, **{"models": {}, **options})


def close(model: Model, got: NDArray[np.float64], wanted: NDArray[np.float64], tolerance: float) -> None:
    unit = model.target_scale.item() if model.schema.task == "regression" else 1.0
    location = model.target_location.item() if model.schema.task == "regression" else 0.0
    assert (np.abs(got - wanted) <= tolerance * np.maximum(unit, np.abs(wanted - location))).all()


PIXELS = Schema(tuple(f"p{i}" for i in range(16)))
AWKWARD = classes_of(Schema(("cls.a", "label", "c", "d")))  # names that graphs have, too
KINDS: list[tuple[str, Schema, dict[str, Any]]] = [
    ("tabular", classes_of(MIXED), {"numeric_embedding": "periodic", "hidden": (16,)}),
    ("tabular", NUMBERS, {"numeric_embedding": "piecewise", "hidden": (16,)}),
    ("tabular", Schema((), ("carrier", "never")), {"hidden": (8,)}),
    ("mlp", NUMBERS, {"hidden": (16, 8), "scale": "none"}),
    ("cnn", PIXELS, {"shape": (1, 4, 4), "channels": (2,)}),
    ("transformer", AWKWARD, {"channels": 2, "depth": 1}),
    ("backbone", MIXED, {"model": "tabular", "arguments": {"hidden": (8,), "numeric_embedding": "plain"}}),
    ("lora", NUMBERS, {"model": "mlp", "arguments": {"hidden": (8,)}, "targets": ("net.body.0",)}),
]


@pytest.mark.parametrize(("name", "schema", "arguments"), KINDS)
def test_the_graph_predicts_what_the_version_does(
    tmp_path: Path, name: str, schema: Schema, arguments: dict[str, Any]
) -> None:
    import onnx

    model = trained(name, schema, **arguments)
    made = write(model, tmp_path / "out", "onnx")
    assert made.tried_rows > 200
    data = (tmp_path / "out" / "model.onnx").read_bytes()
    graph = onnx.load_from_string(data)
    assert [one.name for one in graph.graph.input] == [*schema.numeric, *schema.categorical]
    assert str(Path(__file__).parents[2]).encode() not in data
    network = _network(model)
    rows, predict = made_up(network, seed=9), onnx_predictor(data, network)
    for count in (1, 2, ROWS):
        some = take(rows, slice(0, count))
        close(model, predict(plain(some)), model.predict(some), TOLERANCE["onnx"])


def test_the_graph_of_a_classification_names_the_class(tmp_path: Path) -> None:
    import onnxruntime

    model = trained("mlp", classes_of(NUMBERS))
    write(model, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rows = made_up(model)
    given = {name: np.asarray(rows[name])[:, None] for name in NUMBERS.numeric}
    label, shares = session.run(["label", "probabilities"], given)
    wanted = model.predict(rows)
    assert list(label) == [("no", "yes", "perhaps")[best] for best in wanted.argmax(axis=1)]
    assert np.allclose(shares, wanted, atol=1e-5)


READ = """
import json, sys
for name in ("torch", "cls", "learners", "detectors", "storage", "mlflow"):
    sys.modules[name] = None
import pandas as pd
sys.path.insert(0, sys.argv[1])
from predict import load
print(json.dumps(load().predict(pd.read_json(sys.stdin, orient="split", dtype={"carrier": str})).tolist()))
"""


@pytest.mark.parametrize(("name", "schema"), [("tabular", MIXED), ("mlp", classes_of(NUMBERS))])
def test_files_of_cls_are_read_by_numpy_alone(tmp_path: Path, name: str, schema: Schema) -> None:
    model = trained(name, schema)
    made = write(model, tmp_path / "out")
    assert {"model.json", "model.safetensors", "predict.py", "golden.json", "README.md"} == set(made.files)
    rows = made_up(model, seed=9)
    frame = pd.DataFrame(plain(rows))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "out")],
        input=frame.to_json(orient="split", double_precision=15),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    close(model, np.array(json.loads(done.stdout)), model.predict(rows), TOLERANCE["cls"])


LOADED = """
import json, sys
for name in ("torch", "cls", "learners", "detectors", "storage"):
    sys.modules[name] = None
import pandas as pd
import mlflow.pyfunc
frame = pd.DataFrame(json.load(sys.stdin))
for name in frame.columns:
    if name not in ("carrier", "never"):
        frame[name] = frame[name].astype(float)
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict(frame).tolist()))
"""


@pytest.mark.parametrize(("name", "schema"), [("tabular", MIXED), ("mlp", classes_of(NUMBERS))])
def test_mlflow_loads_what_was_exported_for_it_without_us_and_without_pickle(
    tmp_path: Path, name: str, schema: Schema
) -> None:
    model = trained(name, schema)
    made = write(model, tmp_path / "out", "mlflow")
    assert "MLmodel" in made.files
    assert not [file for file in made.files if file.endswith((".pkl", ".pickle"))]
    rows = made_up(model, seed=9)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "out")],
        input=json.dumps(plain(rows)),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    close(model, np.array(json.loads(done.stdout.splitlines()[-1])), model.predict(rows), TOLERANCE["mlflow"])


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_mlflow_serves_it(tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    model = trained("tabular", MIXED)
    write(model, tmp_path / "out", "mlflow")
    client = TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(tmp_path / "out"))))
    records = [
        {"distance": 3, "prediction": None, "wind speed": 2e6, "carrier": "AA", "never": None},
        {"distance": 0.5, "prediction": 1e6, "wind speed": None, "carrier": "new", "never": "x"},
    ]
    answer = client.post("/invocations", json={"dataframe_records": records})
    assert answer.status_code == 200, answer.text
    rows: dict[str, Column] = {
        name: np.array([np.nan if row[name] is None else row[name] for row in records], np.float64)
        for name in MIXED.numeric
    }
    rows |= {name: Categorical.of([row[name] for row in records]) for name in MIXED.categorical}  # type: ignore[misc]
    close(model, np.array(answer.json()["predictions"]), model.predict(rows), TOLERANCE["mlflow"])
    del records[0]["carrier"]
    assert client.post("/invocations", json={"dataframe_records": records[:1]}).status_code == 400


class Own(nn.Module):
    """A model of an operator."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(x)
        return result


class Whole(TabularNetwork):
    """An operator's model that brings its preprocessing."""

    def encode(self, columns: Columns) -> Inputs:
        return super().encode(columns)

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"name": "whole"}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        return super().from_spec({**spec, "name": "tabular"})


def of_an_operator(name: str) -> Model:
    torch.manual_seed(0)
    kind = Whole if name == "whole" else wrapping("own", Own)
    return kind.fit_preprocessing({}, NUMBERS, table(NUMBERS)).eval()


OWN = {"own": f"{__name__}:Own", "whole": f"{__name__}:Whole"}


@pytest.mark.parametrize("name", ["backbone", "own", "whole"])
def test_a_model_without_a_reader_is_exported_as_files_for_cls_and_not_for_mlflow(
    tmp_path: Path, name: str
) -> None:
    model = trained("backbone", MIXED, model="tabular") if name == "backbone" else of_an_operator(name)
    made = write(model, tmp_path / "out", models=OWN)
    assert made.tried_rows == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Only CLS itself" in text
    for feature in model.schema.numeric:
        assert f"| {feature} | number |" in text
    assert ("| carrier | text, 3 categories |" in text) == (name == "backbone")
    with pytest.raises(Refused, match=rf"model '{name}'.*export format onnx"):
        write(model, tmp_path / "mlflow", "mlflow", models=OWN)
    assert not (tmp_path / "mlflow").exists()


def test_an_operators_network_has_a_graph_and_one_with_its_own_preprocessing_has_none(tmp_path: Path) -> None:
    assert write(of_an_operator("own"), tmp_path / "own", "onnx", models=OWN).tried_rows > 200
    with pytest.raises(Refused, match="model 'whole' encodes rows by code of its own"):
        write(of_an_operator("whole"), tmp_path / "whole", "onnx", models=OWN)
    assert not (tmp_path / "whole").exists()


def test_a_network_that_torch_cannot_export_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graphs, "_make", lambda self, model: "torch cannot follow it")
    with pytest.raises(Refused, match="no ONNX graph: torch cannot follow it"):
        write(trained("mlp", NUMBERS), tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    model = trained("mlp", NUMBERS)
    out = tmp_path / "deep" / "out"
    write(model, out)
    with pytest.raises(Refused, match="--force"):
        write(model, out, "onnx")
    assert (out / "predict.py").exists()
    made = write(model, out, "onnx", force=True)
    assert {path.name for path in out.iterdir()} == {"model.onnx", "README.md", MANIFEST}
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["files"] == made.files
    for name, wanted in made.files.items():
        assert sha256((out / name).read_bytes()).hexdigest() == wanted
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    own = tmp_path / "mine"
    own.mkdir()
    write(model, own)  # empty: nothing is lost
    (own / MANIFEST).unlink()
    with pytest.raises(Refused, match="not even with --force"):
        write(model, own, force=True)
    link = tmp_path / "link"
    link.symlink_to(out)
    with pytest.raises(Refused):
        write(model, link, force=True)


@pytest.mark.parametrize("form", ["cls", "onnx", "mlflow"])
def test_a_directory_with_anything_else_in_it_is_not_replaced(tmp_path: Path, form: Format) -> None:
    model = trained("mlp", NUMBERS)
    out = tmp_path / "out"
    write(model, out, form)
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "predict.cpython-312.pyc").write_bytes(b"")
    write(model, out, form, force=True)
    for name in ("mine.txt", "deep/mine.txt", "__pycache__/mine.txt"):
        own = out / name
        own.parent.mkdir(exist_ok=True)
        own.write_text("mine")
        with pytest.raises(Refused, match=rf"see ({name}|deep)$"):
            write(model, out, form, force=True)
        assert own.read_text() == "mine"
        own.unlink()
        if own.parent != out:
            own.parent.rmdir()
    write(model, out, form, force=True)


@pytest.mark.parametrize("manifest", ["{}", "[]", "", '{"digest": "d", "format": "cls", "files": ["src"]}'])
def test_a_file_called_as_the_manifest_makes_no_export(tmp_path: Path, manifest: str) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / "src").write_text("mine")
    (out / MANIFEST).write_text(manifest)
    with pytest.raises(Refused, match=f"see {MANIFEST}"):
        write(trained("mlp", NUMBERS), out, force=True)
    assert (out / "src").read_text() == "mine"


KILLED = """
import os, sys
from pathlib import Path
rename = Path.rename
def dying(self, target):
    rename(self, target)
    if self == Path(sys.argv[1]):
        os.kill(os.getpid(), 9)
Path.rename = dying
from cls.elsewhere.export import _write
_write(Path(sys.argv[1]), {"new": b""})
"""


def test_killed_while_it_replaces_the_earlier_export_is_beside_its_place(tmp_path: Path) -> None:
    model, out = trained("mlp", NUMBERS), tmp_path / "out"
    made = write(model, out)
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert done.returncode == -9
    [old] = tmp_path.glob("out.old-*")
    assert {path.name for path in old.iterdir()} == {*made.files, MANIFEST}
    write(model, out)
    assert out.is_dir()


def test_an_export_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    model, artifacts = trained("mlp", NUMBERS), MemoryArtifacts()
    version = stored(model, artifacts)
    document = json.loads(artifacts.get(version.files[GOLDEN]))
    document["expected"][0] += 1000.0
    wrong = {**version.files, GOLDEN: artifacts.put(json.dumps(document).encode())}
    forms: tuple[Format, ...] = ("cls", "onnx", "mlflow")
    for form in forms:
        with pytest.raises(Corrupt, match="row 0"):
            export(dataclasses.replace(version, files=wrong), artifacts, tmp_path / form, form, models={})
    lost = {**version.files, MODEL: "0" * 64}
    with pytest.raises(Corrupt):
        export(dataclasses.replace(version, files=lost), artifacts, tmp_path / "lost", models={})
    assert list(tmp_path.iterdir()) == []


CONFIG = """\
home = "home"
[streams.trips]
task = "regression"
[streams.trips.schema]
numeric = ["distance", "prediction", "wind speed"]
timestamp = ["left"]
key = "id"
event_time = "at"
target = "y"
"""


def test_the_command_writes_a_version_and_says_what(tmp_path: Path) -> None:
    config = tmp_path / "cls.toml"
    config.write_text(CONFIG)
    engine = open_database(f"sqlite:///{tmp_path / 'home' / 'cls.db'}")
    upgrade(engine)
    version = stored(trained("mlp", NUMBERS), DiskArtifacts(tmp_path / "home" / "artifacts"))
    with transaction(engine) as connection:
        ensure_stream(connection, "trips")
        number = add_version(connection, dataclasses.replace(version, job_id=None, parent=None))
    engine.dispose()

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--config", str(config), "models", "export", "trips", *arguments])

    none = run("--to", str(tmp_path / "out"))
    assert (none.exit_code, none.output) == (3, "cls: stream trips has no champion yet\n")
    done = run(str(number), "--to", str(tmp_path / "out"), "--format", "onnx", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["version"], found["format"]) == (number, "onnx")
    assert found["tried_rows"] > 200
    assert set(found["files"]) == {"model.onnx", "README.md"}
    assert "left.hour" in (tmp_path / "out" / "README.md").read_text()
    again = run(str(number), "--to", str(tmp_path / "out"))
    assert again.exit_code == 1
    assert "--force" in again.output
    assert run(str(number), "--to", str(tmp_path / "out"), "--force").exit_code == 0
    assert run("99", "--to", str(tmp_path / "no")).exit_code == 3
