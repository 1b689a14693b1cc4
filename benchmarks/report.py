"""How results are written: one JSON for machines, one Markdown table for people, with machine, versions and seeds."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "river",
    "SQLAlchemy",
    "APScheduler",
    "evidently",
    "mlflow",
    "pandas",
    "numpy",
    "scipy",
    "pyarrow",
)

# Of the code that is run: by the time that results are written, there may be a later one.
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
).stdout.strip()


@dataclass(frozen=True)
class Figure:
    """One measured number against its target."""

    name: str
    value: float | None
    unit: str
    target: str = ""  # as a person writes it, "<= 7.5"
    met: bool | None = None  # None where there is no target
    note: str = ""


def write_results(
    name: str,
    *,
    dataset: str,
    seeds: Sequence[int],
    figures: Sequence[Figure],
    text: str,
    details: dict[str, Any] | None = None,
    directory: Path = RESULTS,
) -> Path:
    """Write NAME.json and NAME.md; returns the path of the JSON.

    Parameters
    ----------
    text
        Markdown for people, below the table of figures.
    details
        Everything else that a reader may want to recompute.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "command": f"python -m benchmarks.{name}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset,
        "seeds": list(seeds),
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "figures": [asdict(figure) for figure in figures],
        "details": details or {},
    }
    path = directory / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, sort_keys=False) + "\n")
    (directory / f"{name}.md").write_text(_markdown(name, document, figures, text))
    return path


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "commit": COMMIT,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _markdown(name: str, document: dict[str, Any], figures: Sequence[Figure], text: str) -> str:
    lines = [
        f"# {name}",
        "",
        (
            f"`{document['command']}`, {document['at']}, {document['machine']['processor']}, {document['machine']['cores']} cores, "
            f"Python {document['machine']['python']}, torch {document['versions']['torch']}. Data: {document['dataset']}. "
            f"Seeds: {', '.join(map(str, document['seeds']))}."
        ),
        "",
        "| figure | value | unit | target | met | note |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.4g}"
        met = {None: "", True: "yes", False: "**no**"}[figure.met]
        lines.append(f"| {figure.name} | {value} | {figure.unit} | {figure.target} | {met} | {figure.note} |")
    return "\n".join([*lines, "", text.strip(), ""])
