"""The libraries that are measured beside ours, each run by an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.forgetting_plain import Run
from benchmarks.scenarios import Name, Scenario, save

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Peer:
    """A library's strategy on one scenario."""

    name: str
    package: str  # avalanche or capymoa
    setting: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def _replay(library: str, rows: int, shift: int = 0) -> Peer:
    setting: dict[str, Any] = {"memory_rows": rows}
    if library == "capymoa":
        setting["strategy"] = "rar" if shift else "er"
    if shift:
        setting["shift"] = shift
    title = {"avalanche": "Avalanche replay", "capymoa": "CapyMOA RAR" if shift else "CapyMOA ER"}[library]
    return Peer(f"{title} {rows}" + (", shifted images" if shift else ""), library, setting)


def _ewc(library: str, strength: float, rows: int = 0) -> Peer:
    setting: dict[str, Any] = {"ewc_lambda": strength, **({"memory_rows": rows} if rows else {})}
    title = {"avalanche": "Avalanche EWC", "capymoa": "CapyMOA EWC"}[library]
    if library == "capymoa":
        setting["strategy"] = "ewc"
    return Peer(title + (f" + replay {rows}" if rows else ""), library, setting)


def _gdumb(rows: int) -> Peer:
    return Peer(f"CapyMOA GDumb {rows}", "capymoa", {"strategy": "gdumb", "memory_rows": rows})


PEERS: Mapping[Name, tuple[Peer, ...]] = MappingProxyType(
    {
        "class": (
            *(
                peer
                for rows in (200, 1000)
                for peer in (
                    _replay("avalanche", rows),
                    _replay("avalanche", rows, shift=1),
                    _replay("capymoa", rows),
                    _replay("capymoa", rows, shift=1),
                    _gdumb(rows),
                )
            ),
        ),
        "domain": (
            _ewc("avalanche", 1e9),
            _replay("avalanche", 200),
            _replay("avalanche", 200, shift=1),
            _replay("capymoa", 200),
            _replay("capymoa", 200, shift=1),
        ),
        "permuted": (
            _ewc("avalanche", 1e4),
            _replay("avalanche", 500),
            _ewc("avalanche", 1e4, 500),
        ),
        "permuted-6": (),
        "alternating": (_replay("avalanche", 500), _replay("capymoa", 500)),
    }
)


def runs(
    python: str, library: str, scenario: Scenario, settings: list[Mapping[str, Any]], scratch: Path
) -> Iterator[Run]:
    """Run settings of one library one after the other in its interpreter, and return what came of each.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it said.
    """
    path = scratch / f"{library}-{scenario.name}-{scenario.seed}.safetensors"
    save(scenario, path)
    lines = [json.dumps(dict(setting)) for setting in settings]
    command = [python, "-m", f"benchmarks.forgetting_{library}", str(path), *lines]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    said = path.with_suffix(".log")
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield Run(**json.loads(line))
    path.unlink()
    if process.returncode:
        raise RuntimeError(f"{library} failed on {scenario.name}: {said.read_text()[-500:]}")


def version_of(python: str, package: str) -> str:
    """Return the version of a library as its interpreter has it."""
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
