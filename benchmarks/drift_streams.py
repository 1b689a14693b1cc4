"""Real streams: alarms against what is known of their drift.

    python -m benchmarks.drift_streams --data DIR

DIR holds the data sets as Parquet files in time order. The first fifth of each is the reference, the rest is judged in windows of
1,000 rows, or of 500 where there are fewer than 20,000 rows; every detector is at its defaults, whatever the
stream. Little is known for certain of real drift: where a row is known, delay and false alarms are told; elsewhere alarms are
told beside what happened.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Figure, write_results
from benchmarks.streams import features_of, read_frame
from detectors.columns import Columns, rows_of, take
from detectors.detector import KLDetector
from detectors.evaluation import KnownChange, Monitor, blocks_of, judge
from detectors.monitors import BUDGET_WINDOWS, MonitorMaker, Sequential, Tumbling
from detectors.monitors_river import adwin, page_hinkley
from detectors.sequential import SequentialDetector

TOLERANCE = 0.005  # nats: what a feature may move without an alarm, for those who do not care about less
SEED = 0  # of the order of the control's rows


def tolerant_windows(reference: Columns, *, window_rows: int) -> Monitor:
    """Make our detector of windows that tolerates small changes."""
    return Tumbling(reference, window_rows=window_rows, detector=KLDetector(tolerance=TOLERANCE))


def tolerant_rows(reference: Columns, *, window_rows: int) -> Monitor:
    """Make our sequential detector that tolerates small changes."""
    detector = SequentialDetector(run_length=BUDGET_WINDOWS * window_rows, tolerance=TOLERANCE)
    return Sequential(reference, window_rows=window_rows, detector=detector)


OTHERS: dict[str, MonitorMaker] = {
    "CLS sequential": Sequential,
    "CLS KL, tolerance .005": tolerant_windows,
    "CLS sequential, tolerance .005": tolerant_rows,
    "ADWIN": adwin,
    "Page-Hinkley": page_hinkley,
}
Rows = Callable[[pd.DataFrame], int]


@dataclass(frozen=True)
class Known:
    """What is known of a stream's drift."""

    text: str
    marks: dict[str, Rows] = field(default_factory=dict)  # what happened -> first row of it
    change: Rows | None = None  # where the stream is known to change for good
    control: bool = False  # hardly any drift: alarms are false
    shuffled: str | None = None  # column within whose values rows are put in random order


def first(column: str, value: object) -> Rows:
    """Return what finds the first row whose value is at least this one."""
    return lambda frame: int(np.argmax((frame[column] >= value).to_numpy()))


CONTROL = "employment_ma, shuffled within years"
STREAMS: dict[str, Known] = {
    "elec2": Known(
        "real drift; the features of Victoria are constant until it joins the market at row 17,424",
        {"Victoria joins": lambda _: 17_424},
        lambda _: 17_424,
    ),
    "avocado": Known(
        "real drift; seasons, and a price spike in 2017", {"2017": first("date", pd.Timestamp("2017-01-01"))}
    ),
    "bike_sharing": Known(
        "real drift; seasons, and growth of 2012 over 2011",
        {"2012": first("dteday", pd.Timestamp("2012-01-01"))},
    ),
    "bank_marketing": Known(
        "real and strong drift; the financial crisis takes the positive rate from 3% to 46%",
        {"2009": first("year", 2009), "2010": first("year", 2010)},
    ),
    "nsl_kdd": Known(
        "abrupt change at row 25,192, to attacks of types not seen before",
        {"other attacks": lambda _: 25_192},
        lambda _: 25_192,
    ),
    "metro_traffic": Known(
        "weak drift; no rows from August 2014 to June 2015, and outliers",
        {"the gap": first("date_time", pd.Timestamp("2014-09-01"))},
    ),
    "employment_ma": Known(
        "hardly any drift but of order: from 2017 on, people in group quarters stand together",
        {str(year): first("year", year) for year in (2016, 2017, 2018)},
    ),
    CONTROL: Known(
        "the control: hardly any drift, each year's rows in random order",
        {str(year): first("year", year) for year in (2016, 2017, 2018)},
        control=True,
        shuffled="year",
    ),
}


