"""What the loads of benchmarks.serving come to: figures against their targets, a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Figure
from benchmarks.serving_load import Load

ONE, MANY = "one row, one connection", "one row, 32 connections"
BATCH, BATCH_MANY = "100 rows, one connection", "100 rows, 32 connections"
ARROW = "100 rows of Arrow, one connection"
CLS, CANARY = "CLS", "CLS, canary at 25%"
FASTAPI, LITSERVE, MLFLOW = "plain FastAPI", "LitServe", "mlflow models serve"
NETWORKS = ("flight network", "ten times larger")
OURS = (CLS, CANARY)
Cells = dict[str, dict[str, list[Load]]]  # by load and contender, one per round


def middle(loads: list[Load], field: str) -> float:
    """Return the median over the rounds."""
    return float(np.median([getattr(load, field) for load in loads]))


def spread(loads: list[Load], field: str, digits: int = 0) -> str:
    """Return lowest and highest round."""
    values = [getattr(load, field) for load in loads]
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def measured(by_name: dict[str, list[Load]]) -> list[str]:
    """Return which of our contenders took part."""
    return [name for name in OURS if name in by_name]


def figures_of(found: dict[str, dict[str, Any]]) -> list[Figure]:
    """Return the figures of all networks, each beside its target."""
    figures = []
    for network, result in found.items():
        cells: Cells = result["cells"]
        figures += _absolute(network, cells)
        figures += _against(network, cells)
        figures += [_batches(network, result, load) for load in (BATCH, ARROW)]
        if result["shadow"]:
            figures.append(_shadow(network, result["shadow"]))
    return figures


def _absolute(network: str, cells: Cells) -> list[Figure]:
    figures = []
    for name, loads in cells[MANY].items():
        rate, slow = middle(loads, "per_second"), middle(loads, "p99_ms")
        title = f"{network}: {name}, {MANY}"
        figures.append(Figure(title, rate, "requests/s", note=spread(loads, "per_second")))
        figures.append(Figure(f"{title}, p99", slow, "ms", note=spread(loads, "p99_ms", 1)))
    for name in measured(cells[ONE]):
        loads = cells[ONE][name]
        value = middle(loads, "p50_ms")
        figures.append(
            Figure(
                f"{network}: {name}, {ONE}, p50",
                value,
                "ms",
                "<= 0.5",
                value <= 0.5,
                f"{spread(loads, 'p50_ms', 3)}; p99 {middle(loads, 'p99_ms'):.2f} ms",
            )
        )
    return figures


def _against(network: str, cells: Cells) -> list[Figure]:
    many, figures = cells[MANY], []
    for name in measured(many):
        for peer, target in ((FASTAPI, 1.5), (LITSERVE, 6.0), (MLFLOW, 8.0)):
            title = f"{network}: {name} over {peer}, requests/s at 32 connections"
            if peer not in many:
                figures.append(Figure(title, None, "times", f">= {target:g}", note="not measured"))
                continue
            pairs = zip(many[name], many[peer], strict=True)
            ratios = [ours.per_second / theirs.per_second for ours, theirs in pairs]
            value = float(np.median(ratios))
            note = f"by round {min(ratios):.2f} to {max(ratios):.2f}"
            figures.append(Figure(title, value, "times", f">= {target:g}", value >= target, note))
        if FASTAPI not in many:
            continue
        ours, theirs = middle(many[name], "p99_ms"), middle(many[FASTAPI], "p99_ms")
        title = f"{network}: {name}, p99 over {FASTAPI}'s at 32 connections"
        figures.append(Figure(title, ours / theirs, "times", "< 1", ours < theirs))
    return figures


def _batches(network: str, result: dict[str, Any], load: str) -> Figure:
    loads, bare_ms = result["cells"][load][CLS], 1e3 * float(np.median(result["bare_seconds"]))
    value = middle(loads, "p50_ms") / bare_ms
    title = f"{network}: CLS, {load}, p50 over the bare network on decoded rows"
    note = f"{middle(loads, 'p50_ms'):.3f} ms over {bare_ms:.3f} ms"
    return Figure(title, value, "times", "<= 2", value <= 2, note)


def _shadow(network: str, pairs: list[dict[str, Any]]) -> Figure:
    costs = [pair["with"]["p99_ms"] / pair["without"]["p99_ms"] - 1 for pair in pairs]
    value = 100 * float(np.median(costs))
    rates = [pair["with"]["requests"] / pair["without"]["requests"] - 1 for pair in pairs]
    note = (
        f"median of {len(pairs)} pairs, half of them {100 * np.quantile(costs, 0.25):.1f}% to {100 * np.quantile(costs, 0.75):.1f}%; "
        f"requests/s {100 * float(np.median(rates)):+.1f}%"
    )
    scored = sum(pair["scored_with"] for pair in pairs)
    title = f"{network}: what a shadow adds to p99 at 32 connections"
    return Figure(title, value, "%", "< 5", value < 5, f"{note}; caught up after {scored} of {len(pairs)}")


def text_of(found: dict[str, dict[str, Any]]) -> str:
    """Return the whole table and how to read it."""
    lines = [
        (
            "All servers answer with the same weights, on one thread each, and are stopped while another one is measured; every answer was "
            "compared with the network's own. Medians over the rounds. The load generator runs on the same two cores; its share of one core is "
            "in the last column. CLS logs every row, with its prediction, into the inbox, synced to disk."
        ),
        "",
        "![requests per second and p99](serving.png)",
        "",
    ]
    for network, result in found.items():
        hidden = " x ".join(map(str, result["hidden"]))
        bare = ", ".join(f"{1e3 * seconds:.3f}" for seconds in result["bare_seconds"])
        lines += [
            f"## {network}: hidden layers {hidden}, {result['weights']:,} weights",
            "",
            f"The bare network on 100 decoded rows takes {bare} ms (by round).",
            "",
            "| load | server | requests/s | rows/s | p50 ms | p99 ms | generator |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for load, by_name in result["cells"].items():
            rows = 1 if load in (ONE, MANY) else 100
            for name, loads in by_name.items():
                rate = middle(loads, "per_second")
                lines.append(
                    f"| {load} | {name} | {rate:.0f} | {rate * rows:.0f} | {middle(loads, 'p50_ms'):.3f} "
                    f"| {middle(loads, 'p99_ms'):.2f} | {middle(loads, 'generator_share'):.0%} |"
                )
        lines.append("")
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw requests per second and p99 by server at 32 connections, one colour per network."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), sharey=True)
    for axis, field, label in zip(axes, ("per_second", "p99_ms"), ("requests/s", "p99, ms"), strict=True):
        for number, (network, result) in enumerate(found.items()):
            cells = result["cells"][MANY]
            at = np.arange(len(cells)) + 0.4 * number
            bars = axis.barh(at, [middle(loads, field) for loads in cells.values()], 0.38, label=network)
            axis.bar_label(bars, fmt="{:,.0f}" if field == "per_second" else "{:.1f}", padding=3)
        axis.set_xlabel(f"{label} ({MANY})")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    names = list(next(iter(found.values()))["cells"][MANY])
    axes[0].set_yticks(np.arange(len(names)) + 0.2, names)
    axes[0].invert_yaxis()
    axes[1].set_xscale("log")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
