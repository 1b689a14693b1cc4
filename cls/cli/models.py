"""`cls models list|show|promote|rollback|export`, `cls rollback`: versions of a stream's model, and who serves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cls.cli.asks import Timeout, ask, noting
from cls.cli.home import config_of, database, known_stream, state
from cls.cli.jobs import likeness_of
from cls.cli.output import AsJson, Limit, Stream, print_json, print_pairs, print_table, rows_of
from cls.errors import NotFound

VERSION = (
    "stream", "number", "digest", "parent", "job_id", "strategy", "learned_up_to", "reference_from", "reference_to",
    "created_at", "metrics", "gate", "files",
)  # fmt: skip
ROLLOUT = (
    "id",
    "version",
    "parent",
    "state",
    "light",
    "effective_at",
    "started_at",
    "ended_at",
    "paired_n",
    "reason",
)


class Form(StrEnum):
    """What a version is exported as."""

    cls = "cls"
    onnx = "onnx"
    mlflow = "mlflow"


Number = Annotated[int, typer.Argument(metavar="NUMBER", help="Number of a version, from `cls models list`.")]

models = typer.Typer(help="Versions of a stream's model.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(models, name="models")
    app.command("rollback")(rollback)
    models.command("rollback")(rollback)


@models.command("list")
def list_(context: typer.Context, stream: Stream, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List versions, the newest first."""
    from storage.versions import champion, list_rollouts, list_versions

    with state(context) as (config, connection):
        name = known_stream(config, stream)
        serving = champion(connection, name)
        rollouts = {row.version: row.state for row in reversed(list_rollouts(connection, name, limit * 2))}
        rows = rows_of(
            list_versions(connection, name, limit), [key for key in VERSION if key not in ("gate", "files")]
        )
    for row in rows:
        row["role"] = None
        if serving is not None and row["number"] in (serving.version, serving.previous):
            row["role"] = "champion" if row["number"] == serving.version else "previous"
        row["rollout"] = rollouts.get(row["number"])
    if as_json:
        print_json(rows)
        return
    columns = {
        "number": "version",
        "role": "role",
        "rollout": "rollout",
        "strategy": "strategy",
        "parent": "parent",
    }
    columns |= {
        "learned_up_to": "labels learned",
        "loss": "gate loss",
        "created_at": "created",
        "job_id": "job",
    }
    listed = [row | {"loss": row["metrics"].get("loss")} for row in rows]
    print_table(listed, columns, empty=f"stream {stream} has no version yet")


@models.command()
def show(context: typer.Context, stream: Stream, number: Number, as_json: AsJson = False) -> None:
    """Show one version: where it comes from, what its gate said, how it was rolled out."""
    from storage.job_rows import show as job_row
    from storage.versions import champion, list_promotions, list_rollouts, read_version

    with state(context) as (config, connection):
        name = known_stream(config, stream)
        version = rows_of([read_version(connection, name, number)], VERSION)[0]
        serving = champion(connection, name)
        rollouts = rows_of(
            [row for row in list_rollouts(connection, name, 1000) if row.version == number], ROLLOUT
        )
        promotions = rows_of(
            [row for row in list_promotions(connection, name) if row.version == number],
            ("id", "since", "at", "previous", "reason"),
        )
        job = version["job_id"]
        likeness = likeness_of(None if job is None else job_row(connection, job).result)
    version["champion"] = serving is not None and serving.version == number
    version |= likeness
    if as_json:
        print_json(version | {"rollouts": rollouts, "promotions": promotions})
        return
    first = {key: version[key] for key in (*VERSION[:10], "champion", *likeness)}
    print_pairs(first, title=f"{stream} version {number}")
    print_pairs(version["metrics"], title="metrics")
    _print_gate(version["gate"])
    print_table(rollouts, {key: key for key in ROLLOUT if key != "version"}, title="rollouts", empty="none")
    print_table(
        promotions,
        {"at": "stream time", "since": "from event", "reason": "reason"},
        title="served",
        empty="never",
    )


def _print_gate(gate: dict[str, Any]) -> None:
    if not gate:
        return
    print_pairs({"verdict": gate.get("verdict"), "reason": gate.get("reason")}, title="gate")
    columns = {"name": "slice", "rows": "rows", "champion_loss": "champion", "candidate_loss": "candidate"}
    columns |= {"lower": "change, from", "upper": "to", "verdict": "verdict"}
    slices = [{key: one.get(key) for key in columns} for one in gate.get("slices", [])]
    print_table(slices, columns, empty="no slices")


@models.command()
def promote(
    context: typer.Context, stream: Stream, number: Number, timeout: Timeout = 10.0, as_json: AsJson = False
) -> None:
    """Make a version champion at once, past gate and rollout. The ledger says who did it."""
    config = config_of(context)
    name = known_stream(config, stream)
    with database(config) as engine:
        outcome = ask(engine, name, "promote", {"version": number}, timeout)
    _answer(name, outcome, as_json=as_json)


@models.command("export")
def export_(
    context: typer.Context,
    stream: Stream,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory to write; it appears whole.")],
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="NUMBER",
            help="Number of a version; the champion's, if none is given.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="cls: weights and a reader in numpy; onnx: one graph; mlflow: what MLflow serves.",
        ),
    ] = Form.cls,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version's files for those who serve elsewhere, after trying that they predict what it does."""
    from cls.elsewhere.export import export
    from storage.artifacts import DiskArtifacts
    from storage.versions import champion, read_version

    with state(context) as (config, connection):
        name = known_stream(config, stream)
        serving = champion(connection, name)
        if number is None and serving is None:
            raise NotFound(f"stream {name} has no champion yet")
        version = read_version(connection, name, number or (serving.version if serving else 0))
    noted = {"version": version.number, "format": form.value, "to": str(to)}
    with database(config) as engine, noting(engine, "models.export", noted, name):
        made = export(
            version,
            DiskArtifacts(config.home / "artifacts"),
            to,
            form.value,
            models=config.models,
            derivations=config.streams[name].columns.derivations,
            force=force,
        )
    if as_json:
        print_json(
            {
                "stream": name,
                "version": version.number,
                "path": made.path,
                "format": made.format,
                "tried_rows": made.tried_rows,
                "files": made.files,
            }
        )
        return
    typer.echo(f"{name} version {version.number} as {made.format} in {made.path}:")
    for file in made.files:
        typer.echo(f"  {file}")
    typer.echo(
        f"{made.tried_rows} rows predicted alike"
        if made.tried_rows
        else "only CLS itself predicts with it: not tried"
    )


def rollback(
    context: typer.Context, stream: Stream, timeout: Timeout = 10.0, as_json: AsJson = False
) -> None:
    """Let the previous version serve again, at once and without training."""
    config = config_of(context)
    name = known_stream(config, stream)
    with database(config) as engine:
        outcome = ask(engine, name, "rollback", {}, timeout)
    _answer(name, outcome, as_json=as_json)


def _answer(stream: str, outcome: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"stream": stream, "outcome": outcome})
    else:
        typer.echo(f"{stream}: {outcome}")
