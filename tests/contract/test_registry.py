"""What every registry promises: each call may be repeated, after a crash between any two of its steps."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from cls.errors import NotFound, Unavailable
from cls.ports import Registry, RunRecord, VersionRecord
from storage.memory_registry import MemoryRegistry
from storage.mlflow_registry import MlflowRegistry
from storage.mlflow_setup import ENVIRONMENT, configure

configure()
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)  # of MLflow

START = datetime(2013, 2, 1, 12, tzinfo=UTC)
RUN = RunRecord(
    stream="flights",
    job_id=7,
    name="update-7",
    params={"strategy": "ewc", "a name & more": "x" * 9_000},
    metrics=[("loss", 1 / (step + 1), step) for step in range(2_300)] + [("gate.retained:0-10%", 0.5, 0)],
    tags={"cls.stream": "flights", "cls.reason": "drift of wind"},
    started_at=START,
    ended_at=START + timedelta(seconds=3),
    failed=False,
    files={"gate.json": b"{}", "plots/drift.txt": b"nats"},
)
VERSION = VersionRecord(
    "flights", 1, "d" * 64, 7, {"model.json": b"{}", "model.safetensors": b"abc"}, {"cls.job": "7"}
)


class Probe(Protocol):
    """A registry, and a look behind it."""

    @property
    def registry(self) -> Registry: ...

    def runs(self, stream: str) -> list[tuple[str, dict[str, str], list[float], dict[str, bytes]]]: ...
    def versions(self, stream: str) -> list[tuple[dict[str, str], dict[str, bytes]]]: ...


class MemoryProbe:
    def __init__(self) -> None:
        self.registry = MemoryRegistry()

    def runs(self, stream: str) -> list[tuple[str, dict[str, str], list[float], dict[str, bytes]]]:
        return [
            (
                "FAILED" if run.failed else "FINISHED",
                run.tags,
                [value for name, value, _ in run.metrics if name == "loss"],
                run.files,
            )
            for (name, _), run in self.registry.runs.items()
            if name == stream
        ]

    def versions(self, stream: str) -> list[tuple[dict[str, str], dict[str, bytes]]]:
        return [(v.tags, v.files) for (name, _), v in self.registry.versions.items() if name == stream]


class MlflowProbe:
    def __init__(self, folder: Path) -> None:
        self.uri, self.artifacts = f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts"
        self.registry = MlflowRegistry(self.uri, self.artifacts)

    @property
    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri, self.uri)

    def runs(self, stream: str) -> list[tuple[str, dict[str, str], list[float], dict[str, bytes]]]:
        client = self.client
        experiment = client.get_experiment_by_name(f"cls/{stream}").experiment_id
        found = []
        for run in client.search_runs([experiment]):
            history = client.get_metric_history(run.info.run_id, "loss")
            files = contents(Path(client.download_artifacts(run.info.run_id, "")))
            found.append((run.info.status, run.data.tags, [metric.value for metric in history], files))
        return found

    def versions(self, stream: str) -> list[tuple[dict[str, str], dict[str, bytes]]]:
        from mlflow.artifacts import download_artifacts

        found = self.client.search_model_versions(f"name = 'cls-{stream}'")
        return [
            (
                v.tags,
                contents(Path(download_artifacts(f"models:/{v.name}/{v.version}", tracking_uri=self.uri))),
            )
            for v in found
        ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}").prepare()
    return folder


@pytest.fixture
def mlflow_probe(mlflow_template: Path, tmp_path: Path) -> MlflowProbe:
    for file in mlflow_template.glob("mlflow.db*"):
        shutil.copy(file, tmp_path / file.name)
    return MlflowProbe(tmp_path)


@pytest.fixture(params=["memory", "mlflow"])
def probe(request: pytest.FixtureRequest) -> Probe:
    return MemoryProbe() if request.param == "memory" else request.getfixturevalue("mlflow_probe")


def test_a_run_written_twice_is_one_run_with_each_metric_once(probe: Probe) -> None:
    first, second = probe.registry.put_run(RUN), probe.registry.put_run(RUN)
    assert first == second
    assert probe.registry.put_run(replace(RUN, job_id=8)) != first
    runs = [run for run in probe.runs("flights") if run[2]]
    assert len(runs) == 2
    for status, tags, loss, files in runs:
        assert status == "FINISHED"
        assert tags["cls.reason"] == "drift of wind"
        assert sorted(loss) == sorted(1 / (step + 1) for step in range(2_300))
        assert files == RUN.files


def test_a_job_that_failed_and_then_succeeded_shows_its_last_end(probe: Probe) -> None:
    first = probe.registry.put_run(replace(RUN, failed=True, metrics=[]))
    assert probe.runs("flights")[0][0] == "FAILED"
    assert probe.registry.put_run(RUN) == first
    assert probe.runs("flights")[0][0] == "FINISHED"


def test_a_version_written_twice_is_one_whole_copy(probe: Probe) -> None:
    for _ in range(2):
        probe.registry.put_version(VERSION)
    [(tags, files)] = probe.versions("flights")
    assert files == VERSION.files
    assert tags["cls.job"] == "7"


def test_standings_are_said_of_what_is_there_and_change(probe: Probe) -> None:
    registry = probe.registry
    registry.put_version(VERSION)
    assert registry.standings("flights", [1, 9]) == {}
    for text in ("shadow", "canary 25%: not worse", "canary 25%: not worse", "shadow: " + "long " * 100):
        registry.put_standings("flights", {1: text, 9: "nowhere"})
        assert registry.standings("flights", [1, 9]) == {1: text}


def test_aliases_go_where_they_are_put(probe: Probe) -> None:
    registry = probe.registry
    assert registry.aliases("flights") == {}
    for number in (1, 2, 5):  # a gap: MLflow counts 1, 2, 3
        registry.put_version(replace(VERSION, number=number, digest=str(number) * 64))
    registry.put_version(replace(VERSION, stream="other"))
    registry.put_aliases("flights", {"champion": 1, "challenger": 5, "previous": None})
    assert registry.aliases("flights") == {"champion": 1, "challenger": 5}
    for _ in range(2):
        registry.put_aliases("flights", {"champion": 5, "challenger": None, "previous": 1})
        assert registry.aliases("flights") == {"champion": 5, "previous": 1}
    assert registry.aliases("other") == {}


def test_an_alias_on_a_version_that_is_not_there_changes_nothing(probe: Probe) -> None:
    probe.registry.put_version(VERSION)
    probe.registry.put_aliases("flights", {"champion": 1})
    with pytest.raises(NotFound, match="no version 9"):
        probe.registry.put_aliases("flights", {"previous": 1, "champion": 9})
    assert probe.registry.aliases("flights") == {"champion": 1}


def test_whoever_looks_at_the_model_in_mlflow_sees_who_serves_and_why(mlflow_probe: MlflowProbe) -> None:
    for number in (1, 2, 3):
        mlflow_probe.registry.put_version(replace(VERSION, number=number, digest=str(number) * 64))
    said = {3: "canary 25%: not worse on 200 rows", 2: "champion, watched: passed: twice", 1: "served before"}
    for _ in range(2):
        mlflow_probe.registry.put_standings("flights", said)
    client = mlflow_probe.client
    assert client.get_registered_model("cls-flights").description.splitlines() == [
        "*CLS writes what follows:*",
        "",
        "- **version 2**: champion, watched: passed: twice",
        "- **version 3**: canary 25%: not worse on 200 rows",
        "- **version 1**: served before",
    ]
    found = {int(v.version): v for v in client.search_model_versions("name = 'cls-flights'")}
    assert {number: version.description for number, version in found.items()} == {
        number: f"*CLS writes what follows:*\n\n{text}" for number, text in said.items()
    }
    assert {number: version.tags["cls.rollout"] for number, version in found.items()} == {
        3: "canary 25%",
        2: "champion, watched",
        1: "served before",
    }


def test_what_people_wrote_into_descriptions_stays(mlflow_probe: MlflowProbe) -> None:
    registry, client = mlflow_probe.registry, mlflow_probe.client
    registry.put_version(VERSION)
    number = client.search_model_versions("name = 'cls-flights'")[0].version
    client.update_registered_model("cls-flights", "Owned by operations.")
    client.update_model_version("cls-flights", number, "Trained for the fair.")
    for text in ("shadow", "canary 25%: not worse"):
        registry.put_standings("flights", {1: text})
        assert registry.standings("flights", [1]) == {1: text}
        ours = f"\n\n---\n\n*CLS writes what follows:*\n\n- **version 1**: {text}"
        assert client.get_registered_model("cls-flights").description == f"Owned by operations.{ours}"
        found = client.get_model_version("cls-flights", number).description
        assert found == f"Trained for the fair.{ours}".replace("- **version 1**: ", "")
    client.update_model_version("cls-flights", number, "full " * 1_000)
    registry.put_standings("flights", {1: "champion"})
    assert client.get_model_version("cls-flights", number).description == "full " * 1_000
    assert (
        registry.standings("flights", [1]) == {}
    )  # nothing to compare with: it is not asked for again and again


def test_descriptions_fit_their_columns_however_much_there_is_to_say(mlflow_probe: MlflowProbe) -> None:
    said = dict.fromkeys(range(1, 9), f"shadow: {'x' * 1000}")
    for number in said:
        mlflow_probe.registry.put_version(replace(VERSION, number=number, digest=str(number) * 64))
    mlflow_probe.registry.put_standings("flights", said)
    description = mlflow_probe.client.get_registered_model("cls-flights").description
    assert len(description) == 5_000  # of the column; SQLite would take more
    assert description.endswith("…")


# -- MLflow alone ---------------------------------------------------------------------------------------------------------


class CrashError(Exception):
    """Stands for a kill -9."""


@dataclass
class CrashingClient:
    """Passes calls on, and dies before or after the n-th one that writes."""

    client: Any
    left: int
    after: bool

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if name.startswith(("search", "get")):
            return method

        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise CrashError
            value = method(*args, **options)
            if self.left == 0:
                raise CrashError
            return value

        return call


def crash_everywhere(probe: MlflowProbe, act: Any, check: Any) -> int:
    """Crash at every writing call, each in a stream of its own, then repeat; returns the number of crashes."""
    crashes = 0
    for step in range(1, 40):
        for after in (False, True):
            stream = f"s{step}{'ab'[after]}"
            broken = MlflowRegistry(probe.uri, probe.artifacts)
            broken._connected = CrashingClient(probe.client, step, after)
            try:
                act(broken, stream)
            except CrashError:
                crashes += 1
            act(probe.registry, stream)
            check(stream)
        if crashes < 2 * step:
            return crashes
    raise AssertionError("never came to an end")


def test_a_run_survives_a_crash_between_any_two_calls(mlflow_probe: MlflowProbe) -> None:
    short = replace(RUN, metrics=RUN.metrics[:3])

    def check(stream: str) -> None:
        [(status, tags, loss, files)] = mlflow_probe.runs(stream)
        assert (status, loss, files) == ("FINISHED", [1.0, 1 / 2, 1 / 3], RUN.files)
        assert tags["cls.job"] == "7"

    assert crash_everywhere(mlflow_probe, lambda r, s: r.put_run(replace(short, stream=s)), check) >= 10


def test_a_version_and_its_aliases_survive_a_crash_between_any_two_calls(mlflow_probe: MlflowProbe) -> None:
    def act(registry: Registry, stream: str) -> None:
        registry.put_version(replace(VERSION, stream=stream))
        registry.put_aliases(stream, {"champion": 1, "previous": None})

    def check(stream: str) -> None:
        [(_, files)] = mlflow_probe.versions(stream)
        assert files == VERSION.files
        assert mlflow_probe.registry.aliases(stream) == {"champion": 1}
        client = mlflow_probe.client
        experiment = client.get_experiment_by_name(f"cls/{stream}").experiment_id
        assert len(client.search_logged_models([experiment])) == 1

    assert crash_everywhere(mlflow_probe, act, check) >= 12


def test_a_server_that_swallows_packets_costs_about_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    timeout, tries = (
        int(ENVIRONMENT["MLFLOW_HTTP_REQUEST_TIMEOUT"]),
        1 + int(ENVIRONMENT["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]),
    )
    assert timeout * tries + 1 <= 10
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as hole:
        registry = MlflowRegistry(f"http://127.0.0.1:{hole.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="MLflow at http"):
            registry.put_run(RUN)
        assert time.monotonic() - begun < tries * 1 + 3


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable):
        MlflowRegistry(f"http://127.0.0.1:{port}").aliases("flights")


def test_a_database_that_cannot_be_opened_is_unavailable_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"mlflow\.db"):
        MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}").prepare()
    assert time.monotonic() - begun < 8


def test_a_registry_that_was_away_is_used_again(mlflow_probe: MlflowProbe) -> None:
    mlflow_probe.registry._connected = CrashingBackend()
    with pytest.raises(Unavailable):
        mlflow_probe.registry.put_version(VERSION)
    mlflow_probe.registry.put_version(VERSION)
    assert len(mlflow_probe.versions("flights")) == 1


class CrashingBackend:
    """A client whose connection is gone."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionResetError(name)


