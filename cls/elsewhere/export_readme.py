"""The README of an export: what it is, what it reads, how to predict with it."""

from __future__ import annotations

from collections.abc import Sequence

from cls.domain import ModelVersion
from cls.elsewhere.export_onnx import unknown, vocabularies
from detectors.derivation import Derivation
from learners.models.base import Model

_ALONE = """\
Needs numpy and safetensors. `predict.py` reads the two files beside it:

    from predict import load
    load().predict(dataframe)  # or a mapping from name to values
"""
_WITH_CLS = """\
Only CLS itself predicts with this model, where its package is installed:

    from pathlib import Path
    from cls.checkpoints import restore, unpack
    model = restore(unpack({name: Path(name).read_bytes() for name in ("model.json", "model.safetensors")}))
    model.predict(columns)  # numpy arrays, and detectors.columns.Categorical for categories

A model that cls.toml names under `[models]` is passed to `restore` by name: `restore(..., {"name": "package.module:Class"})`.
"""
_ONNX = """\
One graph, preprocessing included; each feature is an input of shape (N, 1), numbers as double:

    import onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    session.run(None, {"name": array, ...})
"""
_MLFLOW = """\
No pickle is in it, and MLflow needs none:

    mlflow models serve -m DIR --env-manager local
    mlflow.pyfunc.load_model("DIR").predict(dataframe)

Integers must be sent as floats: MLflow's signature has doubles, so that NaN can stand for missing.
"""


def readme(
    version: ModelVersion,
    form: str,
    name: str,
    network: Model,
    derivations: Sequence[Derivation],
    *,
    alone: bool,
) -> str:
    """Return it as Markdown.

    Parameters
    ----------
    name
        Of the model.
    network
        Without a backbone or adapters around it.
    alone
        Whether the model has a reader that needs numpy alone.
    """
    schema = network.schema
    how = {"onnx": _ONNX, "mlflow": _MLFLOW}.get(form, _ALONE if alone else _WITH_CLS)
    lines = [
        f"# {version.stream}, version {version.number}",
        "",
        f"A {schema.task} by model `{name}`, exported by CLS. Digest `{version.digest}`; `export.json` has the hash of each file.",
        "",
        how,
        "## Features",
        "",
        "| name | kind | missing is |",
        "| --- | --- | --- |",
        *_features(network, form),
        "",
    ]
    if derivations:
        lines += [
            "CLS makes some of them from columns of its stream; whoever predicts elsewhere makes them the same way:",
            "",
        ]
        lines += [f"- {', '.join(one.names)}: from the {one.kind} `{one.name}`" for one in derivations]
        lines += ["", "`detectors.derive` is the arithmetic, `detectors.derivation` describes it.", ""]
    what = (
        "the target, in its own unit"
        if schema.task == "regression"
        else f"probabilities of {', '.join(map(repr, schema.classes))}, in this order"
    )
    return "\n".join([*lines, "## Output", "", f"One row per row: {what}.", ""])


def _features(network: Model, form: str) -> list[str]:
    lines = [f"| {_cell(name)} | number | NaN |" for name in network.schema.numeric]
    for name, vocabulary in vocabularies(network).items():
        missing = "None, or any text that is no category"
        if form == "onnx":
            missing = f"`{unknown(vocabulary)!r}`, as any text that is no category"
        lines.append(f"| {_cell(name)} | text, {len(vocabulary)} categories | {missing} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
