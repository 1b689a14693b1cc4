"""Versions as models ready to predict: fetched by hash, rebuilt, kept while they are wanted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine

from cls.checkpoints import check_finite, restore, unpack
from cls.errors import Corrupt
from cls.golden import Golden
from cls.layout import GOLDEN, MODEL, SPEC
from cls.ports import ArtifactStore
from cls.serving.runtime import Choice
from detectors.columns import Columns
from learners.models.base import Model
from learners.schema import Schema
from storage.db import reading
from storage.versions import read_version


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A version in memory; many threads may predict with it at once."""

    stream: str
    version: int
    model: Model
    golden: Golden | None = None  # rows that it was tried on
    runtime: Choice | None = None  # what runs it; None: eager torch

    @property
    def schema(self) -> Schema:
        """What it reads and predicts."""
        return self.model.schema

    @property
    def target_location(self) -> float:
        """Where its target lies, in target units; 0 for classes."""
        return float(self.model.target_location)

    @property
    def target_scale(self) -> float:
        """How far its target spreads, in target units; 1 for classes."""
        return float(self.model.target_scale)

    def predict(self, columns: Columns) -> NDArray[np.float64]:
        """Return (N,) predictions in target units, or (N, K) class probabilities."""
        forward = self.model if self.runtime is None else self.runtime.forward
        with torch.inference_mode():
            return self.model.decode(self.model.outputs(columns, forward))


class ModelCache:
    """Loads versions and keeps those used last.

    Parameters
    ----------
    engine
        The database with the versions.
    artifacts
        Where their files lie.
    models
        The operator's own models, "module:Class" by name.
    capacity
        Versions that `get` keeps.
    """

    def __init__(
        self, engine: Engine, artifacts: ArtifactStore, models: Mapping[str, str], capacity: int = 16
    ) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self.models = models
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, int], LoadedModel] = OrderedDict()
        self._lock = Lock()  # held while loading, too: nobody loads the same version twice at once

    def get(self, stream: str, version: int) -> LoadedModel:
        """Return a version, loading it if it is not there; errors as those of `load`."""
        with self._lock:
            key = (stream, version)
            if key not in self._kept:
                self._kept[key] = self.load(stream, version)
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return self._kept[key]

    def load(self, stream: str, version: int) -> LoadedModel:
        """Return a version that the caller keeps; many may load at once.

        Raises
        ------
        NotFound
            If there is no such version.
        Corrupt
            If one of its files is gone, altered or not what it should be, or it predicts something else than where it was made.
        Refused
            If its model is not installed here in a compatible version.
        Unavailable
            If the database or the store does not answer.
        """
        with reading(self._engine) as connection:
            found = read_version(connection, stream, version)
        try:
            return LoadedModel(stream, version, *self._read(found.files))
        except Corrupt as error:
            raise Corrupt(f"stream {stream}, version {version}: {error}") from error

    def _read(self, sha256: Mapping[str, str]) -> tuple[Model, Golden | None]:
        """Return the model in some files, tried on its golden rows; versions of earlier releases come without."""
        absent = [name for name in (MODEL, SPEC) if name not in sha256]
        if absent:
            raise Corrupt(f"its manifest lacks {', '.join(absent)}")
        files = {name: self._artifacts.get(sha256[name]) for name in (MODEL, SPEC, GOLDEN) if name in sha256}
        model = restore(unpack(files), self.models)
        check_finite(model)
        if GOLDEN not in files:
            return model, None
        golden = Golden.from_json(files[GOLDEN], model.schema)
        golden.check(model, model.predict(golden.columns))
        return model, golden
