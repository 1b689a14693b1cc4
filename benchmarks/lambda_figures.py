"""Figures, table and picture of one lambda for all cells. Shapes: C cells, L lambdas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Figure

UNITS = ("mean one (ours)", "trace one", "nats, unnormalised")
STEP = 0.25  # decades, of the lambdas among which the one for all is chosen
LEAST = (
    -1.0
)  # a share of the best gain below counts as this: the loss has grown by as much as it might have fallen
MATERIAL = 0.02  # gains below this share of the loss are none

Array = NDArray[np.float64]


class Curve(Protocol):
    """Of one cell and one seed, see benchmarks.lambda_transfer."""

    naive: float
    log_lambda: Sequence[float]
    loss: Sequence[float]
    mean: float
    weights: int


Curves = Mapping[str, Mapping[int, Curve]]


def log_factor(curve: Curve, unit: str) -> float:
    """Return log10 of what a lambda in this unit is in ours."""
    return {UNITS[0]: 0.0, UNITS[1]: -math.log10(curve.weights), UNITS[2]: math.log10(curve.mean)}[unit]


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of the cells' own best gains, in one unit."""

    log_lambda_L: Array
    share_CL: Array
    best_C: Array  # log10 of each cell's own best lambda


def gaining(found: Curves, seeds: Sequence[int]) -> list[str]:
    """Return the cells in which some lambda gains."""
    return [
        cell
        for cell, curves in found.items()
        if np.mean([1 - min(curves[seed].loss) / curves[seed].naive for seed in seeds]) > MATERIAL
    ]


def gain(curve: Curve, unit: str, log_lambda_L: Array) -> Array:
    """Return by which share of its naive loss one cell gains at lambdas in that unit; none a decade below those tried."""
    return np.interp(
        log_lambda_L + log_factor(curve, unit),
        [curve.log_lambda[0] - 1, *curve.log_lambda],
        [0.0, *(1 - np.array(curve.loss) / curve.naive)],
    )


def shares(found: Curves, cells: Sequence[str], unit: str, seeds: Sequence[int]) -> Shares:
    """Return what one lambda keeps of each cell's best gain, gains being means over seeds and lines between the grid's points."""
    factors = [log_factor(curve, unit) for cell in cells for curve in found[cell].values()]
    low = min(curve.log_lambda[0] for cell in cells for curve in found[cell].values()) - max(factors)
    high = max(curve.log_lambda[-1] for cell in cells for curve in found[cell].values()) - min(factors)
    log_lambda_L = np.arange(low, high + STEP, STEP)
    gain_CL = np.array(
        [np.mean([gain(found[cell][seed], unit, log_lambda_L) for seed in seeds], axis=0) for cell in cells]
    )
    share_CL = np.maximum(gain_CL / gain_CL.max(axis=1, keepdims=True), LEAST)
    return Shares(log_lambda_L, share_CL, log_lambda_L[gain_CL.argmax(axis=1)])


def chosen(told: Shares) -> int:
    """Return the place of the lambda with the highest mean share."""
    return int(told.share_CL.mean(axis=0).argmax())


def figures(found: Curves, tuning: Sequence[int], reported: Sequence[int]) -> list[Figure]:
    """Return what one lambda keeps in each unit, and how far the cells' best lambdas are apart."""
    cells = gaining(found, reported)
    kept: dict[str, tuple[float, float, float, float]] = {}
    for unit in UNITS:
        place = chosen(shares(found, gaining(found, tuning), unit, tuning))
        tuned = shares(found, gaining(found, tuning), unit, tuning).log_lambda_L[place]
        told = shares(found, cells, unit, reported)
        share_C = told.share_CL[:, int(np.abs(told.log_lambda_L - tuned).argmin())]
        kept[unit] = float(share_C.mean()), float(share_C.min()), float(told.best_C.std()), float(tuned)
    plain = kept[UNITS[2]]
    result = []
    for unit, (mean, worst, spread, tuned) in kept.items():
        ours = unit == UNITS[0]
        note = f"lambda {10**tuned:.3g}; {len(cells)} of {len(found)} cells gain"
        result += [
            Figure(
                f"{unit}: gain kept by one lambda, mean",
                100 * mean,
                "% of the cells' best",
                "above unnormalised" if ours else "",
                mean > plain[0] if ours else None,
                note,
            ),
            Figure(
                f"{unit}: gain kept by one lambda, worst cell",
                100 * worst,
                "% of its best",
                "above unnormalised" if ours else "",
                worst > plain[1] if ours else None,
            ),
            Figure(
                f"{unit}: spread of the cells' best lambdas",
                spread,
                "decades, standard deviation",
                "below unnormalised" if ours else "",
                spread < plain[2] if ours else None,
            ),
        ]
    return result


def draw(
    found: Curves,
    tuning: Sequence[int],
    reported: Sequence[int],
    directory: Path = RESULTS,
) -> None:
    """Draw the regret of one lambda: the mean over cells, around the lambda chosen on the tuning seeds, and each cell's."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    picture, axes = plt.subplots(1, len(UNITS), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, unit in zip(axes, UNITS, strict=True):
        tuned = shares(found, gaining(found, tuning), unit, tuning)
        told = shares(found, gaining(found, reported), unit, reported)
        axis.plot(told.log_lambda_L, 1 - told.share_CL.T, color="0.8", linewidth=0.8)
        axis.plot(
            told.log_lambda_L, 1 - told.share_CL.mean(axis=0), color="tab:blue", label="mean over cells"
        )
        axis.axvline(tuned.log_lambda_L[chosen(tuned)], color="tab:red", label="chosen on other seeds")
        axis.set(title=unit, xlabel="log10 lambda", ylim=(0, 2))
    axes[0].set_ylabel("regret, in the cell's best gain")
    axes[0].legend()
    picture.savefig(directory / "lambda_transfer.png", dpi=120)
    plt.close(picture)


def text(found: Curves, tuning: Sequence[int], reported: Sequence[int]) -> str:
    """Return the table of cells, and what it means."""
    cells = gaining(found, reported)
    told = {unit: shares(found, cells, unit, reported) for unit in UNITS}
    lines = [
        f"| data set, width | naive loss | best gain, % | {' | '.join(f'log10 best lambda, {unit}' for unit in UNITS)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell, curves in found.items():
        naive = np.mean([curves[seed].naive for seed in reported])
        gain = 100 * np.mean([1 - min(curves[seed].loss) / curves[seed].naive for seed in reported])
        best = (
            " | ".join(f"{told[unit].best_C[cells.index(cell)]:.2f}" for unit in UNITS)
            if cell in cells
            else "- | - | -"
        )
        lines.append(f"| {cell} | {naive:.3f} | {gain:.1f} | {best} |")
    return f"""![regret of one lambda](lambda_transfer.png)

One lambda was chosen on seed {", ".join(map(str, tuning))} for each unit. Losses are means over both regimes' tests: cross-entropy in nats, or
absolute error of standardised targets. A share of a cell's best gain counts as {LEAST:g} at least. Cells whose best gain is below
{100 * MATERIAL:g}% of the naive loss say nothing about lambda, and are left out. Six lambdas were tried, a decade apart from about 0.01
in units of mean one, in each cell and with each seed shifted by up to half a decade at random; straight lines between.

{chr(10).join(lines)}
"""
