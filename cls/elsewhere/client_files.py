"""A version on disk, as the client downloads it: hashes compared, rebuilt without running any code in it, tried on its golden rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.domain import Json
from cls.errors import CLSError, Corrupt, Refused
from cls.layout import GOLDEN, MODEL, SPEC, read_json, to_json

READERS = {"tabular": "learners.models.tabular_numpy", "mlp": "learners.models.mlp_numpy"}  # numpy alone
MANIFEST = "manifest.json"
TOLERANCE = 1e-4  # from golden rows, in scales of the target, or of probability
JSON_BYTES = 64 << 20

Predict = Callable[[Any], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A version in memory."""

    version: int
    digest: str
    predict: Predict


def load_version(folder: Path, models: Mapping[str, str]) -> Loaded:
    """Return a version from the cache, its hashes compared and its golden rows predicted."""
    version, files = verified(folder, folder.name)
    document = read_json(files[SPEC], SPEC, JSON_BYTES)
    try:
        name, rebuilt = (
            document["spec"]["name"],
            _numpy if document["spec"]["name"] in READERS else _torch,
        )
    except (KeyError, TypeError) as error:
        raise Corrupt(f"{SPEC}: not a checkpoint's specification: {error}") from error
    try:
        predict, location, scale = rebuilt(document, files, models)
        if GOLDEN in files:
            _try(read_json(files[GOLDEN], GOLDEN, JSON_BYTES), predict, location, scale)
    except CLSError:
        raise
    except ImportError as error:  # nothing is wrong with the files
        raise Refused(f"model {name!r} needs more than is installed here: {error}") from error
    except Exception as error:
        raise Corrupt(f"version {version}, model {name!r}: {type(error).__name__}: {error}") from error
    return Loaded(version, folder.name, predict)


def verified(folder: Path, digest: str) -> tuple[int, dict[str, bytes]]:
    """Return a version's number and files; raises `Corrupt` unless all are what the digest says."""
    try:
        manifest = read_json((folder / MANIFEST).read_bytes(), MANIFEST, JSON_BYTES)
        hashes, version = dict(manifest["files"]), int(manifest["version"])
        files = {name: (folder / name).read_bytes() for name in (MODEL, SPEC, GOLDEN) if name in hashes}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{folder}: {type(error).__name__}: {error}") from error
    if hash_of(to_json(hashes)) != digest:
        raise Corrupt(f"version {version}: the files listed are not those of digest {digest[:12]}")
    for name, data in files.items():
        if hash_of(data) != hashes[name]:
            raise Corrupt(f"version {version}: {name} is not what its hash says")
    if MODEL not in files or SPEC not in files:
        raise Corrupt(f"version {version}: it has no {MODEL} or no {SPEC}")
    return version, files


def _numpy(document: Json, files: Mapping[str, bytes], _: Mapping[str, str]) -> tuple[Predict, float, float]:
    """Return what predicts without torch, and the target's location and scale."""
    from safetensors.numpy import load

    tensors = load(files[MODEL])
    predict = import_module(READERS[document["spec"]["name"]]).Predictor(document["spec"], tensors).predict
    return predict, float(tensors["target_location"]), float(tensors["target_scale"])


def _torch(_: Json, files: Mapping[str, bytes], models: Mapping[str, str]) -> tuple[Predict, float, float]:
    """Return what predicts with torch, and the target's location and scale."""
    from cls.checkpoints import restore, unpack
    from detectors.columns import Categorical, Column

    model = restore(unpack(files), models)

    def predict(data: Any) -> NDArray[np.float64]:
        columns: dict[str, Column] = {
            name: np.asarray(data[name], dtype=np.float64) for name in model.schema.numeric
        }
        columns |= {name: Categorical.of(data[name]) for name in model.schema.categorical}
        return model.predict(columns)

    return predict, model.target_location.item(), model.target_scale.item()


def _try(golden: Json, predict: Predict, location: float, scale: float) -> None:
    """Predict the golden rows of a version; raises `Corrupt` if it does not answer as where it was made."""
    wanted = np.asarray(golden["expected"], dtype=np.float64)
    got = np.asarray(predict(golden["columns"]), dtype=np.float64)
    if got.shape != wanted.shape:
        raise Corrupt(f"{GOLDEN}: predictions of shape {got.shape}, expected {wanted.shape}")
    unit = np.maximum(np.abs(wanted - location), abs(scale)) if wanted.ndim == 1 else np.ones_like(wanted)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - wanted) / unit
    if not (off <= TOLERANCE).all():
        raise Corrupt(f"{GOLDEN}: a prediction is {np.nanmax(off):.1e} from what it should be")


def hash_of(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return sha256(data).hexdigest()
