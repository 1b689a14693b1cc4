"""`cls webhook`: how far each webhook has been told, trying one, and going on with one that was paused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import acting, noting
from cls.cli.groups import ListingGroup
from cls.cli.home import config_of, database, state
from cls.cli.output import AsJson, print_json, print_table
from cls.errors import NotFound, Refused

if TYPE_CHECKING:
    from cls.config import Config
    from cls.settings.http import WebhookConfig

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the webhook in cls.toml.", show_default=False)
]

webhooks = typer.Typer(
    cls=ListingGroup, help="Whom CLS tells what happens. `cls webhook` lists them.", rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(webhooks, name="webhook")


@webhooks.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List webhooks: what waits for each, what was the last error, when the last message was delivered."""
    from storage.webhooks import standings

    with state(context) as (config, connection):
        rows = [
            _row(standing, config.webhooks[standing.name])
            for standing in standings(connection, config.webhooks)
        ]
    if as_json:
        print_json(rows)
        return
    columns = {
        "name": "webhook",
        "host": "host",
        "state": "state",
        "waiting": "waiting",
        "attempts": "failed tries",
    }
    columns |= {"next_at": "next try", "delivered_at": "last delivered", "error": "last error"}
    print_table(rows, columns, empty="no webhook is configured")


def _row(standing: Any, hook: WebhookConfig) -> dict[str, Any]:
    from cls.settings.webhooks import shown

    how = "failing" if standing.attempts else "ok"
    if standing.paused:
        how = "paused"
    elif standing.position is None:
        how = "not begun"
    return {
        "name": standing.name,
        "host": shown(hook.url),
        "kinds": list(hook.kinds),
        "streams": list(hook.streams),
        "state": how,
        "position": standing.position,
        "waiting": standing.waiting,
        "attempts": standing.attempts,
        "next_at": standing.next_at,
        "delivered_at": standing.delivered_at,
        "error": standing.error,
    }


@webhooks.command("test")
def ping(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Send a signed message of type "webhook.ping" now, and print what came of it."""
    import secrets
    from datetime import UTC, datetime

    from cls.elsewhere.outbound import OutboundError
    from cls.elsewhere.signing import SecretError
    from cls.elsewhere.webhooks import body_of, tell

    config = config_of(context)
    hook = _hook(config, name)
    message_id = f"msg_ping_{secrets.token_hex(8)}"
    with database(config) as engine, noting(engine, "webhook.test", {"webhook": name, "id": message_id}):
        try:
            answer = tell(hook, message_id, body_of("webhook.ping", datetime.now(UTC), {"webhook": name}))
        except (OutboundError, SecretError) as error:
            raise Refused(f"webhook {name}: {error}") from error
    found = {"webhook": name, "id": message_id, "status": answer.status, "seconds": round(answer.seconds, 3)}
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{name}: answered {answer.status} after {answer.seconds * 1000:.0f} ms")
    if not 200 <= answer.status < 300:
        raise Refused(f"webhook {name}: {answer.status} is no success; a receiver answers 2xx")


@webhooks.command()
def resume(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Go on with a webhook at once, where it stopped: one that was paused by 410 Gone, or waits for its next try."""
    from storage.webhooks import resume as go_on

    config = config_of(context)
    _hook(config, name)
    with (
        database(config) as engine,
        acting(engine, "webhook.resume", {"webhook": name}, outcome="resumed") as connection,
    ):
        if not go_on(connection, name):
            raise NotFound(f"webhook {name} has not begun yet: no `cls worker --reports` has seen it")
    if as_json:
        print_json({"webhook": name, "outcome": "resumed"})
    else:
        typer.echo(f"{name}: resumed")


def _hook(config: Config, name: str) -> WebhookConfig:
    if name not in config.webhooks:
        from cls.settings.faults import nearest

        raise NotFound(f"no webhook is called {name!r}{nearest(name, list(config.webhooks))}")
    return config.webhooks[name]
