"""`cls send STREAM FILE`: a file to the HTTP inbox, in numbered requests, so that it can be broken off and begun again."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.exits import FAILED, say
from cls.cli.home import config_of, database, known_stream
from cls.cli.output import AsJson, Stream, print_json
from cls.errors import BadData, CLSError, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    import httpx
    import pyarrow as pa

    from cls.config import Config
    from storage.pieces import Piece

TRIES = 6  # of one request, while the inbox says that it cannot take it now
ARROW = "application/vnd.apache.arrow.stream"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(send)


def send(
    context: typer.Context,
    stream: Stream,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, CSV or NDJSON.")],
    labels: Annotated[bool, typer.Option("--labels", help="The file has labels, not events.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, max=100_000, help="Rows per request.")] = 1000,
    producer: Annotated[
        str | None,
        typer.Option(
            "--producer",
            help="Name under which requests are numbered. [default: of the file and its content]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a file to the inbox of `cls daemon`, with the token in $CLS_TOKEN. Sent again, it goes on where it stopped; no row is taken twice."""
    config = config_of(context)
    name = known_stream(config, stream)
    kind = "labels" if labels else "events"
    if not file.is_file():
        raise NotFound(f"there is no file {file}")
    producer = producer or f"{file.name[:120]}-{_hash(file)}-{kind}-{rows}"
    done = _sent_before(config, name, producer)
    counts = {"requests": 0, "rows": 0, "duplicates": 0, "malformed": 0}
    import httpx

    from cls.doors.calling import token_headers, trust_of, url_of

    began = time.monotonic()
    url = f"{url_of(config, config.http.ingest)}/v1/streams/{name}/{kind}"
    with httpx.Client(
        timeout=90.0, trust_env=False, verify=trust_of(config), headers=token_headers()
    ) as client:
        for sequence, piece in enumerate(_pieces(file, rows)):
            if piece.fault is not None:
                say(f"not sent: {piece.fault.reason}")
                counts["malformed"] += piece.rows
            elif sequence > done:
                headers = {"X-CLS-Producer": producer, "X-CLS-Sequence": str(sequence), "Content-Type": ARROW}
                receipt = _post(client, url, headers, _body(piece.table))
                counts["requests"] += 1
                counts["duplicates" if receipt["duplicate"] else "rows"] += piece.rows
            else:
                counts["duplicates"] += piece.rows
            _show(counts, began)
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if as_json:
        print_json({"stream": name, "kind": kind, "producer": producer, **counts})
    else:
        known = f", {counts['duplicates']} were there already" if counts["duplicates"] else ""
        typer.echo(f"{name}: {counts['rows']} {kind} taken in{known}")
    if counts["malformed"]:
        say(f"{counts['malformed']} records of {file} are malformed and were not sent")
        raise typer.Exit(FAILED)


def _pieces(file: Path, rows: int) -> Iterator[Piece]:
    from storage.file_readers import FORMATS, format_of

    form = format_of(file)
    if form is None:
        raise BadData(f"{file}: its suffix tells no known format; known are {', '.join(FORMATS)}")
    try:
        with closing(FORMATS[form](file)) as reader:
            while (piece := reader.read(rows)) is not None:
                yield piece
    except (OSError, ValueError) as error:  # Arrow's faults are ValueErrors
        raise BadData(f"{file}: cannot be read: {error}") from error


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _sent_before(config: Config, stream: str, producer: str) -> int:
    """Return the last number that was acknowledged, -1 for none; without the database, the inbox itself will tell."""
    from storage.db import reading
    from storage.inbox import last_sequence

    try:
        with database(config) as engine, reading(engine) as connection:
            last = last_sequence(connection, stream, producer)
    except CLSError:
        return -1
    return -1 if last is None else last


def _body(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _post(client: httpx.Client, url: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Send one request until it is acknowledged."""
    import httpx

    reason = ""
    for attempt in range(TRIES):
        try:
            response = client.post(url, headers=headers, content=body)
        except httpx.TransportError as error:
            reason, wait = str(error) or type(error).__name__, min(0.5 * 2**attempt, 10.0)
        else:
            if response.status_code == 202:
                receipt: dict[str, Any] = response.json()
                return receipt
            reason = _reason(response)
            if response.status_code not in (429, 502, 503, 504):
                raise Refused(
                    f"request {headers['X-CLS-Sequence']} was refused ({response.status_code}): {reason}"
                )
            wait = float(response.headers.get("Retry-After", 1))
        if attempt < TRIES - 1:
            time.sleep(wait)
    raise Unavailable(
        f"{url} does not take it in: {reason}; is `cls daemon` running? The same command goes on from here"
    )


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _show(counts: dict[str, int], began: float) -> None:
    if sys.stderr.isatty():
        total = counts["rows"] + counts["duplicates"]
        rate = total / max(time.monotonic() - began, 1e-3)
        sys.stderr.write(f"\r{total:,} rows, {rate:,.0f} a second ")
        sys.stderr.flush()
