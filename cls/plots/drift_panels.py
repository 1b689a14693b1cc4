"""The panels of the overview: divergence and chance over stream time, and a heat map of the features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cls.plots.drift_points import INPUTS, ROWS, SCORES, Mark, Point
from cls.plots.plot_sheet import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SMALL, WIDTH
from cls.shortening import told_apart
from cls.verdict_words import SURE, is_calibrated, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT_FEATURES = 15
NAME = 30  # characters of a feature's name
LINES = {"prediction": (GREEN, "predictions"), "label": (PURPLE, "labels")}
LEAST_SPAN = timedelta(minutes=1)  # of a window whose events all came at once
BAR = 2.2  # inches of the colour bar, at most


def day(time: datetime) -> float:
    """Return a time as matplotlib counts it: days since 1970."""
    return time.timestamp() / 86400


def _stretches(series: Sequence[Point], marks: Sequence[Mark]) -> list[list[Point]]:
    """Cut a series where its reference changed: across a promotion, distances are not comparable."""
    if not series:
        return []
    stretches = [[series[0]]]
    for before, point in pairwise(series):
        fresh = point.promotion != before.promotion
        if fresh or any(before.stop <= mark.since < point.stop for mark in marks):
            stretches.append([])
        stretches[-1].append(point)
    return stretches


def draw_nats(axes: Axes, series: Sequence[Point], marks: Sequence[Mark]) -> None:
    """Draw the divergence of inputs and outputs, alarms, and a fixed threshold beside the feature that it is held against."""
    thin = {"linewidth": 0.9}
    inputs = [point for point in series if point.detector == INPUTS and point.nats is not None]
    for k, stretch in enumerate(_stretches(inputs, marks)):
        label = None if k else "inputs, all features"
        _line(axes, stretch, color=BLUE, marker=".", markersize=3, linewidth=1, label=label)
    fixed = [(p, p.drift.threshold) for p in inputs if p.drift is not None and not is_calibrated(p.drift)]
    if fixed:
        days = [day(p.time) for p, _ in fixed]
        largest = [p.largest_nats or 0.0 for p, _ in fixed]
        axes.plot(days, largest, color=INK, linewidth=0.9, label="the feature that moved most")
        limits = [limit for _, limit in fixed]
        _limit(axes, days, limits, label=f"its threshold, {limits[-1]:g} nats")
    for detector, (colour, label) in LINES.items():
        others = [point for point in series if point.detector == detector and point.nats is not None]
        if others:
            _line(axes, others, color=colour, marker=".", markersize=2, label=label, **thin)
    alarms = [point for point in series if point.alarm and point.nats is not None]
    if alarms:
        _line(axes, alarms, color=RED, marker="o", linestyle="none", markersize=5, label="alarm")
    for detector, colour, label in ((SCORES, ORANGE, "errors"), (ROWS, BLUE, "rows")):
        days = [day(point.time) for point in series if point.alarm and point.detector == detector]
        if days:
            heights = [0.0] * len(days)
            axes.plot(days, heights, "^", color=colour, label=f"alarm of the {label}", clip_on=False)
    axes.set_ylabel("excess nats", fontsize=SMALL)
    axes.margins(y=0.12)
    axes.set_ylim(0, None if any(point.nats for point in series) else 1)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.07), ncols=6, frameon=False, fontsize=SMALL, borderpad=0
        )


def _line(axes: Axes, points: Sequence[Point], **style: Any) -> None:
    axes.plot([day(p.time) for p in points], [p.nats or 0.0 for p in points], **style)


def _limit(axes: Axes, days: Sequence[float], values: Sequence[float], label: str | None = None) -> None:
    """Draw a threshold as steps; one single window has it from edge to edge."""
    if len(days) == 1:
        axes.axhline(values[0], color=RED, linestyle="--", linewidth=1, label=label)
    else:
        axes.plot(days, values, color=RED, linestyle="--", linewidth=1, drawstyle="steps-mid", label=label)


def draw_chance(axes: Axes, series: Sequence[Point], marks: Sequence[Mark]) -> None:
    """Draw p-values, and the budget as their threshold where there is one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    known = [point for point in series if point.p_value is not None]

    def line(points: Sequence[Point], **style: Any) -> None:
        axes.plot([day(p.time) for p in points], [max(p.p_value or 0.0, SURE) for p in points], **style)

    inputs = [point for point in known if point.detector == INPUTS]
    for stretch in _stretches(inputs, marks):
        line(stretch, color=BLUE, marker=".", markersize=3, linewidth=1)
    for detector, (colour, _) in LINES.items():
        line([point for point in known if point.detector == detector], color=colour, linewidth=0.9)
    line([point for point in known if point.alarm], color=RED, marker="o", linestyle="none", markersize=4)
    limits = [(day(p.time), p.drift.threshold) for p in inputs if p.drift and is_calibrated(p.drift)]
    lowest = min([p.p_value or SURE for p in known] + [limit for _, limit in limits], default=1e-3)
    axes.set_yscale("log")
    axes.set_ylim(max(lowest, SURE) / 10, 3)
    if limits:
        last = limits[-1][1]
        _limit(axes, [time for time, _ in limits], [limit for _, limit in limits])
        _beside(axes, last, f"budget {last:.2g}", color=RED)
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{p:.0e}" if p < 0.01 else f"{p:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("p-value", fontsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def _beside(axes: Axes, height: float, text: str, *, offset: float = 4, **style: Any) -> None:
    """Write right of a panel; the offset is in points."""
    axes.annotate(
        text,
        (1, height),
        (offset, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=SMALL,
        va="center",
        **style,
    )


def heat_features(inputs: Sequence[Point], alarm: Point | None) -> tuple[list[str], dict[str, float]]:
    """Return the features of the heat map, largest share of the alarm first, and these shares."""
    largest: dict[str, float] = {}
    for point in inputs:
        for feature in point.drift.features if point.drift is not None else ():
            largest[feature.name] = max(largest.get(feature.name, 0.0), feature.excess_nats)
    shares = {}
    if alarm is not None and alarm.detector == INPUTS and alarm.drift is not None:
        shares = {feature.name: feature.share for feature in alarm.drift.features}
    names = sorted(largest, key=lambda name: (-shares.get(name, 0.0), -largest[name], name))
    return names[:HEAT_FEATURES], shares


def draw_heat(
    figure: Figure, axes: Axes, inputs: Sequence[Point], names: Sequence[str], shares: dict[str, float]
) -> None:
    """Draw each feature's excess in each window; grey where it is not known."""
    from matplotlib.colors import PowerNorm

    values_FW = np.full((len(names), len(inputs)), np.nan)
    place = {name: row for row, name in enumerate(names)}
    for column, point in enumerate(inputs):
        for feature in point.drift.features if point.drift is not None else ():
            if feature.name in place:
                values_FW[place[feature.name], column] = feature.excess_nats
    edges, columns = time_edges(inputs)
    shown_FE = np.full((len(names), len(edges) - 1), np.nan)
    shown_FE[:, columns] = values_FW
    largest = float(np.nanmax(values_FW)) if np.isfinite(values_FW).any() else 0.0
    axes.set_facecolor("#ececec")
    mesh = axes.pcolormesh(
        [day(edge) for edge in edges],
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(shown_FE),
        cmap="YlOrBr",
        norm=PowerNorm(0.5, vmin=0.0, vmax=largest or 1.0),
    )
    axes.set_yticks(range(len(names)), told_apart(names, NAME))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for row, name in enumerate(names if shares else ()):
        _beside(axes, row, percent(shares.get(name, 0.0)), offset=32, ha="right")
    features = max(len(point.drift.features) for point in inputs if point.drift is not None)
    note = "excess nats by feature"
    if features > len(names):
        note += f", those {len(names)} of {features} that moved most"
    if shares:
        note += "; on the right its share of the alarm"
    axes.set_title(note, loc="left", fontsize=SMALL, pad=4)
    if largest == 0.0:
        return
    box = axes.get_position()
    tall = min(box.height, BAR / figure.get_figheight())
    bar = figure.add_axes((1 - 0.62 / WIDTH, box.y1 - tall, 0.1 / WIDTH, tall))
    marks = (0.0, largest) if tall * figure.get_figheight() < 1 else (0.0, largest / 10, largest / 3, largest)
    figure.colorbar(mesh, cax=bar).set_ticks(marks, labels=[f"{mark:.2g}" for mark in marks])
    bar.tick_params(labelsize=SMALL - 1)
    bar.set_title("nats", fontsize=SMALL - 1, loc="left")


def time_edges(inputs: Sequence[Point]) -> tuple[list[datetime], list[int]]:
    """Return the edges of the heat map's columns and which of these columns are windows: between two may lie time without any."""
    spans: list[tuple[datetime, datetime]] = []
    for point in inputs:
        low = max(point.time_from, spans[-1][1]) if spans else point.time_from
        spans.append((low, max(point.time, low + (timedelta() if spans else LEAST_SPAN))))
    widths = sorted(high - low for low, high in spans)
    usual = widths[len(widths) // 2]
    edges, columns = [spans[0][0]], []
    for k, (_, high) in enumerate(spans):
        following = spans[k + 1][0] if k + 1 < len(spans) else high
        columns.append(len(edges) - 1)
        if following - high > usual / 2:
            edges += [high, following]
        else:
            edges.append(following)
    return edges, columns
