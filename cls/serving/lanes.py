"""The lanes of a stream, as its route has them now: the champion's, and the canary's beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cls.columns.features import FeatureReader, text_of
from cls.config import SchemaConfig
from cls.serving.batcher import Lane
from cls.serving.follow import Route
from cls.serving.models import LoadedModel
from cls.serving.routing import in_canary
from cls.serving.settle import Seat, Shared
from detectors.derivation import Derivation


class Lanes:
    """Keeps a lane for each version that answers a stream.

    A lane that is no longer in the route answers what it has taken, and is gone.

    Parameters
    ----------
    schema
        Of the stream.
    shared
        What all versions share.
    """

    def __init__(self, schema: SchemaConfig, shared: Shared) -> None:
        self._derivations: tuple[Derivation, ...] = schema.derivations
        self._shared = shared
        self._route: Route | None = None
        self._kept: dict[LoadedModel, Lane] = {}
        self.champion: Lane | None = None
        self.canary: Lane | None = None

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(lane.rows for lane in self._kept.values())

    def follow(self, route: Route) -> tuple[Lane, Lane | None]:
        """Return the lanes of the champion and of the canary, if there is one."""
        if route is not self._route or self.champion is None:
            before, self._kept, last = self._kept, {}, self.champion
            self.champion = self._lane(route, route.champion, None, before)
            self.canary = None
            if route.challenger is not None:
                self.canary = self._lane(route, route.challenger, self.champion, before)
            if last is not None and last is not self.champion:
                last.leads = False
                last.mark()
            self._route = route
        return self.champion, self.canary

    def _lane(
        self, route: Route, model: LoadedModel, champion: Lane | None, before: dict[LoadedModel, Lane]
    ) -> Lane:
        arm = (model.stream, route.rollout, route.stage, model.version)
        lane = before.get(model)
        schema = model.schema
        reader = (
            lane.seat.reader if lane else FeatureReader(schema.numeric, schema.categorical, self._derivations)
        )
        seat = Seat(model, reader, arm, None if champion is None else champion.seat)
        if lane is None:
            lane = Lane(seat, champion, self._shared)
        else:
            lane.seat, lane.champion, lane.leads = seat, champion, champion is None
            lane.mark()
        self._kept[model] = lane
        return lane


def canary_rows(route: Route, keys: Sequence[Any]) -> list[bool]:
    """Return which rows the canary answers, by their keys; rows without one are the champion's."""
    rollout, share = route.rollout, route.share
    texts = map(text_of, keys)
    return [bool(text) and in_canary(rollout, str(text), share) for text in texts]
