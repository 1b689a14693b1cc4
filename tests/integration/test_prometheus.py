"""A real Prometheus looks at a real daemon and a real server: what it sees, how much of it, and what it is to wake people for.

Where no Prometheus is installed these tests are skipped; under CI=true they fail instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cls.demo.running import free_address
from cls.metrics.daemon import DAEMON
from cls.metrics.exposition import table
from cls.metrics.serve import SERVE
from tests.chaos.harness import STREAM, System, eventually, running

DEPLOY = Path(__file__).parents[2] / "deploy"
STREAMS = (STREAM, "ebb", "neap")
MOST_SERIES = 1_000  # of a daemon and a server with three streams
SCRAPE_SECONDS = 0.5
SUFFIXES = re.compile(r"_(bucket|count|sum)$")
TEXT = """\
# What there is to see of CLS

`cls daemon` answers GET /metrics at `http.ingest`, `cls serve` at `http.serve`; both speak Prometheus' text format and OpenMetrics. Where
tokens are needed, one with the scope `read` is. Workers and the reporter have no door: what they do is seen in the tables, by the daemon.
`deploy/prometheus.yml` scrapes both, `deploy/alerts.yml` says what to wake people for.

Labels have few values, known beforehand: streams and webhooks of `cls.toml`, roles, kinds, states. Requests for streams that do not exist
count as `stream=""`. Versions, keys and tokens are never labels.

## The daemon

The figures are read from the database at a scrape, at most every few seconds, and never in the way of ingest. While the database is away
there are only those of the daemon itself, and `cls_database_up` is 0. Rollouts, drift and budgets are in stream time.

{daemon}

## The server

Counted by each process of `cls serve` since its start.

{serve}

