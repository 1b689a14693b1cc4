"""The documents of both doors are true: schemathesis sends what they allow and what they do not, and compares what comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cls.columns.features import FeatureReader
from cls.config import SchemaConfig, load_config
from cls.demo.running import cls_command, free_address
from cls.doors.openapi import intake_document, predict_document
from cls.doors.openapi_rows import example
from cls.settings.toml_text import toml_value
from learners.checkpoint import Checkpoint
from learners.learn import start
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from tests.publishing import new_home, publish

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]
COLUMNS: dict[str, Any] = {
    "numeric": ["x"],
    "categorical": ["c"],
    "boolean": ["flag"],
    "timestamp": ["due"],
    "text": ["words"],
    "embedding": {"vector": 3},
    "key": "id",
    "event_time": "at",
    "target": "y",
}


def write_config(folder: Path) -> Path:
    churn = {"numeric": ["x"], "key": "id", "event_time": "at", "target": "y", "classes": ["no", "yes"]}
    streams = {"flights": ("regression", COLUMNS), "churn": ("classification", churn)}
    lines = ['home = "."', "[http]", f'ingest = "{free_address()}"', f'serve = "{free_address()}"']
    for name, (task, columns) in streams.items():
        lines += [f"[streams.{name}]", f'task = "{task}"', f"[streams.{name}.schema]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in columns.items()]
    path = folder / "cls.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(columns: SchemaConfig) -> Checkpoint:
    """Return a model of a stream, trained on rows that ingest would make of the example."""
    reader = FeatureReader(columns.numeric_features, columns.categorical_features, columns.derivations)
    features = reader.read([example(columns)] * 50)
    task: Any = "classification" if columns.classes else "regression"
    schema = Schema(columns.numeric_features, columns.categorical_features, task, columns.classes)
    rows = Rows(features, np.arange(50.0) % 2, np.arange(50))
    training = start(None, rows, Recipe(epochs=1), schema=schema, config={"hidden": (8,)})
    while not training.done:
        training.step()
    return training.finish()


@contextmanager
def process(config_path: Path, name: str, address: str, ready: str) -> Iterator[None]:
    """Hold a process of CLS that is ready."""
    log = config_path.with_name(f"{name}.log")
    with log.open("wb") as file:
        started = subprocess.Popen(cls_command(config_path, name), stdout=file, stderr=file)
    try:
        until = time.monotonic() + 60.0
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://{address}{ready}").status_code == 200:
                    break
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield
        assert started.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        started.terminate()
        started.wait(20)


def attack(address: str, row: dict[str, Any], *arguments: str) -> None:
    """Let schemathesis loose on a door; fails with what it found."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://{address}/openapi.json"]
    command += ["--seed", "1", "--no-shrink", "--generation-database", "none", "--no-color", *arguments]
    environment = {"SCHEMATHESIS_HOOKS": "tests.integration.openapi_hooks", "CLS_TEST_ROW": json.dumps(row)}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_inbox_is_as_its_document_says(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path)
    new_home(config)
    with process(path, "daemon", config.http.ingest, "/healthz"):
        shown = httpx.get(f"http://{config.http.ingest}/openapi.json").json()
        assert shown == json.loads(json.dumps(intake_document(config)))
        row = example(config.streams["flights"].columns) | {"y": 1.5}
        alike = (
            "/churn/(train|promote|rollback|pause|resume|approve|abort|rollouts|requests)"  # of one stream do
        )
        attack(config.http.ingest, row, "--max-examples", "4", "--exclude-path-regex", alike)


def test_predictions_are_as_their_document_says(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path)
    home = new_home(config)
    for name, stream in config.streams.items():
        publish(home, name, trained(stream.columns))
    with process(path, "serve", config.http.serve, "/readyz"):
        shown = httpx.get(f"http://{config.http.serve}/openapi.json").json()
        assert shown == json.loads(json.dumps(predict_document(config)))
        attack(config.http.serve, example(config.streams["flights"].columns), "--max-examples", "15")
