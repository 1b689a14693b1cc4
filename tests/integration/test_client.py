"""The client follows the champion's alias in a real MLflow store, and trusts nothing that it did not check."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cls.client import DIGEST, Champion
from cls.elsewhere.client_cache import CURRENT
from cls.elsewhere.client_files import MANIFEST, hash_of, load_version
from cls.errors import Corrupt, NotFound, Refused, Unavailable
from cls.layout import GOLDEN, MODEL
from cls.registry import version_record
from cls.up import MLFLOW_ENVIRONMENT, is_mlflow
from detectors.columns import Categorical, Column
from learners.models.base import Model
from learners.models.network import wrapping
from learners.schema import Schema
from storage.artifacts import MemoryArtifacts, manifest_digest
from storage.mlflow_registry import MlflowRegistry
from storage.mlflow_setup import configure
from tests.integration.test_export import MIXED, NUMBERS, Own, stored, table, trained

configure()
pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow

ROWS: dict[str, list[Any]] = {"distance": [0.5, None], "prediction": [1e6, 1e6 + 1], "wind speed": [2e6, 2e6], "carrier": ["AA", None], "never": ["x", ""]}  # fmt: skip


class Store:
    """An MLflow store of its own with versions in it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "mlflow.db"
        self.uri = f"sqlite:///{self.file}"
        self.artifacts = MemoryArtifacts()
        self.registry = MlflowRegistry(self.uri, folder / "mlartifacts")
        self.cache = folder / "cache"

    def put(
        self, number: int, model: Model, *, change: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        version = stored(model, self.artifacts)
        files = dict(version.files)
        if change is not None:
            golden = json.loads(self.artifacts.get(files[GOLDEN]))
            change(golden)
            files[GOLDEN] = self.artifacts.put(json.dumps(golden).encode())
        version = dataclasses.replace(
            version, number=number, job_id=None, files=files, digest=manifest_digest(files)
        )
        self.registry.put_version(version_record(version, None, self.artifacts))

    def champion(self, number: int) -> None:
        self.registry.put_aliases("trips", {"champion": number})

    def stored_file(self, number: int, name: str) -> Path:
        from mlflow.tracking import MlflowClient

        source = str(MlflowClient(self.uri, self.uri).get_model_version("cls-trips", str(number)).source)
        if source.startswith("models:"):
            source = (
                MlflowClient(self.uri, self.uri).get_logged_model(source.split("/")[-1]).artifact_location
            )
        return Path(source.removeprefix("file://")) / name

    def follow(self, **options: Any) -> Champion:
        given = {"mlflow_uri": self.uri, "cache": self.cache, "poll_seconds": 0.05, **options}
        return Champion("trips", **given)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}").prepare()
    return folder


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    for file in template.glob("mlflow.db*"):
        shutil.copy(file, tmp_path / file.name)
    return Store(tmp_path)


