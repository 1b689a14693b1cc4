"""The HTTP side of predictions. A request reads the serving model once, so that a swap cannot tear it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cls.config import Config, SchemaConfig
from cls.domain import Json
from cls.features import FeatureError, read_features
from cls.follow import Follower
from cls.hosts import HostGuard
from cls.ingest import PREDICTION, VERSION
from cls.models import LoadedModel
from cls.score import summarise
from cls.web import Limits, Problem, answer, http_app, read_body, read_rows

INLINE_BYTES = 64 << 10  # larger bodies are read and predicted off the event loop
PREDICT_ROWS = 20_000


class Logger(Protocol):
    """Takes rows for the log."""

    def offer(self, stream: str, rows: list[Json]) -> int:
        """Take rows; returns how many there was room for."""
        ...


def predict_app(config: Config, follower: Follower, log: Logger, *, hosts: Iterable[str] = ()) -> FastAPI:
    """Return the application of `cls serve`.

    Parameters
    ----------
    config
        Streams and addresses.
    follower
        Knows the models that serve.
    log
        Takes what was predicted.
    hosts
        Host names to answer to, besides loopback and the configured address.
    """
    door = _Door(config, follower, log)
    routes = [
        Route("/healthz", door.health),
        Route("/readyz", door.ready),
        Route("/v1/streams", door.streams),
        Route("/v1/streams/{name}/predict", door.predict, methods=["POST"]),
    ]
    guard = Middleware(HostGuard, listening=config.http.serve, hosts=tuple(hosts))
    return http_app(routes, guard)


class _Door:
    def __init__(self, config: Config, follower: Follower, log: Logger) -> None:
        self._config = config
        self._follower = follower
        self._log = log
        self._limits = Limits(rows=PREDICT_ROWS)

    async def health(self, _request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        ready = self._follower.ready
        return answer(200 if ready else 503, {"ready": ready, "streams": self._follower.state()})

    async def streams(self, _request: Request) -> Response:
        return answer(200, {"streams": [{"stream": n, **s} for n, s in self._follower.state().items()]})

    async def predict(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._config.streams:
            known = sorted(self._config.streams)
            raise Problem(
                404, f"no stream is called {name!r}; known: {', '.join(known) or 'none'}", known=known
            )
        content_type = request.headers.get("content-type", "")
        log = request.query_params.get("log")
        data = await read_body(request, self._limits.body_bytes)
        if len(data) <= INLINE_BYTES:
            return answer(200, self._predict(name, content_type, data, log))
        return answer(200, await run_in_threadpool(self._predict, name, content_type, data, log))

    def _predict(self, name: str, content_type: str, data: bytes, log: str | None) -> Json:
        settings = self._config.streams[name]
        rows = read_rows(content_type, data, "rows", self._limits)
        records = rows.to_records()
        model = self._follower.serving(name)
        if model is None:
            raise Problem(503, f"stream {name!r} has no champion yet", retry_after=1.0)
        if not records:
            return {"stream": name, "version": model.version, "predictions": [], "logged": 0}
        try:
            columns = read_features(
                records, model.schema.numeric, model.schema.categorical, settings.columns.derivations
            )
        except FeatureError as error:
            raise Problem(422, str(error), field=error.field, row=error.row) from error
        predicted = model.predict(columns)
        body: Json = {
            "stream": name,
            "version": model.version,
            "predictions": _answers(records, predicted, model, settings.columns.key),
        }
        wanted = rows.options.get("log", log not in ("false", "0"))
        return body | (
            self._keep(name, settings.columns, records, predicted, model) if wanted else {"logged": 0}
        )

    def _keep(
        self,
        name: str,
        schema: SchemaConfig,
        records: list[Json],
        predicted: NDArray[np.float64],
        model: LoadedModel,
    ) -> Json:
        """Offer the rows to the log that an event needs; returns what the answer says about it."""
        value = summarise(predicted)[0].tolist()
        kept = [
            _event(record, schema) | {PREDICTION: value[i], VERSION: model.version}
            for i, record in enumerate(records)
            if record.get(schema.key) is not None and record.get(schema.event_time) is not None
        ]
        logged = self._log.offer(name, kept) if kept else 0
        if logged == len(records):
            return {"logged": logged}
        if logged < len(kept):
            return {"logged": logged, "not_logged": "the log has no room: the inbox does not answer"}
        return {"logged": logged, "not_logged": f"rows without {schema.key!r} or {schema.event_time!r}"}


def _event(record: Json, schema: SchemaConfig) -> Json:
    names = (schema.key, schema.event_time, *([schema.group] if schema.group else []), *schema.raw_features)
    return {name: record[name] for name in names if name in record}


def _answers(
    records: list[Json], predicted: NDArray[np.float64], model: LoadedModel, key: str
) -> list[dict[str, Any]]:
    if predicted.ndim == 1:
        answers: list[dict[str, Any]] = [{"prediction": value} for value in predicted.tolist()]
    else:
        classes = model.schema.classes
        answers = [
            {"prediction": classes[best], "probabilities": dict(zip(classes, row, strict=True))}
            for best, row in zip(predicted.argmax(axis=1).tolist(), predicted.tolist(), strict=True)
        ]
    return [
        {"key": record[key], **one} if record.get(key) is not None else one
        for record, one in zip(records, answers, strict=True)
    ]
