"""Figures, table and picture of what learning costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost_steps import HALF, OURS, STEPS
from benchmarks.cost_stream import PERIOD, RECIPE, REPLAYED, TEN, slope
from benchmarks.forgetting_plain import BATCH_ROWS
from benchmarks.report import RESULTS, Figure

DRAWS = 2000
TARGETS = {"ours EWC": 1.1, "ours ER": 1.6, "ours DER++": 2.2}
FISHER_SECONDS = 0.3
SLOPE = 0.05


def ratio(spent: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Return the median over rounds of one contender's time over that of another, and its 95% interval by bootstrap."""
    ratio_R = np.divide(spent, base)
    drawn = np.random.default_rng(0).choice(ratio_R, (DRAWS, len(ratio_R)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(ratio_R)), float(low), float(high)


def replayed(name: str) -> str:
    """Return how many rows our recipe of that name takes from memory in each step."""
    recipe = (OURS | HALF).get(name)
    return "" if recipe is None else str(round(recipe.batch_rows * recipe.replay_share) or "")


def figures_of_steps(
    spent: Mapping[str, Sequence[float]], fisher: Mapping[str, Sequence[float]]
) -> list[Figure]:
    """Return the figures of steps and of the Fisher information."""
    base = spent["bare loop"]
    found = [
        Figure(
            "bare loop of torch",
            1e3 * float(np.median(base)) / STEPS,
            "CPU s per 1,000 steps",
            note=f"median of {len(base)} rounds of {STEPS} steps",
        )
    ]
    for name in spent:
        if name == "bare loop":
            continue
        value, low, high = ratio(spent[name], base)
        most, memory = TARGETS.get(name), replayed(name)
        found.append(
            Figure(
                name,
                value,
                "times the bare loop",
                f"<= {most:g}" if most else "",
                value <= most if most else None,
                f"{low:.3f} to {high:.3f}"
                + (f"; {memory} replayed with {BATCH_ROWS} new rows" if memory else ""),
            )
        )
    seconds = float(np.median(fisher["exact"]))
    found.append(
        Figure(
            "Fisher information of 1,000 rows, exact over ten classes",
            seconds,
            "CPU s",
            f"<= {FISHER_SECONDS:g}",
            seconds <= FISHER_SECONDS,
            f"{min(fisher['exact']):.3f} to {max(fisher['exact']):.3f}; sampled {np.median(fisher['sampled']):.3f}",
        )
    )
    return found


def figures_of_stream(found: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of updates of ten rows."""
    periods, counts = found["stream"]["periods"], found["stream"]["counts"]
    ours_N, reference_N = (np.array([period[name] for period in periods]) for name in ("ours", "reference"))
    rows = max(periods[-1]["after_rows"] + TEN * PERIOD, counts[-1]["after_rows"] + TEN)
    value, low, high = slope(ours_N / reference_N)
    raw = slope(ours_N)
    kinds = by_kind(counts)
    same = all(len(set(operations)) == 1 for operations in kinds.values())
    figures = [
        Figure(
            "update of ten rows",
            float(np.median(ours_N)),
            "CPU ms",
            "< 10",
            bool(np.median(ours_N) < 10),
            f"{REPLAYED} replayed, {RECIPE.fisher} Fisher information, start to conclude; a bare step on as many rows takes "
            f"{np.median(reference_N):.1f}",
        ),
        Figure(
            f"slope of an update's CPU time over {rows:,} rows",
            100 * value,
            "% of the mean, first to last",
            "interval below 5",
            high < SLOPE,
            f"{100 * low:.1f} to {100 * high:.1f}, in steps of the bare loop beside it; "
            f"as the clock says {100 * raw[0]:.1f} ({100 * raw[1]:.1f} to {100 * raw[2]:.1f})",
        ),
        Figure(
            "operations of an update, most of any kind",
            float(max(map(max, kinds.values()))),
            "operations of torch",
            "the same at every place",
            same,
            f"{len(kinds)} kinds of updates, counted at {len({c['after_rows'] // (TEN * PERIOD) for c in counts})} places",
        ),
    ]
    if (spent := found.get("avalanche_stream")) is not None:
        tenth = max(1, len(spent) // 10)
        first, last = (1e3 * float(np.median(part)) for part in (spent[:tenth], spent[-tenth:]))
        figures.append(
            Figure(
                "Avalanche class-balanced, update of ten rows",
                last,
                "CPU ms",
                note=f"after {TEN * len(spent):,} rows, as far as {sum(spent):.0f} CPU s went; {first:.0f} in the first tenth of these",
            )
        )
    return figures


def by_kind(counts: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of operations by the place in the period and by what entered the memory."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for count in counts:
        kinds.setdefault((count["place"], count["entered"]), []).append(count["operations"])
    return kinds


def draw(found: Mapping[str, Any], directory: Path = RESULTS) -> None:
    """Draw the cost of an update over the stream."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    periods = found["stream"]["periods"]
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(
        [p["after_rows"] for p in periods], [p["ours"] for p in periods], ".", label="ours, EWC + replay"
    )
    axes.plot(
        [p["after_rows"] for p in periods],
        [p["reference"] for p in periods],
        ".",
        label="a step of torch alone on as many rows",
    )
    if (spent := found.get("avalanche_stream")) is not None:
        middle = [1e3 * float(np.median(spent[i : i + PERIOD])) for i in range(0, len(spent), PERIOD)]
        axes.plot(
            [TEN * PERIOD * i for i in range(len(middle))], middle, ".", label="Avalanche, class-balanced"
        )
    axes.set(xlabel="rows learned, ten at a time", ylabel="CPU ms per update", ylim=(0, None))
    axes.legend()
    figure.savefig(directory / "learning_cost.png", dpi=120)
    plt.close(figure)


def text(found: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Return the tables, and what they mean."""
    spent, fisher = found["steps"], found["fisher"]
    base = spent["bare loop"]
    lines = [
        "| contender | CPU s per 1,000 steps | times the bare loop | 95% interval | replayed |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    for name, seconds in spent.items():
        value, low, high = ratio(seconds, base)
        memory = replayed(name) or ("128" if "replay" in name or name.endswith("ER") else "")
        lines.append(
            f"| {name} | {1e3 * float(np.median(seconds)) / STEPS:.2f} | {value:.3f} | {low:.3f} to {high:.3f} | {memory} |"
        )
    kinds = "\n".join(
        f"| {place} | {entered} | {len(operations)} | {', '.join(map(str, sorted(set(operations))))} |"
        for (place, entered), operations in sorted(by_kind(found["stream"]["counts"]).items())
    )
    periods = found["stream"]["periods"]
    updates = np.median([period["ours"] / period["reference"] for period in periods])
    peers = ", ".join(f"{library} {version}" for library, version in versions.items())
    return f"""## Steps

Steps alone: what is done once in an update is beside them, in ours (5,120 rows) {1e3 * np.median(fisher["start"]):.0f} CPU ms to
start (encoding 784 columns) and {1e3 * np.median(fisher["conclude"]):.0f} to conclude (the exact Fisher information of 1,000 rows, and memory).
Peers: {peers or "none"}; what they do at the end of a task is left out likewise. Ours is AdamW in its fused form, the bare loop
`torch.optim.Adam` as it comes; the same with the fused form is beside it, as is the bare loop on 256 rows: what replaying 128 rows
must cost at least. Against the bare loop with fused Adam ours plain takes {ratio(spent["ours plain"], spent["bare loop, fused Adam"])[0]:.2f}, EWC {ratio(spent["ours EWC"], spent["bare loop, fused Adam"])[0]:.2f}
times as long: what is left is gathering, weighing and checking of rows, and a few more passes over the weights. The interval is a bootstrap over rounds of the median of ratios to the bare loop in the same round.

{chr(10).join(lines)}

## A stream, ten rows at a time

![CPU time of an update](learning_cost.png)

EWC and replay ({RECIPE.memory_rows} rows, class-balanced), consolidated every {PERIOD} updates, Adam's moments kept; each update begins with
`start` and ends with `conclude`, nothing is packed. About half of it is the step itself, a quarter the Fisher information of the ten rows, a
sixth the start (784 columns to encode, and the optimiser), the rest memory and consolidation. Its CPU time in ms is that of a machine whose caches others share; in steps of the
bare loop it takes {updates:.1f}. Operations of torch in one update, by its place between two consolidations and by
the rows that entered the memory:

| place | entered | updates counted | operations |
| --- | --- | ---: | --- |
{kinds}
"""