PREPARE = """
import sys
from storage.mlflow_registry import MlflowRegistry
sys.stdin.readline()
MlflowRegistry(sys.argv[1]).prepare()
assert "torch" not in sys.modules and "evidently" not in sys.modules
"""


@pytest.mark.slow
def test_four_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, f"sqlite:///{tmp_path / 'mlflow.db'}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, complaints = process.communicate(timeout=100)
        assert process.returncode == 0, complaints


FOREIGN = """
import json, sys
for name in ("cls", "learners", "storage", "detectors", "torch"):
    sys.modules[name] = None  # importing it fails
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
folder = mlflow.artifacts.download_artifacts("models:/cls-flights@champion")
sys.path.insert(0, folder)
from predict import load
print(json.dumps(load().predict({"x": [0.5, None, -2.0], "colour": ["red", "unheard of", None]}).tolist()))
"""


def test_a_plain_mlflow_client_loads_the_champion_without_cls(
    mlflow_probe: MlflowProbe, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    numpy = importlib.import_module("numpy")
    from safetensors.torch import save

    from cls.domain import ModelVersion
    from cls.registry import version_record
    from detectors.columns import Categorical
    from learners.models.tabular import TabularNetwork
    from learners.models.tabular_config import TabularConfig
    from learners.rows import Rows
    from learners.schema import Schema
    from storage.artifacts import MemoryArtifacts

    torch.manual_seed(0)
    rng = numpy.random.default_rng(0)
    columns = {"x": rng.normal(size=200), "colour": Categorical.of(["red", "blue"] * 100)}
    rows = Rows(columns, rng.normal(size=200), numpy.arange(200))
    model = TabularNetwork.fit_preprocessing(
        TabularConfig(hidden=(8,)), Schema(("x",), ("colour",)), rows
    ).eval()
    artifacts = MemoryArtifacts()
    files = {
        "model.safetensors": artifacts.put(save(model.state_dict())),
        "model.json": artifacts.put(json.dumps({"spec": model.spec()}).encode()),
    }
    version = ModelVersion("flights", 1, "d" * 64, None, None, "ewc", 0, 0, 0, {}, {}, START, files)
    mlflow_probe.registry.put_version(version_record(version, None, artifacts))
    mlflow_probe.registry.put_aliases("flights", {"champion": 1})
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, mlflow_probe.uri],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    asked = {"x": numpy.array([0.5, numpy.nan, -2.0]), "colour": Categorical.of(["red", "unheard of", None])}
    assert json.loads(done.stdout) == pytest.approx(model.predict(asked).tolist(), rel=1e-5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Run an MLflow server that keeps the artifacts itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                assert time.monotonic() < deadline, "the server does not answer"
                threading.Event().wait(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait(60)


@pytest.mark.slow
def test_a_server_gets_runs_versions_and_aliases(server: str, tmp_path: Path) -> None:
    registry = MlflowRegistry(server)
    assert registry.put_run(RUN) == registry.put_run(RUN)
    for number in (1, 2):
        for _ in range(2):
            registry.put_version(replace(VERSION, number=number, digest=str(number) * 64))
    registry.put_aliases("flights", {"champion": 2, "previous": 1, "challenger": None})
    assert registry.aliases("flights") == {"champion": 2, "previous": 1}
    from mlflow.artifacts import download_artifacts

    folder = download_artifacts("models:/cls-flights/2", tracking_uri=server, dst_path=str(tmp_path / "copy"))
    assert contents(Path(folder)) == VERSION.files
