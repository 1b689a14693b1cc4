"""`cls rollout list|show|pause|resume|approve|abort`: how far a candidate is on its way to users, and who holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import Timeout, ask
from cls.cli.home import config_of, database, known_stream, state
from cls.cli.output import (
    AsJson,
    Limit,
    OneStream,
    Stream,
    plain,
    print_json,
    print_pairs,
    print_table,
    rows_of,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cls.config import StreamConfig

ROWS = (
    "id", "stream", "version", "parent", "state", "share", "light", "paused_at", "approved", "effective_at", "started_at",
    "step_at", "deadline_at", "ended_at", "paired_n", "reason", "fault",
)  # fmt: skip
Identity = Annotated[
    int | None,
    typer.Option("--id", help="A rollout from the list. [default: the newest]", show_default=False),
]

rollout = typer.Typer(
    help="A candidate's way to users, step by step.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(rollout, name="rollout")


@rollout.command("list")
def list_(
    context: typer.Context, stream: OneStream = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List rollouts, the newest first."""
    from storage.versions import list_rollouts

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(list_rollouts(connection, name, limit), ROWS)
    if as_json:
        print_json(rows)
        return
    columns = {"id": "id", "stream": "stream", "version": "version", "state": "state", "paired_n": "rows"}
    columns |= {"started_at": "since", "reason": "reason"}
    listed = [row | {"state": _state(row)} for row in rows]
    print_table(listed, columns, empty="no candidate has been rolled out yet")


@rollout.command()
def show(context: typer.Context, stream: Stream, identity: Identity = None, as_json: AsJson = False) -> None:
    """Show one rollout: where it stands, what it waits for, and what its evidence says."""
    from cls.errors import NotFound
    from storage.versions import list_rollouts

    with state(context) as (config, connection):
        name = known_stream(config, stream)
        found = list_rollouts(connection, name, 1 if identity is None else 10_000)
        row = next((one for one in found if identity in (None, one.id)), None)
        if row is None:
            raise NotFound(
                f"stream {name} has no rollout{'' if identity is None else f' {identity}'}: `cls rollout list`"
            )
        shown = rows_of([row], ROWS)[0]
        evidence = _evidence(connection, config.streams[name], row)
    if as_json:
        print_json(shown | {"evidence": evidence})
        return
    print_pairs(
        {key: value for key, value in shown.items() if key not in ("id", "stream")}
        | {"state": _state(shown)},
        title=f"{name} rollout {row.id}",
    )
    print_pairs(evidence, title="evidence of this stage")


def _evidence(connection: Connection, settings: StreamConfig, row: Any) -> dict[str, Any]:
    from storage.evidence import health_of
    from storage.versions import MOVING, rollout_of

    if row.state not in MOVING:
        return {}
    health = health_of(connection, rollout_of(row), settings.rollout)
    found = {"finding": health.finding.value, "reason": health.reason, "answered": health.answered}
    return dict(plain(found | health.measures))


@rollout.command()
def pause(context: typer.Context, stream: Stream, timeout: Timeout = 10.0, as_json: AsJson = False) -> None:
    """Hold a candidate where it is, its deadline too. One that turns out worse goes back all the same."""
    _ask(context, stream, "pause", timeout, as_json=as_json)


@rollout.command()
def resume(context: typer.Context, stream: Stream, timeout: Timeout = 10.0, as_json: AsJson = False) -> None:
    """Let a paused candidate go on."""
    _ask(context, stream, "resume", timeout, as_json=as_json)


@rollout.command()
def approve(context: typer.Context, stream: Stream, timeout: Timeout = 10.0, as_json: AsJson = False) -> None:
    """Agree to a candidate's next stage, where `rollout.approval` asks for it."""
    _ask(context, stream, "approve", timeout, as_json=as_json)


@rollout.command()
def abort(context: typer.Context, stream: Stream, timeout: Timeout = 10.0, as_json: AsJson = False) -> None:
    """Send a candidate back now. The champion goes on serving."""
    _ask(context, stream, "abort", timeout, as_json=as_json)


def _ask(context: typer.Context, stream: str, kind: str, timeout: float, *, as_json: bool) -> None:
    config = config_of(context)
    name = known_stream(config, stream)
    with database(config) as engine:
        outcome = ask(engine, name, kind, {}, timeout)
    if as_json:
        print_json({"stream": name, "outcome": outcome})
    else:
        typer.echo(f"{name}: {outcome}")


def _state(row: dict[str, Any]) -> str:
    canary = f" {row['share']:.0%}" if row["state"] == "canary" else ""
    return f"{row['state']}{canary}{', paused' if row['paused_at'] is not None and row['ended_at'] is None else ''}"
