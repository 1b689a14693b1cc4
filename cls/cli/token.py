"""`cls token create|list|revoke`: who may call the HTTP doors, and what for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import acting, requester
from cls.cli.exits import USAGE, end, say
from cls.cli.home import config_of, database, state
from cls.cli.output import AsJson, print_json, print_table, rows_of

if TYPE_CHECKING:
    from datetime import timedelta

TOKEN = ("id", "name", "scopes", "created_by", "created_at", "expires_at", "revoked_at", "used_at")

token = typer.Typer(help="Tokens of those who call over HTTP.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(token, name="token")


@token.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="ingest, predict, read, operate or admin; may be repeated."),
    ],
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="DURATION", help='As "90d". [default: when it is revoked]'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. This is the only time that it can be seen: CLS keeps no more than a hash."""
    from cls.doors.tokens import SCOPES, make
    from storage.tokens import add_token

    for one in scope:
        if one not in SCOPES:
            from cls.settings.faults import nearest

            end(f"no scope is called {one!r}{nearest(one, list(SCOPES))}", USAGE)
    if not 0 < len(name) <= 63 or not name.isprintable():
        end("a token's name has 1 to 63 printable characters", USAGE)
    lifetime = None if expires is None else _duration(expires)
    fresh = make()
    noted: dict[str, Any] = {"id": fresh.id, "name": name, "scopes": sorted(set(scope)), "expires": expires}
    with database(config_of(context)) as engine, acting(engine, "token.create", noted) as connection:
        until = add_token(connection, fresh, name, scope, lifetime, requester())
    if as_json:
        shown = {"id": fresh.id, "name": name, "scopes": noted["scopes"], "expires_at": until}
        print_json(shown | {"token": fresh.text}, secrets=True)
    else:
        typer.echo(fresh.text)
        say(f"keep it now, it is not shown again; `cls token revoke {fresh.id}` ends it")


@token.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List tokens, the newest first; the secrets are not known."""
    from storage.tokens import list_tokens

    with state(context) as (_, connection):
        rows = rows_of(list_tokens(connection), TOKEN)
    if as_json:
        print_json(rows)
        return
    columns = {
        "id": "id",
        "name": "name",
        "scopes": "scopes",
        "created_at": "created",
        "expires_at": "expires",
    }
    columns |= {"revoked_at": "revoked", "used_at": "last used"}
    print_table([row | {"scopes": " ".join(row["scopes"])} for row in rows], columns, empty="no tokens yet")


@token.command()
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a token, from `cls token list`.")],
    as_json: AsJson = False,
) -> None:
    """End a token. The processes learn of it within seconds."""
    from storage.tokens import revoke_token

    with (
        database(config_of(context)) as engine,
        acting(engine, "token.revoke", {"id": token_id[:64]}) as connection,
    ):
        revoke_token(connection, token_id)
    if as_json:
        print_json({"id": token_id, "state": "revoked"})
    else:
        typer.echo(f"token {token_id} was revoked")


def _duration(text: str) -> timedelta:
    from datetime import timedelta

    from cls.settings.toml_text import parse_duration

    try:
        lifetime = parse_duration(text)
    except ValueError as error:
        end(f"--expires: {error}", USAGE)
    if not isinstance(lifetime, timedelta) or not timedelta() < lifetime <= timedelta(days=36500):
        end("--expires must be above zero, and at most 36500d", USAGE)
    return lifetime
