"""Performance estimated before labels arrive, on four real streams, beside NannyML and beside "the same as before".

    python -m benchmarks.drift_performance --data DIR

A model learns once from four fifths of the first 20% of a stream's rows, drawn at random as the loop draws its roles. Each later window
of 1,000 rows is estimated without its labels and compared with what it realised, in two settings. *Frozen*: what the model loses is
learned once, from the rows of the beginning that were held out; whatever moves p(y|x) later shows as an error of every
estimator. *Following*: it is learned anew for each window, from the 4,000 rows that end 1,000 rows before it, as labels that lag allow and
as the loop does when its reference moves. *Reweighted*: rows are shuffled, and each window is drawn from the later ones with a
preference for one end of one feature, so that inputs move and p(y|x) by construction does not: what estimators promise.

NannyML (`pip install --no-deps -r benchmarks/requirements.txt`) gets the same rows and predictions: CBPE for classifiers, DLE for
regression, at their default settings. Its interval is the estimate and 1.96 times its sampling error; by itself it draws three times.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from benchmarks.report import Figure, write_results
from benchmarks.streams import TARGETS, features_of, read_frame
from detectors.columns import Categorical, Columns, take
from detectors.loss import fit_losses
from detectors.profile import build_profile
from detectors.reference import Reference

Floats = NDArray[np.float64]
STREAMS = {
    "bank_marketing": "classification",
    "elec2": "classification",
    "avocado": "regression",
    "bike_sharing": "regression",
}
WINDOW = 1000
FIRST = 0.2  # of the rows come before the first window
HELD = 0.2  # of these are not learned
RECENT, LAG = 4000, 1000  # rows that a window's reference has, and that its labels lag
REWEIGHTED = 40  # windows
TILT = 3.0  # of a window towards one end of a feature: a row at the end is 20 times as likely as one at the other
SEEDS = (0, 1, 2)
NORMAL = 1.96  # of a two-sided 95% interval


@dataclass(frozen=True, eq=False)
class Case:
    """A stream with a model's predictions."""

    task: str
    features: Columns
    prediction: Floats
    probability: Floats  # of class 1; NaN for regression
    target: Floats
    reference: slice  # rows whose inputs are the reference
    held: NDArray[np.intp]  # those of them that the model has not learned
    windows: list[NDArray[np.intp]]  # rows of each

    @property
    def loss(self) -> Floats:
        """Absolute error, or 0/1, of each row."""
        if self.task == "regression":
            return np.abs(self.prediction - self.target)
        return np.where(self.prediction != self.target, 1.0, 0.0)

    @property
    def outputs(self) -> Columns:
        """What the prediction log holds."""
        if self.task == "regression":
            return {"prediction": self.prediction}
        classes = Categorical(self.prediction.astype(np.int32), ("0", "1"))
        sure = np.maximum(self.probability, 1 - self.probability)
        return {"prediction": classes, "uncertainty": 1 - sure}


Estimator = Callable[[Case], Floats]  # (W, 3): mean, low, high
Measured = dict[tuple[str, str], dict[str, list[dict[str, Any]]]]


def make_case(frame: pd.DataFrame, name: str, seed: int) -> Case:
    """Train on the beginning of a stream and predict all of it."""
    task, features = STREAMS[name], features_of(frame, name)
    target = frame[TARGETS[name]].to_numpy(np.float64)
    first = int(FIRST * len(target))
    held = np.random.default_rng(seed).random(first) < HELD
    matrix = np.column_stack([_numbers(column) for column in features.values()])
    categorical = [isinstance(column, Categorical) for column in features.values()]
    kind: Any = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    model = kind(categorical_features=categorical, random_state=seed)
    model.fit(matrix[:first][~held], target[:first][~held])
    probability = np.full(len(target), np.nan)
    prediction = np.asarray(model.predict(matrix), np.float64)
    if task == "classification":
        probability = model.predict_proba(matrix)[:, 1]
    windows = [np.arange(a, a + WINDOW) for a in range(first, len(target) - WINDOW + 1, WINDOW)]
    reference = slice(0, first)
    return Case(task, features, prediction, probability, target, reference, np.flatnonzero(held), windows)


def following(case: Case) -> list[Case]:
    """Return a case for each window, with its own reference."""
    first = int(case.windows[0][0])
    return [
        replace(
            case, reference=slice(start, stop), held=np.arange(start, stop, dtype=np.intp), windows=[window]
        )
        for window in case.windows
        if (start := (stop := int(window[0]) - LAG) - RECENT) >= first
    ]


def _numbers(column: Any) -> Floats:
    if isinstance(column, Categorical):
        return np.where(column.codes < 0, np.nan, column.codes).astype(np.float64)
    return np.asarray(column, np.float64)


