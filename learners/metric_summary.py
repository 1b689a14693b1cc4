"""What a matrix of scores comes to in a few numbers; `learners.metrics` says how each is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]

MEASURES = {  # name: (heading, what it is)
    "average": ("average", "mean score on all tasks at the end"),
    "average_throughout": ("average throughout", "mean of R[i, j] over j <= i (Diaz-Rodriguez et al. 2018)"),
    "backward_transfer": ("backward transfer", "what learning on did to earlier tasks; positive is better"),
    "backward_transfer_throughout": (
        "backward transfer throughout",
        "the same over all i > j (Diaz-Rodriguez et al. 2018); positive is better",
    ),
    "forward_transfer": (
        "forward transfer",
        "head start on a task before it is learned, over an untrained model; positive is better",
    ),
    "forgetting": ("forgetting", "what of a task's best score is lost at the end; positive is worse"),
    "relative_forgetting": (
        "relative forgetting",
        "the same as a share of the best score; positive is worse",
    ),
    "intransigence": (
        "intransigence",
        "what a task is short of a model trained on all of them; positive is worse",
    ),
}


@dataclass(frozen=True)
class Summary:
    """All measures of a matrix, None where it does not tell: of one task, or without what it is compared with."""

    better: Better
    tasks: int
    average: float
    average_throughout: float
    backward_transfer: float | None
    backward_transfer_throughout: float | None
    forward_transfer: float | None
    forgetting: float | None
    relative_forgetting: float | None
    intransigence: float | None

    def table(self) -> str:
        """Return the measures as rows of a Markdown table."""
        lines = ["| measure | value | meaning |", "| --- | ---: | --- |"]
        for name, (heading, meaning) in MEASURES.items():
            value = getattr(self, name)
            text = "" if value is None else f"{value:.4g}" if name.startswith("average") else f"{value:+.4g}"
            lines.append(f"| {heading} | {text} | {meaning} |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types."""
        return asdict(self)
