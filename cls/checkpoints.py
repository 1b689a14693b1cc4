"""Checkpoints as files and back: safetensors and JSON, nothing that runs code; see `cls.layout` for the files.

Bytes reach `unpack` after their hash was verified; it refuses what is not a checkpoint all the same, file by file. What files claim costs
neither memory nor time beyond their own size: a network is laid out without memory, and compared with the tensors that there are, before it
is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cls.domain import Json
from cls.errors import Corrupt, Refused
from cls.layout import LEARNER, MODEL, PROFILE, SPEC, check_names, read_json, to_json
from learners.checkpoint import Checkpoint, restore_model, under
from learners.errors import UnknownModelError
from learners.models.base import Model
from learners.models.registry import BUILT_IN, GROUP, NO_EXTRA, load

FORMAT = 1  # of the files
TENSOR_BYTES = 8 << 30  # larger tensor files are refused
HEADER_BYTES = 16 << 20  # of a tensor file: some hundred bytes for each tensor; larger ones are refused
JSON_BYTES = 64 << 20  # larger JSON files are refused
ERROR_LENGTH = 500  # characters of an error that are passed on
SPEC_PARTS = 20_000  # numbers, lists and objects of a specification, at most: each may mean a layer
_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
DTYPES = frozenset(_FLOATS | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_OURS = "cls-continual"
_WEIGHTS = "model."
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_BOUNDLESS = ("lora",)  # peft cannot lay adapters out without memory


def pack(checkpoint: Checkpoint, profile_json: bytes | str | Json | None = None) -> dict[str, bytes]:
    """Return a checkpoint as files by name.

    Parameters
    ----------
    checkpoint
        What to write; equal checkpoints have equal bytes.
    profile_json
        The reference profile; without one (a training that is not finished) there is no such file.

    Raises
    ------
    ValueError
        If spec, meta or profile are not JSON (NaN and infinities are not).
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    weights = under(_WEIGHTS.removesuffix("."), plain)
    rest = {name: tensor for name, tensor in plain.items() if not name.startswith(_WEIGHTS)}
    document = {
        "format": FORMAT,
        "distribution": _distribution(checkpoint.spec["name"]),
        "spec": checkpoint.spec,
        "meta": checkpoint.meta,
    }
    files = {MODEL: save_tensors(weights), SPEC: to_json(document), LEARNER: save_tensors(rest)}
    if profile_json is None:
        return files
    if isinstance(profile_json, str):
        profile_json = profile_json.encode()
    return {**files, PROFILE: profile_json if isinstance(profile_json, bytes) else to_json(profile_json)}


def unpack(files: Mapping[str, bytes]) -> Checkpoint:
    """Return the checkpoint in some files.

    Parameters
    ----------
    files
        At least `MODEL` and `SPEC`: enough to predict. Without `LEARNER` nothing can be learned from it.

    Raises
    ------
    Corrupt
        Naming the file that is absent or not what it should be.
    Refused
        If it was written by a release or for a model distribution that this one cannot read.
    """
    check_names([*files])
    document = _document(files)
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in _tensors(files, MODEL).items()}
    if LEARNER in files:
        tensors |= _tensors(files, LEARNER)
    return Checkpoint(document["spec"], tensors, document["meta"])


