"""Follows the champions: a new one is loaded and warmed up before one reference is swapped, and the old one stays resident."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine

from cls.errors import CLSError, Corrupt
from cls.logging import get_logger
from cls.models import LoadedModel, ModelCache
from detectors.columns import Categorical, Column
from storage.db import reading
from storage.versions import champion

RETRY_SECONDS = 5.0  # between two tries to load a champion that was refused
WARM_ROWS = (1, 64)
_log = get_logger(__name__)


class Follower:
    """Knows the model that serves each stream.

    Parameters
    ----------
    streams
        Their names.
    engine
        The database.
    models
        Loads versions.
    """

    def __init__(self, streams: Sequence[str], engine: Engine, models: ModelCache) -> None:
        self._engine = engine
        self._models = models
        self._serving: dict[str, LoadedModel | None] = dict.fromkeys(streams)
        self._previous: dict[str, LoadedModel | None] = dict.fromkeys(streams)
        self._wanted: dict[str, int | None] = dict.fromkeys(streams)
        self._refused: dict[str, tuple[int, float]] = {}  # version, and when to try again
        self._asked = False

    def serving(self, stream: str) -> LoadedModel | None:
        """Return the model that serves a stream now; None before its first champion."""
        return self._serving[stream]

    def state(self) -> dict[str, dict[str, int | None]]:
        """Return, by stream, the version that serves and the one that should."""
        return {
            name: {"serving": None if model is None else model.version, "champion": self._wanted[name]}
            for name, model in self._serving.items()
        }

    @property
    def ready(self) -> bool:
        """Whether every stream that has a champion has a model."""
        return self._asked and all(
            model is not None or self._wanted[name] is None for name, model in self._serving.items()
        )

    def poll(self) -> None:
        """Look who is champion and switch. Raises `Unavailable`; what serves goes on serving."""
        with reading(self._engine) as connection:
            champions = {name: champion(connection, name) for name in self._serving}
        for name, found in champions.items():
            self._wanted[name] = None if found is None else found.version
            serving = self._serving[name]
            if found is not None and (serving is None or serving.version != found.version):
                self._switch(name, found.version)
        self._asked = True

    def _switch(self, stream: str, version: int) -> None:
        refused, again = self._refused.get(stream, (0, 0.0))
        if refused == version and time.monotonic() < again:
            return
        before = self._serving[stream]
        serving = None if before is None else before.version
        try:
            model = self._models.get(stream, version)
            warm_up(model)
        except Exception as error:  # noqa: BLE001 - whatever a model may raise: the one that serves goes on serving
            if refused != version:
                details = {"stream": stream, "version": version, "serving": serving, "error": str(error)}
                _log.error("champion refused", exc_info=not isinstance(error, CLSError), **details)
            self._refused[stream] = version, time.monotonic() + RETRY_SECONDS
            return
        self._refused.pop(stream, None)
        self._previous[stream] = before  # resident, so that going back needs no load
        self._serving[stream] = model
        _log.info("champion serves", stream=stream, version=version, previous=serving)


def warm_up(model: LoadedModel) -> None:
    """Predict on rows in which everything is missing; raises `Corrupt` if that is no prediction."""
    schema = model.schema
    outputs = (len(schema.classes),) if schema.task == "classification" else ()
    for rows in WARM_ROWS:
        columns: dict[str, Column] = {name: np.full(rows, np.nan) for name in schema.numeric}
        columns |= {name: Categorical(np.full(rows, -1, np.int32), ()) for name in schema.categorical}
        predicted = model.predict(columns)
        if predicted.shape != (rows, *outputs) or not np.isfinite(predicted).all():
            raise Corrupt(
                f"stream {model.stream}, version {model.version}: predicts {predicted[:1]} where all is missing"
            )
