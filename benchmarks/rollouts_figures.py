"""What the rollouts of benchmarks/rollouts.py came to: figures, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.report import Figure

Found = Mapping[str, Sequence[Mapping[str, Any]]]  # by data set: `benchmarks.rollouts.measure`
BUDGET = 0.01
MARGIN = 0.05  # `rollout.margin`
TARGET_TURNS = "turns of 50 rows"
TESTS = ("t-test 0.05", "t-test 0.01", "blind 0.01", "bound 0.01")
TURNS = ("turns of 25 rows", TARGET_TURNS, "turns of 100 rows")
COLOURS = {"equal": "#888888", "5% worse": "#35b779", "10% worse": "#31688e", "30% worse": "#440154"}


def interval(events: int, trials: int) -> tuple[float, float]:
    """Return the 95% interval of a rate (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, events, trials - events + 1)) if events else 0.0
    high = float(beta.ppf(0.975, events + 1, trials - events)) if events < trials else 1.0
    return low, high


def of_kind(
    cases: Sequence[Mapping[str, Any]], kind: str, version: str = "", fault: str = "nothing"
) -> list[dict[str, Any]]:
    """Return how the rollouts of a kind ended; those of all equal versions for "equal"."""
    chosen = [
        one
        for one in cases
        if one["kind"] == kind and one["fault"] == fault and one["version"].startswith(version)
    ]
    return [run for one in chosen for run in one["ended"]]


def calls(
    cases: Sequence[Mapping[str, Any]], version: str, test: str, kind: str = "labels"
) -> list[int | None]:
    """Return where a test at each look first said worse, over the rows of the same rollouts and on, up to 10,000."""
    chosen = [one for one in cases if one["kind"] == kind and one["version"].startswith(version)]
    return [run[test] for one in chosen for run in one["called"]]


def figures(found: Found) -> list[Figure]:
    """Return the numbers that have a target, and those beside them."""
    made: list[Figure] = []
    for name, cases in found.items():
        for kind in ("labels", "guardrails", *TURNS, "in order"):
            met = kind not in ("in order", TURNS[0], TURNS[2])
            runs = of_kind(cases, kind, "equal")
            back = sum(run["outcome"] == "worse" for run in runs)
            low, high = interval(back, len(runs))
            made.append(
                Figure(
                    f"{name}: equal versions sent back, {kind}",
                    back / len(runs),
                    "share of rollouts",
                    "<= 0.01" if met else "",
                    back / len(runs) <= BUDGET if met else None,
                    f"{back} {_shares(runs)}; 95% interval {low:.2%} to {high:.2%}",
                )
            )
        made.append(_not_worse(name, of_kind(cases, "in order", "equal")))
        for test in TESTS[2:]:
            called = calls(cases, "equal", test, TARGET_TURNS)
            ever = sum(at is not None for at in called)
            made.append(
                Figure(
                    f"{name}: equal versions called worse by the {test}, {TARGET_TURNS}",
                    ever / len(called),
                    "share within 10,000 rows",
                )
            )
        for test in TESTS:
            runs, called = of_kind(cases, "labels", "equal"), calls(cases, "equal", test)
            within = sum(at is not None and at <= run["rows"] for at, run in zip(called, runs, strict=True))
            ever = sum(at is not None for at in called)
            made.append(
                Figure(
                    f"{name}: equal versions called worse by the {test}, repeated",
                    ever / len(runs),
                    "share within 10,000 rows",
                    note=f"{within / len(runs):.1%} within the rows of the same rollouts",
                )
            )
        for version in ("5% worse", "10% worse", "30% worse"):
            runs = of_kind(cases, "labels", version)
            rows = [run["rows"] for run in runs if run["outcome"] == "worse"]
            made.append(
                Figure(
                    f"{name}: {version}, sent back",
                    len(rows) / len(runs),
                    "share of rollouts",
                    note=_shares(runs),
                )
            )
            if rows:
                note = f"p90 {np.percentile(rows, 90):.0f}; t-test at 1%: {_delays(cases, version, TESTS[1])}; bound at 1%: {_delays(cases, version, TESTS[3])}; blind to dependence: {_delays(cases, version, TESTS[2])}"
                made.append(
                    Figure(
                        f"{name}: {version}, rows needed",
                        float(np.median(rows)),
                        "labelled rows (median)",
                        note=note,
                    )
                )
    return made


