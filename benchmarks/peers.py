"""What others offer, behind one shape: a distance per feature between a reference and a window.

    .venv/bin/pip install --no-deps -r benchmarks/requirements.txt

Shapes: F features. A larger distance is further; a p-value becomes -log10 p. Every peer is called as its documentation
says, at its default settings; `Score` calls the statistic behind Evidently's report and not the whole report, which
takes fifty times longer for the same number (`check` shows that it is the same). Peers do not take missing values:
Evidently and NannyML drop them, and for frouros they are dropped here.

River's detectors, which read row by row, are in `detectors.monitors_river`. alibi-detect is not free software.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detectors.columns import Categorical, Columns, rows_of

Score = Callable[[Columns], NDArray[np.float64]]  # window -> distance of each feature, shape (F,)
Call = Callable[[Columns], Any]  # what a user of the library calls per window, whatever it returns
LIBRARIES = ("evidently", "frouros", "nannyml", "river")


@dataclass(frozen=True)
class Peer:
    """A library's way to compare a window with a reference."""

    name: str
    package: str
    score: Callable[[Columns], Score]  # from the reference


def missing() -> dict[str, str]:
    """Return the libraries that cannot be measured here, each with the reason."""
    return {
        library: "not installed: pip install --no-deps -r benchmarks/requirements.txt"
        for library in LIBRARIES
        if find_spec(library) is None
    }


def versions() -> dict[str, str]:
    """Return the versions of those that can."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def frame_of(columns: Columns) -> pd.DataFrame:
    """Return columns as pandas has them: missing numbers NaN, missing categories None."""
    return pd.DataFrame({name: _values(column) for name, column in columns.items()})


def _values(column: Any) -> NDArray[Any]:
    if not isinstance(column, Categorical):
        return np.asarray(np.where(np.isfinite(column), column, np.nan))
    # The appended None is what code -1 (missing) reads.
    return np.array([*column.vocabulary, None], dtype=object)[column.codes]


# ----------------------------------------------------------------------------------------- Evidently


def evidently_statistic(method: str) -> Callable[[Columns], Score]:
    """Return the statistic that Evidently's data drift report computes per column."""

    def of(reference: Columns) -> Score:
        from evidently.legacy.calculations.stattests import registry

        test = registry.get_stattest(pd.Series(dtype=float), pd.Series(dtype=float), _kind(True), method)
        frame = frame_of(reference).infer_objects()
        kinds = {name: _kind(not isinstance(column, Categorical)) for name, column in reference.items()}
        before = {name: frame[name].dropna() for name in frame}

        def score(window: Columns) -> NDArray[np.float64]:
            after = frame_of(window)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.array(
                    [
                        float(test(before[name], after[name].dropna(), kinds[name], None).drift_score)
                        for name in before
                    ]
                )

        return score

    return of


def _kind(numeric: bool) -> Any:  # a private switch between two constants of theirs
    from evidently.legacy.core import ColumnType

    return ColumnType.Numerical if numeric else ColumnType.Categorical


def evidently_report(reference: Columns, method: str = "kl_div") -> Call:
    """Return a run of the whole report, as a user has it; its numbers are asked for."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    categorical = [name for name, column in reference.items() if isinstance(column, Categorical)]
    numeric = [name for name in reference if name not in categorical]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    before = Dataset.from_pandas(frame_of(reference), data_definition=definition)

    def call(window: Columns) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = Dataset.from_pandas(frame_of(window), data_definition=definition)
            return Report([DataDriftPreset(method=method)]).run(after, before).dict()

    return call


# ------------------------------------------------------------------------------------------- frouros


def frouros_distance(name: str) -> Callable[[Columns], Score]:
    """Return one of frouros's batch detectors per feature; its chi-square test for categories."""

    def of(reference: Columns) -> Score:
        import frouros.detectors.data_drift as frouros

        fitted: dict[str, Any] = {}
        for feature, column in reference.items():
            kind = frouros.ChiSquareTest if isinstance(column, Categorical) else getattr(frouros, name)
            fitted[feature] = kind()
            fitted[feature].fit(X=_present(column))

        def score(window: Columns) -> NDArray[np.float64]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.array(
                    [_distance(fitted[feature].compare(X=_present(window[feature]))[0]) for feature in fitted]
                )

        return score

    return of


def _present(column: Any) -> NDArray[Any]:
    values = _values(column)
    return values[~pd.isna(values)]


def _distance(result: Any) -> float:
    if hasattr(result, "p_value"):
        return -math.log10(max(float(result.p_value), 1e-300))
    return float(result.distance)


# ------------------------------------------------------------------------------------------- NannyML


def nannyml_distance(method: str) -> Callable[[Columns], Score]:
    """Return NannyML's univariate drift per chunk, one method for numbers and categories."""

    def of(reference: Columns) -> Score:
        calculate = nannyml_calculator(reference, method)
        names = list(reference)

        def score(window: Columns) -> NDArray[np.float64]:
            frame = calculate(window).filter(period="analysis").to_df()
            return np.array([float(frame[name, method, "value"].iloc[0]) for name in names])

        return score

    return of


def nannyml_calculator(reference: Columns, method: str = "jensen_shannon") -> Call:
    """Return NannyML's calculator, fitted; a window is one chunk. Nobody is told about its use."""
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    import nannyml

    categorical = [name for name, column in reference.items() if isinstance(column, Categorical)]
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference),
        treat_as_categorical=categorical or None,
        continuous_methods=[method],
        categorical_methods=[method],
        chunk_number=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator.fit(frame_of(reference))

    def call(window: Columns) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return calculator.calculate(frame_of(window))

    return call


WINDOW_PEERS: Sequence[Peer] = (
    Peer("Evidently kl_div", "evidently", evidently_statistic("kl_div")),
    Peer("frouros KL", "frouros", frouros_distance("KL")),
    Peer("frouros PSI", "frouros", frouros_distance("PSI")),
    Peer("frouros KS test", "frouros", frouros_distance("KSTest")),
    Peer("NannyML Jensen-Shannon", "nannyml", nannyml_distance("jensen_shannon")),
)


def window_peers() -> list[Peer]:
    """Return those whose library is installed."""
    gone = missing()
    return [peer for peer in WINDOW_PEERS if peer.package not in gone]


def check(reference: Columns, window: Columns) -> float:
    """Return by how much the statistic differs from the one in Evidently's report, at most: zero."""
    report = evidently_report(reference)(window)
    told = {
        metric["config"]["column"] if "config" in metric else metric["metric_id"]: metric["value"]
        for metric in report["metrics"][1:]
    }
    values = np.array([float(value) for value in told.values()])
    score = evidently_statistic("kl_div")(reference)(window)
    if rows_of(window) == 0 or values.size != score.size:
        raise ValueError("the report does not tell one distance per feature")
    return float(np.abs(np.sort(values) - np.sort(score)).max())
