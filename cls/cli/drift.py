"""`cls drift`: verdicts of the detectors, one in full, and the episodes that alarms open."""

from __future__ import annotations

from typing import Annotated

import typer

from cls.cli.drift_evaluate import evaluate
from cls.cli.drift_list import listing
from cls.cli.drift_performance import performance
from cls.cli.drift_profile import profile
from cls.cli.groups import ListingGroup
from cls.cli.home import known_stream, state
from cls.cli.output import AsJson, Limit, OneStream, print_json, print_table, rows_of
from cls.errors import NotFound

VERDICT = (
    "id", "stream", "detector", "alarm", "p_value", "nats", "baseline_nats", "start", "stop", "time_from", "time_to",
    "onset", "promotion", "summary",
)  # fmt: skip
EPISODE = (
    "id", "stream", "state", "detector", "onset", "opened_at", "closed_at", "verdict_id", "assessment", "outcome",
)  # fmt: skip


drift = typer.Typer(
    cls=ListingGroup,
    help="Verdicts on windows, and episodes of drift. `cls drift [STREAM]` lists verdicts.",
    rich_markup_mode=None,
)
drift.command()(evaluate)
drift.command()(performance)
drift.add_typer(profile, name="profile")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(drift, name="drift")


Alarms = Annotated[bool, typer.Option("--alarms", help="Only alarms.")]


@drift.command("list")
def list_(
    context: typer.Context,
    stream: OneStream = None,
    alarms: Alarms = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List verdicts, the newest first."""
    from storage.drift import list_verdicts

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(list_verdicts(connection, name, alarms=alarms, limit=limit), VERDICT)
    if as_json:
        print_json(rows)
        return
    print_table(*listing(rows, one_stream=stream is not None), empty="no window was judged yet")


@drift.command()
def show(
    context: typer.Context,
    verdict: Annotated[int, typer.Argument(metavar="ID", help="Id of a verdict, from `cls drift`.")],
    as_json: AsJson = False,
) -> None:
    """Show one verdict: what moved and where its values went, since when, how sure that is, and what it means."""
    from cls.cli.drift_show import print_verdict
    from cls.cli.drift_verdict import episode_of, histograms_of, report_of, series_of, version_of
    from storage.drift import show_verdict

    with state(context) as (config, connection):
        row = show_verdict(connection, verdict)
        if row is None:
            raise NotFound(f"no verdict {verdict}: `cls drift` lists them")
        found = rows_of([row], (*VERDICT, "drift", "losses", "diagnosis"))[0]
        histograms, error = histograms_of(config, connection, row)
        found["version"] = version_of(connection, row)
        found["episode"] = episode_of(connection, row)
        found["report"] = report_of(config, connection, row, found["episode"])
        found["series"] = series_of(connection, row)
        found["histograms"] = [histogram.to_json() for histogram in histograms.values()]
        found["histograms_error"] = error
    if as_json:
        print_json(found)
        return
    print_verdict(found, histograms)


@drift.command()
def episodes(
    context: typer.Context, stream: OneStream = None, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List episodes: what an alarm opened, and how it was answered."""
    from storage.drift import list_episodes

    with state(context) as (config, connection):
        name = None if stream is None else known_stream(config, stream)
        rows = rows_of(list_episodes(connection, name, limit), EPISODE)
    if as_json:
        print_json(rows)
        return
    columns = {"id": "id", "stream": "stream", "state": "state", "detector": "detector", "onset": "onset"}
    columns |= {"opened_at": "opened", "closed_at": "closed", "verdict_id": "verdict", "outcome": "outcome"}
    print_table(rows, columns, empty="no alarm was raised yet")
