"""The registry in MLflow: one experiment and one registered model per stream, one run per job.

    experiment        cls/<stream>
    run               one per job, found again by its tag cls.job
    registered model  cls-<stream>
                      its description says who serves, who is on the way, and why
    version           one per version of ours, found again by its tag cls.number: MLflow's own number is equal to ours unless its
                      database was replaced meanwhile, so it is never relied on

Every call may be repeated after a crash between any two of its steps: what is found is completed, and what is complete is left alone.
MLflow is imported on first use; CLS never needs it to answer.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from cls.errors import NotFound, Unavailable
from cls.ports import RunRecord, VersionRecord
from cls.registry_text import shortened, standings_note
from cls.times import to_us
from storage.mlflow_setup import configure, prepare_sqlite

METRICS_PER_BATCH = 800  # of 1,000 entries in all
ENTRIES_PER_BATCH = 100  # of params or tags
VALUE_LENGTH = 5_000  # of a param, a tag or a description
ROOM = 700  # characters of a description that are left to us at least
OURS = "*CLS writes what follows:*"  # begins our part of a description; what people write above it stays
KEY_LENGTH = 250
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows runs, not traces
JOB, NUMBER, DIGEST, STANDING = "cls.job", "cls.number", "cls.digest", "cls.rollout"


class MlflowRegistry:
    """Writes runs, versions and aliases to an MLflow server or database.

    Parameters
    ----------
    tracking_uri
        http(s)://..., or sqlite:///FILE, which is initialised if it is new.
    artifact_root
        Directory under which a new experiment keeps its files where the store is a database. A server keeps them itself.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None = None) -> None:
        self._uri = tracking_uri
        served = tracking_uri.startswith(("http://", "https://", "databricks"))
        self._root = None if artifact_root is None or served else artifact_root.absolute().as_uri()
        self._connected: Any = None
        self._experiments: dict[str, str] = {}
        self._models: set[str] = set()

    def prepare(self) -> None:
        """Initialise a new SQLite file; call it before an MLflow server opens the same file. Raises `Unavailable`."""
        with self._answering() as client:
            client.search_experiments(max_results=1)

    def put_run(self, run: RunRecord) -> str:
        """Write a run, or complete the one already begun for its job; returns its id."""
        with self._answering() as client:
            experiment = self._experiment(client, run.stream)
            run_id = self._find_run(client, experiment, run.job_id)
            if run_id is None:
                tags = {JOB: str(run.job_id)}
                begun = client.create_run(experiment, _milliseconds(run.started_at), tags, run.name)
                run_id = str(begun.info.run_id)
            self._log(client, run_id, run)
            if run.files:
                with _on_disk(run.files) as folder:
                    client.log_artifacts(run_id, folder)
            status = "FAILED" if run.failed else "FINISHED"
            client.set_terminated(run_id, status, _milliseconds(run.ended_at))
            return run_id

    def put_version(self, version: VersionRecord) -> None:
        """Write a complete copy of a version that any MLflow client can download."""
        with self._answering() as client:
            if self._find_version(client, version.stream, version.number) is not None:
                return
            name = _model_name(version.stream)
            self._ensure_model(client, name, version.stream)
            experiment = self._experiment(client, version.stream)
            run_id = None if version.job_id is None else self._find_run(client, experiment, version.job_id)
            tags = _texts(version.tags) | {NUMBER: str(version.number), DIGEST: version.digest}
            model = self._logged_model(client, experiment, name, run_id, tags)
            if model.status != "READY":
                with _on_disk(version.files) as folder:
                    client.log_model_artifacts(model.model_id, folder)
                model = client.finalize_logged_model(model.model_id, "READY")
            client.create_model_version(
                name, model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
            )

    def put_aliases(self, stream: str, aliases: dict[str, int | None]) -> None:
        """Point aliases at our version numbers; raises `NotFound` for one that was never put, and then changes nothing."""
        with self._answering() as client:
            numbers = {alias: self._resolve(client, stream, number) for alias, number in aliases.items()}
            name = _model_name(stream)
            present = _model_aliases(client, name)
            for alias, number in numbers.items():
                if number is not None and present.get(alias) != number:
                    client.set_registered_model_alias(name, alias, number)
                elif number is None and alias in present:
                    client.delete_registered_model_alias(name, alias)

    def aliases(self, stream: str) -> dict[str, int]:
        """Return where the aliases point, in our numbers."""
        with self._answering() as client:
            name = _model_name(stream)
            found = {}
            for alias, number in _model_aliases(client, name).items():
                tags = client.get_model_version(name, number).tags
                if NUMBER in tags:  # else somebody's own alias on somebody's own version
                    found[alias] = int(tags[NUMBER])
            return found

    def put_standings(self, stream: str, standings: dict[int, str]) -> None:
        """Say how far versions have come, where people look: the state as a tag, all of it at the end of descriptions.

        Of those that were never put, nothing. A description that people have filled is left alone.
        """
        with self._answering() as client:
            name = _model_name(stream)
            found = {number: self._find_version(client, stream, number) for number in standings}
            put = {number: standings[number] for number, version in found.items() if version is not None}
            for number, text in put.items():
                words = client.get_model_version(name, found[number]).description or ""
                client.set_model_version_tag(name, found[number], STANDING, text.partition(":")[0])
                client.update_model_version(name, found[number], _described(words, text))
            if put:
                words = client.get_registered_model(name).description or ""
                client.update_registered_model(name, _described(words, standings_note(put)))

    def standings(self, stream: str, numbers: Sequence[int]) -> dict[int, str]:
        """Return what was said of some versions."""
        with self._answering() as client:
            name, found = _model_name(stream), {}
            for number in numbers:
                identity = self._find_version(client, stream, number)
                version = None if identity is None else client.get_model_version(name, identity)
                if version is None or STANDING not in version.tags:
                    continue
                words, said = _parted(version.description or "")
                if len(words) <= VALUE_LENGTH - ROOM:
                    found[number] = said  # written last
            return found

    # -- finding what a former attempt has left -----------------------------------------------------------------------

    def _experiment(self, client: Any, stream: str) -> str:
        if stream in self._experiments:
            return self._experiments[stream]
        name = f"cls/{stream}"
        found = client.get_experiment_by_name(name)
        if found is None:
            location = None if self._root is None else f"{self._root}/{stream}"
            identity = str(client.create_experiment(name, location, EXPERIMENT_TAGS | {"cls.stream": stream}))
        else:
            identity = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(identity)
        self._experiments[stream] = identity
        return identity

    def _find_run(self, client: Any, experiment: str, job_id: int) -> str | None:
        runs = client.search_runs([experiment], f"tags.`{JOB}` = '{job_id}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _find_version(self, client: Any, stream: str, number: int) -> str | None:
        found = client.search_model_versions(
            f"name = '{_model_name(stream)}' and tags.`{NUMBER}` = '{number}'"
        )
        return str(found[0].version) if found else None

    def _resolve(self, client: Any, stream: str, number: int | None) -> str | None:
        if number is None:
            return None
        found = self._find_version(client, stream, number)
        if found is None:
            raise NotFound(f"registry: stream {stream} has no version {number}")
        return found

    def _ensure_model(self, client: Any, name: str, stream: str) -> None:
        if name in self._models:
            return
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name, {"cls.stream": stream})
        self._models.add(name)

    def _logged_model(
        self, client: Any, experiment: str, name: str, run_id: str | None, tags: dict[str, str]
    ) -> Any:
        query = f"tags.`{NUMBER}` = '{tags[NUMBER]}' AND tags.`{DIGEST}` = '{tags[DIGEST]}'"
        found = client.search_logged_models([experiment], query, max_results=1)
        if found:
            return found[0]
        return client.create_logged_model(experiment, name, source_run_id=run_id, tags=tags)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _log(self, client: Any, run_id: str, run: RunRecord) -> None:
        from mlflow.entities import Metric, Param, RunTag

        at = _milliseconds(run.ended_at)  # fixed, so that a metric written twice is one metric
        metrics = [Metric(_key(name), value, at, step) for name, value, step in run.metrics]
        params = [Param(key, value) for key, value in _texts(run.params).items()]
        tags = [RunTag(key, value) for key, value in _texts(run.tags | {JOB: str(run.job_id)}).items()]
        parts = (
            _chunks(metrics, METRICS_PER_BATCH),
            _chunks(params, ENTRIES_PER_BATCH),
            _chunks(tags, ENTRIES_PER_BATCH),
        )
        for some_metrics, some_params, some_tags in zip_longest(*parts, fillvalue=()):
            client.log_batch(run_id, some_metrics, some_params, some_tags)

    @contextmanager
    def _answering(self) -> Iterator[Any]:
        """Hand out the client; whatever MLflow, its database or its server complains about is `Unavailable`."""
        configure()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import get_tracking_uri, set_tracking_uri
        from sqlalchemy.exc import SQLAlchemyError

        if get_tracking_uri() != self._uri:
            set_tracking_uri(
                self._uri
            )  # creating a version looks its model up there, whatever the client's own address
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except (
            MlflowException,
            SQLAlchemyError,
            OSError,
        ) as error:  # OSError: a refused connection, a timeout, the disk
            self._connected = None
            self._experiments.clear()
            self._models.clear()
            raise Unavailable(f"MLflow at {self._uri}: {_first_line(error)}") from error

    def _connect(self) -> Any:
        from mlflow.tracking import MlflowClient

        if self._uri.startswith("sqlite:///"):
            prepare_sqlite(Path(self._uri.removeprefix("sqlite:///")), self._uri, self._root)
        return MlflowClient(self._uri, self._uri)


