"""MLflow may be away: promotions do not wait for it, and it is told everything once it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from cls.demo.running import free_address
from cls.up import MLFLOW_ENVIRONMENT
from storage import outbox
from storage.db import reading
from storage.tables import promotions, versions
from tests.chaos.harness import STREAM, Feed, System, eventually, running


@contextmanager
def mlflow_server(folder: Path, address: str) -> Iterator[httpx.Client]:
    """Hold an MLflow server while the block runs."""
    host, _, port = address.rpartition(":")
    line = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", port]
    line += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            line, stdout=log, stderr=log, env=os.environ | MLFLOW_ENVIRONMENT, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://{address}/api/2.0/mlflow", timeout=10.0) as client:
            yield client
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_happened_while_the_registry_was_away_is_delivered(
    tmp_path: Path, sqlite_url: str, feed: Feed
) -> None:
    address = free_address()
    system = System(tmp_path / "run", sqlite_url, top={"mlflow_uri": f"http://{address}"})
    with running(system):
        for kind, table in feed.batches:
            system.feeder.send(kind, table)
            system.settle()
            if len(system.rows(select(promotions.c.id))) == 2:
                break
        made = [row.number for row in system.rows(select(versions.c.number).order_by(versions.c.number))]
        assert made == [1, 2]
        assert system.champion() == 2
        assert waiting(system) >= 6  # two jobs, two versions, two moves of the aliases

        with mlflow_server(tmp_path, address) as client:
            eventually(lambda: waiting(system) == 0, 150.0, "everything to be delivered")
            aliases = {name: version_of(client, name) for name in ("champion", "previous")}
            assert aliases == {"champion": "2", "previous": "1"}
            [served] = system.predict().json()["predictions"]
            loaded = predicted_by_a_plain_client(address, tmp_path / "download")
            assert loaded == pytest.approx(served["prediction"], rel=1e-5)
            found = client.get("/experiments/get-by-name", params={"experiment_name": f"cls/{STREAM}"}).json()
            runs = client.post(
                "/runs/search", json={"experiment_ids": [found["experiment"]["experiment_id"]]}
            )
            tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs.json()["runs"]]
            assert sorted(tag["cls.job"] for tag in tags) == sorted(str(job.id) for job in system.jobs())
        assert system.exits == []


PLAIN_CLIENT = """
import runpy, sys
from mlflow.artifacts import download_artifacts
path = download_artifacts(sys.argv[1], dst_path=sys.argv[2])
model = runpy.run_path(path + "/predict.py")["load"](path)
print(float(model.predict({"a": [0.5], "b": [0.1], "c": [1.0], "kind": ["north"]})[0]))
"""


def predicted_by_a_plain_client(address: str, folder: Path) -> float:
    """Load the champion with MLflow and numpy alone, and let it predict."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT, f"models:/cls-{STREAM}@champion", str(folder)],
        env=os.environ | MLFLOW_ENVIRONMENT | {"MLFLOW_TRACKING_URI": f"http://{address}"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.strip().splitlines()[-1])


def waiting(system: System) -> int:
    with reading(system.engine) as connection:
        return outbox.undelivered(connection)


def version_of(client: httpx.Client, alias: str) -> str:
    answer = client.get("/registered-models/alias", params={"name": f"cls-{STREAM}", "alias": alias})
    return str(answer.raise_for_status().json()["model_version"]["version"])
