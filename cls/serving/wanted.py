"""Which versions a stream is to have in memory, and who of them is to answer: what the database says, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from cls.arms import stage_name
from cls.domain import Rollout, RolloutState
from storage.versions import champion, rollouts_in


@dataclass(frozen=True)
class Wanted:
    """What the database says of a stream."""

    champion: int | None = None
    challenger: int | None = None  # of a canary
    share: float = 0.0
    rollout: int = 0
    stage: str = "champion"
    spare: frozenset[int] = frozenset()  # to be resident besides

    @property
    def versions(self) -> list[int]:
        """Those to be resident, the most urgent first."""
        answering = [version for version in (self.champion, self.challenger) if version is not None]
        return answering + sorted(self.spare - {*answering}, reverse=True)


def read_wanted(connection: Connection, stream: str) -> Wanted:
    """Return what a stream's rows of champions and rollouts ask for."""
    found = champion(connection, stream)
    if found is None:
        return Wanted()
    states = (RolloutState.WAITING, RolloutState.SHADOW, RolloutState.CANARY, RolloutState.WATCHING)
    under_way = rollouts_in(connection, stream, *states)
    spare = {found.previous} | {rollout.version for rollout in under_way}
    spare |= {rollout.parent for rollout in under_way}
    wanted = Wanted(found.version, spare=frozenset(version for version in spare if version is not None))
    stage = _stage(under_way, found.version)
    if stage is None:
        return wanted
    canary = stage.state == RolloutState.CANARY
    return Wanted(
        found.version,
        stage.version if canary else None,
        stage.share if canary else 0.0,
        stage.id,
        stage_name("canary" if canary else "champion", stage.step),
        wanted.spare,
    )


def _stage(under_way: Sequence[Rollout], serving: int) -> Rollout | None:
    """Return the rollout that answers belong to: one under way beside its champion, else one that is watched."""
    for rollout in under_way:
        if rollout.state in (RolloutState.SHADOW, RolloutState.CANARY) and rollout.parent == serving:
            return rollout
    for rollout in under_way:
        if rollout.state == RolloutState.WATCHING and rollout.version == serving:
            return rollout
    return None