def _not_worse(name: str, runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Return how many versions were sent back in the order of time that were not worse by then, and what the others were."""
    back = [run for run in runs if run["outcome"] == "worse"]
    false = sum(run["so_far"] <= 0 for run in back)
    low, high = interval(false, len(runs))
    note = f"{false} of {len(runs)}; 95% interval {low:.2%} to {high:.2%}"
    if back:
        far = sum(run["so_far"] > MARGIN for run in back)
        after = sum(run["next"] > 0 for run in back)
        note += f"; of the other {len(back) - false}, {far} were worse by more than {MARGIN:.0%} so far. Of all {len(back)}, {after} were worse on the next 500 rows as well"
    return Figure(
        f"{name}: sent back in order, though not worse so far",
        false / len(runs),
        "share of rollouts",
        "<= 0.01",
        false / len(runs) <= BUDGET,
        note,
    )


def _delays(cases: Sequence[Mapping[str, Any]], version: str, test: str) -> str:
    rows = [at for at in calls(cases, version, test) if at is not None]
    return f"{np.median(rows):.0f}, p90 {np.percentile(rows, 90):.0f}" if rows else "never"


def _parts(cases: Sequence[Mapping[str, Any]]) -> str:
    chosen = [one for one in cases if one["kind"] == "in order"]
    return "; ".join(
        f"{one['version']}: {', '.join(f'{part:+.1%}' for part in one['parts'])}" for one in chosen
    )


def _shares(runs: Sequence[Mapping[str, Any]]) -> str:
    counts = {one: sum(run["outcome"] == one for run in runs) for one in ("undecided", "released")}
    return f"of {len(runs)}: {counts['undecided']} held back undecided, {counts['released']} released"


def text(found: Found) -> str:
    """Return what people should know about the numbers, and the table of guardrails."""
    lines = [
        "Equal versions are equal in the mean of the pool that rows are drawn from, but differ row by row. A rollout goes through shadow,",
        "canary steps and watch with the default settings; there is a look every 100 rows. `undecided` at 10,000 rows goes back as well, and",
        "is counted by itself. 5% is the margin up to which a version may be worse: such a one may rightly be released or held back.",
        "",
        "`in order`: neighbouring rows in the order of time instead of random ones. Two things send versions back there, and they are told apart",
        "(benchmarks/rollouts_order.py):",
        "",
        "- *Dependence.* `turns of N rows`: blocks of N neighbouring rows from anywhere in the pool, in each of which the two versions change",
        "  places by lot. Whoever looks ahead finds them equal, and rows depend on their neighbours as in the real series, over a block at most.",
        "  `blind 0.01` is the bound at 1% for one comparison as it would be without `detectors.dependence`, `bound 0.01` the one that rollouts use.",
        "- *Seasons.* What was true when a version was sent back, from the rows around: the mean over all rows of the comparison, each of them",
        "  replaced by the mean of the 250 rows around it (about three weeks), and the mean over the 500 rows that came next. The smoothed mean",
        "  contains the rows of the comparison, so it can hide a false call that dependence caused; the next 500 rows cannot: of false calls",
        "  about half would be worse on them.",
        "",
        "What is equal over the whole pool need not be equal in a part of it: a version that is worse for months is sent back in these months.",
        "No setting keeps one that is evidently worse by then; `rollout.step_time` and `rollout.watch_time` make stages outlast a season before a",
        "version goes on. By sixths of the pool's time, the versions' losses differ from their champions' by:",
        "",
        *(f"- {name}: {_parts(cases)}" for name, cases in found.items()),
        "",
        "A t-test that is repeated at each look calls more equal versions worse the longer one looks; the bound that rollouts use does not.",
        "Detection takes two to three times the rows of such a t-test, the price of being allowed to look. `bound 0.01` is that bound with",
        "the whole budget for one comparison, as the t-test has it; in a rollout each of two comparisons has a quarter.",
        "",
        "![Share of versions sent back over rows](rollouts.png)",
        "",
        "## Without labels",
        "",
        "Requests of one row each; 0.05% of them fail anyway. A canary of 5% needs 4,000 requests for its 200 rows. More rows: a shadow of",
        "2,000, 2,000 a step, 10,000 watched, a look every 1,000 rows, undecided at 100,000. Rows are requests since the shadow began.",
        "A version whose losses are 5% worse is as good as any to guardrails: only labels show it. Half of the answers the first class is",
        "0.2 nats away on elec2, less than the 0.5 of `rollout.drift_nats`: for two classes that setting is coarse.",
        "",
        "| data | rows | version | sent back | median rows | p90 | by |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, cases in found.items():
        for one in cases:
            if not one["kind"].startswith("guardrails"):
                continue
            runs = one["ended"]
            back = [run for run in runs if run["outcome"] == "worse"]
            rows = [run["rows"] for run in back]
            fault = one["fault"] if one["version"].startswith("equal") else f"{one['version']}, no fault"
            median, p90 = (f"{np.percentile(rows, q):,.0f}" if rows else "" for q in (50, 90))
            size = "default" if one["kind"] == "guardrails" else "more"
            lines.append(
                f"| {name} | {size} | {fault} | {len(back)} of {len(runs)} | {median} | {p90} | {_by(back)} |"
            )
    return "\n".join(lines)


def _by(back: Sequence[Mapping[str, Any]]) -> str:
    names = [run["reason"].removeprefix("guardrail ").split(":")[0] for run in back]
    return ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))


def draw(found: Found, path: Path) -> None:
    """Draw the share of versions that were sent back over rows, beside the repeated t-test at 1%."""
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(11, 4), layout="constrained")
    grid = np.arange(100, 10_001, 100)
    for axes, (name, cases) in zip(sheet.subplots(1, len(found)), found.items(), strict=True):
        for version, colour in COLOURS.items():
            runs = of_kind(cases, "labels", version)
            rows = np.array([run["rows"] if run["outcome"] == "worse" else np.inf for run in runs])
            axes.plot(grid, [(rows <= at).mean() for at in grid], color=colour, label=version)
            called = np.array([np.inf if at is None else at for at in calls(cases, version, TESTS[1])])
            axes.plot(grid, [(called <= at).mean() for at in grid], color=colour, linestyle=":")
        axes.axhline(BUDGET, color="#cc0000", linewidth=0.7)
        axes.set_title(f"{name}: sent back (dotted: t-test at 1%, repeated)", fontsize=9, loc="left")
        axes.set_xscale("log")
        axes.set_xlabel("labelled rows", fontsize=8)
        axes.set_ylim(-0.02, 1.02)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="upper left")
    sheet.savefig(path, dpi=110)