Both show their own memory, CPU and open files as `process_*`.
"""


def installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed (Debian's package is called prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def promtool(*arguments: str) -> str:
    command = [installed("promtool"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_of(measures: Any) -> set[str]:
    return {measure.name for measure in measures}


# -- the files of deploy/ ---------------------------------------------------------------------------------------------


def test_the_list_of_metrics_is_that_of_the_code() -> None:
    expected = TEXT.format(daemon=table(DAEMON), serve=table(SERVE))
    path = DEPLOY / "METRICS.md"
    assert path.read_text() == expected, f"{path} should be:\n{expected}"


@pytest.mark.parametrize("measures", [DAEMON, SERVE])
def test_names_follow_the_conventions(measures: Any) -> None:
    assert len({one.name for one in measures}) == len(measures)
    for one in measures:
        assert re.fullmatch(r"cls(_[a-z0-9]+)+", one.name)
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert one.help.endswith("."), one.name
        assert not {"version", "key", "token", "job", "id"} & set(one.labels), one.name


def test_rules_are_sound_and_look_at_what_there_is() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(DEPLOY / "alerts.yml"))
    known = names_of(DAEMON) | names_of(SERVE)
    rules = [
        rule
        for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    for rule in rules:
        looked_at = {SUFFIXES.sub("", name) for name in re.findall(r"\bcls_\w+", rule["expr"])}
        assert looked_at <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")


SERIES = {  # as promtool writes them: a value a minute
    'cls_ingest_lag_seconds{stream="a"}': "0 0 0 90 90 90 90 0 0",
    'cls_rollout_paused{stream="a"}': "1x400",
    'cls_serve_requests_total{stream="a",status="200"}': "0+98x30",
    'cls_serve_requests_total{stream="a",status="500"}': "0+2x30",
    'cls_serve_requests_total{stream="b",status="200"}': "0+100x30",
    'cls_serve_requests_total{stream="b",status="500"}': "0x30",
    'cls_serve_request_seconds_bucket{stream="a",le="0.06"}': "0+90x30",
    'cls_serve_request_seconds_bucket{stream="a",le="0.5"}': "0+100x30",
    'cls_serve_request_seconds_bucket{stream="a",le="+Inf"}': "0+100x30",
    'cls_serve_request_seconds_bucket{stream="b",le="0.06"}': "0+100x30",
    'cls_serve_request_seconds_bucket{stream="b",le="+Inf"}': "0+100x30",
    'cls_dead_letters_total{stream="a",kind="events"}': "0+5x30",
    'cls_dead_letters_total{stream="b",kind="events"}': "0+1x30",
    **{f'cls_{what}_total{{stream="{name}"}}': "0+100x30" for what in ("events", "labels") for name in "ab"},
    'cls_serve_version{stream="a",role="champion",instance="x"}': "3x30",
    'cls_serve_version{stream="a",role="champion",instance="y"}': "3 3 3 4 4 4 4 4",
    "cls_database_up": "1 0 0 0 1",
}
FIRES: tuple[tuple[str, dict[str, str], int, bool], ...] = (  # alert, its labels, minute, whether it fires
    ("CLSIngestLag", {"stream": "a"}, 4, False),
    ("CLSIngestLag", {"stream": "a"}, 5, True),
    ("CLSIngestLag", {"stream": "a"}, 7, False),
    ("CLSRolloutPaused", {"stream": "a"}, 350, False),
    ("CLSRolloutPaused", {"stream": "a"}, 365, True),
    ("CLSServeErrors", {"stream": "a"}, 10, True),
    ("CLSServeErrors", {"stream": "b"}, 10, False),
    ("CLSServeSlow", {"stream": "a"}, 20, True),
    ("CLSServeSlow", {"stream": "b"}, 20, False),
    ("CLSDeadLettersGrow", {"stream": "a"}, 10, True),
    ("CLSDeadLettersGrow", {"stream": "b"}, 10, False),
    ("CLSReplicasDiffer", {"stream": "a"}, 4, False),
    ("CLSReplicasDiffer", {"stream": "a"}, 5, True),
    ("CLSDatabaseAway", {}, 2, False),
    ("CLSDatabaseAway", {}, 3, True),
)


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    expectations = []
    for alert, labels, minute, fires in FIRES:
        chosen = ",".join(f'{name}="{value}"' for name, value in {"alertname": alert, **labels}.items())
        expr = f'count(ALERTS{{alertstate="firing",{chosen}}}) or vector(0)'
        sample = {"labels": "{}", "value": int(fires)}
        expectations.append({"expr": expr, "eval_time": f"{minute}m", "exp_samples": [sample]})
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expectations}
    path = tmp_path / "alerts_test.yml"
    document = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(path))


def test_the_configuration_is_sound(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    (tmp_path / "cls-token").write_text("cls_x")
    text = (DEPLOY / "prometheus.yml").read_text()
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/cls-token", str(tmp_path / "cls-token")))
    assert "SUCCESS" in promtool("check", "config", str(path))


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path, sqlite_template: str) -> Iterator[System]:
    """Return a daemon and a server with three streams, and tokens needed."""
    shutil.copyfile(sqlite_template, tmp_path / "cls.db")
    system = System(tmp_path, f"sqlite:///{tmp_path / 'cls.db'}")
    text = system.path.read_text()
    one = text[text.index(f"[streams.{STREAM}]") :]
    others = "".join(one.replace(f"streams.{STREAM}", f"streams.{name}") for name in STREAMS[1:])
    system.path.write_text(text.replace("[http]\n", "[http]\nrequire_tokens = true\n") + others)
    with running(system, "daemon", "serve") as started:
        yield started


def token(system: System, *scopes: str) -> str:
    command = [sys.executable, "-m", "cls.cli.main", "--config", str(system.path), "token", "create", "test"]
    chosen = [word for scope in scopes for word in ("--scope", scope)]
    done = subprocess.run(
        [*command, *chosen, "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    return str(json.loads(done.stdout)["token"])


class Prometheus:
    """A Prometheus that scrapes every second.

    Parameters
    ----------
    folder
        Of its own.
    targets
        host:port by job.
    secret
        The token that it presents.
    """

    def __init__(self, folder: Path, targets: dict[str, str], secret: str) -> None:
        folder.mkdir()
        (folder / "token").write_text(secret)
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "alerts.yml")]
        for job in config["scrape_configs"]:
            job["authorization"]["credentials_file"] = str(folder / "token")
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        address = free_address()
        command = [installed("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"]
        log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
        log.close()
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=60)

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; None while it does not answer."""
        try:
            answer = self._client.get(path, params=parameters)
        except httpx.TransportError:
            return None
        return answer.json()["data"] if answer.status_code == 200 else None

    def values(self, query: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the values of a query by some of their labels."""
        found = (self.get("/query", query=query) or {"result": []})["result"]
        return {
            tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1]) for one in found
        }

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def prometheus(system: System, tmp_path: Path) -> Iterator[Prometheus]:
    """Return a Prometheus that looks at the system, with a token that may look and no more."""
    targets = {"cls-daemon": system.config.http.ingest, "cls-serve": system.config.http.serve}
    one = Prometheus(tmp_path / "prometheus", targets, token(system, "read"))
    yield one
    one.close()


def test_a_prometheus_sees_the_whole_loop(system: System, prometheus: Prometheus) -> None:
    secret = token(system, "ingest", "predict", "read")
    headers = {"Authorization": f"Bearer {secret}"}
    ingest, serve = (f"http://{address}" for address in (system.config.http.ingest, system.config.http.serve))
    assert httpx.get(f"{ingest}/metrics").status_code == httpx.get(f"{serve}/metrics").status_code == 401
    for door in (ingest, serve):  # a new token is known within seconds
        eventually(lambda door=door: httpx.get(f"{door}/metrics", headers=headers).status_code == 200, 60)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    assert httpx.get(f"{ingest}/readyz").json() == {"ready": True, "reasons": []}
    rows = [{"id": f"e{i}", "at": "2020-01-01T00:00:00Z", "a": 1.0 * i, "y": 2.0} for i in range(120)]
    bad = [{"id": "e", "at": "never", "a": 1.0}]
    for name in STREAMS:
        url = f"/v1/streams/{name}"
        for part in (rows, bad):
            assert httpx.post(f"{ingest}{url}/events", json=part, headers=headers).status_code == 202
        assert httpx.post(f"{serve}{url}/predict", json=rows, headers=headers).status_code == 503
    assert httpx.post(f"{serve}/v1/streams/none/predict", json=rows, headers=headers).status_code == 404

    up = {("cls-daemon",): 1.0, ("cls-serve",): 1.0}
    eventually(lambda: prometheus.values("up", "job") == up, 60, "both targets to be up")
    eventually(
        lambda: prometheus.values("cls_events_total", "stream") == {(name,): 120.0 for name in STREAMS},
        30,
        "the events to be seen",
    )
    refused = {("cls_serve_requests_total", name): 1.0 for name in STREAMS}
    query = 'cls_serve_requests_total{status="503"} > 0'
    eventually(lambda: prometheus.values(query, "__name__", "stream") == refused, 60, "the refusals")
    assert prometheus.values('cls_serve_requests_total{status="404"}', "stream") == {("",): 1.0}
    dead = prometheus.values('cls_dead_letters_total{kind="events"}', "stream")
    assert dead == {(name,): 1.0 for name in STREAMS}
    assert prometheus.values("cls_stream_halted == 0", "stream").keys() == {(name,) for name in STREAMS}
    assert prometheus.values("cls_processes", "kind") == {
        ("daemon",): 1.0,
        ("serve",): 1.0,
        ("worker",): 0.0,
        ("reporter",): 0.0,
    }

    every_name = set(prometheus.get("/label/__name__/values"))
    shown = {SUFFIXES.sub("", name) for name in every_name if name.startswith("cls_")}
    assert shown <= names_of(DAEMON) | names_of(SERVE)
    assert "process_resident_memory_bytes" in every_name
    series = prometheus.values("sum by (job) (scrape_samples_scraped)", "job")
    assert sum(series.values()) < MOST_SERIES
    for name in prometheus.get("/labels"):
        assert len(prometheus.get(f"/label/{name}/values")) < 40 or name == "__name__", name
    assert (
        max(prometheus.values("max_over_time(scrape_duration_seconds[1m])", "job").values()) < SCRAPE_SECONDS
    )

    groups = prometheus.get("/rules")["groups"]
    assert sum(len(group["rules"]) for group in groups) > 20
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert {alert["labels"]["alertname"] for alert in prometheus.get("/alerts")["alerts"]} <= {
        "CLSNoWorker",
        "CLSNoChampion",
        "CLSDeadLettersGrow",
        "CLSServeErrors",
    }

    assert system.signal("serve")
    eventually(
        lambda: prometheus.values("min_over_time(up[10s])", "job")[("cls-serve",)] == 0.0, 30, "its death"
    )
