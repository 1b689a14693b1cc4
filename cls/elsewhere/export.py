"""A version as files for those who serve elsewhere: cls (weights, JSON, a reader in numpy), onnx, or a directory that MLflow serves.

Nothing is written before it was tried: what is about to be exported predicts the version's golden rows and made-up ones, and must
answer as the version does. The directory appears whole, by one rename. Replacing takes two: whoever is killed between them leaves the
earlier export beside its place, as NAME.old-XXXXXXXX, and nothing under its name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cls.checkpoints import restore, unpack
from cls.domain import Json, ModelVersion
from cls.elsewhere.export_mlflow import mlflow_files
from cls.elsewhere.export_onnx import onnx_graph, onnx_predictor, vocabularies
from cls.elsewhere.export_readme import readme
from cls.errors import CLSError, Refused, Unavailable
from cls.golden import Golden, make_golden
from cls.layout import GOLDEN, MODEL, SPEC, read_json, to_json
from cls.ports import ArtifactStore
from cls.registry import PREDICTOR, READERS, predictor_source
from cls.serving.onnx_graph import Graphs
from detectors.columns import Categorical, Column, Columns
from detectors.derivation import Derivation
from learners.models.backbone import Backbone
from learners.models.base import Model
from learners.models.lora import Lora

Format = Literal["cls", "onnx", "mlflow"]
Predict = Callable[[Mapping[str, Sequence[Any]]], NDArray[np.float64]]
TOLERANCE = {
    "cls": 1e-4,
    "mlflow": 1e-4,
    "onnx": 1e-5,
}  # as `Golden.check` has it; numpy computes in double, torch in single
MANIFEST, ONNX = "export.json", "model.onnx"
ROWS = 200  # made up, to try on
_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    format: Format
    files: dict[str, str]  # path inside -> sha256
    tried_rows: int  # 0 if only CLS itself can predict with it


def export(
    version: ModelVersion,
    artifacts: ArtifactStore,
    to: Path,
    form: Format = "cls",
    *,
    models: Mapping[str, str],
    derivations: Sequence[Derivation] = (),
    force: bool = False,
) -> Exported:
    """Write a version into a new directory.

    Parameters
    ----------
    models
        The operator's own models, "module:Class" by name.
    derivations
        Of the stream: what CLS makes of typed columns, and others must make themselves.
    force
        Replace an earlier export; nothing else is ever replaced.

    Raises
    ------
    Refused
        If the model has no such form, something is in the way, or a package is missing.
    Corrupt
        If a file of the version is damaged, or what would be exported predicts something else.
    """
    _check_place(to, force=force)
    names = [name for name in (MODEL, SPEC, GOLDEN) if name in version.files]
    stored = {name: artifacts.get(version.files[name]) for name in names}
    checkpoint = unpack(stored)
    model = restore(checkpoint, models)
    spec, network = model.spec(), _network(model)
    source = predictor_source(stored[SPEC])
    about = {"stream": version.stream, "version": str(version.number), "digest": version.digest}
    predict: Predict | None = None
    if source is not None:
        tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        predict = import_module(READERS[spec["name"]]).Predictor(spec, tensors).predict
    match form:
        case "cls":
            files = stored if source is None else stored | {PREDICTOR: source}
        case "onnx":
            files = {ONNX: onnx_graph(network, Graphs(models), about)}
            predict = onnx_predictor(files[ONNX], network)
        case _:
            if source is None:
                raise Refused(
                    f"model {spec['name']!r} has no reader without CLS, which MLflow would need: only {' and '.join(READERS)} "
                    "have; export format onnx"
                )
            files = mlflow_files(spec, stored, source, about)
    tried = 0 if predict is None else _try(model, network, stored.get(GOLDEN), predict, TOLERANCE[form])
    files["README.md"] = readme(
        version, form, spec["name"], network, derivations, alone=source is not None
    ).encode()
    sums = {name: sha256(data).hexdigest() for name, data in sorted(files.items())}
    manifest: Json = {
        **about,
        "version": version.number,
        "format": form,
        "model": spec["name"],
        "files": sums,
    }
    _write(to, files | {MANIFEST: to_json(manifest)})
    return Exported(to, form, sums, tried)


def _network(model: Model) -> Model:
    """Return what is inside of a backbone, adapters merged into its weights: the same predictions."""
    if isinstance(model, Lora):
        return model.merged()
    return model.inner if isinstance(model, Backbone) else model


def _try(model: Model, network: Model, golden: bytes | None, predict: Predict, tolerance: float) -> int:
    """Predict and compare with the model; returns the number of rows. Raises `Corrupt`."""
    rows = made_up(network)
    trials = [make_golden(model, rows, seed=0)]
    trials.append(Golden(rows, model.predict(rows)))
    if golden is not None:
        trials.append(Golden.from_json(golden, model.schema))
    for trial in trials:
        trial.check(model, predict(plain(trial.columns)), tolerance)
    return sum(len(trial.expected) for trial in trials)


def made_up(network: Model, seed: int = 0) -> dict[str, Column]:
    """Return rows around what a network was fitted to: every category, some missing, some unknown, some far away."""
    rng = np.random.default_rng(seed)
    state = network.state_dict()
    columns: dict[str, Column] = {}
    for f, name in enumerate(network.schema.numeric):
        mean, scale = (float(state[key][f]) for key in ("numeric_mean", "numeric_scale"))
        values = mean + scale * 2.0 * rng.standard_normal(ROWS)
        values[rng.random(ROWS) < 0.1] = np.nan
        columns[name] = values
    for name, vocabulary in vocabularies(network).items():
        known = [*vocabulary, "\N{REPLACEMENT CHARACTER}unknown", None]
        columns[name] = Categorical.of([known[i] for i in rng.integers(0, len(known), ROWS)])
    return columns


def plain(columns: Columns) -> dict[str, Sequence[Any]]:
    """Return columns as others have them: numbers, and texts with None for missing."""
    return {
        name: [None if code < 0 else column.vocabulary[code] for code in column.codes]
        if isinstance(column, Categorical)
        else column.tolist()
        for name, column in columns.items()
    }


def _check_place(to: Path, *, force: bool) -> None:
    if not os.path.lexists(to) or (to.is_dir() and not to.is_symlink() and not any(to.iterdir())):
        return
    if not force:
        raise Refused(f"{to} is there already; --force replaces an earlier export")
    stranger = MANIFEST if to.is_symlink() or not to.is_dir() else _stranger(to)
    if stranger is not None:
        raise Refused(
            f"{to} is no earlier export, or not only that: it is not replaced, not even with --force; see {stranger}"
        )


def _stranger(to: Path) -> str | None:
    """Return the first thing in a directory that an export did not write there; its manifest, if that is none."""
    try:
        manifest = read_json((to / MANIFEST).read_bytes(), MANIFEST, _MANIFEST_BYTES)
        listed = {MANIFEST, *manifest["files"]}
        if not {"digest", "format"} <= manifest.keys() or not isinstance(manifest["files"], dict):
            return MANIFEST
    except (OSError, CLSError, KeyError, TypeError):
        return MANIFEST
    listed |= {str(parent) for name in listed for parent in Path(name).parents}
    for path in sorted(to.rglob("*")):
        name = path.relative_to(to)
        compiled = name.parts[-1] == "__pycache__" or (name.suffix == ".pyc" and "__pycache__" in name.parts)
        if str(name) not in listed and not compiled:  # Python's copies of predict.py come by its use
            return str(name)
    return None


def _write(to: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory appear whole; an earlier one goes away only then.

    For a moment there is nothing under the name: killed just then, `NAME.old-XXXXXXXX` is left.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".part", dir=to.parent))
    old = to.with_name(f"{to.name}.old-{part.stem.rpartition('.')[2]}")
    try:
        for name, data in files.items():
            path = part / "new" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if to.exists():
            to.rename(old)
        (part / "new").rename(to)
    except OSError as error:
        if old.exists() and not to.exists():
            old.rename(to)
        raise Unavailable(f"{to}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
