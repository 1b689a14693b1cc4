"""Follows the rollout rows: what answers a stream is one immutable value, swapped in one assignment.

A version is loaded and tried by a thread of its own, so that a slow one holds back neither requests nor other streams. What may be needed
next (the predecessor to go back to, a candidate on its way) is loaded beforehand, and stays: going back needs no artifact store. A version
answers eagerly at first; a faster runtime for it is looked for beside that, and swapped in likewise.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sqlalchemy import Engine

from cls.config import ServeConfig
from cls.domain import Json
from cls.errors import CLSError, Corrupt, Temporary
from cls.logging import get_logger
from cls.serving.models import LoadedModel, ModelCache
from cls.serving.onnx_graph import Graphs
from cls.serving.runtime import choose
from cls.serving.wanted import Wanted, read_wanted
from detectors.columns import Categorical, Column
from storage.db import reading

RETRY_SECONDS = 5.0  # between two tries to load a version that was refused
PATIENCE_SECONDS = 0.5  # that looks wait for a version which is to answer, from the beginning of its load
SLOW_SECONDS = 120.0  # of looking for a runtime, after which the log says so; eager answers all the while
WARM_ROWS = (1, 64)
_log = get_logger(__name__)

OnError = Callable[[str, int, str, int], None]  # stream, rollout, stage, version that could not be loaded


@dataclass(frozen=True, eq=False)
class Route:
    """Who answers a stream. A request reads it once, so that a swap cannot tear it."""

    champion: LoadedModel
    challenger: LoadedModel | None = None  # of a canary
    share: float = 0.0  # of the keys that the challenger answers
    rollout: int = 0  # 0: none
    stage: str = "champion"  # see `cls.arms.stage_name`


class _Load(threading.Thread):
    """Loads and tries one version."""

    def __init__(self, work: Callable[[], LoadedModel]) -> None:
        super().__init__(name="load-version", daemon=True)
        self._work = work
        self.slow_at = time.monotonic() + SLOW_SECONDS  # when to say that it takes long
        self.model: LoadedModel | None = None
        self.error: Exception | None = None
        self.began = time.monotonic()

    def run(self) -> None:
        try:
            self.model = self._work()
        except Exception as error:  # noqa: BLE001 - whatever a model may raise: the one that serves goes on serving
            self.error = error


class Follower:
    """Knows the models that serve each stream, and keeps them.

    Parameters
    ----------
    streams
        Their names.
    engine
        The database.
    models
        Loads versions.
    on_error
        Told of each try to load an answering version that was refused.
    settings
        What runs versions, and the rows of their largest batch.
    """

    def __init__(
        self,
        streams: Sequence[str],
        engine: Engine,
        models: ModelCache,
        on_error: OnError | None = None,
        settings: ServeConfig | None = None,
    ) -> None:
        self._settings = ServeConfig() if settings is None else settings
        self._graphs = Graphs(models.models)
        self._engine = engine
        self._models = models
        self._on_error = on_error
        self._streams = tuple(streams)
        self._routes: dict[str, Route] = {}
        self._wanted = dict.fromkeys(self._streams, Wanted())
        self._resident: dict[tuple[str, int], LoadedModel] = {}
        self._loads: dict[tuple[str, int], _Load] = {}
        self._choosing: dict[tuple[str, int], _Load] = {}  # at most one that is alive
        self._chosen: set[tuple[str, int]] = set()  # versions whose runtime was looked for
        self._refused: dict[tuple[str, int], tuple[str, float]] = {}  # why, and when to try again
        self._asked = False
        self._polling = threading.Lock()

    def route(self, stream: str) -> Route | None:
        """Return who answers a stream now; None before its first champion."""
        return self._routes.get(stream)

    def serving(self, stream: str) -> LoadedModel | None:
        """Return the champion that answers a stream now; None before its first."""
        route = self._routes.get(stream)
        return None if route is None else route.champion

    def state(self) -> dict[str, Json]:
        """Return, by stream, the version that serves and the one that should, and the canary beside it."""
        found: dict[str, Json] = {}
        for name in self._streams:
            route, wanted = self._routes.get(name), self._wanted[name]
            found[name] = {
                "serving": None if route is None else route.champion.version,
                "champion": wanted.champion,
            }
            if route is not None and route.champion.runtime is not None:
                found[name] |= route.champion.runtime.to_json()
            if route is not None and wanted.challenger is not None:
                serves = route.challenger is not None
                found[name] |= {"canary": wanted.challenger, "share": route.share if serves else 0.0}
        return found

    @property
    def ready(self) -> bool:
        """Whether every stream that has a champion has a model."""
        return self._asked and all(
            name in self._routes or wanted.champion is None for name, wanted in self._wanted.items()
        )

    def poll(self) -> None:
        """Look who is to serve and switch. Raises `Unavailable`; what serves goes on serving."""
        with self._polling:
            with reading(self._engine) as connection:
                self._wanted = {name: read_wanted(connection, name) for name in self._streams}
            self._begin()
            self._switch()
            if urgent := self._urgent():
                for load in urgent:
                    load.join(max(load.began + PATIENCE_SECONDS - time.monotonic(), 0.0))
                self._switch()
            self._improve()
            self._asked = True

    def _urgent(self) -> list[_Load]:
        """Return the loads under way, whichever look began them, of versions that are to answer."""
        answering = {
            (name, v) for name, wanted in self._wanted.items() for v in (wanted.champion, wanted.challenger)
        }
        return [load for key, load in self._loads.items() if key in answering]

    def _begin(self) -> None:
        """Begin to load what is wanted and not there."""
        for stream, wanted in self._wanted.items():
            for version in wanted.versions:
                key = (stream, version)
                _, again = self._refused.get(key, ("", 0.0))
                if key in self._resident or key in self._loads or time.monotonic() < again:
                    continue
                load = self._loads[key] = _Load(partial(self._prepared, stream, version))
                load.start()

    def _prepared(self, stream: str, version: int) -> LoadedModel:
        model = self._models.load(stream, version)
        warm_up(model, self._settings.batch_rows)
        return model

    def _improve(self) -> None:
        """Look for a faster runtime of the next version that answers; take in what was found."""
        for key, load in list(self._choosing.items()):
            if load.is_alive():
                if time.monotonic() > load.slow_at:
                    load.slow_at = math.inf
                    _log.warning("runtime is slow to make: eager answers", stream=key[0], version=key[1])
                return
            del self._choosing[key]
            if load.model is not None and key in self._resident:
                self._resident[key] = load.model
            elif load.error is not None:
                _log.warning("runtime refused", stream=key[0], version=key[1], error=str(load.error))
        self._switch()
        if self._settings.runtime == "eager":
            return
        for stream, route in self._routes.items():
            for model in (route.champion, route.challenger):
                if model is not None and (stream, model.version) not in self._chosen:
                    self._chosen.add((stream, model.version))
                    load = self._choosing[stream, model.version] = _Load(partial(self._faster, model))
                    load.start()
                    return

    def _faster(self, model: LoadedModel) -> LoadedModel:
        choice = choose(model.model, model.golden, self._settings.runtime, self._graphs)
        faster = replace(model, runtime=choice)
        warm_up(faster, self._settings.batch_rows)
        tell = _log.warning if choice.refused else _log.info
        tell("runtime chosen", stream=model.stream, version=model.version, **choice.to_json())
        return faster

    def _switch(self) -> None:
        """Take in what has been loaded, and let each stream be answered by what it should be."""
        for key, load in list(self._loads.items()):
            if not load.is_alive():
                del self._loads[key]
                self._take(*key, load)
        for stream, wanted in self._wanted.items():
            self._swap(stream, wanted)
        kept = {(stream, version) for stream, wanted in self._wanted.items() for version in wanted.versions}
        kept |= {(stream, route.champion.version) for stream, route in self._routes.items()}
        for key in self._resident.keys() - kept:
            del self._resident[key]
        for key in self._refused.keys() - kept:
            del self._refused[key]
        self._chosen &= kept

    def _take(self, stream: str, version: int, load: _Load) -> None:
        if load.model is not None:
            self._resident[stream, version] = load.model
            self._refused.pop((stream, version), None)
            return
        error, wanted = load.error, self._wanted[stream]
        before, _ = self._refused.get((stream, version), ("", 0.0))
        if before != str(error):
            _log.error(
                "version refused",
                exc_info=None if isinstance(error, CLSError) else error,
                stream=stream,
                version=version,
                serving=getattr(self.serving(stream), "version", None),
                error=str(error),
            )
        self._refused[stream, version] = str(error), time.monotonic() + RETRY_SECONDS
        answers = version in (wanted.champion, wanted.challenger)
        if self._on_error is not None and answers and not isinstance(error, Temporary):
            self._on_error(stream, wanted.rollout, wanted.stage, version)

    def _swap(self, stream: str, wanted: Wanted) -> None:
        now = self._routes.get(stream)
        if wanted.champion is None:
            return
        new = self._resident.get((stream, wanted.champion))
        if new is None:  # what serves goes on; its answers are of no stage of a rollout
            route = None if now is None else Route(now.champion)
        else:
            challenger = (
                None if wanted.challenger is None else self._resident.get((stream, wanted.challenger))
            )
            share = 0.0 if challenger is None else wanted.share
            route = Route(new, challenger, share, wanted.rollout, wanted.stage)
        if route is None or (now is not None and _facts(route) == _facts(now)):
            return
        self._routes[stream] = route
        before = None if now is None else now.champion.version
        if before != route.champion.version:
            _log.info("champion serves", stream=stream, version=route.champion.version, previous=before)
        if route.challenger is not None:
            _log.info("canary serves", stream=stream, version=route.challenger.version, share=route.share)


def _facts(route: Route) -> tuple[object, ...]:
    return route.champion, route.challenger, route.share, route.rollout, route.stage


def warm_up(model: LoadedModel, batch_rows: int) -> None:
    """Predict on rows in which everything is missing, one and many; raises `Corrupt` if that is no prediction."""
    schema = model.schema
    outputs = (len(schema.classes),) if schema.task == "classification" else ()
    for rows in (*WARM_ROWS, batch_rows):
        columns: dict[str, Column] = {name: np.full(rows, np.nan) for name in schema.numeric}
        columns |= {name: Categorical(np.full(rows, -1, np.int32), ()) for name in schema.categorical}
        predicted = model.predict(columns)
        if predicted.shape != (rows, *outputs) or not np.isfinite(predicted).all():
            raise Corrupt(
                f"stream {model.stream}, version {model.version}: predicts {predicted[:1]} where all is missing"
            )
