"""Plot sheets: what is drawn are the numbers, every text has room, and no input keeps a sheet from being drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cls.config import DetectConfig
from cls.plots.attribution import Histogram, folded, histograms, telling
from cls.plots.drift_plot import drift_plot, overview
from cls.plots.drift_points import Mark, Point
from cls.plots.feature_plot import Panel, edge_texts, feature_plot, features_sheet
from cls.report import feature_panels
from cls.shortening import shortened, told_apart
from detectors.bins import NumericBins
from detectors.columns import Categorical, Columns
from detectors.detector import KLDetector
from detectors.verdict import PairDrift
from tests.unit.cls.drift_scene import AT, Make, Scene, changed_flights, flights, make_scene

PNG = b"\x89PNG\r\n\x1a\n"
LONG = "a_rather_long_name_of_a_measured_quantity_number_{:02d}_in_metres_per_second"


def points(scene: Scene) -> list[Point]:
    return [Point.of(row) for row in scene.verdicts]


def panels(scene: Scene) -> list[Panel]:
    onset = scene.job.input.onset or 0
    since = scene.log.events("", onset, scene.job.input.event_to).columns
    return feature_panels(points(scene), histograms(scene.profile, since))


def wide(rows: int, rng: np.random.Generator, shift: float = 0.0) -> Columns:
    """Twenty features with long names, one of them with thirty categories."""
    columns: dict[str, np.ndarray | Categorical] = {
        LONG.format(k): rng.normal(shift, 1 + k, rows) for k in range(19)
    }
    vocabulary = tuple(f"category {k:02d}, which has a long name too" for k in range(30))
    weight = 1 / np.arange(1, 31 + 0) ** (1 + shift)
    codes = rng.choice(30, rows, p=weight / weight.sum()).astype(np.int32)
    return {**columns, "price in $ or $": Categorical(codes, vocabulary)}


def wide_later(rows: int, rng: np.random.Generator) -> Columns:
    return wide(rows, rng, 1.0)


def axes_of(figure: Figure) -> list[Any]:
    """Return the panels; Any, as the types of what they hold say too little."""
    return list(figure.axes)


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of visible texts that run into each other, and texts that leave the sheet."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes.get_xaxis().label, axes.get_yaxis().label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [
                tick.label1
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and low <= tick.get_loc() <= high  # others are not drawn
            ]
        legend = axes.get_legend()
        texts += [] if legend is None else legend.get_texts()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    sheet = figure.bbox
    found = [
        (text, "the edge")
        for text, box in boxes
        if box.x0 < sheet.x0 - 1 or box.x1 > sheet.x1 + 1 or box.y0 < sheet.y0 - 1 or box.y1 > sheet.y1 + 1
    ]
    for (one, a), (other, b) in combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        if width > 2 and height > 0.3 * min(a.height, b.height):
            found.append((one, other))
    return found


def test_the_line_is_the_divergence_and_alarms_stand_on_it() -> None:
    scene = make_scene()
    axes = axes_of(overview(points(scene), [Mark(0, "v1")], stream="flights", onset=4000))[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    inputs = lines["inputs, all features"]
    assert inputs.get_ydata().tolist() == [row.nats for row in scene.verdicts]
    times = [row.time_to.timestamp() / 86400 for row in scene.verdicts]
    assert inputs.get_xdata().tolist() == times
    alarms = [k for k, row in enumerate(scene.verdicts) if row.alarm]
    assert alarms == [8, 9, 10, 11]
    assert lines["alarm"].get_xdata().tolist() == [times[k] for k in alarms]


def test_a_promotion_breaks_the_line_as_distances_from_two_references_do_not_compare() -> None:
    scene = make_scene()
    for row in scene.verdicts[6:]:
        row.promotion = 2
    axes = axes_of(overview(points(scene), [], stream="flights"))[0]
    lengths = [len(line.get_xdata()) for line in axes.get_lines() if line.get_color() == "#31688e"]
    assert lengths == [6, 6]


def test_a_fixed_threshold_stands_beside_the_feature_that_it_is_held_against() -> None:
    scene = make_scene(settings=DetectConfig(nats=0.2))
    axes = axes_of(overview(points(scene), [], stream="flights"))[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    largest = lines["the feature that moved most"].get_ydata()
    limit = lines["its threshold, 0.2 nats"].get_ydata()
    assert set(limit.tolist()) == {0.2}
    assert [value >= 0.2 for value in largest.tolist()] == [row.alarm for row in scene.verdicts]


def test_the_heat_map_holds_each_features_excess_and_its_share_of_the_alarm() -> None:
    scene = make_scene()
    axes = axes_of(overview(points(scene), [], stream="flights"))[2]
    names = [label.get_text() for label in axes.get_yticklabels()]
    (mesh,) = axes.collections
    values_FW = np.asarray(mesh.get_array())
    drifts = [row.drift for row in scene.verdicts]
    for f, name in enumerate(names):
        told = [
            feature["excess_nats"]
            for drift in drifts
            if drift
            for feature in drift["features"]
            if feature["name"] == name
        ]
        assert values_FW[f].tolist() == pytest.approx(told)
    assert drifts[-1] is not None
    assert names == [feature["name"] for feature in drifts[-1]["features"]]
    shares = [text.get_text() for text in axes.texts]
    assert shares == [f"{feature['share']:.0%}" for feature in drifts[-1]["features"]]


def test_the_heat_map_says_that_there_are_more_features() -> None:
    scene = make_scene(wide, wide_later, windows=2, change=1)
    axes = axes_of(overview(points(scene), [], stream="flights"))[2]
    assert len(axes.get_yticklabels()) == 15
    assert "15 of 20" in axes.get_title(loc="left")


def test_time_without_windows_is_grey_in_the_heat_map() -> None:
    scene = make_scene(windows=4, change=3)
    for row in scene.verdicts[2:]:
        row.time_from, row.time_to = row.time_from + timedelta(days=5), row.time_to + timedelta(days=5)
    (mesh,) = axes_of(overview(points(scene), [], stream="flights"))[2].collections
    shown = np.ma.getmaskarray(mesh.get_array())
    assert shown[0].tolist() == [False, False, True, False, False]


def test_bars_are_as_long_as_shares() -> None:
    scene = make_scene()
    drawn = panels(scene)
    figure = features_sheet(drawn, title="", note="")
    for axes, panel in zip(axes_of(figure), drawn, strict=True):
        histogram = panel.histogram
        reference, current = axes.containers
        if histogram.edges is None:
            lengths = [[bar.get_width() for bar in bars] for bars in (reference, current)]
        else:
            lengths = [[bar.get_height() for bar in bars] for bars in (reference, current)]
        assert lengths == [list(histogram.reference), list(histogram.current)]
        assert sum(histogram.reference) == pytest.approx(1)
        assert sum(histogram.current) == pytest.approx(1)


def test_categories_stand_by_reference_share_then_unseen_then_missing() -> None:
    scene = make_scene()
    carrier = next(panel.histogram for panel in panels(scene) if panel.histogram.name == "carrier")
    assert list(carrier.reference[:3]) == sorted(carrier.reference[:3], reverse=True)
    assert carrier.labels[3:] == ("unseen", "missing")
    ((value, share),) = carrier.strangers
    assert value == "American"
    assert share == pytest.approx(carrier.current[3])


def test_a_column_of_another_type_counts_as_missing() -> None:
    profile = KLDetector().profile(flights(1000, np.random.default_rng(0)))
    words = Categorical(np.zeros(10, np.int32), ("strong",))
    found = histograms(profile, {"wind": words, "carrier": np.zeros(10)})
    assert found["wind"].current[-1] == found["carrier"].current[-1] == found["empty"].current[-1] == 1


def test_folding_keeps_the_sums_and_the_largest_categories() -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice(60, 6000, p=np.arange(60, 0, -1) / 1830).astype(np.int32)
    column = Categorical(codes, tuple(map(str, range(60))))
    profile = KLDetector(top=60).profile({"x": column})
    whole = histograms(profile, {"x": column})["x"]
    short = folded(whole, 20)
    assert len(short.labels) == 20
    assert sum(short.reference) == pytest.approx(1)
    assert sum(short.parts) == pytest.approx(sum(whole.parts))
    assert short.labels[-3:] == (f"{len(whole.labels) - 19} rarer ones", whole.labels[-2], "missing")
    assert short.labels[:17] == whole.labels[:17]
    assert folded(whole, len(whole.labels)) is whole


def test_telling_bins_make_up_the_divergence_in_their_own_order() -> None:
    histogram = Histogram(
        "x", ("a", "b", "c", "d"), (0.25,) * 4, (0.4, 0.25, 0.2, 0.15), (0.2, 0.0, 0.01, 0.05)
    )
    assert telling(histogram, 2).labels == ("a", "d")
    assert telling(histogram, 9).labels == ("a", "c", "d")


def test_edges_are_written_short_and_apart() -> None:
    assert edge_texts((0.5, 1.0, 12.3)) == ["0.5", "1", "12.3"]
    assert edge_texts((100_000_000.0, 100_000_001.0)) == ["100,000,000", "100,000,001"]
    constant = NumericBins.of("x", np.full(100, 3.0), 16)
    assert edge_texts(constant.edges) == ["3", "> 3"]


def test_long_names_go_on_differing_when_they_are_cut() -> None:
    names = [LONG.format(k) for k in range(20)]
    short = told_apart([*names, "x"], 30)
    assert len(set(short)) == 21
    assert max(map(len, short)) <= 30
    assert shortened("two\nlines", 30) == "two lines"


WORLDS: dict[str, tuple[Make, Make, int, int]] = {
    "flights": (flights, changed_flights, 12, 8),
    "twenty long names, thirty categories": (wide, wide_later, 12, 8),
    "one single window": (wide, wide_later, 1, 0),
    "nothing moved": (flights, flights, 6, 6),
    "only NaN": (lambda n, _: {"x": np.full(n, np.nan)},) * 2 + (6, 3),
    "turned to NaN": (lambda n, rng: {"x": rng.normal(size=n)}, lambda n, _: {"x": np.full(n, np.nan)}, 6, 3),
    "constant": (lambda n, _: {"x": np.full(n, 3.0)}, lambda n, _: {"x": np.full(n, 4.0)}, 6, 3),
    "tiny and huge": (
        lambda n, rng: {"s": rng.exponential(1e-7, n), "l": rng.normal(1e9, 1e3, n)},
        lambda n, rng: {"s": rng.exponential(3e-7, n), "l": rng.normal(1e9 + 2e3, 1e3, n)},
        6,
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_every_text_has_its_room(world: str) -> None:
    before, after, windows, change = WORLDS[world]
    scene = make_scene(before, after, windows=windows, change=change)
    marks = [Mark(100 * k, f"v{k}") for k in range(1, 40)]
    sheets: list[Callable[[], Figure]] = [
        lambda: overview(points(scene), marks, stream="flights", onset=scene.job.input.onset),
        lambda: features_sheet(panels(scene), title="flights: what moved", note="Of 2,000 rows."),
    ]
    for sheet in sheets:
        assert overlaps(sheet()) == []


@pytest.mark.parametrize("world", ["flights", "only NaN", "one single window"])
def test_sheets_are_pngs(world: str) -> None:
    before, after, windows, change = WORLDS[world]
    scene = make_scene(before, after, windows=windows, change=change)
    onset = scene.job.input.onset
    assert drift_plot(points(scene), [Mark(0, "v1")], stream="$a$", onset=onset).startswith(PNG)
    assert feature_plot(panels(scene), title="$a$ 日本", note="").startswith(
        PNG
    )  # no formula; no such letters


def test_sheets_of_nothing_and_of_verdicts_without_a_distance() -> None:
    last = points(make_scene())[-1]
    score = replace(
        last, detector="score", nats=None, p_value=None, drift=None, diagnosis=None, time=AT, time_from=AT
    )
    rows = replace(score, detector="sequential")
    for some in ([], [score], [rows, last], [replace(last, time=last.time_from)]):
        assert drift_plot(some, [Mark(0, "v1")], stream="s", onset=0).startswith(PNG)
    assert feature_plot([], title="", note="").startswith(PNG)
    assert feature_plot([Panel(Histogram("x", (), (), ()))], title="", note="").startswith(PNG)


def test_features_that_moved_together_are_drawn_by_their_cells() -> None:
    last = points(make_scene())[-1]
    assert last.drift is not None
    cells = (("wind < 0 and carrier = UA", 0.1, 0.3), ("wind >= 1 and carrier = AA", 0.2, 0.0))
    pair = PairDrift("wind", "carrier", 0.25, 0.2, 1e-9, cells)
    point = replace(last, drift=replace(last.drift, pairs=(pair,)))
    *_, panel = feature_panels([point], {})
    figure = features_sheet([panel], title="", note="")
    (axes,) = axes_of(figure)
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[0.1, 0.2], [0.3, 0.0]]
    assert "wind × carrier" in [text.get_text() for text in figure.texts]
    head = " ".join(text.get_text() for text in overview([point], [], stream="flights").texts)
    assert "wind and carrier moved together" in head


def test_the_head_says_what_the_verdict_says() -> None:
    scene = make_scene()
    last = points(scene)[-1]
    assert last.diagnosis is not None
    assert last.drift is not None
    needy = replace(last, drift=replace(last.drift, rows_needed=4096))
    figure = overview([needy], [], stream="flights")
    head = "\n".join(text.get_text() for text in figure.texts)
    assert "flights: drift of inputs since event 4,000" in head
    assert "budget 1 in 1,000 windows" in head
    assert "the reference has 3,000 rows and needs 4,096" in head
    flat = " ".join(head.split())
    for sentence in last.diagnosis.evidence[:4]:
        assert " ".join(sentence.split()[:6]) in flat
