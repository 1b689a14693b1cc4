"""What must be true of promotions, rollouts, their ledger and the registry's aliases, whatever was killed on the way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
from sqlalchemy import select

from storage import outbox
from storage.db import reading
from storage.tables import announcements, champions, ledger, promotions, rollouts
from tests.chaos.harness import STREAM, System, eventually

# What is told of a rollout from its beginning to where it stands, each step once.
LEGAL = {
    "waiting": r"",
    "shadow": r"shadow",
    "canary": r"shadow( canary)+",
    "watching": r"(shadow( canary)* )?promoted",
    "done": r"(shadow( canary)* )?promoted done",
    "rolled_back": r"(shadow( canary)* )?promoted rolled_back",
    "rejected": r"(shadow( canary)* )?rejected",
}
DELIVERY_SECONDS = 400.0  # a busy machine has some hundred messages to deliver, and waited longer and longer for a registry that was away


def check_champion(system: System) -> None:
    """Check that there is one champion, that of the last promotion, and that each promotion replaced the one before."""
    made = system.rows(select(promotions).where(promotions.c.stream == STREAM).order_by(promotions.c.id))
    [now] = system.rows(select(champions).where(champions.c.stream == STREAM))
    last = made[-1]
    assert (now.promotion, now.version, now.previous) == (last.id, last.version, last.previous)
    known = system.rows(select(ledger).where(ledger.c.stream == STREAM).order_by(ledger.c.id))
    wrong = broken_chain(made, known)
    assert not wrong, wrong


def broken_chain(made: Sequence[Any], known: Sequence[Any]) -> list[str]:
    """Return where promotions do not follow from one another, or are not what the ledger says of them."""
    rebased = [row for row in made if row.reason.startswith("rebased: ")]
    changes = [row for row in made if row not in rebased]
    back = {(row.reason, row.version) for row in known if row.kind == "rollback"}
    wrong = []
    for before, row in zip([None, *changes], changes, strict=False):
        replaced = None if before is None else before.version
        if row.version == replaced:
            wrong.append(f"version {row.version} was promoted twice in a row")
        if row.previous != replaced and (row.reason, replaced) not in back:
            wrong.append(f"version {row.version} follows {row.previous}, but {replaced} was champion")
    told = [row.version for row in known if row.kind == "promotion"]
    if told != [row.version for row in changes]:
        wrong.append(f"the ledger promoted {told}, the rows {[row.version for row in changes]}")
    return wrong


def check_rollouts(system: System, canary_steps: int) -> Counter[str]:
    """Check that each rollout came where it is by legal steps, each taken once; returns how many are in each state."""
    found = system.rows(select(rollouts).where(rollouts.c.stream == STREAM).order_by(rollouts.c.id))
    told = system.rows(select(announcements).order_by(announcements.c.id))
    made = system.rows(select(promotions).where(promotions.c.stream == STREAM))
    known = system.rows(select(ledger).where(ledger.c.stream == STREAM))
    wrong = illegal(found, told, made, known, canary_steps)
    assert not wrong, wrong
    return Counter(row.state for row in found)


def illegal(
    found: Sequence[Any], told: Sequence[Any], made: Sequence[Any], known: Sequence[Any], canary_steps: int
) -> list[str]:
    """Return what is wrong with rollouts by what was told, promoted and written to the ledger."""
    wrong = []
    for row in found:
        steps = [
            one.kind.removeprefix("rollout.")
            for one in told
            if one.kind.startswith("rollout.") and one.payload["rollout"] == row.id
        ]
        way = " ".join(step for step in steps if step != "held")
        if not re.fullmatch(LEGAL[row.state], way) or way.count("canary") > canary_steps:
            wrong.append(f"rollout {row.id} is {row.state} after {way!r}")
        promoted = sum(one.rollout_id == row.id for one in made)
        if promoted != way.count("promoted"):
            wrong.append(f"rollout {row.id} was promoted {promoted} times after {way!r}")
        ends = Counter(one.kind for one in known if one.version == row.version)
        rejected, backs = ends["rejection"] + ends["rollout abort"], ends["rollback"]
        if (rejected, backs) != (row.state == "rejected", row.state == "rolled_back"):
            wrong.append(f"rollout {row.id} is {row.state}: {rejected} rejections and {backs} rollbacks")
    for version, number in Counter(row.version for row in found).items():
        if number > 1:
            wrong.append(f"version {version} has {number} rollouts")
    states = Counter(row.state for row in found)
    if states["waiting"] + states["shadow"] + states["canary"] > 1 or states["watching"] > 1:
        wrong.append(f"several at a time: {dict(states)}")
    return wrong


def check_aliases(system: System, registry: httpx.Client) -> None:
    """Check that the registry's aliases come to say what the rows say."""

    def waiting() -> int:
        with reading(system.engine) as connection:
            return outbox.undelivered(connection)

    eventually(lambda: waiting() == 0, DELIVERY_SECONDS, "everything to be delivered")
    [now] = system.rows(select(champions).where(champions.c.stream == STREAM))
    live = select(rollouts.c.version).where(
        rollouts.c.stream == STREAM, rollouts.c.state.in_(("shadow", "canary"))
    )
    rivals = system.rows(live)
    wanted = {
        "champion": now.version,
        "previous": now.previous,
        "challenger": rivals[0].version if rivals else None,
    }
    found = {alias: _version_of(registry, alias) for alias in wanted}
    assert found == wanted


def _version_of(registry: httpx.Client, alias: str) -> int | None:
    model = f"cls-{STREAM}"
    answer = registry.get("/registered-models/alias", params={"name": model, "alias": alias})
    if answer.status_code != 200:
        return None
    entry = answer.json()["model_version"]
    tags = {tag["key"]: tag["value"] for tag in entry.get("tags", [])}
    return int(tags["cls.number"])
