"""`cls worker --reports`: what others look at. Tells MLflow and the webhooks what happened, makes the reports of alarms, at low priority.

None of it may delay an update, so it lives in a process of its own: MLflow takes longer over a version than the loop does. It may be
away for a day: messages wait in the outbox, in order. Several reporters may run; each message is held by one of them at a time. Each webhook
has a thread, so that none waits for another, nor for MLflow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import structlog
from sqlalchemy import Engine

from cls.config import Config
from cls.domain import JobKind
from cls.elsewhere.webhooks import run_webhook
from cls.errors import Temporary
from cls.ports import ArtifactStore, Registry
from cls.registry import deliver, reconcile
from cls.worker import run_worker
from storage.home import Home
from storage.lineage import SqlOutbox
from storage.mlflow_registry import MlflowRegistry
from storage.webhooks import SqlWebhooks

log = structlog.get_logger("cls.reporter")
LOOK_SECONDS = 0.2  # between two looks at an empty outbox
RECONCILE_SECONDS = 60.0  # between two comparisons of the registry's aliases with the truth


def run_reporter(config: Config, stop: Event, slot: int = 0) -> None:
    """Deliver and report until told to stop. Raises what ended the delivery, if it did not end by itself."""
    os.nice(10)
    home = Home.open(config)
    registry = MlflowRegistry(config.mlflow, config.home / "mlartifacts")
    failures: list[BaseException] = []

    def side_task(name: str, task: Callable[..., None], *arguments: Any) -> Thread:
        def guarded() -> None:
            try:
                task(*arguments)
            except BaseException as error:  # a dead side task stops the process
                log.exception("task died", task=name)
                failures.append(error)
                stop.set()

        return Thread(target=guarded, name=name, daemon=True)

    tellers = [side_task("outbox", tell_registry, home.engine, registry, home.artifacts, stop)]
    for name, hook in config.webhooks.items():
        tellers.append(side_task(f"webhook-{name}", run_webhook, name, hook, SqlWebhooks(home.engine), stop))
    for teller in tellers:
        teller.start()
    try:
        run_worker(config, stop, slot, kinds=(JobKind.REPORT,))
    finally:
        stop.set()
        for teller in tellers:
            teller.join()
    if failures:
        raise failures[0]


def tell_registry(engine: Engine, registry: Registry, artifacts: ArtifactStore, stop: Event) -> None:
    """Deliver the outbox and keep the registry's aliases where the champions are, until told to stop."""
    outbox, reconciled = SqlOutbox(engine), time.monotonic()
    while not stop.is_set():
        try:
            if time.monotonic() - reconciled > RECONCILE_SECONDS:
                reconciled = time.monotonic()
                reconcile(outbox, registry)
            if not deliver(outbox, registry, artifacts):
                stop.wait(LOOK_SECONDS)
        except Temporary as error:
            log.warning("outbox waits", reason=str(error))
            stop.wait(error.delay)
