"""How soon a change is found, by detectors that alarm equally rarely where there is none.

    .venv/bin/pip install --no-deps -r benchmarks/requirements.txt
    python -m benchmarks.drift_delay [--seeds 30] [--alarms 25]

Every detector's threshold is first set by simulation so that it alarms once in 20,000 rows of a stream without a change, on
average over references of 10,000 rows; then runs on other seeds show how well that was met. Delays are from the first changed row
to the row of the alarm. A change that is not found within 10,000 rows is missed, and enters the mean delay with
10,000: chance alone would end a run of that length in 39% of the cases, so no detector's mean exceeds about 8,000.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from benchmarks.delay_contenders import REFERENCE_ROWS, Contender, contenders
from benchmarks.peers import missing, versions
from benchmarks.report import RESULTS, Figure, write_results
from detectors.evaluation import Evaluation
from detectors.streams import Recipe, reference_of, stream_of

RUN_LENGTH = 20_000  # rows between false alarms
HORIZON = 10_000  # rows after the onset
BEFORE = 1000  # rows before the onset, and up to as many more: windows must not know where it lies
NUMBERS = Recipe(numeric=20)
MIXED = Recipe(numeric=10, categorical=10)


@dataclass(frozen=True)
class Cell:
    """One kind of change."""

    name: str
    recipe: Recipe

    @property
    def layout(self) -> Recipe:
        """The features whose thresholds are used."""
        return MIXED if self.recipe.categorical else NUMBERS

    @property
    def reference(self) -> Recipe:
        """What the reference is drawn from: the same features, before the change."""
        return self.recipe if self.recipe.kind == "missing" else self.layout


CELLS = (
    *(
        Cell(f"mean +{size:g} sigma, {moving} of 20", Recipe("mean", size, moving=moving))
        for size in (0.1, 0.2, 0.5, 1.0)
        for moving in (1, 5)
    ),
    *(Cell(f"variance x1.5, {moving} of 20", Recipe("variance", 1.5, moving=moving)) for moving in (1, 5)),
    *(
        Cell(f"mean +1 sigma over 5,000 rows, {moving} of 20", Recipe("mean", 1.0, moving=moving, over=5000))
        for moving in (1, 5)
    ),
    Cell("category renamed, 1 of 20", Recipe("category", 1.0, numeric=10, categorical=10)),
    Cell("category renamed in 5% of its rows, 1 of 20", Recipe("category", 0.05, numeric=10, categorical=10)),
    *(Cell(f"missing 1% to 5%, {moving} of 20", Recipe("missing", 0.05, moving=moving)) for moving in (1, 5)),
)


@dataclass(frozen=True)
class Delay:
    """Delays of one detector at one kind of change."""

    mean: float  # rows, a miss counting as the horizon
    error: float  # standard error of the mean
    missed: float  # share
    runs: int

    @classmethod
    def of(cls, delays: Sequence[int | None]) -> Delay:
        """Summarise."""
        rows = [HORIZON if delay is None else delay for delay in delays]
        error = stdev(rows) / math.sqrt(len(rows)) if len(rows) > 1 else math.inf
        return cls(fmean(rows), error, delays.count(None) / len(delays), len(delays))


def delays_of(contender: Contender, knobs: dict[Recipe, float], seeds: int) -> dict[str, Delay]:
    """Return the delays of one detector at every change."""
    found: dict[str, list[int | None]] = {cell.name: [] for cell in CELLS}
    references = {cell.reference: cell.layout for cell in CELLS}
    for seed in range(max(round(seeds / contender.cost), 2)):
        onset = BEFORE + int(np.random.default_rng(seed).integers(BEFORE))
        for recipe, layout in references.items():
            delay = contender.prepare(reference_of(recipe, REFERENCE_ROWS, 2 * seed), knobs[layout])
            for cell in CELLS:
                if cell.reference == recipe:
                    stream = stream_of(cell.recipe, onset + HORIZON, 2 * seed + 1, onset=onset)
                    found[cell.name].append(delay(stream, onset))
    return {name: Delay.of(delays) for name, delays in found.items()}


@dataclass(frozen=True)
class Measured:
    """All of one detector."""

    knobs: dict[Recipe, float]
    null: dict[Recipe, Evaluation]  # on seeds that the knobs do not know
    delays: dict[str, Delay]
    cpu_seconds: float


def measure(contender: Contender, seeds: int, alarms: float) -> Measured:
    """Set a detector's knobs, check them and measure its delays."""
    began = time.process_time()
    knobs, null = {}, {}
    for layout in (NUMBERS, MIXED):
        knobs[layout] = contender.calibrate(layout, RUN_LENGTH, alarms / contender.cost)
        null[layout] = contender.null(layout, knobs[layout], RUN_LENGTH, alarms / contender.cost / 2)
    delays = delays_of(contender, knobs, seeds)
    return Measured(knobs, null, delays, time.process_time() - began)


