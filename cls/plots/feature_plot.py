"""The features that moved: of each the whole histogram, reference against current, with its distances and the words of the diagnosis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cls.plots.attribution import DIVERGENCES, Histogram, folded
from cls.plots.plot_sheet import (
    CHARACTER,
    GREY,
    INK,
    LARGE,
    LINE,
    NORMAL,
    ORANGE,
    RED,
    SMALL,
    WIDTH,
    png,
    wrapped,
)
from cls.shortening import shortened, told_apart
from cls.verdict_words import percent, probability
from detectors.bins import MISSING
from detectors.diagnosis import FeatureFinding
from detectors.verdict import FeatureDrift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 34  # categories that are drawn; the rest is one
NAMED = 9  # intervals up to which each has its label
COLUMN = WIDTH / 2
LABEL = 26  # characters of a bin's label
TITLE, TICKS = 0.28, 0.3  # inches


@dataclass(frozen=True)
class Panel:
    """What is drawn of one feature."""

    histogram: Histogram
    moved: FeatureDrift | None = None  # in the verdict
    finding: FeatureFinding | None = None  # in its diagnosis
    subject: str = ""  # what it is a feature of, if not of the inputs
    note: str = ""  # what the bars are, where they are not shares of the whole reference


def feature_plot(panels: Sequence[Panel], *, title: str, note: str) -> bytes:
    """Return the sheet as a PNG; see `features_sheet`."""
    return png(lambda: features_sheet(panels, title=title, note=note))


def features_sheet(panels: Sequence[Panel], *, title: str, note: str) -> Figure:
    """Draw the sheet: panels in two columns, in their order."""
    from matplotlib.figure import Figure

    panels = [replace(panel, histogram=folded(panel.histogram, ROWS)) for panel in panels]
    heads = [_head(panel) for panel in panels]
    heights = [
        TITLE + LINE * len(head) + _inches(panel.histogram) + TICKS
        for panel, head in zip(panels, heads, strict=True)
    ]
    ends = [0.0, 0.0]  # inches that are used up in each column
    places = []
    for height in heights:
        column = 0 if ends[0] <= ends[1] else 1
        places.append((column, ends[column]))
        ends[column] += height + 0.25
    notes = wrapped(note, WIDTH - 0.6, 3)
    above = 0.5 + LINE * len(notes) + 0.25
    total = above + max(*ends, 0.4)
    figure = Figure(figsize=(WIDTH, total))
    figure.text(0.25 / WIDTH, 1 - 0.12 / total, title, fontsize=LARGE, fontweight="bold", va="top")
    for k, line in enumerate(notes):
        figure.text(
            0.25 / WIDTH, 1 - (0.41 + LINE * k) / total, line, fontsize=SMALL + 0.5, color=INK, va="top"
        )
    if not panels:
        figure.text(0.5, 0.3 / total, "no feature of the inputs moved by itself", ha="center", color=GREY)
    else:
        _legend(figure, total)
    for panel, head, height, (column, used) in zip(panels, heads, heights, places, strict=True):
        top = total - above - used
        _draw_head(figure, panel, head, column, top, total)
        low = top - height + TICKS
        inches = _inches(panel.histogram)
        left = column * COLUMN + _margin(panel.histogram)
        axes = figure.add_axes(
            (left / WIDTH, low / total, ((column + 1) * COLUMN - 0.25 - left) / WIDTH, inches / total)
        )
        if not panel.histogram.labels:
            axes.text(0.5, 0.5, "its rows are gone", ha="center", va="center", color=GREY)
            axes.set_axis_off()
        elif _in_rows(panel.histogram):
            _draw_rows(axes, panel.histogram)
        else:
            _draw_intervals(axes, panel.histogram, (column + 1) * COLUMN - 0.25 - left)
    return figure


def _in_rows(histogram: Histogram) -> bool:
    return histogram.edges is None or len(histogram.labels) - 1 <= NAMED


def _inches(histogram: Histogram) -> float:
    return max(0.19 * len(histogram.labels), 0.6) if _in_rows(histogram) else 1.9


def _margin(histogram: Histogram) -> float:
    if not _in_rows(histogram):
        return 0.75
    longest = max((len(label) for label in told_apart(histogram.labels, LABEL)), default=0)
    return max(CHARACTER * longest + 0.35, 0.75)


def _head(panel: Panel) -> list[tuple[str, str]]:
    """Return the lines under a panel's title, with their colours."""
    found = panel.histogram.divergences
    facts = [
        f"{short} {found[name]:.3g}" + (" bins" if name == "wasserstein" else "")
        for name, short in DIVERGENCES.items()
        if name in found
    ]
    if panel.moved is not None:
        facts.append(probability(panel.moved.p_value))
    lines = [("   ".join(facts), INK)] if facts else []
    finding = panel.finding
    if finding is not None:
        colour = RED if finding.fault else INK
        lines += [(line, colour) for line in wrapped(finding.sentence, COLUMN - 0.5, 3)]
        if finding.effect is not None:
            change, low, high = finding.effect
            lines.append((f"effect on the mean loss {change:+.3g} ({low:+.3g} to {high:+.3g})", INK))
    strangers = panel.histogram.strangers
    if strangers and panel.histogram.current and panel.histogram.current[-2] > 0:
        named = ", ".join(f"{shortened(value, 20)} {share:.1%}" for value, share in strangers)
        lines += [(line, INK) for line in wrapped(f"without a bin: {named}", COLUMN - 0.5, 2)]
    if panel.note or (not panel.histogram.whole and panel.histogram.labels):
        lines.append((panel.note or "only the bins that the verdict names", GREY))
    return lines


