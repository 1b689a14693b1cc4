"""The overview of a stream's drift: divergence, chance and features over stream time, with the words of the newest alarm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cls.plots.drift_panels import LEAST_SPAN, NAME, day, draw_chance, draw_heat, draw_nats, heat_features
from cls.plots.drift_points import INPUTS, Mark, Point, in_order, latest_alarm
from cls.plots.plot_sheet import (
    CHARACTER,
    GREEN,
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
from cls.shortening import told_apart
from cls.verdict_words import KINDS, chance_sentence, headline, rows_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVIDENCE = 4  # sentences
PAIRS = 2  # that are named
RIGHT = 1.25  # inches right of the panels
Line = tuple[datetime, str, str, str]  # time, label, colour, style


def drift_plot(
    points: Sequence[Point], marks: Sequence[Mark], *, stream: str, onset: int | None = None
) -> bytes:
    """Return the sheet as a PNG; see `overview`."""
    return png(lambda: overview(points, marks, stream=stream, onset=onset))


def overview(
    points: Sequence[Point], marks: Sequence[Mark], *, stream: str, onset: int | None = None
) -> Figure:
    """Draw the sheet.

    Parameters
    ----------
    points
        Verdicts in any order. The latest alarm gives the words and the order of the features.
    marks
        Promotions.
    onset
        Event position where the change began.
    """
    from matplotlib.figure import Figure

    series = in_order(points)
    alarm = latest_alarm(series)
    lines = _lines(series, marks, onset)
    words = _words(series, alarm)
    inputs = [point for point in series if point.detector == INPUTS and point.drift is not None]
    names, shares = heat_features(inputs, alarm)
    margin = max(CHARACTER * max((len(name) for name in told_apart(names, NAME)), default=0) + 0.3, 0.9)

    heights = [2.4, 1.3, *([0.4 + 0.19 * len(names)] if names else [])]
    head = 0.45 + LINE * len(words) + 0.6
    height = head + sum(heights) + 0.3 * (len(heights) - 1) + 0.5
    figure = Figure(figsize=(WIDTH, height))
    title = f"{stream}: distance of each window from its reference"
    if alarm is not None:
        title = headline(stream, alarm.detector, alarm.start, alarm.stop, alarm.onset, alarm=True)
    _draw_words(figure, title, words)
    panels: list[Axes] = []
    top = height - head
    for inches in heights:
        box = (margin / WIDTH, (top - inches) / height, 1 - (margin + RIGHT) / WIDTH, inches / height)
        panels.append(figure.add_axes(box, sharex=panels[0] if panels else None))
        top -= inches + 0.3
    draw_nats(panels[0], series, marks)
    draw_chance(panels[1], series, marks)
    if names:
        draw_heat(figure, panels[2], inputs, names, shares)
    for panel in panels:
        for time, _, colour, style in lines:
            panel.axvline(day(time), color=colour, linestyle=style, linewidth=1.2 if style == "--" else 0.8)
        panel.tick_params(labelbottom=panel is panels[-1], labelsize=SMALL)
    _draw_time(panels[-1], series)
    _label_lines(panels[0], lines, WIDTH - margin - RIGHT)
    return figure


def _words(series: Sequence[Point], alarm: Point | None) -> list[tuple[str, str]]:
    """Return lines of text and their colours."""
    if alarm is None:
        judged = (
            f"{len(series)} windows judged, none of them alarmed" if series else "no window was judged yet"
        )
        return [(judged, INK)]
    lines: list[tuple[str, str]] = []
    if alarm.diagnosis is not None:
        colour = {"quality": RED, "harmful": RED, "harmless": GREEN}.get(alarm.diagnosis.kind, INK)
        lines.append((f"Diagnosis: {KINDS[alarm.diagnosis.kind]}", colour))
        for sentence in alarm.diagnosis.evidence[:EVIDENCE]:
            first, *rest = wrapped(sentence, WIDTH - 0.8, 2) or [""]
            lines += [(f"–  {first}", INK), *((f"    {line}", INK) for line in rest)]
        left = len(alarm.diagnosis.evidence) - EVIDENCE
        if left > 0:
            lines.append((f"    and {left} more", GREY))
    else:
        lines += [(line, INK) for line in wrapped(alarm.summary, WIDTH - 0.6, 3)]
    if alarm.drift is not None:
        lines += [(line, INK) for line in wrapped(chance_sentence(alarm.drift), WIDTH - 0.6, 2)]
        for pair in alarm.drift.pairs[:PAIRS]:
            first, *rest = wrapped(pair.sentence(), WIDTH - 0.8, 2)
            lines += [(f"–  {first}", INK), *((f"    {line}", INK) for line in rest)]
        needed = rows_sentence(alarm.drift)
        lines += [(line, RED) for line in wrapped(needed or "", WIDTH - 0.6, 2)]
    return lines


def _draw_words(figure: Figure, title: str, words: Sequence[tuple[str, str]]) -> None:
    height = figure.get_figheight()
    y = height - 0.12
    figure.text(0.25 / WIDTH, y / height, title, fontsize=LARGE, fontweight="bold", va="top")
    for k, (text, colour) in enumerate(words):
        place = (y - 0.29 - LINE * k) / height
        figure.text(0.25 / WIDTH, place, text, fontsize=SMALL + 0.5, color=colour, va="top")


def _lines(series: Sequence[Point], marks: Sequence[Mark], onset: int | None) -> list[Line]:
    """Place the onset and the promotions, which are positions, at the time of the first window that ends behind them."""
    places = [] if onset is None else [(onset, "change began", ORANGE, "--")]
    places += [(mark.since, mark.label, GREEN, "-") for mark in reversed(marks)]
    lines = []
    for position, label, colour, style in places:
        first = next((point for point in series if point.stop > position), None)
        if first is not None:
            lines.append((first.time_from if first.start >= position else first.time, label, colour, style))
    return lines


def _label_lines(axes: Axes, lines: Sequence[Line], inches: float) -> None:
    """Write labels above the panel, the first ones first; one that would run into another is left out."""
    low, high = axes.get_xlim()
    taken: list[tuple[float, float]] = []
    for time, label, colour, _ in lines:
        width = CHARACTER * len(label) + 0.1
        begin = min(max((day(time) - low) / (high - low) * inches - width / 2, 0.0), inches - width)
        if any(begin < right and left < begin + width for left, right in taken):
            continue
        taken.append((begin, begin + width))
        style: dict[str, Any] = {"color": colour, "fontsize": SMALL, "ha": "center", "va": "bottom"}
        axes.text((begin + width / 2) / inches, 1.015, label, transform=axes.transAxes, **style)


def _draw_time(axes: Axes, series: Sequence[Point]) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates  # its functions have no types
    if not series:
        axes.set_xticks([])
        return
    first, last = min(p.time_from for p in series), max(p.time for p in series)
    pad = max((last - first) * 0.015, LEAST_SPAN)
    axes.set_xlim(day(first - pad), day(last + pad))
    locator = dates.AutoDateLocator(minticks=3, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.set_xlabel("stream time (UTC)", fontsize=NORMAL)
