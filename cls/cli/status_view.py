"""How `cls status` looks: three small tables that fit eighty columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cls.cli.output import ago, clean, console, pairs_of, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType

BEHIND = {
    "inbox_waiting": "to take in",
    "score_lag": "to score",
    "join_lag": "to join",
    "labels_waiting": "early labels",
    "dead_letters": "dead letters",
}
_STREAMS = {
    "name": "stream",
    "serves": "serves",
    "time": "stream time",
    "events": "events",
    "labels": "labels",
    "behind": "behind",
}
_WIDE = 100  # columns of a terminal on which there is room for the budget
_WORK = {"stream": "stream", "what": "under way", "state": "state", "waits": "waits for"}
_PROCESSES = {"kind": "process", "id": "id", "seen": "last seen", "state": "state"}


def view(status: dict[str, Any], *, details: bool = False) -> list[RenderableType]:
    """Return what is printed, piece by piece; with `details` all about jobs and rollouts under way, too."""
    from rich.text import Text

    streams, processes, outbox = status["streams"], status["processes"], status["outbox"]
    empty = "no streams in cls.toml: `cls stream infer DATA --write` adds one"
    columns = _STREAMS | ({"left": "budget left"} if console().width >= _WIDE or details else {})
    pieces: list[RenderableType] = [table_of([_summary(one) for one in streams], columns, empty=empty)]
    work = [line for one in streams for line in _under_way(one)]
    if work:
        pieces.append(table_of(work, _WORK))
    for one in streams if details else ():
        for kind in ("jobs", "rollouts"):
            pieces += [pairs_of(row, title=f"{kind[:-1]} {row['id']}") for row in one[kind]]
    seen = [one | {"seen": f"{ago(one['age_seconds'])} ago"} for one in processes]
    pieces.append(table_of(seen, _PROCESSES, empty="no process is running"))
    if outbox["waiting"]:
        since = f"the oldest since {ago(outbox['oldest_seconds'] or 0)}"
        why = f": {clean(outbox['error'])}" if outbox["error"] else ""
        pieces.append(Text(f"outbox: {outbox['waiting']} to deliver, {since}{why}"))
    return pieces


def _summary(one: dict[str, Any]) -> dict[str, Any]:
    behind = [f"{_brief(one[key])} {what}" for key, what in BEHIND.items() if one[key]]
    time = one["watermark"]
    return {
        "name": one["name"],
        "serves": None if one["champion"] is None else f"v{one['champion']}",
        "events": _brief(one["events"]),
        "labels": _brief(one["labels"]),
        "time": None if time is None else f"{time:%Y-%m-%d %H:%M}",
        "behind": "\n".join(behind) or None,
        "left": f"{one['budget']['left_device_seconds']:,.0f} s",
    }


def _brief(number: int) -> str:
    """Return a count in six characters, exact up to 99,999."""
    if number < 100_000:
        return f"{number:,}"
    return f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.2f}M"


def _under_way(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line for the episode, each rollout and each job of a stream."""
    lines = []
    episode = one["episode"]
    if episode is not None:
        lines.append(("drift", f"{episode.state} since event {episode.onset}", "a decision and its end"))
    lines += [(f"version {r['version']}", _state(r), r["waits_for"]) for r in one["rollouts"]]
    for job in one["jobs"]:
        by = f", attempt {job['attempt']}" if job["attempt"] > 1 else ""
        waits = "a worker" if job["state"] == "queued" else job["worker"]
        lines.append((f"{job['kind']} (job {job['id']})", f"{job['state']}{by}", waits))
    return [
        {"stream": one["name"], "what": what, "state": state, "waits": waits} for what, state, waits in lines
    ]


def _state(rollout: dict[str, Any]) -> str:
    canary = f" step {rollout['step'] + 1}, {rollout['share']:.0%}" if rollout["state"] == "canary" else ""
    return f"{rollout['state']}{canary}{', paused' if rollout['paused_at'] is not None else ''}"
