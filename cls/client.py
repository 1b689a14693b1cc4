"""For those who serve elsewhere: the champion of a stream in their own process, followed by its alias in MLflow.

    from cls.client import Champion

    with Champion("trips", mlflow_uri="http://mlflow:5000") as model:
        model.predict(dataframe)  # or a mapping from name to values
        model.version             # whose prediction that was; it changes by itself

A thread looks where `models:/cls-trips@champion` points, downloads what is new, compares hashes and golden rows, and swaps in one step.
What cannot be had or trusted changes nothing: the version before goes on answering, after a restart, too, from the cache. Models
"tabular" and "mlp" need numpy alone; others need torch. What was downloaded is data: no code in it is run.

The hashes come from the same MLflow as the files. They find damage, and artifacts that were swapped behind MLflow's back; who may
write to MLflow's registry decides what is predicted.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cls.domain import Json
from cls.elsewhere.client_cache import Cache
from cls.elsewhere.client_files import MANIFEST, Loaded, hash_of, load_version, verified
from cls.errors import CLSError, Corrupt, NotFound, Unavailable
from cls.layout import GOLDEN, MODEL, SPEC, to_json

log = logging.getLogger("cls.client")
HASH, NUMBER, DIGEST = "cls.sha256.", "cls.number", "cls.digest"  # tags; the first goes before a file's name
REFUSED_SECONDS = 300.0  # until a version that was refused is tried again


class Champion:
    """Follows the champion of a stream.

    Parameters
    ----------
    stream
        Its name in CLS.
    mlflow_uri
        MLflow's tracking URI.
    cache
        Directory for what was downloaded; by default ~/.cache/cls. Below it nobody else may write.
    poll_seconds
        Seconds between two looks at the alias.
    alias
        "champion", "previous" or "challenger".
    models
        Own models, "module:Class" by name, as `[models]` of cls.toml has them.

    Raises
    ------
    Unavailable
        If MLflow does not answer and nothing is in the cache.
    NotFound
        If the alias is not there, and nothing is in the cache.
    Corrupt
        If what it points at is not what it should be, and nothing is in the cache.
    Refused
        If the cache is somebody else's or others may write to it, or the model is not installed.
    """

    def __init__(
        self,
        stream: str,
        mlflow_uri: str,
        *,
        cache: str | Path | None = None,
        poll_seconds: float = 10.0,
        alias: str = "champion",
        models: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._alias, self._uri = f"cls-{stream}", alias, mlflow_uri
        root = Path.home() / ".cache" / "cls" if cache is None else Path(cache)
        self._cache = Cache(root, stream, alias)
        self._models = dict(models or {})
        self._refused: dict[str, float] = {}  # digest -> when it may be tried again
        self.error: str | None = None  # why the last look changed nothing
        self._current = self._from_cache()
        if self._current is None:
            self._current = self._newer(None)
        else:
            self._look()
        self._stop = Event()
        self._thread = Thread(target=self._follow, args=(poll_seconds,), name=f"cls-{stream}", daemon=True)
        self._thread.start()

    def predict(self, data: Any) -> NDArray[np.float64]:
        """Return (N,) predictions in target units, or (N, K) class probabilities.

        Parameters
        ----------
        data
            A pandas DataFrame or a mapping from name to values, with the model's features; missing is NaN or None.
        """
        return self._loaded().predict(data)

    @property
    def version(self) -> int:
        """Number of the version that answers."""
        return self._loaded().version

    def close(self) -> None:
        """Stop following; the version at hand goes on answering."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> Loaded:
        assert self._current is not None
        return self._current

    def _follow(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            self._look()

    def _look(self) -> None:
        """Swap if there is something new that is sound; whatever goes wrong changes nothing."""
        try:
            found = self._newer(self._current)
        except Exception as error:  # noqa: BLE001 - MLflow, the network, the disk: the version at hand goes on answering
            reason = f"{type(error).__name__}: {error}"[:1000]
            if reason != self.error:
                log.warning("%s@%s stays at version %s: %s", self._name, self._alias, self.version, reason)
            self.error = reason
            return
        self.error = None
        if found is not self._current:
            self._current = found
            log.info("%s@%s is version %s", self._name, self._alias, self.version)

    def _newer(self, current: Loaded | None) -> Loaded | None:
        """Return what the alias points at, downloaded and tried; the same value if it has not moved."""
        tags, number = self._pointed_at()
        digest = tags.get(DIGEST, "")
        folder = self._cache.folder(digest)
        if current is not None and current.digest == digest:
            return current
        if time.monotonic() < self._refused.get(digest, 0.0):
            raise Corrupt(f"version {tags.get(NUMBER)} was refused; it is tried again later")
        try:
            if not folder.is_dir():
                self._download(number, tags, folder)
            loaded = load_version(folder, self._models)
        except Corrupt:
            self._cache.drop(digest)
            self._refused[digest] = time.monotonic() + REFUSED_SECONDS
            raise
        self._cache.keep(digest, current.digest if current else None)
        return loaded

    # -- MLflow -------------------------------------------------------------------------------------------------------

    def _pointed_at(self) -> tuple[dict[str, str], str]:
        """Return the tags of the version that the alias points at, and MLflow's number of it."""
        from storage.mlflow_setup import configure

        configure()
        file = self._uri.removeprefix("sqlite:///")
        if file != self._uri and not Path(file).exists():  # MLflow would make an empty one
            raise Unavailable(f"MLflow at {self._uri}: there is no {file}")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            found = MlflowClient(self._uri, self._uri).get_model_version_by_alias(self._name, self._alias)
        except MlflowException as error:
            missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            kind = NotFound if missing else Unavailable
            raise kind(f"MLflow at {self._uri}: {self._name}@{self._alias}: {error}") from error
        except Exception as error:
            raise Unavailable(f"MLflow at {self._uri}: {type(error).__name__}: {error}") from error
        return {str(key): str(value) for key, value in found.tags.items()}, str(found.version)

    def _download(self, number: str, tags: Mapping[str, str], folder: Path) -> None:
        """Lay a version's files into the cache, whole or not at all."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.tracking import MlflowClient

        hashes = {tag.removeprefix(HASH): value for tag, value in tags.items() if tag.startswith(HASH)}
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self._cache.path) as place:
            wanted = [name for name in (MODEL, SPEC, GOLDEN) if name in hashes]
            try:
                client = MlflowClient(self._uri, self._uri)
                source = client.get_model_version_download_uri(self._name, number)
                if source.startswith("models:"):  # which MLflow would look up at the process's own URI
                    source = client.get_logged_model(source.rpartition("/")[2]).artifact_location
                artifacts = get_artifact_repository(source, tracking_uri=self._uri, registry_uri=self._uri)
                for name in wanted or [""]:
                    artifacts.download_artifacts(name, dst_path=place)  # type: ignore[no-untyped-call]  # of MLflow
            except Exception as error:
                raise Unavailable(f"MLflow at {self._uri}: {type(error).__name__}: {error}") from error
            if not wanted:  # an older release wrote no hash of each file: the digest is that of all
                files = [
                    path for path in Path(place).iterdir() if path.is_file() and path.name != "predict.py"
                ]
                hashes = {path.name: hash_of(path.read_bytes()) for path in files}
            manifest: Json = {"version": int(tags.get(NUMBER, number)), "files": hashes}
            (Path(place) / MANIFEST).write_bytes(to_json(manifest))
            verified(Path(place), folder.name)
            new = Path(place) / "new"
            new.mkdir()
            for name in (MODEL, SPEC, GOLDEN, MANIFEST):
                if (Path(place) / name).is_file():
                    (Path(place) / name).rename(new / name)
            try:
                new.rename(folder)
            except OSError as error:
                if not folder.is_dir():  # else another process was faster
                    raise Unavailable(f"{folder}: {error}") from error

    # -- what was downloaded ------------------------------------------------------------------------------------------

    def _from_cache(self) -> Loaded | None:
        """Return what answered last, if it is there and sound; whatever is wrong with it, MLflow is asked instead."""
        folder = None
        try:
            folder = self._cache.current()
            return None if folder is None else load_version(folder, self._models)
        except (CLSError, OSError, ValueError) as error:
            log.warning("%s: the cache is not used: %s", self._name, error)
            if folder is not None and isinstance(error, Corrupt):  # what was changed since is downloaded anew
                self._cache.drop(folder.name)
            return None