@dataclass(frozen=True)
class Watched:
    """One stream, judged."""

    name: str
    rows: int
    reference_rows: int
    window_rows: int
    marks: dict[str, int]
    change: int | None
    nats_W: NDArray[np.float64]  # excess of all features together
    alarm_W: NDArray[np.bool_]
    needed: int | None  # reference rows that the budget would need, where it has too few
    alarms: dict[str, list[int]]  # of every detector, by row
    cpu_seconds: dict[str, float]

    @property
    def ends_W(self) -> NDArray[np.intp]:
        """Last row of each window."""
        return self.reference_rows + self.window_rows * np.arange(1, self.alarm_W.size + 1) - 1


def watch(name: str, directory: Path) -> Watched:
    """Run every detector over a stream."""
    dataset, known = name.partition(",")[0], STREAMS[name]
    frame = read_frame(directory, dataset)
    if known.shuffled is not None:
        order = np.random.default_rng(SEED).random(len(frame))
        frame = frame.iloc[np.lexsort((order, frame[known.shuffled]))].reset_index(drop=True)
    columns = features_of(frame, dataset)
    rows = len(frame)
    reference_rows, window_rows = rows // 5, 500 if rows < 20_000 else 1000
    reference, rest = take(columns, slice(reference_rows)), take(columns, slice(reference_rows, None))
    detector = KLDetector()
    began = time.process_time()
    profile = detector.profile(reference)
    windows = list(blocks_of(rest, window_rows))[: rows_of(rest) // window_rows]
    drifts = [detector.compare(profile, profile.count(window)) for window in windows]
    cpu = {"CLS KL": time.process_time() - began}
    alarm_W = np.array([drift.alarm for drift in drifts])
    ends = reference_rows + window_rows * np.arange(1, len(windows) + 1) - 1
    alarms = {"CLS KL": ends[alarm_W].tolist()}
    for peer, maker in OTHERS.items():
        began = time.process_time()
        alarms[peer] = _alarms(maker, reference, rest, window_rows, reference_rows)
        cpu[peer] = time.process_time() - began
    return Watched(
        name=name,
        rows=rows,
        reference_rows=reference_rows,
        window_rows=window_rows,
        marks={text: find(frame) for text, find in known.marks.items()},
        change=None if known.change is None else known.change(frame),
        nats_W=np.array([drift.nats for drift in drifts]),
        alarm_W=alarm_W,
        needed=drifts[0].rows_needed if drifts else None,
        alarms=alarms,
        cpu_seconds=cpu,
    )


def _alarms(
    maker: MonitorMaker, reference: Columns, rest: Columns, window_rows: int, offset: int
) -> list[int]:
    monitor, seen, found = maker(reference, window_rows=window_rows), offset, list[int]()
    for block in blocks_of(rest, window_rows):
        found += [seen + row for row in monitor.update(block)]
        seen += rows_of(block)
    return found


def figures_of(streams: Sequence[Watched]) -> list[Figure]:
    """Return delays and false alarms where they are known, and alarms elsewhere."""
    found = []
    for stream in streams:
        windows = stream.alarm_W.size
        share = float(stream.alarm_W.mean())
        for name in ("CLS KL", "CLS sequential"):
            alarms = stream.alarms[name]
            if stream.change is not None:
                result = judge(
                    [row - stream.reference_rows for row in alarms],
                    stream.rows - stream.reference_rows,
                    [KnownChange(stream.change - stream.reference_rows)],
                )
                delay = result.mean_delay_rows
                target = 2 * stream.window_rows
                found.append(
                    Figure(
                        f"{stream.name}: {name}, delay",
                        delay,
                        "rows",
                        f"<= {target}",
                        delay is not None and delay <= target,
                        f"{result.false_alarms} alarms in the {result.quiet_rows} rows before",
                    )
                )
        if STREAMS[stream.name].control:
            # Two or more have a chance of 2% at the budget.
            found += [
                Figure(f"{stream.name}: {name}, alarms", len(stream.alarms[name]), "alarms", "<= 1",
                       len(stream.alarms[name]) <= 1, f"{windows} windows, budget one in {BUDGET_WINDOWS}")
                for name in stream.alarms if name.startswith("CLS")
            ]  # fmt: skip
        elif stream.change is None:
            first_alarm = next(iter(stream.alarms["CLS KL"]), None)
            note = "no alarm" if first_alarm is None else f"the first at row {first_alarm}"
            found.append(Figure(f"{stream.name}: windows with an alarm", 100 * share, "%", note=note))
    return found


NOTES = (
    "Alarms of every detector at its defaults, in the rows behind the reference.",
    "*Needs* is the number of reference rows that the budget would need where the reference has fewer.",
    "*Before and after* are the windows with an alarm of all windows, from one mark to the next.",
    "The reference is never renewed here, so a lasting change alarms in every window, and the sequential detector as often as",
    "the evidence is complete again; in the service an episode is one alarm, and ends with a new reference.",
    "In the file of the control, people in group quarters (RELP 16 and 17, 7% of a year) are spread over 2015 and 2016, and stand",
    "together at the end of 2017 and the beginning of 2018: a change that windows of rows in order cannot but show.",
    "It is a control with each year's rows in random order; what alarms then are the years.",
)


def text_of(streams: Sequence[Watched]) -> str:
    """Return the table for people."""
    detectors = list(streams[0].alarms)
    lines = [
        "| stream | known | rows | reference | window | needs | "
        + " | ".join(detectors)
        + " | before and after |",
        "| --- | --- | ---: | ---: | ---: | ---: |" + " ---: |" * len(detectors) + " --- |",
    ]
    for stream in streams:
        alarms = [str(len(stream.alarms[name])) for name in detectors]
        needed = "-" if not stream.needed else f"{stream.needed:,}"
        lines.append(
            f"| {stream.name} | {STREAMS[stream.name].text} | {stream.rows:,} | {stream.reference_rows:,} | "
            f"{stream.window_rows:,} | {needed} | {' | '.join(alarms)} | {_around(stream)} |"
        )
    lines += [
        "",
        " ".join(NOTES),
        "",
        "![divergence over time](drift_streams.png)",
    ]
    return "\n".join(lines)


def _around(stream: Watched) -> str:
    bounds = sorted(stream.marks.items(), key=lambda item: item[1])
    names = ["at first", *(name for name, _ in bounds)]
    edges = [stream.reference_rows, *(max(row, stream.reference_rows) for _, row in bounds), stream.rows]
    parts = []
    for name, low, high in zip(names, edges[:-1], edges[1:], strict=True):
        inside = (stream.ends_W >= low) & (stream.ends_W < high)
        if inside.any():
            parts.append(f"{name} {int(stream.alarm_W[inside].sum())} of {int(inside.sum())}")
    return "; ".join(parts)


def plot(streams: Sequence[Watched], path: Path) -> None:
    """Draw each stream's divergence over time, with alarms and what is known."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(11, 2.0 * len(streams)), layout="constrained")
    for axes, stream in zip(sheet.subplots(len(streams), 1, squeeze=False)[:, 0], streams, strict=True):
        ends_W = stream.ends_W
        axes.plot(ends_W, stream.nats_W, color="#31688e", linewidth=1)
        axes.plot(
            ends_W[stream.alarm_W], stream.nats_W[stream.alarm_W], ".", color="#c51b1b", label="alarm, KL"
        )
        at = stream.alarms["CLS sequential"]
        axes.plot(at, np.zeros(len(at)), "|", color="#e08214", markersize=8, label="alarm, sequential")
        for name, row in stream.marks.items():
            axes.axvline(row, color="#8a8a8a", linestyle="--", linewidth=1)
            axes.text(row, 0.97, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize=7)
        axes.axvspan(0, stream.reference_rows, color="#8a8a8a", alpha=0.15)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=-0.01)
        axes.set_title(f"{stream.name}: {STREAMS[stream.name].text}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.set_ylabel("excess nats", fontsize=7)
    sheet.axes[0].legend(fontsize=7, loc="upper left")
    sheet.savefig(path, dpi=110)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data sets are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")
    options = parser.parse_args()
    streams = []
    for name in STREAMS:
        streams.append(watch(name, options.data))
        counts = ", ".join(
            f"{detector} {len(alarms)} ({streams[-1].cpu_seconds[detector]:.1f} CPU s)"
            for detector, alarms in streams[-1].alarms.items()
        )
        print(f"{name}: alarms {counts}", flush=True)
    path = write_results(
        "drift_streams",
        dataset="; ".join(STREAMS),
        seeds=[SEED],
        figures=figures_of(streams),
        text=text_of(streams),
        details={
            stream.name: {
                "marks": stream.marks,
                "reference_rows": stream.reference_rows,
                "window_rows": stream.window_rows,
                "nats": stream.nats_W.tolist(),
                "alarms": {name: rows[:200] for name, rows in stream.alarms.items()},
                "cpu_seconds": stream.cpu_seconds,
            }
            for stream in streams
        },
        directory=options.out,
    )
    plot(streams, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
