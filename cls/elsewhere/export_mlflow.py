"""A version as a directory that MLflow loads and serves: a loader module and data, no pickle; MLflow itself writes the description."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from cls.layout import MODEL, SPEC

NEEDS = ("numpy", "pandas", "safetensors")


def mlflow_files(
    spec: Mapping[str, Any], stored: Mapping[str, bytes], source: bytes, about: Mapping[str, str]
) -> dict[str, bytes]:
    """Return the files of a model in MLflow's format, flavor python_function.

    Parameters
    ----------
    spec
        What the model's `spec()` returned.
    stored
        The files of the checkpoint.
    source
        The reader that needs numpy alone; it has MLflow's hook `_load_pyfunc`.
    about
        Written into the description as metadata.
    """
    from storage.mlflow_setup import configure

    configure()
    module = f"cls_{spec['name']}_reader"
    with tempfile.TemporaryDirectory(prefix="cls-export-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, while it is imported, too
        import mlflow.pyfunc
        from mlflow.models import ModelSignature

        data, code = Path(folder) / "checkpoint", Path(folder) / f"{module}.py"
        data.mkdir()
        for name in (MODEL, SPEC):
            (data / name).write_bytes(stored[name])
        code.write_bytes(source)
        made = Path(folder) / "made"
        inputs, outputs = signature(spec)
        mlflow.pyfunc.save_model(
            made,
            loader_module=module,
            data_path=str(data),
            code_paths=[str(code)],
            signature=ModelSignature(inputs, outputs),
            pip_requirements=[f"{name}=={installed(name)}" for name in ("mlflow", *NEEDS)],
            metadata=dict(about) | ({"classes": list(spec["classes"])} if spec["classes"] else {}),
        )
        return {
            path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()
        }


def signature(spec: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return MLflow's schemas of a model: columns by name, and one number or K probabilities a row."""
    import numpy as np
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec("double", name) for name in spec["numeric"]]
    columns += [ColSpec("string", name) for name in spec.get("categorical", ())]
    shape = (-1, len(spec["classes"])) if spec["classes"] else (-1,)
    return Schema(columns), Schema([TensorSpec(np.dtype("float64"), shape)])
