"""One picture of a stream's drift: divergence over stream time, alarms, promotions, and the features that moved."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from detectors.detector import Drift

TOP_FEATURES = 3
BLUE, ORANGE, RED, GREY, GREEN = "#31688e", "#e08214", "#c51b1b", "#8a8a8a", "#35924a"


@dataclass(frozen=True)
class Point:
    """One verdict as it is drawn."""

    start: int  # event positions
    stop: int
    time: datetime  # stream time of the window's end
    detector: str
    alarm: bool
    nats: float | None
    p_value: float | None
    drift: Drift | None

    @classmethod
    def of(cls, row: Any) -> Point:
        """Read a verdict, or its row in SQL."""
        drift = Drift.from_json(row.drift) if isinstance(row.drift, dict) else row.drift
        return cls(
            row.start, row.stop, row.time_to, row.detector, bool(row.alarm), row.nats, row.p_value, drift
        )


@dataclass(frozen=True)
class Mark:
    """One promotion as it is drawn."""

    since: int  # event position
    label: str

    @classmethod
    def of(cls, row: Any) -> Mark:
        """Read a promotion's row."""
        return cls(row.since, f"v{row.version}")


def drift_plot(
    points: Sequence[Point],
    marks: Sequence[Mark],
    *,
    title: str,
    onset: int | None = None,
    threshold_nats: float | None = None,
) -> bytes:
    """Draw a PNG.

    Parameters
    ----------
    points
        Verdicts in any order. The latest alarm that knows its features gives the bars.
    marks
        Promotions.
    onset
        Event position where the change began.
    threshold_nats
        The fixed threshold, if that is how alarms are raised; a calibrated one shows as its own panel of p-values.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = sorted(points, key=lambda point: point.stop)
    alarming = next(
        (point.drift for point in reversed(series) if point.alarm and point.drift is not None), None
    )
    figure = Figure(figsize=(11, 7.5))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, TOP_FEATURES, height_ratios=(2, 1, 1.6), hspace=0.45, wspace=0.75)
    figure.subplots_adjust(left=0.12, right=0.98, top=0.95, bottom=0.07)
    nats_axes = figure.add_subplot(grid[0, :])
    chance_axes = figure.add_subplot(grid[1, :], sharex=nats_axes)
    _draw_nats(nats_axes, series, threshold_nats)
    _draw_chance(chance_axes, series, calibrated=threshold_nats is None)
    for axes in (nats_axes, chance_axes):
        _draw_marks(axes, series, marks, onset, labelled=axes is nats_axes)
    nats_axes.set_title(f"{title}: divergence from the champion's reference", loc="left")
    nats_axes.tick_params(labelbottom=False)
    figure.align_ylabels([nats_axes, chance_axes])
    chance_axes.set_xlabel("stream time (UTC)")
    _draw_features(figure, grid, alarming)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return sink.getvalue()


def _draw_nats(axes: Any, series: Sequence[Point], threshold: float | None) -> None:
    known = [point for point in series if point.nats is not None]
    axes.plot(
        [p.time for p in known], [p.nats for p in known], color=BLUE, marker=".", markersize=4, linewidth=1
    )
    alarms = [point for point in known if point.alarm]
    if alarms:
        axes.plot(
            [p.time for p in alarms], [p.nats for p in alarms], "o", color=RED, markersize=6, label="alarm"
        )
    scores = [point for point in series if point.alarm and point.nats is None]
    if scores:
        times = [point.time for point in scores]
        axes.plot(times, [0.0] * len(times), "^", color=ORANGE, label="alarm of the scores", clip_on=False)
    if threshold is not None:
        axes.axhline(threshold, color=RED, linestyle="--", linewidth=1, label=f"threshold {threshold:g} nats")
    axes.set_ylabel("nats")
    axes.set_ylim(bottom=0)
    if alarms or scores or threshold is not None:
        axes.legend(loc="upper left", frameon=False, fontsize=8)


def _draw_chance(axes: Any, series: Sequence[Point], *, calibrated: bool) -> None:
    known = [point for point in series if point.p_value is not None]
    floor = 1e-12
    axes.plot([p.time for p in known], [max(p.p_value or 0.0, floor) for p in known], color=GREY, linewidth=1)
    alarms = [point for point in known if point.alarm]
    axes.plot(
        [p.time for p in alarms], [max(p.p_value or 0.0, floor) for p in alarms], "o", color=RED, markersize=4
    )
    limits = [(p.time, p.drift.threshold) for p in known if p.drift is not None]
    if calibrated and limits:
        axes.step(
            *zip(*limits, strict=True),
            where="post",
            color=RED,
            linestyle="--",
            linewidth=1,
            label="threshold",
        )
        axes.legend(loc="lower left", frameon=False, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(floor / 3, 3)
    axes.set_ylabel("p-value")


def _draw_marks(
    axes: Any, series: Sequence[Point], marks: Sequence[Mark], onset: int | None, *, labelled: bool
) -> None:
    """Draw promotions and the onset, which are positions, at the time of the first window that ends behind them."""
    lines = [(mark.since, mark.label, GREEN, "-", 1.0) for mark in marks]
    if onset is not None:
        lines.append((onset, "onset", ORANGE, ":", 0.9))
    for position, label, colour, style, height in lines:
        time = next((point.time for point in series if point.stop > position), None)
        if time is None:
            continue
        axes.axvline(time, color=colour, linestyle=style, linewidth=1)
        if labelled:
            text = axes.text(
                time,
                height,
                f" {label}",
                transform=axes.get_xaxis_transform(),
                color=colour,
                fontsize=8,
                va="top",
            )
            text.set_in_layout(False)


def _draw_features(figure: Any, grid: Any, drift: Drift | None) -> None:
    moved = [feature for feature in drift.features if feature.share > 0] if drift is not None else []
    features = moved[:TOP_FEATURES]
    if not features:
        axes = figure.add_subplot(grid[2, :])
        axes.text(0.5, 0.5, "no alarm that names features", ha="center", va="center", color=GREY)
        axes.set_axis_off()
    for place, feature in enumerate(features):
        axes = figure.add_subplot(grid[2, place])
        rows = range(len(feature.top_bins))
        axes.barh(
            [r - 0.2 for r in rows], [b[1] for b in feature.top_bins], 0.4, color=GREY, label="reference"
        )
        axes.barh(
            [r + 0.2 for r in rows], [b[2] for b in feature.top_bins], 0.4, color=ORANGE, label="current"
        )
        axes.set_yticks(list(rows), [b[0][:24] for b in feature.top_bins], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{feature.name}: {feature.share:.0%} of the drift", fontsize=9)
        axes.set_xlabel("share of rows", fontsize=8)
        if place == 0:
            axes.legend(fontsize=8, frameon=False)
