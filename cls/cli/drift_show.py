"""`cls drift show`: one verdict in 80 columns. What moved, since when, how sure that is, what it means, where the report lies."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cls.cli.drift_bars import bars, columns, limit_row
from cls.cli.output import console, print_table
from cls.shortening import shortened, told_apart

if TYPE_CHECKING:
    from cls.domain import Json
    from cls.plots.attribution import Histogram
    from detectors.verdict import Drift, PairDrift

WIDTH = 80
LISTED, DRAWN = 10, 4  # features
BINS = 8  # of each that is drawn
LEAST_SHARE = 0.01  # of the drift, from which a feature is listed
NAME = 40
CHART = 4  # lines
PAIRS = 3


def print_verdict(found: Json, histograms: Mapping[str, Histogram]) -> None:
    """Print what `cls.cli.drift.show` found; the histograms are those of its features."""
    from cls.verdict_words import chance_sentence, headline, rows_sentence
    from detectors.verdict import Drift

    _say(
        headline(
            found["stream"],
            found["detector"],
            found["start"],
            found["stop"],
            found["onset"],
            alarm=found["alarm"],
        ),
        style="bold",
    )
    window = f"verdict {found['id']}: events {found['start']:,} to {found['stop']:,}, {_times(found)}"
    _say(window)
    drift = Drift.from_json(found["drift"]) if found["drift"] else None
    if drift is None:
        _say(found["summary"])
    else:
        against = "" if found["version"] is None else f" of version {found['version']}"
        _say(f"{drift.rows:,} rows against the {drift.reference_rows:,} of the reference{against}")
        _say(chance_sentence(drift), style="bold red" if drift.alarm else "")
        needed = rows_sentence(drift)
        if needed:
            _say(needed, style="red")
    _print_diagnosis(found)
    _print_series(found["series"], drift, found["onset"], alarm=found["alarm"])
    if drift is not None:
        _print_features(drift, histograms)
        print_pairs(drift.pairs)
    if found["histograms_error"]:
        _say(f"Only the bins that the verdict names: {found['histograms_error']}", style="dim")
    _print_report(found)


def _say(text: str, *, style: str = "", indent: str = "") -> None:
    from rich.text import Text

    lines = textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=True) or [""]
    for line in lines:
        console().print(Text(line, style=style), soft_wrap=True)


def _times(found: Json) -> str:
    return f"{found['time_from']:%Y-%m-%d %H:%M} to {found['time_to']:%Y-%m-%d %H:%M} UTC"


def _print_diagnosis(found: Json) -> None:
    from cls.verdict_words import KINDS

    diagnosis, losses = found["diagnosis"], found["losses"]
    if diagnosis:
        style = {"harmless": "green", "unclear": "yellow"}.get(diagnosis["kind"], "red")
        console().print()
        _say(f"Diagnosis: {KINDS.get(diagnosis['kind'], diagnosis['kind'])}", style=f"bold {style}")
        for sentence in diagnosis["evidence"]:
            _say(f"  - {sentence}", indent="    ")
    elif losses:
        low, high = losses["low"], losses["high"]
        text = f"mean loss expected {losses['mean']:.4g} ({low:.4g} to {high:.4g}), on the reference {losses['base']:.4g}"
        _say(text)


def _print_series(series: Sequence[Json], drift: Drift | None, onset: int, *, alarm: bool) -> None:
    """Draw the divergence of the last windows, and how unlikely it was, with the threshold of whichever decides."""
    from cls.verdict_words import SURE, is_calibrated

    if drift is None or all(point["nats"] is None for point in series):
        return
    console().print()
    if is_calibrated(drift):
        title = f"excess nats of the last {len(series)} windows"
        _print_chart(title, [point["nats"] for point in series], None, "")
        unlikely = [
            None if point["p_value"] is None else -math.log10(max(point["p_value"], SURE)) for point in series
        ]
        limit = -math.log10(drift.threshold)
        _print_chart("p-values, smaller upwards", unlikely, limit, f"{drift.threshold:.2g}", power=True)
    else:
        title = f"excess nats of the feature that moved most, last {len(series)} windows"
        values = [point["largest_nats"] for point in series]
        _print_chart(title, values, drift.threshold, f"{drift.threshold:g}")
    _print_marks(series, onset, alarm=alarm)


def _print_chart(
    title: str, values: Sequence[float | None], limit: float | None, threshold: str, *, power: bool = False
) -> None:
    from rich.text import Text

    top = max([value for value in values if value is not None] + [1.25 * (limit or 0.0)], default=0.0)
    height = CHART if top > 0 else 1
    lines = columns(values, height, top=top, limit=limit)
    marks = {0: f"1e-{top:.0f}" if power else f"{top:.3g}", height - 1: "1" if power else "0"}
    if limit is not None:
        marks[height - 1 - limit_row(limit, height, top=top)] = threshold
    _say(title, style="dim")
    for k, line in enumerate(lines):
        style = "red" if limit is not None and marks.get(k) == threshold else "dim"
        console().print(Text(f"{marks.get(k, ''):>8} ", style=style) + Text(line), soft_wrap=True)


def _print_marks(series: Sequence[Json], onset: int, *, alarm: bool) -> None:
    alarms = "".join("!" if point["alarm"] else " " for point in series)
    began = [k for k, point in enumerate(series) if alarm and point["start"] <= onset < point["stop"]]
    if alarms.strip():
        _mark_line("alarms", alarms)
    if began:
        _mark_line("began", " " * began[0] + "^")
    elif alarm and series and onset < series[0]["start"]:
        _mark_line("began", "< earlier")


def _mark_line(name: str, line: str) -> None:
    from rich.text import Text

    console().print(Text(f"{name:>8} ", style="dim") + Text(line.rstrip(), style="bold red"), soft_wrap=True)


def _print_features(drift: Drift, histograms: Mapping[str, Histogram]) -> None:
    from cls.plots.attribution import DIVERGENCES, telling
    from cls.verdict_words import percent, probability

    moved = [feature for feature in drift.features if feature.share >= LEAST_SHARE]
    shown = moved[:LISTED]
    if not shown:
        return
    names = told_apart([feature.name for feature in shown], NAME)
    rows = [
        {
            "name": name,
            "share": percent(feature.share),
            "excess_nats": feature.excess_nats,
            "p_value": probability(feature.p_value).removeprefix("p ").removeprefix("= "),
        }
        for name, feature in zip(names, shown, strict=True)
    ]
    print_table(rows, {"name": "what moved", "share": "share", "excess_nats": "excess nats", "p_value": "p"})
    if len(moved) > LISTED:
        _say(f"and {len(moved) - LISTED} more; `--json` has all")
    for name, feature in list(zip(names, shown, strict=True))[:DRAWN]:
        histogram = histograms.get(feature.name)
        if histogram is None or not histogram.labels:
            continue
        bins = telling(histogram, BINS) if histogram.whole else histogram
        note = "  ".join(
            f"{text} {histogram.divergences[key]:.3g}"
            for key, text in DIVERGENCES.items()
            if key in histogram.divergences
        )
        bars(name, zip(bins.labels, bins.reference, bins.current, strict=True), note)
        left = len(histogram.labels) - len(bins.labels)
        if left and histogram.whole:
            _say(f"  {left} bins that moved less", style="dim")
        strangers = ", ".join(f"{shortened(value, 24)} {share:.1%}" for value, share in histogram.strangers)
        if strangers and "unseen" in bins.labels:
            _say(f"  unseen: {strangers}", indent="    ")
        console().print()


def print_pairs(pairs: Sequence[PairDrift]) -> None:
    """Tell of features that moved together, and draw where."""
    from cls.verdict_words import probability

    for pair in pairs[:PAIRS]:
        _say(pair.sentence())
        note = (
            f"{pair.excess_nats:.3g} nats, {probability(pair.p_value)}; reference: what each alone explains"
        )
        bars(shortened(pair.name, WIDTH - 1), pair.top_cells, f"\n{note}")
        console().print()


def _print_report(found: Json) -> None:
    episode, report = found["episode"], found["report"]
    if episode is not None:
        text = f"Episode {episode['id']}: {episode['state']}"
        _say(text + (f", {episode['outcome']}" if episode["outcome"] else ""))
    if report is None:
        return
    if report["state"] in ("queued", "running"):
        _say(f"Report: job {report['job_id']} is {report['state']}")
    elif report["files"]:
        _say(f"Report: {', '.join(sorted(report['files']))}")
        _say(f"  in MLflow's run {report['run']} of experiment {report['experiment']}")
        _say(f"  at {report['tracking_uri']}")
    if report["error"]:
        _say(f"  {report['error']}", style="red", indent="  ")
