"""References as stored bytes: what a version's inputs, predictions, labels and losses look like in the newest regime.

A worker makes them of a candidate, the daemon of a champion whose reference moves; they differ in where predictions come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cls.columns.outputs import UNCERTAINTY, label_columns, output_columns, row_losses
from cls.config import StreamConfig
from cls.detect import input_detector, kl_detector
from cls.domain import Labelled
from cls.layout import to_json
from cls.ports import SampleLog
from cls.season import with_season
from detectors.columns import Columns, take
from detectors.dispersion import dispersion_of, dispersions_of
from detectors.loss import MINIMUM_ROWS, LossModel, fit_losses
from detectors.profile import Profile
from detectors.reference import Reference

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a version may have predicted."""

    columns: Columns
    position: NDArray[np.int64]
    role: NDArray[np.int8]


Predict = Callable[[Rows], tuple[Floats, Floats]]
"""(prediction, uncertainty) of rows; NaN where the version has learned the row, or did not predict it."""


def recent_reference(
    log: SampleLog,
    name: str,
    stream: StreamConfig,
    start: int,
    stop: int,
    *,
    label_stop: int,
    labels_since: int,
    predict: Predict,
    seed: int,
) -> bytes:
    """Return the reference of the events from `start` to `stop`, of their newest `reference_rows` if they are more.

    At least one window's worth is taken, from before `start` if need be: a reference smaller than what is compared with it says little.
    No decision to rebase is taken before so many rows are there.

    Parameters
    ----------
    label_stop
        Label position up to which labels are there.
    labels_since
        Event position before which labels belong to an earlier regime. Losses given the inputs are taken from there, too: a change that
        moved them would have called for an update.
    predict
        The version.
    seed
        Of the intervals of estimated losses.

    Notes
    -----
    Labels and losses come from windows that their labels cover: which labels land first may depend on what they say. They are the
    newest such windows, where labels lag from before `start`.
    """
    settings = stream.detect
    newest = max(stop - settings.reference_rows, 0)
    start = max(min(start, stop - settings.window_rows), newest, 0)
    events = log.events(name, start, stop)
    detector = kl_detector(settings)
    inputs = input_detector(settings).profile(with_season(events.columns, events.time_us, settings.season))

    def profile(columns: Columns, rows: int) -> Profile | None:
        return detector.profile(columns) if rows >= MINIMUM_ROWS else None

    prediction, uncertainty = predict(Rows(events.columns, events.position, events.role))
    own = np.flatnonzero(np.isfinite(prediction))
    predicted = output_columns(stream, prediction[own], uncertainty[own])
    outputs = profile(predicted, len(own))
    if outputs is not None:
        outputs = of_consecutive_rows(outputs, predicted, places(events.position[own], settings.window_rows))

    labelled = log.labelled(name, max(label_stop - 2 * settings.reference_rows, 0), label_stop)
    landed, first = _covered(labelled, settings.window_rows, settings.label_rows)
    landed, first = landed[-settings.reference_rows :], first[-settings.reference_rows :]
    first = first[labelled.position[first] >= labels_since]
    labels = profile(label_columns(stream, labelled.target[first]), len(first))

    columns = take(labelled.columns, landed)
    prediction, uncertainty = predict(Rows(columns, labelled.position[landed], labelled.role[landed]))
    loss = row_losses(stream, prediction, labelled.target[landed])
    held = np.flatnonzero(np.isfinite(loss))
    sampled = share(places(labelled.position[landed[held]], settings.window_rows))

    def losses(bins: Profile | None, columns: Columns) -> LossModel | None:
        if bins is None or len(held) < MINIMUM_ROWS:
            return None
        return fit_losses(bins, take(columns, held), loss[held], seed=seed, share=sampled)

    by_inputs, by_outputs = losses(inputs, columns), None
    if outputs is not None and any(bins.name == UNCERTAINTY for bins in outputs.features):
        by_outputs = losses(outputs, output_columns(stream, prediction, uncertainty))
    return to_json(Reference(inputs, outputs, labels, by_inputs, by_outputs).to_json())


def places(position: NDArray[np.int64], window_rows: int) -> NDArray[np.intp]:
    """Return where among consecutive rows a random sample lies: from 0, without the holes of more than a window."""
    gap = np.diff(position, prepend=position[:1])
    return np.cumsum(np.where(gap > window_rows, 1, gap)).astype(np.intp)


def share(place: NDArray[np.intp]) -> float:
    """Return the share of the rows that a sample at these places is."""
    return len(place) / (int(place[-1]) + 1) if len(place) else 1.0


def of_consecutive_rows(profile: Profile, columns: Columns, place: NDArray[np.intp]) -> Profile:
    """Return the profile of a random sample of rows, for windows of consecutive ones: these depend on each other more.

    Dependence is looked for where the sampled rows lie, not in their mere sequence: neighbours among them show it best.

    Parameters
    ----------
    columns
        The rows of the profile.
    place : int array, shape (N,)
        Of each of them, as by `places`.
    """

    def in_place(bin_N: NDArray[np.intp], size: int) -> NDArray[np.intp]:
        spread_N = np.full(int(place[-1]) + 1, size, np.intp)
        spread_N[place] = bin_N
        return spread_N

    sizes_F = [bins.size - 1 for bins in profile.features]
    bins_FN = [bins.assign(columns[bins.name]) for bins in profile.features]
    both = list(zip(bins_FN, sizes_F, strict=True))
    values = dispersions_of(
        [in_place(bin_N, size + 1) for bin_N, size in both], sizes_F, profile.dependence_FF
    )
    missing = [dispersion_of(in_place((bin_N == size).astype(np.intp), 2), 2) for bin_N, size in both]
    sampled = share(place)
    return replace(
        profile,
        dispersion=tuple(
            effects.of_sample(sampled, evidence.degrees)
            for effects, evidence in zip(values, profile.evidence, strict=True)
        ),
        missing_dispersion=tuple(effects.of_sample(sampled, 1) for effects in missing),
    )


def _covered(labelled: Labelled, window_rows: int, least: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the labels of covered windows in the order of their events: all of them, and the first `least` to land of each.

    A window is judged once `least` of its labels are there. Those that land first may differ from the rest, so that the reference
    must leave out the rest, too.
    """
    order = np.argsort(labelled.position, kind="stable")
    _, which, counts = np.unique(
        labelled.position[order] // window_rows, return_inverse=True, return_counts=True
    )
    covered = order[counts[which] >= least]
    begin = np.cumsum(counts) - counts
    by_landing = np.lexsort((order, which))
    rank = np.empty_like(by_landing)
    rank[by_landing] = np.arange(len(order)) - begin[which[by_landing]]
    return covered, order[(counts[which] >= least) & (rank < least)]