def another(model: Model, by: float = 0.5) -> Model:
    """A version that predicts something else."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_alias_is_followed_while_others_predict_and_none_of_them_fails(store: Store) -> None:
    networks = {1: trained("tabular", MIXED), 2: another(trained("tabular", MIXED))}
    columns: dict[str, Column] = {name: np.array(ROWS[name], np.float64) for name in MIXED.numeric}
    columns |= {name: Categorical.of(ROWS[name]) for name in MIXED.categorical}
    expected = {number: network.predict(columns) for number, network in networks.items()}
    for number, network in networks.items():
        store.put(number, network)
    store.champion(1)
    with store.follow() as model:
        assert model.version == 1
        assert model.predict(ROWS) == pytest.approx(expected[1], rel=1e-4)
        assert model.predict(pd.DataFrame(ROWS)) == pytest.approx(expected[1], rel=1e-4)
        seen, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                seen.append(model.predict(ROWS))

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        store.champion(2)
        until(lambda: model.version == 2)
        store.champion(1)
        until(lambda: model.version == 1)
        stop.set()
        for asker in askers:
            asker.join(60)
        for answer in seen:
            assert any(np.allclose(answer, wanted, rtol=1e-4) for wanted in expected.values())


def test_a_restart_without_mlflow_answers_from_the_cache(store: Store) -> None:
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    with store.follow() as model:
        answer = model.predict(ROWS)
    away = store.file.rename(store.file.with_suffix(".away"))
    with store.follow() as model:
        assert model.version == 1
        assert (model.predict(ROWS) == answer).all()
        assert "no " in (model.error or "")
        assert not store.file.exists()  # nothing was made in its place
        away.rename(store.file)
        until(lambda: model.error is None)
    store.file.unlink()
    with pytest.raises(Unavailable):
        Champion("trips", mlflow_uri=store.uri, cache=store.cache.with_name("empty"))


def test_a_damaged_artifact_changes_nothing_until_it_is_repaired(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cls.client.REFUSED_SECONDS", 0.1)
    store.put(1, trained("mlp", NUMBERS))
    store.put(2, another(trained("mlp", NUMBERS)))
    store.champion(1)
    with store.follow() as model, caplog.at_level(logging.WARNING, "cls.client"):
        before = model.predict(ROWS)
        file = store.stored_file(2, MODEL)
        good = file.read_bytes()
        file.write_bytes(good[:-4] + b"\0\0\x80\x3f")
        store.champion(2)
        until(lambda: "not what its hash says" in (model.error or ""))
        assert model.version == 1
        assert (model.predict(ROWS) == before).all()
        file.unlink()
        until(lambda: MODEL in (model.error or "") and "hash" not in (model.error or ""))
        assert model.version == 1
        file.write_bytes(good)
        until(lambda: model.version == 2)
        assert not (model.predict(ROWS) == before).all()
    assert "stays at version 1" in caplog.text


def test_a_version_that_predicts_something_else_than_where_it_was_made_is_refused(store: Store) -> None:
    def wrong(golden: dict[str, Any]) -> None:
        golden["expected"][-1] += 1e6

    store.put(1, trained("mlp", NUMBERS))
    store.put(2, another(trained("mlp", NUMBERS)), change=wrong)
    store.champion(1)
    with store.follow() as model:
        store.champion(2)
        until(lambda: GOLDEN in (model.error or ""))
        assert model.version == 1
    with pytest.raises(Corrupt, match=GOLDEN):
        Champion("trips", mlflow_uri=store.uri, cache=store.cache.with_name("empty"))


def test_a_cache_that_was_changed_is_not_used(store: Store) -> None:
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    with store.follow() as model:
        answer = model.predict(ROWS)
    [weights] = store.cache.rglob(MODEL)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\x3f")
    with store.follow() as model:  # downloaded again
        assert (model.predict(ROWS) == answer).all()


@pytest.mark.parametrize("note", [b"{victim}", b"../../victim", b"..", b".", b"", b"\xff\xfe\0", b"current"])
def test_a_note_that_leads_out_of_the_cache_leads_nowhere(store: Store, tmp_path: Path, note: bytes) -> None:
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    with store.follow() as model:
        answer = model.predict(ROWS)
    victim = tmp_path / "cache" / "victim"
    (victim / "deep").mkdir(parents=True)
    [weights] = store.cache.rglob(MODEL)
    (store.cache / "trips" / "champion" / CURRENT).write_bytes(
        note.replace(b"{victim}", str(victim).encode())
    )
    away = store.file.rename(store.file.with_suffix(".away"))
    with pytest.raises(Unavailable):  # MLflow is asked
        store.follow()
    assert (victim / "deep").is_dir()
    assert weights.is_file()
    away.rename(store.file)
    with store.follow() as model:
        assert (model.predict(ROWS) == answer).all()


@pytest.mark.parametrize("digest", ["../../victim", "{victim}", "..", ""])
def test_a_tag_that_is_a_path_is_refused_before_anything_is_touched(
    store: Store, tmp_path: Path, digest: str
) -> None:
    from mlflow.tracking import MlflowClient

    victim = tmp_path / "cache" / "victim"
    (victim / "deep").mkdir(parents=True)
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    MlflowClient(store.uri, store.uri).set_model_version_tag(
        "cls-trips", "1", DIGEST, digest.format(victim=victim)
    )
    with pytest.raises(Corrupt, match="no file"):
        store.follow()
    assert (victim / "deep").is_dir()
    assert list((store.cache / "trips" / "champion").iterdir()) == []


def test_files_whose_hashes_are_not_those_of_the_registry_are_refused(store: Store) -> None:
    """Each file fits the manifest beside it; the manifest does not fit the version."""
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    with store.follow() as model:
        answer = model.predict(ROWS)
    [weights] = store.cache.rglob(MODEL)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\x3f")
    manifest = json.loads(weights.with_name(MANIFEST).read_text())
    del manifest["files"][GOLDEN]
    manifest["files"][MODEL] = hash_of(weights.read_bytes())
    weights.with_name(MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match="not those of digest"):
        load_version(weights.parent, {})
    with store.follow() as model:
        assert (model.predict(ROWS) == answer).all()


def test_a_cached_version_that_cannot_be_used_here_does_not_keep_mlflow_from_being_asked(
    store: Store,
) -> None:
    torch.manual_seed(0)
    own = wrapping("own", Own).fit_preprocessing({}, NUMBERS, table(NUMBERS))
    store.put(1, own)
    store.put(2, trained("mlp", NUMBERS))
    store.champion(1)
    models = {"own": "tests.integration.test_export:Own"}
    with store.follow(models=models) as model:
        assert model.version == 1
    [weights] = store.cache.rglob(MODEL)
    store.champion(2)
    with store.follow() as model:
        assert model.version == 2
    assert weights.is_file()  # nothing is wrong with it
    store.champion(1)
    with store.follow(cache=store.cache.with_name("new"), models=models) as model:
        assert model.version == 1
    with pytest.raises(Refused, match="own"):
        store.follow(cache=store.cache.with_name("other"))


def test_what_another_process_has_just_downloaded_stays(store: Store) -> None:
    for number in (1, 2, 3):
        store.put(number, another(trained("mlp", NUMBERS), 0.1 * number))
    store.champion(1)
    with store.follow() as model:
        fresh, old = (store.cache / "trips" / "champion" / name for name in ("fresh", "old"))
        for folder in (fresh, old):
            folder.mkdir()
        os.utime(old, (0, 0))
        store.champion(2)
        until(lambda: model.version == 2)
        until(lambda: not old.exists())
        assert fresh.is_dir()


def test_a_cache_of_somebody_else_is_refused(store: Store) -> None:
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    store.follow().close()
    stream = store.cache / "trips"
    for folder in (store.cache, stream, stream / "champion"):
        assert folder.stat().st_mode & 0o777 == 0o700
    stream.chmod(0o777)
    with pytest.raises(Refused, match="others may write"):
        store.follow()
    stream.rename(store.cache / "real")
    (store.cache / "real").chmod(0o700)
    stream.symlink_to(store.cache / "real")
    with pytest.raises(Refused, match="others may write"):
        store.follow()


def test_models_without_a_reader_in_numpy_come_by_torch(store: Store) -> None:
    schema = Schema(tuple(f"p{i}" for i in range(16)))
    network = trained("cnn", schema, shape=(1, 4, 4), channels=(2,))
    store.put(1, network)
    store.champion(1)
    rows = {name: np.linspace(0, 1, 3) + i for i, name in enumerate(schema.numeric)}
    with store.follow() as model:
        assert model.predict(rows) == pytest.approx(network.predict(rows))


def test_an_alias_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(NotFound, match="cls-trips@champion"):
        store.follow()


def test_a_hash_of_each_file_is_not_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of an earlier release have the digest of all files alone."""
    record = version_record

    def older(*arguments: Any) -> Any:
        found = record(*arguments)
        kept = {tag: value for tag, value in found.tags.items() if not tag.startswith("cls.sha256.")}
        return dataclasses.replace(found, tags=kept)

    monkeypatch.setitem(globals(), "version_record", older)
    store.put(1, trained("mlp", NUMBERS))
    store.champion(1)
    with store.follow() as model:
        assert model.version == 1


def test_importing_it_imports_nothing_heavy() -> None:
    script = "import sys, cls.client\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "pandas", "sqlalchemy", "pyarrow", "pydantic"}.intersection(
        done.stdout.split()
    )


def test_a_process_that_knows_the_server_alone_follows_it_and_leaves_nothing_behind(
    store: Store, tmp_path: Path
) -> None:
    """Its environment has no MLFLOW_TRACKING_URI; the artifacts come through the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store.uri]
    options += ["--artifacts-destination", str(tmp_path / "artifacts")]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options],
        env=os.environ | MLFLOW_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: is_mlflow(f"127.0.0.1:{port}"), 60)
        uri = f"http://127.0.0.1:{port}"
        store.registry = MlflowRegistry(uri)
        store.put(1, trained("tabular", NUMBERS))
        store.champion(1)
        empty, home = tmp_path / "empty", tmp_path / "home"
        empty.mkdir()
        home.mkdir()
        code = (
            f"from cls.client import Champion\nwith Champion('trips', {uri!r}) as model: print(model.version)"
        )
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "1", done.stderr[-2000:]
        assert list(empty.iterdir()) == []
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
