"""What a shadow shows before labels land: how often it fails, and how its predictions differ from the champion's on the same rows.

The queue of a shadow is the sample log: bounded on disk, and read at the scorer's own pace, so that it never slows an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cls.arms import Served, count_outputs, output_bins
from cls.domain import Rollout, RolloutState
from cls.errors import Permanent, Temporary
from cls.logging import get_logger
from cls.ports import Predictions
from cls.score import Floats, Predictor
from cls.serving.models import LoadedModel, ModelCache
from detectors.columns import Columns, rows_of

_log = get_logger(__name__)


class Rivals:
    """The models of one batch: the champion loads and answers, or raises; another version that does neither is counted, and answers NaN.

    Another version is a shadow, a watched champion's predecessor, or one that served some rows and was rolled back since: a version that
    cannot be loaded must not keep later rows from being scored.

    Parameters
    ----------
    stream
        The stream.
    cache
        Loads versions.
    champion
        The version without which no row may be scored.
    known
        Faults of others that were told already; added to.
    """

    def __init__(self, stream: str, cache: ModelCache, champion: int, known: set[tuple[int, str]]) -> None:
        self._stream = stream
        self._cache = cache
        self._champion = champion
        self._known = known
        self.errors: dict[int, int] = {}  # by version
        self.unloadable: dict[int, Permanent] = {}  # by version: why it cannot be loaded here

    def __call__(self, version: int) -> Predictor:
        """Return a version's model."""
        if version == self._champion:
            return self._cache.get(self._stream, version)
        return _Guarded(version, self)

    def outputs(self, version: int, columns: Columns) -> Floats:
        """Return a version's predictions; NaN where it cannot be loaded, or raises."""
        try:
            model = self._cache.get(self._stream, version)
        except Permanent as error:
            self.unloadable[version] = error
            return self._failed(version, error, columns)
        except Temporary:  # a store that is away is not the version's fault
            raise
        except Exception as error:  # noqa: BLE001 - a candidate's error must not keep the champion's rows from being scored
            return self._failed(version, error, columns)
        try:
            return model.predict(columns)
        except Temporary:  # a store that is away is not the version's fault
            raise
        except Exception as error:  # noqa: BLE001 - a candidate's error must not keep the champion's rows from being scored
            return self._failed(version, error, columns)

    def _failed(self, version: int, error: Exception, columns: Columns) -> Floats:
        self.errors[version] = self.errors.get(version, 0) + 1
        if (version, str(error)) not in self._known:
            self._known.add((version, str(error)))
            _log.error("version failed", stream=self._stream, version=version, error=str(error))
        return np.full(rows_of(columns), np.nan)


@dataclass(frozen=True)
class _Guarded:
    """A version whose failures are its own affair."""

    version: int
    rivals: Rivals

    def predict(self, columns: Columns) -> Floats:
        """Return its predictions, NaN if it fails."""
        return self.rivals.outputs(self.version, columns)


def pair_sums(
    rollout: Rollout, parent: LoadedModel, start: int, scores: Predictions, errors: dict[int, int]
) -> dict[int, Served]:
    """Return what both versions of a rollout did on the rows that both were asked for, by version.

    In a canary these are the distributions of predictions alone: users' keys differ between its arms, rows here do not. The rest is counted
    where users are answered.

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
        outputs = count_outputs(value, parent.target_location, parent.target_scale, bins, classes=classes)
        if rollout.state == RolloutState.CANARY:
            sums[version] = Served(outputs=outputs)
            continue
        failed = errors.get(version, 0)
        nonfinite = 0 if failed else int((~np.isfinite(value)).sum())
        sums[version] = Served(
            len(part), int(len(part) > 0), failed, nonfinite, Served().latency, outputs.astype(np.int64)
        )
    return sums
