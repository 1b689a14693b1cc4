"""`cls jobs list|show|cancel|retry`: the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import acting
from cls.cli.home import config_of, database, known_stream, state
from cls.cli.output import AsJson, Limit, OneStream, print_json, print_pairs, print_table, rows_of
from cls.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy import Engine

JOB = (
    "id", "stream", "kind", "state", "priority", "attempt", "failures", "crashes", "worker", "cancel_requested",
    "created_at", "run_at", "started_at", "ended_at", "decided_at", "charged_seconds", "passes", "progress", "error",
)  # fmt: skip
Id = Annotated[int, typer.Argument(metavar="ID", help="Id of a job, from `cls jobs list`.")]

jobs = typer.Typer(help="The queue of jobs.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(jobs, name="jobs")


@jobs.command("list")
def list_(
    context: typer.Context, stream: OneStream = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List jobs, the newest first."""
    from storage.job_rows import listing

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(listing(connection, name, limit), (*JOB, "input", "result"))
    for row in rows:
        job_input, result = row.pop("input"), row.pop("result")
        row.update(strategy=job_input.get("strategy"), reason=job_input.get("reason"), **likeness_of(result))
    if as_json:
        print_json(rows)
        return
    columns = {
        "id": "id",
        "stream": "stream",
        "kind": "kind",
        "state": "state",
        "strategy": "strategy",
        "step": "step",
    }
    columns |= {"decided_at": "decided (stream time)", "charged_seconds": "device s", "attempt": "attempt"}
    columns |= {"reason": "reason", "error": "error"}
    print_table([row | {"step": step_of(row["progress"])} for row in rows], columns, empty="no jobs yet")


@jobs.command()
def show(context: typer.Context, job: Id, as_json: AsJson = False) -> None:
    """Show one job in full: its frozen input, its progress, its result."""
    from storage import job_rows

    with state(context) as (_, connection):
        row = rows_of([job_rows.show(connection, job)], (*JOB, "input", "result"))[0]
    row["input"] = _readable(row["input"])
    if as_json:
        print_json(row | likeness_of(row["result"]))
        return
    print_pairs({name: row[name] for name in JOB if row[name] is not None}, title=f"job {job}")
    print_pairs({k: v for k, v in row["input"].items() if v is not None and k != "settings"}, title="input")
    if row["result"]:
        found = {name: value for name, value in likeness_of(row["result"]).items() if value is not None}
        print_pairs(row["result"] | found, title="result")


def _readable(job_input: dict[str, Any]) -> dict[str, Any]:
    from cls.times import from_us

    times = {name: from_us(job_input[name]) for name in ("decided_at", "effective_at") if name in job_input}
    return job_input | times


@jobs.command()
def cancel(context: typer.Context, job: Id, as_json: AsJson = False) -> None:
    """Cancel a queued job at once; ask a running one to stop at its next step."""
    from storage import queue

    with (
        database(config_of(context)) as engine,
        acting(engine, "jobs.cancel", {"job": job}, _stream_of(engine, job)) as connection,
    ):
        now = queue.cancel(connection, job)
    if as_json:
        print_json({"id": job, "state": now})
    else:
        typer.echo(f"job {job} {'was cancelled' if now == 'cancelled' else 'was asked to stop'}")


@jobs.command()
def retry(context: typer.Context, job: Id, as_json: AsJson = False) -> None:
    """Queue a dead or cancelled job again, its counters at zero."""
    from storage import queue

    with (
        database(config_of(context)) as engine,
        acting(engine, "jobs.retry", {"job": job}, _stream_of(engine, job)) as connection,
    ):
        queue.retry(connection, job)
    if as_json:
        print_json({"id": job, "state": "queued"})
    else:
        typer.echo(f"job {job} is queued again")


def _stream_of(engine: Engine, job: int) -> str | None:
    """Return the stream of a job for the audit, None if there is no such job: the command itself will say so."""
    from storage import job_rows
    from storage.db import reading

    with reading(engine) as connection:
        try:
            return str(job_rows.show(connection, job).stream)
        except NotFound:
            return None


def likeness_of(result: dict[str, Any] | None) -> dict[str, Any]:
    """Return how like earlier regimes a job found the new one, and the epochs it took, as a multiple of the recipe's."""
    found = result or {}
    similarity = found.get("similarity") or {}
    return {
        "similarity": similarity.get("kind"),
        "distance": similarity.get("distance"),
        "effort": found.get("effort"),
    }


def step_of(progress: dict[str, Any] | None) -> str | None:
    """Return a job's progress in few letters."""
    if not progress or "step" not in progress:
        return None
    return f"{progress['step']}/{progress['steps']}" if progress.get("steps") else str(progress["step"])
