"""From the runs of every method to figures, tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from benchmarks.forgetting_plain import Run
from benchmarks.report import Figure
from benchmarks.scenarios import NAMES, Name

Runs = Mapping[str, Sequence[Run]]  # by method, one for each seed
JOINT, NAIVE = "joint", "plain naive"
MARGIN, SHARE = 1.0, 0.9  # what joint training must leave above a target, and else the share of the gap


@dataclass(frozen=True)
class Goal:
    """A cell in which ours is to reach a target and be ahead of everyone else with the same means."""

    title: str
    scenario: Name
    ours: str
    others: tuple[str, ...]
    target: float  # percent
    joint: str = JOINT  # the ceiling


def final(run: Run) -> float:
    """Return the mean accuracy on all tasks after the last, percent."""
    return fmean(run.accuracy[-1])


def table(run: Run) -> NDArray[np.float64]:
    """Return the accuracy after each task (rows) on each test set (columns)."""
    return np.array(run.accuracy)


def forgetting(run: Run) -> float:
    """Return the mean over earlier tasks of what was lost since each was learned, points."""
    after = table(run)
    return float(np.mean(np.diag(after)[:-1] - after[-1, :-1]))


def swing(run: Run) -> float:
    """Return how far the accuracy on a scene falls while the other one is learned, points, from the second visit on."""
    after = table(run)
    return float(
        np.mean(
            [
                after[visit - 1, (visit - 1) % 2] - after[visit, (visit - 1) % 2]
                for visit in range(2, len(after))
            ]
        )
    )


def reachable(target: float, joint: float, naive: float) -> float:
    """Return the target, or 90% of the gap from naive to joint where joint training leaves less than a point above it."""
    return target if joint - target >= MARGIN else naive + SHARE * (joint - naive)


def goal_figures(goal: Goal, runs: Runs) -> list[Figure]:
    """Return ours against the target, and against the best of the others."""
    mine = [final(run) for run in runs[goal.ours]]
    joint, naive = (fmean(map(final, runs[method])) for method in (goal.joint, NAIVE))
    target = reachable(goal.target, joint, naive)
    others = {method: fmean(map(final, runs[method])) for method in goal.others if method in runs}
    best = max(others, key=lambda method: others[method])
    told = f"{goal.ours}, +- {stdev(mine):.2f}; {goal.joint} {joint:.1f}, naive {naive:.1f}"
    if target != goal.target:
        told += f"; {goal.target} leaves joint less than a point"
    return [
        Figure(goal.title, fmean(mine), "%", f">= {target:.1f}", fmean(mine) >= target, told),
        Figure(
            f"{goal.title}: ahead by",
            fmean(mine) - others[best],
            "points",
            "> 0",
            fmean(mine) > others[best],
            f"of {best}, the best of {len(others)} others with the same means",
        ),
    ]


def permuted_figures(ours: str, plain: str, runs: Runs) -> list[Figure]:
    """Return what the first of six tasks loses, and how far new tasks are below fine-tuning."""

    def lost(method: str) -> float:
        return fmean(float(table(run)[0, 0] - table(run)[-1, 0]) for run in runs[method])

    def learned(method: str) -> NDArray[np.float64]:
        return np.mean([np.diag(table(run)) for run in runs[method]], axis=0)

    behind = float((learned(NAIVE) - learned(ours)).max())
    return [
        Figure(
            f"six permuted tasks, {ours}: the first loses",
            lost(ours),
            "points",
            "<= 3.1",
            lost(ours) <= 3.1,
            f"{plain} {lost(plain):.1f}, naive {lost(NAIVE):.1f}",
        ),
        Figure(
            f"six permuted tasks, {ours}: worst new task below fine-tuning",
            behind,
            "points",
            "<= 2",
            behind <= 2,
            f"{plain} {float((learned(NAIVE) - learned(plain)).max()):.1f}",
        ),
    ]


def alternating_figures(ours: str, runs: Runs) -> list[Figure]:
    """Return the swing against naive's, and the distance to joint training."""
    mine, naive = (fmean(map(swing, runs[method])) for method in (ours, NAIVE))
    reached, joint = (fmean(map(final, runs[method])) for method in (ours, JOINT))
    return [
        Figure(
            f"alternating scenes, {ours}: swing by naive's",
            mine / naive,
            "",
            "<= 0.25",
            mine / naive <= 0.25,
            f"{mine:.2f} of {naive:.1f} points",
        ),
        Figure(
            f"alternating scenes, {ours}: both scenes below joint",
            joint - reached,
            "points",
            "<= 3",
            joint - reached <= 3,
            f"{reached:.1f}, joint {joint:.1f}",
        ),
    ]


def tables(cells: Mapping[Name, Runs]) -> str:
    """Return one table for each scenario: accuracy, forgetting and CPU-seconds."""
    lines = list[str]()
    for name, runs in cells.items():
        lines += [
            f"\n### {name}\n",
            "| method | accuracy, % | forgetting, points | CPU s per 1,000 steps | steps |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for method, found in sorted(runs.items(), key=lambda item: -fmean(map(final, item[1]))):
            reached = [final(run) for run in found]
            spread = f" +- {stdev(reached):.2f}" if len(reached) > 1 else ""
            lost = (
                f"{fmean(map(forgetting, found)):.1f}"
                if len(found[0].accuracy) > 1 and name != "alternating"
                else "-"
            )
            cost = 1000 * fmean(run.cpu_seconds / run.steps for run in found)
            lines.append(
                f"| {method} | {fmean(reached):.2f}{spread} | {lost} | {cost:.1f} | {found[0].steps} |"
            )
    return "\n".join(lines)


def plot(cells: Mapping[Name, Runs], shown: Mapping[Name, Sequence[str]], path: Path) -> None:
    """Draw the accuracy on the tasks learned so far (alternating: on the first scene), by task."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = [name for name in NAMES if name in cells]
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for method in shown[name]:
            if method not in cells[name]:
                continue
            after = np.mean([table(run) for run in cells[name][method]], axis=0)
            if len(after) == 1:
                axis.axhline(after[0].mean(), color="black", linestyle=":", label=method)
                continue
            curve = [
                after[task, 0 if name == "alternating" else slice(task + 1)].mean()
                for task in range(len(after))
            ]
            axis.plot(range(1, len(after) + 1), curve, marker="o", markersize=3, label=method)
        axis.set_title(name)
        axis.set_xlabel("tasks learned")
        axis.legend(fontsize=6)
    axes[0][0].set_ylabel("accuracy on the tasks so far, %")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
