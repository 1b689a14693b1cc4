"""How many rows a second a detector judges, beside the peers and beside merely reading the memory.

    .venv/bin/pip install --no-deps -r benchmarks/requirements.txt
    OMP_NUM_THREADS=1 python -m benchmarks.drift_speed [--repeats 5] [--rows 50000000]

CPU time of one thread, median of the repeats; a reference of 50,000 rows, windows of 1,000. Blocks lie in memory, two of them in
turn, so that neither making data nor the cache is timed. Everything is exact: no edge is snapped to a grid, and the
verdicts of a block are those of its windows one by one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from threadpoolctl import threadpool_limits

from benchmarks import peers
from benchmarks.report import RESULTS, Figure, write_results
from detectors.columns import Categorical, Columns, rows_of, take
from detectors.detector import KLDetector
from detectors.monitors import Sequential
from detectors.monitors_river import adwin, hddm_a, kswin, page_hinkley
from detectors.profile import build_profile
from detectors.rows import RowBins, Value
from detectors.sequential import SequentialDetector, SequentialRunner
from detectors.sliding import SlidingDetector
from detectors.streams import Recipe, reference_of, stream_of

REFERENCE_ROWS = 50_000
WINDOW_ROWS = 1000
NUMBERS, MIXED = Recipe(numeric=20), Recipe(numeric=10, categorical=10)
BLOCK_ROWS = 200_000  # of ours; 32 MB for 20 features, more than the cache holds
FEATURES = (1, 10, 20, 100, 1000)
WINDOWS = (100, 1000, 10_000, 100_000)
BINS = (8, 16, 32, 64, 128, 256)

Work = Callable[[Any], object]  # of a block of rows


@dataclass(frozen=True)
class Speed:
    """Rows a second of CPU time."""

    median: float
    low: float
    high: float


def speed(work: Work, blocks: Sequence[Any], repeats: int) -> Speed:
    """Time some work on each of the blocks in turn, after a first one: what is done once per reference is not timed."""
    work(blocks[-1])
    found = []
    for i in range(repeats):
        block = blocks[i % len(blocks)]
        rows = rows_of(block) if isinstance(block, dict) else len(block)
        began = time.process_time()
        work(block)
        found.append(rows / max(time.process_time() - began, 1e-9))
    return Speed(median(found), min(found), max(found))


def blocks_of(recipe: Recipe, rows: int, number: int = 2) -> list[Columns]:
    """Return blocks of a stream without a change."""
    return [stream_of(recipe, rows, 100 + i, onset=None) for i in range(number)]


def read(columns: Columns) -> float:
    """Read every value once."""
    return sum(
        float((column.codes if isinstance(column, Categorical) else column).sum())
        for column in columns.values()
    )


def _values(columns: Columns) -> list[tuple[Value, ...]]:
    """Return rows as plain values."""
    lists = [
        [None if code < 0 else column.vocabulary[code] for code in column.codes]
        if isinstance(column, Categorical)
        else column.tolist()
        for column in columns.values()
    ]
    return list(zip(*lists, strict=True))


def scan(detector: KLDetector, reference: Columns, window_rows: int = WINDOW_ROWS) -> Work:
    """Judge a block window by window."""
    profile = detector.profile(reference)
    return lambda block: detector.scan(profile, block, window_rows)


def sequential(reference: Columns) -> Work:
    """Judge after every row."""
    monitor = Sequential(reference, detector=SequentialDetector(run_length=1e9))
    return monitor.update


def row_by_row(reference: Columns) -> Work:
    """Judge after every row, each handed over by a call of its own, as plain values."""
    profile = build_profile(reference)
    rows, runner = RowBins(profile), SequentialRunner(SequentialDetector(run_length=1e9), profile)

    def work(block: list[tuple[Value, ...]]) -> None:
        for row in block:
            runner.update(rows.assign(row))

    return work


def slid(reference: Columns) -> Work:
    """Judge the last 1,000 rows at every row."""
    return SlidingDetector(window_rows=WINDOW_ROWS).start(build_profile(reference)).update


def slid_by_row(reference: Columns) -> Work:
    """Judge the last 1,000 rows at every row, each handed over by a call of its own."""
    runner = SlidingDetector(window_rows=WINDOW_ROWS).start(build_profile(reference))

    def work(block: list[tuple[Value, ...]]) -> None:
        for row in block:
            runner.update_row(row)

    return work


def alone(call: peers.Call) -> Work:
    """Judge one window after the other, as libraries that compare windows do."""

    def work(block: Columns) -> None:
        for start in range(0, rows_of(block), WINDOW_ROWS):
            call(take(block, slice(start, start + WINDOW_ROWS)))

    return work


def of_peers(recipe: Recipe, repeats: int) -> dict[str, Speed]:
    """Return the speed of every peer that is installed, each on as many rows as it can take in a few seconds."""
    reference = reference_of(recipe, REFERENCE_ROWS, 0)
    gone = peers.missing()
    cases: list[tuple[str, str, Callable[[], Work], int]] = [
        ("Evidently Report, kl_div", "evidently", lambda: alone(peers.evidently_report(reference)), 2000),
        *(
            (f"{name}", "frouros", lambda name=name: alone(peers.frouros_distance(name.split()[1])(reference)), 5000)
            for name in ("frouros KL", "frouros PSI", "frouros KSTest")
        ),
        ("NannyML Jensen-Shannon", "nannyml", lambda: alone(peers.nannyml_calculator(reference)), 20_000),
        ("river ADWIN", "river", lambda: adwin(reference).update, 20_000),
        ("river Page-Hinkley", "river", lambda: page_hinkley(reference, threshold=1e9).update, 20_000),
        ("river HDDM_A", "river", lambda: hddm_a(reference).update, 10_000),
        ("river KSWIN", "river", lambda: kswin(reference).update, 300),
    ]  # fmt: skip
    found = {}
    for name, library, make, rows in cases:
        if library in gone:
            continue
        found[name] = speed(make(), blocks_of(recipe, rows), repeats)
        print(f"  {name}: {found[name].median:,.0f} rows/s", flush=True)
    return found


def of_ours(recipe: Recipe, repeats: int) -> dict[str, Speed]:
    """Return the speed of ours, and of reading."""
    reference = reference_of(recipe, REFERENCE_ROWS, 0)
    blocks = blocks_of(recipe, BLOCK_ROWS)
    detector = KLDetector()
    profile = detector.profile(reference)
    values = [_values(block) for block in blocks_of(recipe, 20_000)]
    cases: dict[str, tuple[Work, Sequence[Any]]] = {
        "reading the memory": (read, blocks),
        "CLS block API": (scan(detector, reference), blocks),
        "CLS block API, counting alone": (lambda block: profile.count_windows(block, WINDOW_ROWS), blocks),
        "CLS sliding, every row": (slid(reference), blocks),
        "CLS sliding, a call per row": (slid_by_row(reference), values),
        "CLS sequential, every row": (sequential(reference), blocks_of(recipe, 50_000)),
        "CLS sequential, a call per row": (row_by_row(reference), values),
    }
    found = {}
    for name, (work, data) in cases.items():
        found[name] = speed(work, data, repeats)
        print(f"  {name}: {found[name].median:,.0f} rows/s", flush=True)
    return found


def costs(repeats: int) -> dict[str, dict[int, float]]:
    """Return nanoseconds per value of the block API, by features, window and bins."""
    found: dict[str, dict[int, float]] = {"features": {}, "window rows": {}, "bins": {}}
    for features in FEATURES:
        recipe = Recipe(numeric=features)
        work = scan(KLDetector(), reference_of(recipe, 5000, 0))
        rows = max(BLOCK_ROWS * 20 // features // 10, 2 * WINDOW_ROWS)
        found["features"][features] = 1e9 / speed(work, blocks_of(recipe, rows), repeats).median / features
    reference, blocks = reference_of(NUMBERS, REFERENCE_ROWS, 0), blocks_of(NUMBERS, BLOCK_ROWS)
    for window_rows in WINDOWS:
        work = scan(KLDetector(), reference, window_rows)
        found["window rows"][window_rows] = 1e9 / speed(work, blocks, repeats).median / 20
    for bins in BINS:
        work = scan(KLDetector(bins=bins), reference)
        found["bins"][bins] = 1e9 / speed(work, blocks, repeats).median / 20
    return found


def calibration(bins: Sequence[int]) -> dict[int, float]:
    """Return CPU seconds from a reference to its first verdict: profile and simulated null, once per reference."""
    reference, block = reference_of(NUMBERS, REFERENCE_ROWS, 0), blocks_of(NUMBERS, WINDOW_ROWS, 1)[0]
    found = {}
    for number in bins:
        began = time.process_time()
        scan(KLDetector(bins=number), reference)(block)
        found[number] = time.process_time() - began
    return found


def memory(rows: int) -> list[tuple[int, float]]:
    """Return resident memory in MB by rows judged, over a long stream: blocks come from a ring that is made before."""
    detector = KLDetector()
    profile = detector.profile(reference_of(NUMBERS, REFERENCE_ROWS, 0))
    monitor = Sequential(
        reference_of(NUMBERS, REFERENCE_ROWS, 0), detector=SequentialDetector(run_length=1e9)
    )
    ring = blocks_of(NUMBERS, BLOCK_ROWS, 3)
    process, found, done = psutil.Process(), [], 0
    while done < rows:
        block = ring[done // BLOCK_ROWS % len(ring)]
        detector.scan(profile, block, WINDOW_ROWS)
        monitor.update(take(block, slice(1000)))  # slower by fifty: a sample of the rows
        done += BLOCK_ROWS
        if done % (10 * BLOCK_ROWS) == 0 or done >= rows:
            found.append((done, process.memory_info().rss / 2**20))
    return found


COMPILE = """
import time
from detectors.detector import KLDetector
from detectors.monitors import Sequential
from detectors.streams import Recipe, reference_of, stream_of
recipe = Recipe(numeric=2, categorical=1)
reference, block = reference_of(recipe, 2000, 0), stream_of(recipe, 2000, 1, onset=None)
import numba
began = time.process_time()
detector = KLDetector()
detector.scan(detector.profile(reference), block, 100)
Sequential(reference).update(block)
first = time.process_time() - began
began = time.process_time()
detector.scan(detector.profile(reference), block, 100)
Sequential(reference).update(block)
print(first - (time.process_time() - began))
"""


def compile_seconds(directory: Path) -> tuple[float, float]:
    """Return what the first call of a process costs more than the next, with an empty cache and with a full one."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(directory), "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout))
    return found[0], found[1]


def main() -> None:
    """Measure, and write the results."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=50_000_000, help="rows over which memory is watched")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")
    options = parser.parse_args()
    with threadpool_limits(1), tempfile.TemporaryDirectory() as cache:
        cold, warm = compile_seconds(Path(cache))
        tables = {}
        for name, recipe in (("20 numeric", NUMBERS), ("10 numeric, 10 categorical", MIXED)):
            print(name)
            tables[name] = of_ours(recipe, options.repeats) | of_peers(recipe, max(options.repeats // 2, 1))
        once = calibration(BINS)  # before anything fills the cache of nulls
        cost = costs(max(options.repeats // 2, 1))
        used = memory(options.rows)
    write(tables, cost, once, used, (cold, warm), options.out)


def write(
    tables: dict[str, dict[str, Speed]],
    cost: dict[str, dict[int, float]],
    once: dict[int, float],
    used: list[tuple[int, float]],
    compiled: tuple[float, float],
    out: Path,
) -> None:
    """Write figures and tables."""
    numeric, mixed = tables.values()
    ours = numeric["CLS block API"].median
    rest = [name for name in numeric if not name.startswith("CLS") and name != "reading the memory"]
    best = max(rest, key=lambda name: numeric[name].median, default="")
    settled = [megabytes for rows, megabytes in used if rows > used[-1][0] / 10] or [used[-1][1]]
    growth = max(settled) - min(settled)
    figures = [
        _at_least("block API, 20 numeric", ours, 4e6),
        _at_least("block API, 10 numeric and 10 categorical", mixed["CLS block API"].median, 2e6),
        *(
            _at_least(f"{way}, {what}", rates[f"CLS {way}"].median, 8e4)
            for way in ("sliding, a call per row", "sequential, a call per row", "sliding, every row", "sequential, every row")
            for what, rates in (("20 numeric", numeric), ("10 numeric and 10 categorical", mixed))
        ),
        Figure("from a reference to its first verdict", once[16], "CPU s", note="profile and null, once per reference"),
        Figure("block API over reading the memory", numeric["reading the memory"].median / ours, "times slower"),
        Figure("resident memory, last nine tenths of the rows", growth, "MB of growth", "flat: < 5", growth < 5,
               f"{used[-1][0]:,} rows, {used[-1][1]:.0f} MB at the end"),
        Figure("numba, first call with an empty cache", compiled[0], "CPU s", note="all kernels"),
        Figure("numba, first call of a process with a full cache", compiled[1], "CPU s"),
    ]  # fmt: skip
    if best:
        factor = ours / numeric[best].median
        figures.append(Figure("block API over the fastest peer", factor, "times faster", note=best))
    if "Evidently Report, kl_div" in numeric:
        factor = ours / numeric["Evidently Report, kl_div"].median
        figures.append(
            Figure("block API over Evidently's report", factor, "times faster", ">= 1000", factor >= 1000)
        )
    write_results(
        "drift_speed",
        dataset="synthetic streams (detectors/streams.py)",
        seeds=[0, 100, 101],
        figures=figures,
        text=_text(tables, cost, once, used),
        details={
            "peers": peers.versions(),
            "left_out": peers.missing(),
            "rows_per_second": {
                name: {k: vars(v) for k, v in table.items()} for name, table in tables.items()
            },
            "nanoseconds_per_value": cost,
            "first_verdict_cpu_seconds": once,
            "resident_megabytes": used,
        },
        directory=out,
    )
    print((out / "drift_speed.md").read_text())


def _at_least(name: str, value: float, target: float | None) -> Figure:
    if target is None:
        return Figure(name, value, "rows/s")
    return Figure(name, value, "rows/s", f">= {target:,.0f}", value >= target)


def _text(
    tables: dict[str, dict[str, Speed]],
    cost: dict[str, dict[int, float]],
    once: dict[int, float],
    used: list[tuple[int, float]],
) -> str:
    lines = [
        "Rows a second of CPU time, one thread, median (slowest to fastest repeat):",
        "",
        "| | " + " | ".join(tables) + " |",
        "| --- |" + " ---: |" * len(tables),
    ]
    for name in next(iter(tables.values())):
        found = [table.get(name) for table in tables.values()]
        cells = ["-" if s is None else f"{s.median:,.0f} ({s.low:,.0f} to {s.high:,.0f})" for s in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for by, values in cost.items():
        lines += ["", f"Block API by {by}, nanoseconds a value:", ""]
        lines += ["| " + " | ".join(f"{key:,}" for key in values) + " |", "|" + " ---: |" * len(values)]
        lines.append("| " + " | ".join(f"{value:.1f}" for value in values.values()) + " |")
    told = ", ".join(f"{bins}: {seconds:.2f}" for bins, seconds in once.items())
    lines += ["", f"CPU seconds from a reference of 20 features to its first verdict, by bins: {told}"]
    lines += [
        "",
        "Resident memory in MB by millions of rows: "
        + ", ".join(f"{r / 1e6:.0f}: {m:.0f}" for r, m in used[::5]),
    ]
    notes = [f"{library} is left out: {reason}." for library, reason in peers.missing().items()]
    notes.append(
        "Peers are called per window, as their documentation says; river's detectors, one per feature, read Python floats."
    )
    return "\n".join([*lines, "", " ".join(notes)])


if __name__ == "__main__":
    main()