def restore(checkpoint: Checkpoint, models: Mapping[str, str] = NO_EXTRA) -> Model:
    """Return the model of a checkpoint on the CPU in eval mode, every tensor of the type and shape that it declares.

    Raises
    ------
    Refused
        If its model is not installed, or only one of another format.
    Corrupt
        If weights and spec do not fit each other.
    """
    name = checkpoint.spec["name"]
    weights = under(_WEIGHTS.removesuffix("."), checkpoint.tensors)
    try:
        if name in BUILT_IN and name not in _BOUNDLESS:
            _check_layout(checkpoint, weights)
        model = restore_model(checkpoint, models)
    except UnknownModelError as error:
        raise Refused(f"{SPEC}: {error}; install the package that brings it") from error
    except _MALFORMED as error:
        raise Refused(
            f"{SPEC}: the installed model {name!r} cannot read this format: {_brief(error)}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        raise Corrupt(f"{MODEL}: the tensors do not fit model {name!r}: {_brief(error)}") from error
    for key, tensor in model.state_dict().items():
        if weights[key].dtype != tensor.dtype:
            raise Corrupt(f"{MODEL}: {key} is {weights[key].dtype} where {name!r} has {tensor.dtype}")
    return model


def check_finite(model: Model) -> None:
    """Refuse a model with a weight that is no number; raises `Corrupt`."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise Corrupt(f"{MODEL}: {name} holds what is no number")


def _check_layout(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Compare the shapes that a specification calls for with those there are, before they take memory."""
    with torch.device("meta"):
        laid_out = load(checkpoint.spec["name"]).from_spec(checkpoint.spec).state_dict()
    for name, tensor in laid_out.items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape:
            here = "is missing" if found is None else f"has shape {[*found.shape]}"
            raise Corrupt(f"{MODEL}: {name} {here}, and {SPEC} calls for {[*tensor.shape]}")


def _document(files: Mapping[str, bytes]) -> Json:
    document = read_json(_bytes(files, SPEC, JSON_BYTES), SPEC, JSON_BYTES)
    if not all(isinstance(document.get(key), dict) for key in ("spec", "meta")):
        raise Corrupt(f"{SPEC}: not a checkpoint's specification")
    if _parts(document["spec"]) > SPEC_PARTS:
        raise Corrupt(f"{SPEC}: a specification of more than {SPEC_PARTS} parts")
    if not isinstance(document["spec"].get("name"), str):
        raise Corrupt(f"{SPEC}: the model has no name")
    if document.get("format") != FORMAT:
        raise Refused(f"{SPEC}: checkpoint format {document.get('format')}, this release reads {FORMAT}")
    _check_distribution(document["spec"]["name"], document.get("distribution"))
    return document


def _tensors(files: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    data = _bytes(files, name, TENSOR_BYTES)
    header = int.from_bytes(data[:8], "little")
    if header > min(HEADER_BYTES, len(data)):
        raise Corrupt(f"{name}: not safetensors: a header of {header} bytes")
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise Corrupt(f"{name}: not safetensors: {error}") from error
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise Corrupt(f"{name}: {key} has type {tensor.dtype}, which no learner writes")
    return tensors


def _bytes(files: Mapping[str, bytes], name: str, limit: int) -> bytes:
    if name not in files:
        raise Corrupt(f"{name} is missing from the checkpoint")
    if len(files[name]) > limit:
        raise Corrupt(f"{name} has {len(files[name])} bytes, more than the {limit} that are read")
    return files[name]


def _brief(error: BaseException) -> str:
    """Return what an error says, of which a file may have chosen the length."""
    return str(error)[:ERROR_LENGTH]


def _parts(value: Any) -> int:
    """Count what is no text in JSON."""
    count, rest = 0, [value]
    while rest:
        one = rest.pop()
        if not isinstance(one, str):
            count += 1
            rest += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return count


def _distribution(model: str) -> Json | None:
    """Return name and version of the distribution that brings a model, None for one that cls.toml names."""
    if model in BUILT_IN:
        return {"name": _OURS, "version": _installed(_OURS)}
    for point in entry_points(group=GROUP, name=model):
        if point.dist is not None:
            return {"name": point.dist.name, "version": point.dist.version}
    return None


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_distribution(model: str, written: Any) -> None:
    """Refuse a model of another major release of its distribution. Ours speaks by `FORMAT` and the spec's own."""
    if not written:
        return
    if not isinstance(written, dict) or not all(isinstance(written.get(k), str) for k in ("name", "version")):
        raise Corrupt(f"{SPEC}: no distribution: {str(written)[:80]}")
    if written["name"] == _OURS:
        return
    here, then = _installed(written["name"]), str(written["version"])
    if here is None:
        raise Refused(f"{SPEC}: model {model!r} needs {written['name']} {then}, which is not installed")
    if here.partition(".")[0] != then.partition(".")[0]:
        raise Refused(f"{SPEC}: model {model!r} was written by {written['name']} {then}; installed is {here}")