def figures_of(names: Sequence[Contender], measured: dict[str, Measured]) -> list[Figure]:
    """Return the best of ours against the best peer in every cell."""
    found = []
    for cell in CELLS:
        delays = {c.name: measured[c.name].delays[cell.name] for c in names}
        ours = min((c.name for c in names if c.ours), key=lambda name: delays[name].mean)
        peer = min((c.name for c in names if not c.ours), key=lambda name: delays[name].mean)
        gap = delays[ours].mean - delays[peer].mean
        error = math.hypot(delays[ours].error, delays[peer].error)
        verdict = "tied" if abs(gap) <= 2 * error else "ahead" if gap < 0 else "behind"
        found.append(
            Figure(
                cell.name,
                delays[ours].mean,
                "rows",
                f"<= {delays[peer].mean:.0f} ({peer})",
                verdict != "behind",
                f"{verdict}: {ours}, +- {delays[ours].error:.0f} against +- {delays[peer].error:.0f}, "
                f"missed {delays[ours].missed:.0%} against {delays[peer].missed:.0%}",
            )
        )
    return found


def text_of(names: Sequence[Contender], measured: dict[str, Measured]) -> str:
    """Return the tables for people."""
    lines = [
        (
            "The figures compare the best of ours with the best peer, each chosen after the fact; *tied* is within two standard "
            "errors of the difference. Below is every detector: mean delay in rows +- its standard error, and the share "
            f"missed within {HORIZON:,} rows where there is one. A miss counts {HORIZON:,}."
        ),
        "",
        "| | " + " | ".join(c.name for c in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for cell in CELLS:
        row = [cell.name]
        for c in names:
            delay = measured[c.name].delays[cell.name]
            missed = f" ({delay.missed:.0%})" if delay.missed else ""
            row.append(f"{delay.mean:.0f} +- {delay.error:.0f}{missed}")
        lines.append("| " + " | ".join(row) + " |")
    lines += [
        "",
        f"Rows between false alarms, {RUN_LENGTH:,} asked for, on seeds that the thresholds were not set on (alarms seen):",
        "",
        "| | 20 numeric | 10 numeric, 10 categorical | runs | CPU s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for c in names:
        found = measured[c.name]
        cells = [
            _told(found.null[layout]) if math.isfinite(found.knobs[layout]) else "no threshold keeps it"
            for layout in (NUMBERS, MIXED)
        ]
        runs = next(iter(found.delays.values())).runs
        lines.append(f"| {c.name} | {' | '.join(cells)} | {runs} | {found.cpu_seconds:.0f} |")
    notes = [
        "Slow detectors get fewer runs and false alarms to be set on, which their standard errors show.",
        "Page-Hinkley, ADWIN and KSWIN read numbers standardised by the reference, and for a category the share it had there;",
        "missing values are not shown to them, nor to the libraries that compare windows. KSWIN is river's rule, compiled",
        "(benchmarks/kswin.py): river's own reads 160 rows a second; its run length takes few values, of which the nearest is used.",
        "Evidently is the statistic of its report, without the report. Where the distance is infinite in more windows without a",
        "change than may alarm, as frouros's KL is, no threshold keeps the run length; such a detector is left silent.",
        *(f"{library} is left out: {reason}." for library, reason in missing().items()),
    ]
    return "\n".join([*lines, "", " ".join(notes)])


def _told(null: Evaluation) -> str:
    between = null.rows_between_false_alarms
    return f"{'-' if between is None else f'{between:,.0f}'} ({null.alarms})"


def plot(names: Sequence[Contender], measured: dict[str, Measured], path: Path) -> None:
    """Draw all delays: one line per change, one mark per detector."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(11, 8), layout="constrained")
    axes = sheet.subplots()
    marks = "osD^v<>PX*hp8d"
    for i, c in enumerate(names):
        delays = [measured[c.name].delays[cell.name] for cell in CELLS]
        axes.errorbar(
            [delay.mean for delay in delays],
            [len(CELLS) - n + 0.03 * (i - len(names) / 2) for n in range(len(CELLS))],
            xerr=[delay.error for delay in delays],
            fmt=marks[i % len(marks)],
            color=("C3", "C1", "C6", "C5")[i % 4] if c.ours else None,
            markersize=8 if c.ours else 5,
            alpha=0.9 if c.ours else 0.6,
            label=c.name,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(CELLS), 0, -1), [cell.name for cell in CELLS])
    axes.set_xlabel(
        f"mean delay in rows, at one false alarm in {RUN_LENGTH:,} rows; a miss counts {HORIZON:,}"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sheet.savefig(path, dpi=110)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--seeds", type=int, default=30, help="runs per change and detector; slow ones get fewer"
    )
    parser.add_argument("--alarms", type=float, default=25, help="false alarms behind each threshold, about")
    parser.add_argument("--only", help="detectors whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")
    options = parser.parse_args()
    names = [c for c in contenders() if not options.only or options.only in c.name]
    measured: dict[str, Measured] = {}
    for c in names:
        measured[c.name] = measure(c, options.seeds, options.alarms)
        print(_progress(c.name, measured[c.name]), flush=True)
    if not any(c.ours for c in names) or all(c.ours for c in names):
        return  # a trial run: nothing to compare
    path = write_results(
        "drift_delay",
        dataset="synthetic streams (detectors/streams.py)",
        seeds=range(options.seeds),
        figures=figures_of(names, measured),
        text=text_of(names, measured),
        details={
            "run_length": RUN_LENGTH,
            "horizon": HORIZON,
            "reference_rows": REFERENCE_ROWS,
            "peers": versions(),
            "left_out": missing(),
            "detectors": {name: _details(found) for name, found in measured.items()},
        },
        directory=options.out,
    )
    plot(names, measured, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


def _progress(name: str, found: Measured) -> str:
    delays = " ".join(f"{delay.mean:.0f}" for delay in found.delays.values())
    null = " ".join(_told(evaluation) for evaluation in found.null.values())
    return f"{name}: {found.cpu_seconds:.0f} CPU s, between false alarms {null}, delays {delays}"


def _details(found: Measured) -> dict[str, object]:
    return {
        # null: so many windows without a change have an infinite distance that no threshold keeps the run length
        "knobs": {
            _name(layout): knob if math.isfinite(knob) else None for layout, knob in found.knobs.items()
        },
        "null": {_name(layout): evaluation.to_json() for layout, evaluation in found.null.items()},
        "delays": {name: vars(delay) for name, delay in found.delays.items()},
        "cpu_seconds": found.cpu_seconds,
    }


def _name(layout: Recipe) -> str:
    return f"{layout.numeric} numeric, {layout.categorical} categorical"


if __name__ == "__main__":
    main()