def reweighted(case: Case, seed: int) -> Case:
    """Return a case of shuffled rows whose windows prefer high or low values of one feature after the other, or none."""
    rng = np.random.default_rng(1000 + seed)
    first = case.reference.stop
    later = np.arange(first, len(case.target))
    leanings = [np.zeros(len(later))]
    for column in case.features.values():
        values = _numbers(column)[later]
        rank = np.argsort(np.argsort(values + 1e-9 * rng.random(len(later)))) / len(later) - 0.5
        leanings += [TILT * rank, -TILT * rank]
    windows = []
    for i in range(REWEIGHTED):
        keys = leanings[i % len(leanings)] + rng.gumbel(size=len(later))  # the largest are a weighted sample
        windows.append(later[np.argpartition(-keys, WINDOW)[:WINDOW]])
    return replace(case, windows=windows)


def same_as_before(case: Case) -> Floats:
    """The mean loss of the rows held out, and what chance makes of two samples."""
    loss = case.loss[case.held]
    reach = NORMAL * loss.std() * (1 / len(loss) + 1 / WINDOW) ** 0.5
    return np.tile([loss.mean(), loss.mean() - reach, loss.mean() + reach], (len(case.windows), 1))


def ours(case: Case) -> Floats:
    """What the loop does: inputs for regression, a classifier's own uncertainty."""
    inputs = build_profile(take(case.features, case.reference))
    share = len(case.held) / inputs.rows
    losses = fit_losses(inputs, take(case.features, case.held), case.loss[case.held], seed=0, share=share)
    outputs = build_profile(take(case.outputs, case.held))
    confidence = None
    if case.task == "classification":
        held = take(case.outputs, case.held)
        confidence = fit_losses(outputs, held, case.loss[case.held], seed=0, share=share)
    reference = Reference(inputs, outputs, None, losses, confidence)
    return _answers(reference, case)


def ours_by_inputs(case: Case) -> Floats:
    """Classifiers, too, by their inputs alone."""
    inputs = build_profile(take(case.features, case.reference))
    share = len(case.held) / inputs.rows
    losses = fit_losses(inputs, take(case.features, case.held), case.loss[case.held], seed=0, share=share)
    return _answers(Reference(inputs, None, None, losses), case)


def _answers(reference: Reference, case: Case) -> Floats:
    answers = []
    for window in case.windows:
        counts = None if reference.outputs is None else reference.outputs.count(take(case.outputs, window))
        estimate = reference.estimate_loss(reference.inputs.count(take(case.features, window)), counts)
        assert estimate is not None
        answers.append((estimate.mean, estimate.low, estimate.high))
    return np.array(answers)


def nannyml_estimate(case: Case) -> Floats:
    """CBPE, or DLE; nobody is told about its use."""
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    import nannyml  # type: ignore[import-not-found]  # a peer that need not be installed

    frame = pd.DataFrame({name: _plain(column) for name, column in case.features.items()})
    frame["prediction"], frame["target"] = case.prediction, case.target
    if case.task == "classification":
        frame["prediction"] = frame["prediction"].astype(int)
        frame["target"], frame["probability"] = frame["target"].astype(int), case.probability
        estimator = nannyml.CBPE(
            metrics=["accuracy"],
            y_pred="prediction",
            y_pred_proba="probability",
            y_true="target",
            problem_type="classification_binary",
            chunk_size=WINDOW,
        )
        metric = "accuracy"
    else:
        estimator = nannyml.DLE(
            feature_column_names=list(case.features),
            y_pred="prediction",
            y_true="target",
            metrics=["mae"],
            chunk_size=WINDOW,
            tune_hyperparameters=False,
        )
        metric = "mae"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(frame.iloc[case.held].reset_index(drop=True))
        later = frame.iloc[np.concatenate(case.windows)].drop(columns="target")
        result = estimator.estimate(later.reset_index(drop=True)).filter(period="analysis").to_df()
    mean = result[metric, "value"].to_numpy(np.float64)[: len(case.windows)]
    reach = NORMAL * result[metric, "sampling_error"].to_numpy(np.float64)[: len(case.windows)]
    if metric == "accuracy":
        mean = 1 - mean
    return np.column_stack([mean, mean - reach, mean + reach])


def _plain(column: Any) -> Any:
    if isinstance(column, Categorical):
        return pd.Categorical.from_codes(column.codes, list(column.vocabulary))
    return column


def estimators() -> dict[str, Estimator]:
    """Return who takes part, by name."""
    found: dict[str, Estimator] = {
        "ours": ours,
        "ours, inputs alone": ours_by_inputs,
        "same as before": same_as_before,
    }
    if find_spec("nannyml") is not None:
        found["NannyML"] = nannyml_estimate
    return found