def _draw_head(
    figure: Figure, panel: Panel, head: Sequence[tuple[str, str]], column: int, top: float, total: float
) -> None:
    left = (column * COLUMN + 0.25) / WIDTH
    title = shortened(panel.histogram.name, 44)
    if panel.subject:
        title = f"{panel.subject}, {title}"
    if panel.moved is not None:
        title += f": {percent(panel.moved.share)} of the drift"
    figure.text(left, top / total, title, fontsize=NORMAL, fontweight="bold", va="top")
    for k, (text, colour) in enumerate(head):
        figure.text(left, (top - 0.19 - LINE * k) / total, text, fontsize=SMALL, color=colour, va="top")


def _legend(figure: Figure, total: float) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=GREY, label="reference"), Patch(color=ORANGE, label="current")],
        loc="upper right",
        bbox_to_anchor=(1 - 0.2 / WIDTH, 1 - 0.05 / total),
        ncols=2,
        frameon=False,
        fontsize=NORMAL,
    )


def _draw_rows(axes: Axes, histogram: Histogram) -> None:
    rows = range(len(histogram.labels))
    axes.barh([row - 0.2 for row in rows], histogram.reference, 0.38, color=GREY)
    axes.barh([row + 0.2 for row in rows], histogram.current, 0.38, color=ORANGE)
    largest = max(*histogram.reference, *histogram.current, 1e-9)
    for row, before, now in zip(rows, histogram.reference, histogram.current, strict=True):
        axes.text(
            max(before, now) + 0.015 * largest,
            row,
            f"{before:.1%} → {now:.1%}",
            fontsize=SMALL - 1,
            color=INK,
            va="center",
        )
    axes.set_xlim(0, 1.38 * largest)
    axes.set_ylim(len(histogram.labels) - 0.5, -0.5)
    axes.set_yticks(list(rows), told_apart(histogram.labels, LABEL))
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_intervals(axes: Axes, histogram: Histogram, inches: float) -> None:
    from matplotlib.ticker import PercentFormatter

    intervals = len(histogram.labels) - 1
    places = [*range(intervals), intervals + 0.5]  # missing stands apart
    axes.bar([place - 0.21 for place in places], histogram.reference, 0.42, color=GREY)
    axes.bar([place + 0.21 for place in places], histogram.current, 0.42, color=ORANGE)
    edges = edge_texts(histogram.edges or ())
    inch = (intervals + 2) / inches  # in bins

    def room(text: str) -> float:
        return (CHARACTER * len(text) + 0.12) * inch

    stride = max(math.ceil(max(map(room, edges))), 1)
    ticks = [(k + 0.5, edges[k]) for k in range(0, len(edges), stride)]
    last = intervals + 0.5
    ticks = [(place, text) for place, text in ticks if place + (room(text) + room(MISSING)) / 2 < last]
    ticks.append((last, MISSING))
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.set_xlim(-0.75, intervals + 1.25)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if axes.get_ylim()[1] >= 0.04 else 1))
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def edge_texts(edges: Sequence[float]) -> list[str]:
    """Write edges with as few digits as keep them apart; one right behind another stands for what is above it."""
    behind = [k > 0 and math.nextafter(edges[k - 1], math.inf) >= edges[k] for k in range(len(edges))]
    apart = [edge for edge, skip in zip(edges, behind, strict=True) if not skip]
    texts: list[str] = []
    for digits in range(3, 18):
        texts = [
            _number(float(np.format_float_positional(edge, precision=digits, fractional=False)), digits)
            for edge in apart
        ]
        if len(set(texts)) == len(texts):
            break
    remaining = iter(texts)
    written: list[str] = []
    for skip in behind:
        written.append(f"> {written[-1]}" if skip else next(remaining))
    return written


def _number(value: float, digits: int) -> str:
    """Write a number without an exponent where people read it more easily so."""
    if 1e4 <= abs(value) < 1e10:
        return f"{value:,.0f}" if value == int(value) else f"{value:,}"
    return f"{value:.{digits}g}"
