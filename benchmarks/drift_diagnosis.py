"""Faults and drifts against the diagnosis given.

    python -m benchmarks.drift_diagnosis [--trials 20] [--rows 1000] [--data ../shared/data]

A gradient-boosted model is trained on a generated world, a reference of 20,000 other rows is profiled, and its losses are fitted
by bin. Then one thing happens to a window. Faults must be called so and their feature named. Drifts must not be called faults; what they
are (harmful, harmless) is settled by the model's loss on 50,000 rows after the change, more than 5% above that before or not.
With `--data` faults are injected into later rows of real streams, which drift by themselves; those streams were looked at while the tests
were made, the generated world was not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.diagnosis_real import STREAMS, UNTOUCHED, RealTrial, Untouched, real_trials, untouched
from benchmarks.diagnosis_world import INJECTIONS, Injection, Model, draw, numbers, target
from benchmarks.report import RESULTS, Figure, write_results
from detectors.detector import KLDetector
from detectors.diagnosis import MARGIN, Diagnosis, diagnose
from detectors.loss import LossModel, fit_losses
from detectors.profile import Profile

SEED = 70_000  # far from those of tests and development
REFERENCES = 5
REFERENCE_ROWS = 20_000
POPULATION = 50_000
SIZES = (300, 1000, 3000)
DETECTOR = KLDetector()
GIVEN = ("quality", "harmful", "harmless", "unclear", "no alarm")


@dataclass(frozen=True)
class Trial:
    """One injection into one window."""

    injection: str
    truth: str  # "quality", "harmful" or "harmless"
    given: str
    named: bool  # the first feature is the one, and alone has a fault if it is one
    summary: str
    estimated: float | None  # change of the mean loss
    actual: float
    milliseconds: float

    @property
    def right(self) -> bool:
        """Whether the kind is right and the feature named."""
        return self.given == self.truth and self.named


@dataclass(frozen=True, eq=False)
class Scene:
    """A reference with its model."""

    model: Model
    profile: Profile
    losses: LossModel


@cache
def scene(number: int) -> Scene:
    """Train, profile and fit once per reference."""
    rng = np.random.default_rng(SEED + number)
    learned, reference = draw(rng, 20_000), draw(rng, REFERENCE_ROWS)
    model = Model.fit(learned, target(learned, rng), number)
    profile = DETECTOR.profile(reference)
    loss_N = model.loss(reference, target(reference, rng))
    return Scene(model, profile, fit_losses(profile, reference, loss_N, seed=number))


@cache
def population_loss(number: int, name: str) -> tuple[float, float]:
    """Mean loss of many rows before and after."""
    rng = np.random.default_rng(SEED + 100 + number)
    before = draw(rng, POPULATION)
    injection = next(injection for injection in INJECTIONS if injection.name == name)
    after = injection.change(before, rng)
    truth = before if injection.fault else after
    model = scene(number).model
    return (
        float(model.loss(before, target(before, rng)).mean()),
        float(model.loss(after, target(truth, rng)).mean()),
    )


def run(injection: Injection, rows: int, seed: int) -> Trial:
    """Draw a window, let it happen, ask."""
    number = seed % REFERENCES
    at, rng = scene(number), np.random.default_rng(SEED + 1000 + seed)
    window = injection.change(draw(rng, rows), rng)
    counts = at.profile.count(window)
    drift = DETECTOR.compare(at.profile, counts)
    before, after = population_loss(number, injection.name)
    truth = "quality" if injection.fault else "harmful" if after > (1 + MARGIN) * before else "harmless"
    losses = at.losses.estimate(at.profile, counts)
    began = time.process_time()
    found = diagnose(at.profile, drift, window, losses) if drift.alarm else None
    spent = 1000 * (time.process_time() - began)
    return Trial(
        injection.name,
        truth,
        "no alarm" if found is None else found.kind,
        found is not None and named(injection, found),
        "" if found is None else found.summary,
        losses.mean - losses.base,
        after - before,
        spent,
    )


def named(injection: Injection, found: Diagnosis) -> bool:
    """Whether the feature is named, and no other is accused."""
    accused = {finding.name for finding in found.features if finding.fault is not None}
    if not injection.feature:
        return not accused
    partners = {"humidity", "load"} if injection.name == "columns swapped" else {injection.feature}
    return found.features[0].name in partners and accused <= partners


def brief(trial: Trial | RealTrial) -> dict[str, Any]:
    """Return what can be recomputed from; the words are in the tables."""
    return {name: value for name, value in asdict(trial).items() if name != "summary"}


def share(values: Iterable[bool]) -> float | None:
    """Share of true ones."""
    listed = list(values)
    return fmean(listed) if listed else None


def confusion(trials: Sequence[Trial | RealTrial]) -> str:
    """Truth against what was said."""
    counts = Counter((trial.truth, trial.given) for trial in trials)
    lines = [f"| truth | {' | '.join(GIVEN)} |", "| --- |" + " ---: |" * len(GIVEN)]
    lines += [
        f"| {truth} | {' | '.join(str(counts[truth, given]) for given in GIVEN)} |" for truth in GIVEN[:3]
    ]
    return "\n".join(lines)


def table(trials: Sequence[Trial]) -> str:
    """One line per injection."""
    lines = [
        "| happened | truth | alarm | right | said most often | feature named | effect on the loss, estimated / actual | in words |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | --- |",
    ]
    for injection in INJECTIONS:
        own = [trial for trial in trials if trial.injection == injection.name]
        alarms = [trial for trial in own if trial.given != "no alarm"]
        said, _ = Counter(trial.given for trial in own).most_common(1)[0]
        words = next((trial.summary for trial in own if trial.given == said), "").replace("|", "/")
        estimated = fmean(trial.estimated or 0.0 for trial in own)
        lines.append(
            f"| {injection.name} | {own[0].truth} | {len(alarms)}/{len(own)} | {sum(t.right for t in own)}/{len(own)} | {said} "
            f"| {sum(t.named for t in alarms)}/{len(alarms)} | {estimated:+.2f} / {fmean(t.actual for t in own):+.2f} | {words} |"
        )
    return "\n".join(lines)


def figures(trials: Sequence[Trial], rows: int) -> list[Figure]:
    """Return the shares that count, of all trials and of those that alarmed."""
    faults = [trial for trial in trials if trial.truth == "quality"]
    drifts = [trial for trial in trials if trial.truth != "quality"]
    said = [trial for trial in drifts if trial.given in ("harmful", "harmless")]
    off = [abs((t.estimated or 0) - t.actual) for t in drifts]
    at = f"windows of {rows}"
    old = [t for t in faults if "missing" in t.injection]
    return [
        Figure("faults called faults, feature named", share(t.right for t in faults), "share", note=at),
        Figure(
            "drifts that alarmed and were called faults",
            share(t.given == "quality" for t in drifts if t.given != "no alarm"),
            "share",
            note=at,
        ),
        Figure(
            "drifts with the right harm, of those where harm was told",
            share(t.right for t in said),
            "share",
            note=at,
        ),
        Figure(
            "drifts whose harm was left open", share(t.given == "unclear" for t in drifts), "share", note=at
        ),
        Figure("drifts without an alarm", share(t.given == "no alarm" for t in drifts), "share", note=at),
        Figure(
            "estimated effect on the loss, median distance from the actual one",
            median(off),
            "loss",
            note=f"drifts; base loss {population_loss(0, INJECTIONS[0].name)[0]:.2f}",
        ),
        Figure("right kind and feature, all injections", share(t.right for t in trials), "share", note=at),
        Figure(
            "the former rule (missing in half of the rows): faults called faults",
            len([t for t in old if t.given != "no alarm"]) / len(faults),
            "share",
            note="at best",
        ),
        Figure(
            "a diagnosis, CPU time",
            median(t.milliseconds for t in trials if t.milliseconds),
            "ms",
            note="10 features",
        ),
    ]


def growth(low: float, high: float, trials: int) -> Figure:
    """How often plain growth is taken for a change of units: what counts cannot tell apart."""
    called = []
    for seed in range(trials):
        at, rng = scene(seed % REFERENCES), np.random.default_rng(SEED + 5000 + seed)
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        window = numbers("distance", lambda x, factor=factor: factor * x)(draw(rng, 1000), rng)
        drift = DETECTOR.compare(at.profile, at.profile.count(window))
        called.append(diagnose(at.profile, drift, window).fault is not None)
    name = f"a distance grown by a factor of {low:g} to {high:g}, called a fault"
    return Figure(
        name, share(called), "share", note=f"{trials} windows of 1000, factors uniform in the logarithm"
    )


def untouched_text(found: Sequence[Untouched]) -> str:
    """One line per stream."""
    lines = [
        "| stream as it is | windows | alarms | called faults | which |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for each in found:
        which = "; ".join(f"{text} ({count})" for text, count in Counter(each.faults).most_common(3)).replace(
            "|", "/"
        )
        lines.append(f"| {each.stream} | {each.windows} | {each.alarms} | {len(each.faults)} | {which} |")
    return "\n".join(lines)


def main() -> int:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--directory", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    all_figures, texts, details = [], [], {}
    for rows in arguments.rows:
        trials = [run(injection, rows, seed) for injection in INJECTIONS for seed in range(arguments.trials)]
        all_figures += figures(trials, rows)
        texts.append(f"## Windows of {rows} rows\n\n{confusion(trials)}\n\n{table(trials)}")
        details[str(rows)] = [brief(trial) for trial in trials]
        print(texts[-1], flush=True)
    all_figures += [growth(1.1, 1.5, 10 * arguments.trials), growth(1.5, 4.5, 10 * arguments.trials)]
    if arguments.data is not None:
        clean = [untouched(name, arguments.data) for name in UNTOUCHED]
        called, windows = sum(len(each.faults) for each in clean), sum(each.windows for each in clean)
        all_figures.append(
            Figure(
                "windows of real streams as they are, called faults",
                called / windows,
                "share",
                note=f"{windows} windows",
            )
        )
        texts.append(f"## Real streams, nothing injected\n\n{untouched_text(clean)}")
        for name in STREAMS:
            real = real_trials(name, arguments.data)
            all_figures += real_figures(name, real)
            texts.append(f"## {name}\n\n{confusion(real)}\n\n{real_table(real)}")
            details[name] = [brief(trial) for trial in real]
            print(texts[-1], flush=True)
    for figure in all_figures:
        print(figure)
    write_results(
        "drift_diagnosis",
        dataset="generated" + (f"; {', '.join(STREAMS)}" if arguments.data else ""),
        seeds=[SEED],
        figures=all_figures,
        text="\n\n".join(texts),
        details=details,
        directory=arguments.directory,
    )
    return 0


def real_figures(name: str, trials: Sequence[RealTrial]) -> list[Figure]:
    """Return the shares that count on a stream that drifts by itself."""
    clean = [trial for trial in trials if not trial.injection]
    broken = [trial for trial in trials if trial.injection]
    told = [trial for trial in clean if trial.given in ("harmful", "harmless")]
    return [
        Figure(
            f"{name}: faults called faults, feature named",
            share(t.right for t in broken),
            "share",
            note=f"{len(broken)} windows",
        ),
        Figure(
            f"{name}: windows as they are that were called faults",
            share(t.given == "quality" for t in clean),
            "share",
            note=f"{len(clean)} windows",
        ),
        Figure(
            f"{name}: harm told and right",
            share(t.right for t in told),
            "share",
            note=f"told in {len(told)} windows of {len(clean)}",
        ),
    ]


def real_table(trials: Sequence[RealTrial]) -> str:
    """One line per injection."""
    lines = [
        "| happened | windows | called a fault | feature named | in words |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for injection in dict.fromkeys(trial.injection for trial in trials):
        own = [trial for trial in trials if trial.injection == injection]
        quality = [trial for trial in own if trial.given == "quality"]
        words = next((trial.summary for trial in quality or own), "").replace("|", "/")
        lines.append(
            f"| {injection or 'nothing'} | {len(own)} | {len(quality)} | {sum(t.named for t in own)} | {words} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