def measure(cases: list[Case], estimator: Estimator) -> dict[str, Any]:
    """Return how far an estimator's answers are from what the windows realised."""
    began = time.process_time()
    answers = np.concatenate([estimator(case) for case in cases])
    seconds = time.process_time() - began
    realised = np.array([case.loss[window].mean() for case in cases for window in case.windows])
    inside = (answers[:, 1] <= realised) & (realised <= answers[:, 2])
    return {
        "error": float(np.abs(answers[:, 0] - realised).mean()),
        "first_error": float(np.abs(answers[:5, 0] - realised[:5]).mean()),
        "coverage": float(inside.mean()),
        "first_coverage": float(inside[:5].mean()),
        "width": float((answers[:, 2] - answers[:, 1]).mean()),
        "correlation": _correlation(answers[:, 0], realised),
        "realised": float(realised.mean()),
        "cpu_seconds": seconds,
    }


def _correlation(one: Floats, other: Floats) -> float | None:
    if one.std() < 1e-12 or other.std() < 1e-12:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def run(directory: Path) -> Measured:
    """Return the measures by (stream, setting) and estimator, one per seed."""
    measured: Measured = {}
    for name in STREAMS:
        frame = read_frame(directory, name)
        for seed in SEEDS:
            case = make_case(frame, name, seed)
            shuffled = make_case(frame.sample(frac=1, random_state=seed, ignore_index=True), name, seed)
            settings = {
                "frozen": [case],
                "following": following(case),
                "reweighted": [reweighted(shuffled, seed)],
            }
            for (setting, cases), (who, estimator) in product(settings.items(), estimators().items()):
                found = measure(cases, estimator)
                measured.setdefault((name, setting), {}).setdefault(who, []).append(found)
                print(
                    name,
                    setting,
                    seed,
                    who,
                    found,
                    flush=True,
                )
    return measured


def _mean(found: list[dict[str, Any]], key: str) -> float | None:
    values = [one[key] for one in found if one[key] is not None]
    return float(np.mean(values)) if values else None


def table(measured: Measured) -> str:
    """Return a Markdown table for people."""
    lines = [
        (
            "| stream | setting | estimator | error | error, first 5 windows | coverage | coverage, first 5 | width | correlation"
            " with realised | CPU seconds |"
        ),
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    keys = ("error", "first_error", "coverage", "first_coverage", "width", "correlation", "cpu_seconds")
    for (name, setting), by_who in measured.items():
        for who, found in by_who.items():
            cells = [_mean(found, key) for key in keys]
            text = " | ".join("-" if cell is None else f"{cell:.3g}" for cell in cells)
            lines.append(f"| {name} ({_mean(found, 'realised'):.3g}) | {setting} | {who} | {text} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory with the data sets")
    report(run(parser.parse_args().data))


def report(measured: Measured) -> None:
    """Write the results."""
    figures = []
    for (name, setting), by_who in measured.items():
        error, before = _mean(by_who["ours"], "error"), _mean(by_who["same as before"], "error")
        rival = _mean(by_who["NannyML"], "error") if "NannyML" in by_who else None
        assert error is not None
        assert before is not None
        best = before if rival is None else min(before, rival)
        note = f"same as before {before:.3g}" + ("" if rival is None else f", NannyML {rival:.3g}")
        figures.append(
            Figure(
                f"{name}, {setting}: error of the estimate",
                error,
                "loss",
                f"<= {best:.3g}",
                error <= best,
                note,
            )
        )
        coverage = _mean(by_who["ours"], "coverage")
        figures.append(
            Figure(
                f"{name}, {setting}: realised loss inside the 95% interval",
                coverage,
                "share of windows",
                ">= 0.9" if setting == "reweighted" else "",
                None if setting != "reweighted" or coverage is None else coverage >= 0.9,
            )
        )
    peer = f"NannyML {version('nannyml')}" if find_spec("nannyml") is not None else "NannyML is not installed"
    text = (
        "Mean over three draws of the rows that the model learns; beside each stream the mean loss that its windows realised. Error: mean distance of the estimated from the realised mean loss of a"
        f" window, in units of the loss (error rate; absolute error). {peer}, its interval 1.96 sampling errors.\n\n"
        + table(measured)
        + """

What estimators promise, they keep: where inputs move and p(y|x) does not (reweighted), ours errs less than NannyML on three of four streams
and its interval holds what it says on all; on bike_sharing, where features interact, gradient boosting errs less than a sum. Where
p(y|x) itself moves (frozen, following) an estimate is worth more than "same as before" on bike_sharing alone, and less on elec2: from the
inputs it cannot be seen. A realised loss outside the interval then is the finding. On avocado, rows of a week look alike, so that rows held out
at random beside learned ones flatter the model: every estimator starts three times too low.

`ours` judges classifiers by their own uncertainty; by their inputs alone the interval is wider wherever values come that the reference never
held (bank_marketing's economic indicators, frozen), because what was never seen is taken as unknown."""
    )
    write_results(
        "drift_performance",
        dataset=", ".join(STREAMS),
        seeds=SEEDS,
        figures=figures,
        text=text,
        details={"measured": {" ".join(key): by_who for key, by_who in measured.items()}},
    )


if __name__ == "__main__":
    main()