def _model_name(stream: str) -> str:
    return f"cls-{stream}"


def _parted(description: str) -> tuple[str, str]:
    """Return what people wrote into a description, and what we did."""
    words, _, said = description.partition(OURS)
    return words.rstrip().removesuffix("---").rstrip(), said.removeprefix("\n\n")


def _described(description: str, said: str) -> str:
    """Return a description with our part of it written anew; one that leaves us no room as it is."""
    words = _parted(description)[0]
    if len(words) > VALUE_LENGTH - ROOM:
        return description
    head = f"{words}\n\n---\n\n{OURS}\n\n" if words else f"{OURS}\n\n"
    return head + shortened(said, VALUE_LENGTH - len(head))


def _model_aliases(client: Any, name: str) -> dict[str, str]:
    found = client.search_registered_models(f"name = '{name}'", max_results=1)
    return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}


def _milliseconds(time: datetime) -> int:
    return to_us(time) // 1_000


def _key(name: str) -> str:
    """Return a name that MLflow takes: letters, digits and _-. :/ only."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:KEY_LENGTH]


def _texts(values: Mapping[str, str]) -> dict[str, str]:
    return {_key(key): value[:VALUE_LENGTH] for key, value in values.items()}


def _chunks(values: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:500] if lines else ''}"


@contextmanager
def _on_disk(files: Mapping[str, bytes]) -> Iterator[str]:
    """Lay files out in a temporary directory, which is how MLflow takes them."""
    with tempfile.TemporaryDirectory(prefix="cls-mlflow-") as folder:
        for name, data in files.items():
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts:
                raise NotFound(f"registry: {name!r} is not a path inside a run")
            path = Path(folder) / parts
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder
