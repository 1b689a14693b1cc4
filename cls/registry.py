"""Register: what has become true in SQL, told to the registry, in order and at least once.

The registry (MLflow) is the outside view. It may be away for a day without harm: messages wait in the outbox, and each delivery may be
repeated. Checkpoints are copied whole, so that a plain MLflow client loads a version without CLS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from cls.domain import JobInput, JobState, Json, ModelVersion
from cls.errors import NotFound, Permanent, Temporary
from cls.lineage import EndedJob, Message, Outbox
from cls.ports import ArtifactStore, Registry, RunRecord, VersionRecord
from cls.registry_text import gate_table, job_note

SPEC = "model.json"
# The gate's loss is in the target's unit, the curve of the training in standardised ones: they are no one metric.
GATE_METRICS = {"loss": "gate_loss"}
PREDICTOR = "predict.py"
READERS = {"tabular": "learners.models.tabular_numpy", "mlp": "learners.models.mlp_numpy"}  # numpy alone


def deliver(outbox: Outbox, registry: Registry, artifacts: ArtifactStore) -> bool:
    """Deliver the next message.

    A registry or database that does not answer postpones the message; one that can never be delivered (its artifact is damaged) is
    given up with an entry in the ledger. Neither raises.

    Returns
    -------
    True if a message was dealt with and the next one may follow at once.
    """
    try:
        message = outbox.next()
        if message is None:
            return False
        try:
            _send(message, outbox, registry, artifacts)
        except Permanent as error:
            outbox.given_up(message, f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - one message that nobody foresaw must not hold back the others; the status shows it
            outbox.postponed(message, f"{type(error).__name__}: {error}")
            return False
        else:
            outbox.delivered(message)
    except Temporary:  # the database; the message is still there
        return False
    return True


def reconcile(outbox: Outbox, registry: Registry) -> list[str]:
    """Ask for the aliases of every stream whose aliases or tags do not say who serves it; returns those streams.

    Raises
    ------
    Unavailable
        If the registry or the database does not answer.
    """
    moved = []
    for stream in outbox.streams():
        wanted = {alias: number for alias, number in outbox.aliases(stream).items() if number is not None}
        found = registry.aliases(stream)
        ours = {
            alias: number
            for alias, number in found.items()
            if alias in ("champion", "previous", "challenger")
        }
        standings = outbox.standings(stream)
        said = registry.standings(stream, list(standings))
        stale = ours != wanted or any(standings[number] != text for number, text in said.items())
        if stale and outbox.post_aliases(stream):
            moved.append(stream)
    return moved


def _send(message: Message, outbox: Outbox, registry: Registry, artifacts: ArtifactStore) -> None:
    match message.kind:
        case "job":
            registry.put_run(run_record(outbox.job(message.payload["job_id"]), artifacts))
        case "version":
            registry.put_version(_version(message.stream, message.payload["number"], outbox, artifacts))
        case "aliases":
            _send_aliases(message.stream, outbox, registry, artifacts)
        case other:
            raise NotFound(f"no message kind {other!r}")


def _send_aliases(stream: str, outbox: Outbox, registry: Registry, artifacts: ArtifactStore) -> None:
    aliases = outbox.aliases(stream)
    try:
        registry.put_aliases(stream, aliases)
    except NotFound:  # the registry's database was replaced: give it what it lacks
        for number in sorted({number for number in aliases.values() if number is not None}):
            registry.put_version(_version(stream, number, outbox, artifacts))
        registry.put_aliases(stream, aliases)
    registry.put_standings(stream, outbox.standings(stream))


def _version(stream: str, number: int, outbox: Outbox, artifacts: ArtifactStore) -> VersionRecord:
    version = outbox.version(stream, number)
    job = None if version.job_id is None else outbox.job(version.job_id)
    return version_record(version, job, artifacts)


def run_record(job: EndedJob, artifacts: ArtifactStore) -> RunRecord:
    """Describe a job as a run. Raises `Corrupt` if a file of its result is damaged."""
    result = job.result
    files = {path: artifacts.get(sha256) for path, sha256 in result.get("files", {}).items()}
    gate = result.get("gate")
    if gate:
        files["gate.json"] = orjson.dumps(gate, option=orjson.OPT_INDENT_2)
        files["gate.md"] = gate_table(gate).encode()
    metrics = [("train_loss", float(loss), int(step)) for step, loss in result.get("curve", [])]
    scalars = {GATE_METRICS.get(name, name): value for name, value in _flat(result.get("metrics", {}))}
    scalars |= _gate_metrics((gate or {}).get("slices") or [])
    scalars |= {"charged_seconds": job.charged_seconds, "passes": job.passes}
    metrics += [(name, float(value), 0) for name, value in scalars.items() if _is_number(value)]
    tags = _lineage(job.stream, job) | _present(
        {
            "cls.state": job.state,
            "cls.version": job.version,
            "cls.attempt": job.attempt,
            "cls.gate": (gate or {}).get("verdict"),
            "cls.error": job.error,
            "mlflow.note.content": job_note(job),
        }
    )
    return RunRecord(
        stream=job.stream,
        job_id=job.id,
        name=f"{job.kind}-{job.id}",
        params=_params(job.input),
        metrics=metrics,
        tags=tags,
        started_at=job.started_at,
        ended_at=job.ended_at,
        failed=job.state is not JobState.SUCCEEDED,
        files=files,
    )


def _gate_metrics(slices: Sequence[Json]) -> Json:
    """Say what an update gained and forgot, in the unit of the gate's loss.

    `gain` is by how much the loss on fresh rows fell from the champion's to the candidate's; `forgetting` by how much it rose on the rows of
    earlier regimes, in the mean over these.
    """
    falls = [_fall(part) for part in slices]
    retained = [fall for fall in falls[1:] if fall is not None]
    return {
        "champion_gate_loss": slices[0].get("champion_loss") if slices else None,
        "gain": falls[0] if falls else None,
        "forgetting": -sum(retained) / len(retained) if retained else None,
    }


def _fall(part: Json) -> float | None:
    before, after = part.get("champion_loss"), part.get("candidate_loss")
    return None if before is None or after is None else float(before - after)


def version_record(version: ModelVersion, job: EndedJob | None, artifacts: ArtifactStore) -> VersionRecord:
    """Describe a version with its whole checkpoint. Raises `Corrupt` if a file of it is damaged."""
    files = {name: artifacts.get(sha256) for name, sha256 in version.files.items()}
    source = predictor_source(files.get(SPEC))
    if source is not None:
        files[PREDICTOR] = source
    tags = {} if job is None else _lineage(version.stream, job)
    tags |= _present(
        {
            "cls.stream": version.stream,
            "cls.strategy": version.strategy,
            "cls.parent": version.parent,
            "cls.job": version.job_id,
            "cls.learned_up_to": version.learned_up_to,
            "cls.reference_range": f"{version.reference_from}:{version.reference_to}",
            "cls.gate": version.gate.get("verdict"),
            "cls.created_at": version.created_at.isoformat(),
        }
    )
    tags |= {
        f"cls.sha256.{name}": sha256 for name, sha256 in version.files.items()
    }  # so that one file can be trusted
    return VersionRecord(version.stream, version.number, version.digest, version.job_id, files, tags)


def predictor_source(spec: bytes | None) -> bytes | None:
    """Return the source of a built-in model's reader that needs numpy alone; None for models without one.

    Parameters
    ----------
    spec
        The checkpoint's `model.json`.
    """
    module = None if spec is None else READERS.get(orjson.loads(spec).get("spec", {}).get("name"))
    if module is None:
        return None
    found = find_spec(module)  # its text is copied, it is never imported
    return None if found is None or found.origin is None else Path(found.origin).read_bytes()


def _lineage(stream: str, job: EndedJob) -> dict[str, str]:
    """Say where a result comes from."""
    return _present(
        {
            "cls.stream": stream,
            "cls.job": job.id,
            "cls.kind": job.kind,
            "cls.strategy": job.input.strategy,
            "cls.parent": job.input.parent,
            "cls.episode": job.input.episode,
            "cls.verdict": job.verdict,
            "cls.label_range": f"{job.input.label_from}:{job.input.label_to}",
            "cls.reason": job.input.reason,
        }
    )


def _params(job_input: JobInput) -> dict[str, str]:
    values: Json = {
        "strategy": job_input.strategy,
        "label_from": job_input.label_from,
        "label_to": job_input.label_to,
        "event_to": job_input.event_to,
        "parent": job_input.parent,
        "seed": job_input.seed,
        "threads": job_input.threads,
        "light": job_input.light,
        "onset": job_input.onset,
        "redeploy": job_input.redeploy,
        "decided_at": job_input.decided_at.isoformat(),
        "effective_at": job_input.effective_at.isoformat(),
        "versions": ",".join(str(number) for number in job_input.versions) or None,
    }
    return _present(values | dict(_flat(job_input.settings)))


def _flat(document: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a document under dotted names."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _present(values: Json) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None and value != ""}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
