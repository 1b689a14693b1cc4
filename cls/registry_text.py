"""Runs and versions in words, in Markdown: the gate's table, the note at the head of a run, who serves and who is on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cls.domain import Json
from cls.lineage import EndedJob


def gate_table(gate: Json) -> str:
    """Return a gate report as a Markdown table; losses in the model's own unit, change relative to the champion's."""
    lines = [
        f"**{str(gate.get('verdict', '')).upper()}**: {gate.get('reason', '')}",
        "",
        "| slice | rows | champion | candidate | change of loss (interval) | verdict |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for part in gate.get("slices", []):
        interval = "" if part.get("lower") is None else f"{part['lower']:+.1%} .. {part['upper']:+.1%}"
        cells = [
            _cell(part["name"]),
            f"{part['rows']:,}",
            _loss(part.get("champion_loss")),
            _loss(part["candidate_loss"]),
            interval,
            _cell(part["verdict"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def job_note(job: EndedJob) -> str:
    """Return what stands at the head of a job's run: why it was done, and what came of it."""
    lines = [f"**Why:** {job.input.reason}"]
    if job.version is not None:
        lines.append(f"**Made:** version {job.version} of `cls-{job.stream}` by `{job.input.strategy}`")
    if job.error:
        lines.append(f"**{str(job.state).capitalize()}:** {job.error}")
    if job.result.get("gate"):
        lines.append(gate_table(job.result["gate"]))
    return "\n\n".join(lines)


def standings_note(standings: Mapping[int, str]) -> str:
    """Return how far versions have come as a list: the champion, then the others, the newest first."""

    def place(number: int) -> tuple[bool, int]:
        return not standings[number].startswith("champion"), -number

    return "\n".join(
        f"- **version {number}**: {standings[number]}" for number in sorted(standings, key=place)
    )


def shortened(text: str, length: int) -> str:
    """Return a text of at most so many characters; an ellipsis says that there was more."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _loss(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
