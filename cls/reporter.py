"""`cls worker --reports`: what people look at. Tells MLflow what happened, and makes the reports of alarms, at low priority.

Neither may delay an update, so both live in a process of their own: MLflow takes longer over a version than the loop does. It may be
away for a day: messages wait in the outbox, in order. Several reporters may run; each message is held by one of them at a time.
"""

from __future__ import annotations

import os
import time
from threading import Event, Thread

import structlog
from sqlalchemy import Engine

from cls.config import Config
from cls.domain import JobKind
from cls.errors import Temporary
from cls.ports import ArtifactStore, Registry
from cls.registry import deliver, reconcile
from cls.worker import run_worker
from storage.home import Home
from storage.lineage import SqlOutbox
from storage.mlflow_registry import MlflowRegistry

log = structlog.get_logger("cls.reporter")
LOOK_SECONDS = 0.2  # between two looks at an empty outbox
RECONCILE_SECONDS = 60.0  # between two comparisons of the registry's aliases with the truth


def run_reporter(config: Config, stop: Event, slot: int = 0) -> None:
    """Deliver and report until told to stop. Raises what ended the delivery, if it did not end by itself."""
    os.nice(10)
    home = Home.open(config)
    registry = MlflowRegistry(config.mlflow, config.home / "mlartifacts")
    failures: list[BaseException] = []

    def tell() -> None:
        try:
            tell_registry(home.engine, registry, home.artifacts, stop)
        except BaseException as error:  # a dead side task stops the process
            log.exception("task died", task="outbox")
            failures.append(error)
            stop.set()

    teller = Thread(target=tell, name="outbox", daemon=True)
    teller.start()
    try:
        run_worker(config, stop, slot, kinds=(JobKind.REPORT,))
    finally:
        stop.set()
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
