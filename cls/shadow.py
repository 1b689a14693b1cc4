"""What a shadow shows before labels land: how often it fails, and how its predictions differ from the champion's on the same rows.

The queue of a shadow is the sample log: bounded on disk, and read at the scorer's own pace, so that it never slows an answer.
"""

from __future__ import annotations

import numpy as np

from cls.arms import Served, count_outputs, output_bins
from cls.domain import Rollout
from cls.errors import Corrupt, NotFound, Refused
from cls.logging import get_logger
from cls.models import LoadedModel, ModelCache
from cls.ports import Predictions
from cls.score import Floats, Predictor
from detectors.columns import Columns, rows_of

_log = get_logger(__name__)


class Rivals:
    """The models of one batch: champions load and answer, or raise; a shadow that does neither is counted and answers NaN.

    Parameters
    ----------
    stream
        The stream.
    cache
        Loads versions.
    champions
        Versions without which no row may be scored.
    known
        Faults of shadows that were told already; added to.
    """

    def __init__(
        self, stream: str, cache: ModelCache, champions: set[int], known: set[tuple[int, str]]
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._champions = champions
        self._known = known
        self.errors: dict[int, int] = {}  # by version

    def __call__(self, version: int) -> Predictor | None:
        """Return a version's model; None for a shadow that cannot be loaded."""
        try:
            model = self._cache.get(self._stream, version)
        except (Corrupt, NotFound, Refused) as error:
            if version in self._champions:
                raise
            self.failed(version, error)
            return None
        return model if version in self._champions else _Guarded(model, self)

    def failed(self, version: int, error: Exception) -> None:
        """Count a failure of a shadow; each kind of it is told once."""
        self.errors[version] = self.errors.get(version, 0) + 1
        if (version, str(error)) not in self._known:
            self._known.add((version, str(error)))
            _log.error("shadow failed", stream=self._stream, version=version, error=str(error))


class _Guarded:
    """A shadow's model: whatever it raises is its own affair."""

    def __init__(self, model: LoadedModel, rivals: Rivals) -> None:
        self._model = model
        self._rivals = rivals

    def predict(self, columns: Columns) -> Floats:
        """Return its predictions, NaN if it raises."""
        try:
            return self._model.predict(columns)
        except Exception as error:  # noqa: BLE001 - a candidate's error must not keep the champion's rows from being scored
            self._rivals.failed(self._model.version, error)
            return np.full(rows_of(columns), np.nan)


def shadow_sums(
    rollout: Rollout, parent: LoadedModel, start: int, scores: Predictions, errors: dict[int, int]
) -> dict[int, Served]:
    """Return what both versions of a rollout did on the rows that both were asked for, by version.

    Parameters
    ----------
    parent
        The champion's model: its target's scale gives the bins.
    start
        Event position of the first score.
    errors
        Batches that raised, by version.
    """
    position = start + np.arange(len(scores))
    asked = (scores.version == rollout.parent) & (scores.shadow_version == rollout.version)
    asked |= (scores.version == rollout.version) & (scores.shadow_version == rollout.parent)
    asked &= position >= (rollout.since or 0)
    part = scores.take(np.flatnonzero(asked))
    classes = parent.schema.task == "classification"
    bins = output_bins(len(parent.schema.classes) if classes else 1)
    sums = {}
    for version in (parent.version, rollout.version):
        value = part.of(version)
        failed = errors.get(version, 0)
        nonfinite = 0 if failed else int((~np.isfinite(value)).sum())
        outputs = count_outputs(value, parent.target_location, parent.target_scale, bins, classes=classes)
        sums[version] = Served(
            len(part), int(len(part) > 0), failed, nonfinite, Served().latency, outputs.astype(np.int64)
        )
    return sums
