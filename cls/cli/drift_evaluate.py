"""`cls drift evaluate FILE`: how soon detectors find what is known to have changed, and how often they alarm at nothing."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cls.cli.exits import FAILED, INTERRUPTED, USAGE, end, say
from cls.cli.home import config_of, known_stream
from cls.cli.output import AsJson, print_json, print_table, short

if TYPE_CHECKING:
    from cls.drift_evaluation import Recorded, Result

COLUMNS = {
    "detector": "detector",
    "alarms": "alarms",
    "alarms_per_10000": "per 10,000",
    "false_alarms": "false",
    "between": "rows between false",
    "mean_delay_rows": "mean delay",
    "median_delay_rows": "median",
    "missed": "missed",
    "repeats": "repeats",
    "mean_time_ratio": "ratio",
    "cpu_seconds": "CPU s",
}


def evaluate(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The recorded stream, in order: Parquet, CSV or NDJSON.")
    ],
    changes: Annotated[
        str | None,
        typer.Option(
            "--changes",
            metavar="ROWS",
            help="Where it is known to change: rows of the file from 0, as 25192 or 25192-30000, by commas; or none.",
        ),
    ] = None,
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            metavar="NAME",
            help="Which detectors: kl, adwin, always ... [default: the usual ones]",
        ),
    ] = None,
    reference_rows: Annotated[
        int | None,
        typer.Option(
            "--reference-rows",
            min=100,
            help="First rows, which are the reference. [default: the stream's, at most a fifth of the file]",
        ),
    ] = None,
    window_rows: Annotated[
        int | None,
        typer.Option("--window-rows", min=10, help="Rows of a window. [default: the stream's, or 1000]"),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream", metavar="NAME", help="Whose schema and thresholds to use. [default: inferred]"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run detectors over a recorded stream: delay, false alarms and misses, beside always and never alarming."""
    settings = None
    if stream is not None:
        config = config_of(context)
        settings = config.streams[known_stream(config, stream)]
    from cls.drift_evaluation import BadChanges, makers, read_recorded, run

    chosen = makers(detectors or [], settings)
    try:
        recorded = read_recorded(file, settings, changes, reference_rows, window_rows, say)
    except BadChanges as error:
        end(str(error), USAGE)
    results: list[Result] = []
    stopped = False
    for name, maker in chosen.items():
        result, stopped = run(name, maker, recorded, partial(_show, name, recorded.rows))
        _done(result)
        results.append(result)
        if stopped:
            break
    _print(recorded, results, as_json=as_json)
    if stopped:
        left = [name for name in chosen if name not in {result.detector for result in results}]
        end("stopped" + (f"; not begun: {', '.join(left)}" if left else ""), INTERRUPTED)
    if any(result.error or result.blind for result in results):
        raise typer.Exit(FAILED)


def _show(name: str, rows: int, seen: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{name}: {seen:,} of {rows:,} rows ")
        sys.stderr.flush()


def _done(result: Result) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    if result.blind is not None:
        say(f"{result.detector}: {result.blind}")
    elif result.error is not None:
        say(f"{result.detector}: failed behind row {result.seen}: {result.error}")
    elif result.evaluation is None:
        say(f"{result.detector}: stopped behind row {result.seen}, {len(result.alarms)} alarms until then")
    else:
        say(f"{result.detector}: {len(result.alarms)} alarms, {result.cpu_seconds:.1f} CPU seconds")


def _print(recorded: Recorded, results: list[Result], *, as_json: bool) -> None:
    from detectors.evaluation import spans_of

    known = None if recorded.changes is None else spans_of(recorded.changes, recorded.rows)
    if as_json:
        print_json(
            {
                "file": str(recorded.path),
                "rows": recorded.rows,
                "reference_rows": recorded.reference_rows,
                "window_rows": recorded.window_rows,
                "features": list(recorded.columns),
                "left_out": [{"name": name, "why": why} for name, why in recorded.left_out.items()],
                "changes": None if known is None else [{"onset": onset, "end": end} for onset, end in known],
                "detectors": [result.to_json() for result in results],
            }
        )
        return
    rows = [_row(result.to_json()) for result in results]
    print_table(rows, COLUMNS, title=f"{recorded.path.name}: {_told(recorded, known)}")


def _row(document: dict[str, Any]) -> dict[str, Any]:
    row = {key: document.get(key) for key in COLUMNS}
    between, low = (document.get(f"rows_between_false_alarms{end}") for end in ("", "_low"))
    # Without a false alarm there is no mean, only a bound below which it hardly lies.
    row["between"] = short(between) if between is not None else "-" if low is None else f">= {short(low)}"
    return row


def _told(recorded: Recorded, known: list[tuple[int, int]] | None) -> str:
    if known is None:
        told = "changes not known (--changes), so alarms are counted and not judged"
    elif not known:
        told = "no change, so every alarm is false"
    else:
        told = "known changes at rows " + ", ".join(f"{onset}-{end}" for onset, end in known)
    return f"{recorded.rows - recorded.reference_rows} rows behind a reference of {recorded.reference_rows}, {told}"
