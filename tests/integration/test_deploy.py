"""The files of deploy/ and docker-compose.yml name what there is: metrics, commands and paths."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cls.cli.main import app
from cls.metrics.daemon import DAEMON
from cls.metrics.serve import SERVE
from tests.integration.test_prometheus import SUFFIXES, names_of, promtool

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
LABELS = {one.name: {*one.labels, "le", "job", "instance"} for one in (*DAEMON, *SERVE)}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_shows_metrics_that_there_are_by_labels_that_they_have() -> None:
    known, shown = names_of((*DAEMON, *SERVE)), set()
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            names = {SUFFIXES.sub("", name) for name in re.findall(r"\bcls_\w+", target["expr"])}
            assert names <= known, panel["title"]
            shown |= names
            listed = ", ".join(re.findall(r"by \(([^)]*)\)", target["expr"])).replace(" ", "").split(",")
            used = {*re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]), *filter(None, listed)}
            for name in names:
                assert used <= LABELS[name], (panel["title"], name)
    parts = (
        "ingest",
        "label",
        "drift",
        "alarms",
        "jobs",
        "gates",
        "rollout",
        "serve_request",
        "serve_version",
    )
    assert [part for part in parts if not any(name.startswith(f"cls_{part}") for name in shown)] == []


def test_the_dashboard_asks_for_its_data_source_and_no_panel_lies_on_another() -> None:
    variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "stream": "query"}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        for one in (panel, *panel.get("targets", [])):
            assert panel["type"] == "row" or one["datasource"]["uid"] == "${datasource}"
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    filled = [one.replace("$__rate_interval", "1m").replace("$stream", ".*") for one in expressions()]
    rules = [{"record": f"r:{number}", "expr": expr} for number, expr in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def commands() -> list[list[str]]:
    """Return what the image's entry point `cls` is given, by services and in the comments that tell what to type."""
    services = [
        one["command"] for one in COMPOSE["services"].values() if "command" in one and "entrypoint" not in one
    ]
    typed: list[list[str]] = []
    for name in ("docker-compose.yml", "deploy/cls.toml"):
        found = re.findall(
            r"compose run (?:--\w+ )*migrate +(\w[^\n]*?)(?: {2,}|\n)", (ROOT / name).read_text()
        )
        typed += [shlex.split(text) for text in found]
    return services + [one for one in typed if one[0] != "makes"]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_of_the_compose_file_are_those_of_the_program(command: list[str]) -> None:
    """--help is looked at after everything before it was read."""
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0, done.output
    for option in (word for word in command if word.startswith("--")):
        assert option in done.output


def test_the_paths_of_the_compose_file_are_there() -> None:
    mounted = [volume for one in COMPOSE["services"].values() for volume in one.get("volumes", [])]
    paths = {volume.split(":")[0] for volume in mounted if volume.startswith("./")}
    assert paths == {"./deploy/cls.toml", "./deploy/postgres"}
    for path in paths:
        assert (ROOT / path).exists()
    for volume in mounted:
        assert volume.startswith("./") or volume.split(":")[0] in COMPOSE["volumes"]
