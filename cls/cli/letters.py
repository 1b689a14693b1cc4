"""`cls dead-letters`: records that could not be used, and sending them in again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.asks import acting
from cls.cli.exits import USAGE, end
from cls.cli.groups import ListingGroup
from cls.cli.home import config_of, database, known_stream, state
from cls.cli.output import AsJson, Limit, OneStream, Stream, print_json, print_table, rows_of
from cls.errors import NotFound

if TYPE_CHECKING:
    from storage.inbox import Inbox

LETTER = ("id", "stream", "kind", "reason", "record", "received_at", "replayed_at")
PRODUCER = "replay"  # in the inbox; its sequence is the letter's id, so that a letter is taken once
_SENDERS = 16

letters = typer.Typer(
    cls=ListingGroup,
    help="Records that could not be used. `cls dead-letters [STREAM]` lists them.",
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(letters, name="dead-letters")


@letters.command("list")
def list_(
    context: typer.Context,
    stream: OneStream = None,
    limit: Limit = 20,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also those that were sent in again.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters with their reasons, the newest first."""
    from storage.streams import list_dead_letters

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(list_dead_letters(connection, name, limit=limit, replayed=replayed), LETTER)
    if as_json:
        print_json(rows)
        return
    columns = {"id": "id", "stream": "stream", "kind": "kind", "received_at": "received"}
    columns |= {"reason": "reason", "record": "record"}
    print_table(rows, columns, empty="no dead letters")


@letters.command()
def replay(
    context: typer.Context,
    stream: Stream,
    ids: Annotated[
        list[int] | None, typer.Option("--id", metavar="N", help="A letter's id; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not sent in again yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters in again, as they came: after the schema, a label or an event was put right."""
    from storage.db import reading
    from storage.inbox import Inbox
    from storage.overview import dead_letter_ids, show_dead_letters
    from storage.streams import mark_replayed

    if bool(ids) == everything:
        end("say which: --id N (may be repeated), or --all", USAGE)
    config = config_of(context)
    name = known_stream(config, stream)
    with database(config) as engine:
        with reading(engine) as connection:
            wanted = dead_letter_ids(connection, name) if everything else sorted(set(ids or []))
            found = show_dead_letters(connection, name, wanted)
        noted: dict[str, Any] = {"all": True} if everything else {"ids": wanted}
        if missing := sorted(set(wanted) - {letter.id for letter in found}):
            with acting(engine, "dead-letters.replay", noted, name):
                raise NotFound(f"stream {name} has no dead letter {', '.join(map(str, missing))}")
        with acting(engine, "dead-letters.replay", dict(noted), name, "asked"):
            pass  # written before anything is sent: whoever is killed on the way leaves a trace
        inbox = Inbox(engine, config.home / "inbox")
        try:
            outcomes = _send(inbox, name, found)
        finally:
            inbox.close()
        sent = [row["id"] for row in outcomes if row["outcome"] == "sent"]
        noted["sent"] = len(sent)
        with acting(engine, "dead-letters.replay", noted, name) as connection:
            mark_replayed(connection, sent)
    if as_json:
        print_json(outcomes)
        return
    print_table(
        [row for row in outcomes if row["outcome"] != "sent"],
        {"id": "id", "kind": "kind", "outcome": "not sent because"},
        empty=f"{len(sent)} sent in again" if sent else "nothing to send",
    )


def _send(inbox: Inbox, stream: str, found: list[Any]) -> list[dict[str, Any]]:
    """Put each letter into the inbox as one request; many at once share a commit."""

    def send(letter: Any) -> dict[str, Any]:
        return {"id": letter.id, "kind": letter.kind, "outcome": _send_one(inbox, stream, letter)}

    with ThreadPoolExecutor(_SENDERS) as pool:
        return list(pool.map(send, found))


def _send_one(inbox: Inbox, stream: str, letter: Any) -> str:
    if letter.replayed_at is not None:
        return "it was sent in again already"
    if letter.kind not in ("events", "labels"):
        return f"it is a fault of the {letter.kind}, not a record"
    from cls.columns.records import to_table

    inbox.put(stream, PRODUCER, letter.id, letter.kind, to_table([letter.record]))
    return "sent"
