"""The configuration: every fault at once with its place, the environment over the file, nothing unknown accepted."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cls.config import Config, ConfigError, SchemaConfig, StreamConfig, load_config
from cls.settings.check import advise, check_config
from cls.settings.faults import line_of
from cls.settings.file import read_document
from cls.settings.stream import ModelConfig
from cls.settings.template import config_template
from cls.settings.toml_text import duration_text, parse_duration, toml_value
from cls.train import model_config
from learners.models.mlp_config import MlpConfig
from learners.models.tabular_config import TabularConfig

GOOD = """\
home = "state"

[streams.flights]
task = "regression"

[streams.flights.schema]
numeric = ["distance"]
categorical = ["carrier"]
key = "id"
event_time = "at"
target = "air_time"

[streams.flights.update]
cooldown = "90m"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("CLS_")]:
        monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "cls.toml"
    path.write_text(text)
    return path


def places(path: Path) -> dict[str, int | None]:
    return {fault.place: fault.line for fault in check_config(path)}


def test_good_file_loads_with_defaults_and_paths_relative_to_it(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    stream = config.streams["flights"]
    assert config.home == tmp_path / "state"
    assert config.database == f"sqlite:///{tmp_path}/state/cls.db"
    assert config.mlflow == f"sqlite:///{tmp_path}/state/mlflow.db"
    assert stream.columns.features == ("distance", "carrier")
    assert stream.update.cooldown == timedelta(minutes=90)
    assert stream.detect.label_deadline == timedelta(days=3)
    assert check_config(write(tmp_path, GOOD)) == []


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    with pytest.raises(ValidationError, match="frozen"):
        config.streams["flights"].update.seed = 1  # type: ignore[misc]  # what is tested


def test_config_can_be_built_in_python() -> None:
    columns = SchemaConfig(numeric=("x",), key="k", event_time="t", target="y")
    config = Config(home=Path("/h"), streams={"s": StreamConfig(task="regression", columns=columns)})
    assert config.streams["s"].columns.numeric == ("x",)


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
databse_url = ""
[http]
ingest = "nowhere"
[stream.flights]
[streams.flights]
task = "regresion"
priority = 3
[streams.flights.source]
kind = "file"
path = "absent.csv"
[streams.flights.schema]
numeric = ["a", "y"]
categorical = "b"
key = "id"
target = "y"
[streams.flights.model]
name = "tabulr"
arguments = { hiden = [1], dropout = 2 }
[streams.flights.update]
cadnce = "drift"
every_rows = "5"
budget_device_seconds_per_day = 0
cooldown = 5
recipe = "ewc+reply"
overrides = { lerning_rate = 1, batch_rows = -1, epochs = "two" }
schedule = "at noon"
[streams.Bad]
task = "regression"
"""
    flights = "streams.flights"
    assert places(write(tmp_path, text)) == {
        "databse_url": 1,
        "http.ingest": 3,
        "stream": 4,
        f"{flights}.task": 6,
        f"{flights}.priority": 7,
        f"{flights}.source.path": 10,
        f"{flights}.schema.event_time": 11,
        f"{flights}.schema.categorical": 13,
        f"{flights}.schema.target": 15,
        f"{flights}.model.name": 17,
        f"{flights}.update.cadnce": 20,
        f"{flights}.update.every_rows": 21,
        f"{flights}.update.budget_device_seconds_per_day": 22,
        f"{flights}.update.cooldown": 23,
        f"{flights}.update.recipe": 24,
        f"{flights}.update.overrides.lerning_rate": 25,
        f"{flights}.update.overrides.batch_rows": 25,
        f"{flights}.update.overrides.epochs": 25,
        f"{flights}.update.schedule": 26,
        "streams.Bad": 27,
        "streams.Bad.schema": 27,
    }


@pytest.mark.parametrize(
    ("added", "place", "message"),
    [
        ("cadnce = 'drift'", "update.cadnce", "did you mean 'cadence'"),
        ("cadence = 'evry'", "update.cadence", "did you mean 'every'"),
        ("cadence = 'every'", "update.cadence", "needs every_rows or every"),
        ("every = '1d'", "update.every", "only for cadence"),
        ("budget_device_seconds_per_day = 0", "update.budget_device_seconds_per_day", "greater than 0"),
        ("budget_device_seconds_per_day = nan", "update.budget_device_seconds_per_day", "finite"),
        ("seed = true", "update.seed", "whole number"),
        ("latency = '5 parsecs'", "update.latency", "a number with a unit"),
        ("recipe = 'replai'", "update.recipe", "did you mean 'replay'"),
        ("overrides = {epochs = -1}", "update.overrides.epochs", "epochs must be"),
        ("[streams.flights.detect]\nreference_rows = 100", "detect.reference_rows", "reference of 160 rows"),
        ("[streams.flights.detect]\nslide_rows = 300", "detect.slide_rows", "must divide window_rows = 1000"),
        ("[streams.flights.detect]\nslide_rows = 5", "detect.slide_rows", "must be 10 or more"),
        (
            "[streams.flights.detect]\nsequential = true\nfalse_alarm_windows = 250_000_001",
            "detect.false_alarm_windows",
            "must be 250000000 or less",  # four watches of 1000 rows a window
        ),
        ("[streams.flights.detect]\nseason = 'hour'\npairs = true", "detect.pairs", "not with season"),
        (
            "[streams.flights.detect]\nseason = 'hour'\nsequential = true",
            "detect.sequential",
            "not with season",
        ),
        (
            "[streams.flights.detect]\nsequential = true\nfalse_alarms_per_month = 1.0",
            "detect.false_alarms_per_month",
            "not with sequential",
        ),
        ("[streams.flights.gate]\nfresh_rows = 20", "gate.fresh_rows", "no candidate could ever pass"),
        ("[streams.flights.source]\nkind = 'file'", "source.path", "missing"),
        ("[streams.flights.source]\npath = 'x'", "source.path", 'only for kind = "file"'),
        ("[streams.flights.columns]\nkey = 'x'", "columns", "unknown key"),
        ("[streams.flights.model]\nname = 'tabulr'", "model.name", "did you mean 'tabular'"),
        (
            "[streams.flights.model]\narguments = {dropout = 1.5}",
            "model.arguments.dropout",
            "dropout must be",
        ),
    ],
)
def test_a_fault_names_its_place_and_what_is_right(
    tmp_path: Path, added: str, place: str, message: str
) -> None:
    text = GOOD + added + "\n"
    (fault,) = check_config(write(tmp_path, text))
    assert fault.place == f"streams.flights.{place}"
    assert message in fault.message
    assert fault.line is not None


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ('target = "air_time"', 'target = "distance"', "schema.target", "also a feature"),
        ('key = "id"\n', "", "schema.key", "missing: column that identifies"),
        ('"carrier"', '"distance"', "schema.categorical", "named 2 times"),
        ('"regression"', '"classification"', "schema.classes", "two or more"),
        ('target = "air_time"', 'target = "air_time"\nclasses = ["a"]', "schema.classes", "only for task"),
        ('target = "air_time"', 'target = "id"', "schema.key", "also the target"),
        ('"carrier"]', '"carrier"]\nboolean = ["carrier"]', "schema.boolean", "named 2 times"),
        ('"carrier"]', '"carrier"]\ntext = ["note", "note"]', "schema.text", "named 2 times"),
        ('"carrier"]', '"carrier"]\nembedding = { distance = 3 }', "schema.embedding", "named 2 times"),
        (
            '"carrier"]',
            '"carrier"]\nembedding = { v = 0 }',
            "schema.embedding.v",
            "greater than or equal to 1",
        ),
        ('"carrier"]', '"carrier"]\nembedding = ["v"]', "schema.embedding", "must be a table"),
        ('"carrier"]', '"carrier"]\ntext = ["air_time"]', "schema.target", "also a feature"),
        (
            '"carrier"]',
            '"carrier"]\nlabel_time = "t"\ntimestamp = ["t"]',
            "schema.label_time",
            "not known in",
        ),
        ('"distance"', '"at.hour"]\ntimestamp = ["at"', "schema.timestamp", "'at.hour' is derived from 'at'"),
    ],
)
def test_schema_faults(tmp_path: Path, old: str, new: str, place: str, message: str) -> None:
    (fault,) = check_config(write(tmp_path, GOOD.replace(old, new)))
    assert fault.place == f"streams.flights.{place}"
    assert message in fault.message


def test_typed_columns_are_named_once_and_become_inputs_of_plain_kinds(tmp_path: Path) -> None:
    typed = """categorical = ["carrier"]
boolean = ["weekend"]
timestamp = ["at"]
text = ["remark"]
embedding = { route = 2 }
"""
    path = write(tmp_path, GOOD.replace('categorical = ["carrier"]\n', typed))
    assert check_config(path) == []
    columns = load_config(path).streams["flights"].columns
    assert columns.raw_features == ("distance", "carrier", "weekend", "at", "remark", "route")
    assert columns.numeric_features == (
        *("distance", "remark.length", "remark.words", "remark.variety", "remark.digits"),
        *("route.0", "route.1", "route.norm"),
    )
    assert columns.categorical_features == ("carrier", "weekend", "at.hour", "at.weekday", "remark.word")
    assert columns.features == columns.numeric_features + columns.categorical_features
    stored = SchemaConfig.model_validate_json(columns.model_dump_json(), by_alias=True, by_name=False)
    assert stored == columns  # as a job keeps it


@pytest.mark.parametrize(
    ("added", "place"),
    [
        ("[worker]\nlease_seconds = 1", "worker.heartbeat_seconds"),
        ("[serve]\nbatch_delay_ms = 500\ndeadline_ms = 500", "serve.batch_delay_ms"),
        ("[http]\nserve = '127.0.0.1:99999'", "http.serve"),
        ("[http]\nserve = '127.0.0.1:8710'", "http.ingest"),
        ("[models]\nmine = 'package.module'", "models.mine"),
        ("[models]\ntabular = 'mine:Model'", "models.tabular"),
    ],
)
def test_faults_of_the_service(tmp_path: Path, added: str, place: str) -> None:
    assert list(places(write(tmp_path, GOOD + added + "\n"))) == [place]


def test_steps_of_a_canary_rise(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "[streams.flights.rollout]\ncanary_steps = [0.5, 0.1]\n")
    (fault,) = check_config(path)
    assert fault.place == "streams.flights.rollout.canary_steps"
    assert fault.message == "must rise: 0.1 comes after 0.5; write [0.1, 0.5]"


def test_certificate_and_key_are_a_pair(tmp_path: Path) -> None:
    for name in ("one", "two"):
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        command += ["-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "none.pem").write_text("nothing\n")

    def faults(certificate: str, key: str) -> list[tuple[str, str]]:
        files = f"[http]\ntls_certificate = '{certificate}'\ntls_key = '{key}'\n"
        return [(fault.place, fault.message) for fault in check_config(write(tmp_path, GOOD + files))]

    assert faults("one.pem", "one.key") == []
    ((place, message),) = faults("one.pem", "two.key")
    assert place == "http.tls_key"
    assert "two.key is not the key of that certificate" in message
    assert [place for place, _ in faults("none.pem", "one.key")] == ["http.tls_certificate"]
    assert [place for place, _ in faults("one.pem", "none.pem")] == ["http.tls_key"]


def test_webhooks_that_lead_inside_are_advised_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + "QUJD" * 12)
    hook = "[webhooks.ops]\nurl = 'http://127.0.0.1:9/x'\nsecret_env = 'HOOK_SECRET'\n"
    path = write(tmp_path, GOOD + hook)
    assert check_config(path) == []
    (advice,) = advise(path)
    assert advice.place == "webhooks.ops.url"
    assert "set allow_private = true in [webhooks.ops]" in advice.message
    for other in (hook + "allow_private = true\n", hook.replace("127.0.0.1", "hooks.example.org")):
        assert advise(write(tmp_path, GOOD + other)) == []


def test_mlflow_may_not_share_the_database(tmp_path: Path) -> None:
    url = "postgresql+psycopg://h/db"
    assert list(places(write(tmp_path, f'database_url = "{url}"\nmlflow_uri = "{url}"\n'))) == ["mlflow_uri"]


@pytest.mark.parametrize(
    ("categorical", "model", "place", "message"),
    [
        ("", "name = 'mlp'\narguments = { hidden = [40, 40], scale = 'global' }", None, ""),
        (
            "",
            "name = 'cnn'\narguments = { shape = [1, 1, 1], channels = [] }",
            "arguments.channels",
            "one or more",
        ),
        ("", "name = 'mlp'\narguments = { hiden = [40] }", "arguments.hiden", "did you mean 'hidden'"),
        (
            "",
            "name = 'mlp'\narguments = { hidden = 40 }",
            "arguments.hidden",
            "one or more whole numbers, not 40",
        ),
        ("", "name = 'cnn'", "arguments", "784 pixels, but there are 1 numeric features; set shape"),
        (
            "",
            "name = 'transformer'\narguments = { channels = 3 }",
            "arguments",
            "no whole number of steps of 3",
        ),
        (
            '"carrier"',
            "name = 'mlp'",
            "name",
            "numeric features alone: leave carrier out, or use model 'tabular'",
        ),
    ],
)
def test_models_that_read_numbers_alone(
    tmp_path: Path, categorical: str, model: str, place: str | None, message: str
) -> None:
    text = GOOD.replace('"carrier"', categorical) + f"[streams.flights.model]\n{model}\n"
    faults = check_config(write(tmp_path, text))
    assert [fault.place for fault in faults] == ([] if place is None else [f"streams.flights.model.{place}"])
    assert all(message in fault.message and fault.line is not None for fault in faults)


@pytest.mark.parametrize(
    ("table", "place", "message"),
    [
        (
            "update.overrides]\nloss = 'cross_entropy'",
            "update.overrides.loss",
            "'l1', 'huber', 'mse' or 'auto'",
        ),
        (
            "update.overrides]\nmemory_balance = 'class'",
            "update.overrides.memory_balance",
            "'regime' or 'none'",
        ),
        (
            "update.bootstrap_overrides]\nepoch = 3",
            "update.bootstrap_overrides.epoch",
            "did you mean 'epochs'",
        ),
        (
            "update.bootstrap_overrides]\nloss = 'cross_entropy'",
            "update.bootstrap_overrides.loss",
            "does not fit",
        ),
        (
            "model]\nname = 'backbone'\narguments = { model = 'mpl' }",
            "model.arguments.model",
            "did you mean 'mlp'",
        ),
        (
            "model]\nname = 'lora'\narguments = { model = 'mlp' }",
            "model.arguments.model",
            "numeric features alone",
        ),
        (
            "model]\nname = 'backbone'\narguments = { model = 'tabular', arguments = { hiden = [8] } }",
            "model.arguments.arguments.hiden",
            "did you mean 'hidden'",
        ),
    ],
)
def test_what_training_would_refuse_is_a_fault(tmp_path: Path, table: str, place: str, message: str) -> None:
    (fault,) = check_config(write(tmp_path, f"{GOOD}[streams.flights.{table}\n"))
    assert fault.place == f"streams.flights.{place}"
    assert message in fault.message
    assert fault.line is not None
    assert fault.line > GOOD.count("\n")


@pytest.mark.parametrize(
    ("table", "places"),
    [
        ("model]\nname = 'lora'\narguments = { model = 'tabular' }", ["model.name"]),
        ("model]\nname = 'lora'\narguments = { model = 'tabular', trainable = ['head'] }", []),
        ("model]\nname = 'backbone'\narguments = { model = 'tabular' }", []),
        ("update.overrides]\nadapt = true\newc_lambda = 0\nmemory_rows = 0", ["update.overrides.adapt"]),
        ("update.overrides]\nadapt = true\newc_lambda = 0", []),
        ("rollout]\ndeadline = '24h'", ["rollout.deadline"]),
        ("rollout]\ndeadline = '24h'\nevidence = 'guardrails'", []),
    ],
)
def test_what_cannot_work_is_advised_against(tmp_path: Path, table: str, places: list[str]) -> None:
    path = write(tmp_path, f"{GOOD}[streams.flights.{table}\n")
    assert check_config(path) == []
    assert [fault.place for fault in advise(path)] == [f"streams.flights.{place}" for place in places]


def test_a_model_gets_its_frozen_configuration_or_its_arguments_as_they_are() -> None:
    columns = SchemaConfig(numeric=("x",), key="k", event_time="t", target="y")
    stream = StreamConfig(task="regression", columns=columns)
    models = {
        "tabular": TabularConfig(hidden=(8,)),
        "mlp": MlpConfig(hidden=(8,)),
        "mine": {"hidden": (8,)},
    }
    for name, expected in models.items():
        model = ModelConfig(name=name, arguments={"hidden": [8]})
        assert model_config(stream.model_copy(update={"model": model})) == expected


def test_own_model_by_name_is_known(tmp_path: Path) -> None:
    text = GOOD + "[streams.flights.model]\nname = 'mine'\n[models]\nmine = 'package.module:Model'\n"
    assert check_config(write(tmp_path, text)) == []


def test_load_refuses_with_all_faults(tmp_path: Path) -> None:
    text = GOOD.replace("cooldown", "cooldwn").replace('"regression"', '"regressio"')
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert {fault.place for fault in caught.value.faults} == {
        "streams.flights.update.cooldwn",
        "streams.flights.task",
    }
    assert "line 14: streams.flights.update.cooldwn: unknown key; did you mean 'cooldown'?" in str(
        caught.value
    )


@pytest.mark.parametrize("text", ["home = ", "[http", "a = 1\na = 2", "\x00"])
def test_broken_toml_is_a_fault_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.faults[0].line is not None


def test_absent_and_undecodable_files_are_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cls init"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "cls.toml").write_bytes(b"home = '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "cls.toml")


def test_default_path_is_cls_config_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert "flights" in load_config().streams
    other = tmp_path / "other.toml"
    other.write_text("")
    monkeypatch.setenv("CLS_CONFIG", str(other))
    assert load_config().streams == {}


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CLS_HOME": "/elsewhere",
        "CLS_DATABASE_URL": "postgresql+psycopg://h/db",
        "CLS_MLFLOW_URI": "http://h:5000",
        "CLS__WORKER__SLOTS": "3",
        "CLS__STREAMS__FLIGHTS__UPDATE__COOLDOWN": "2h",
        "CLS__STREAMS__FLIGHTS__SCHEMA__NUMERIC": '["a", "b"]',
        "cls__streams__flights__priority": "high",
    }.items():
        monkeypatch.setenv(name, value)
    config = load_config(write(tmp_path, GOOD))
    stream = config.streams["flights"]
    assert (config.home, config.database) == (Path("/elsewhere"), "postgresql+psycopg://h/db")
    assert (config.mlflow, config.worker.slots) == ("http://h:5000", 3)
    assert (stream.update.cooldown, stream.priority) == (timedelta(hours=2), "high")
    assert stream.columns.numeric == ("a", "b")


def test_environment_reaches_streams_with_a_hyphen(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("flights", "new-york"))
    values = read_document(path, {"CLS__STREAMS__NEW_YORK__UPDATE__SEED": "7"}).values
    assert values["streams"]["new-york"]["update"]["seed"] == 7


def test_fault_from_the_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS__WORKER__SLOTS", "many")
    monkeypatch.setenv("CLS__HOME__X", "1")
    faults = {fault.place: fault for fault in check_config(write(tmp_path, GOOD))}
    assert faults["worker.slots"].line is None
    assert "CLS__WORKER__SLOTS" in faults["worker.slots"].message
    assert "no table" in faults["home"].message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30m", 1800),
        ("6h", 21600),
        ("3d", 259200),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2w", 1209600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "5 years", "1h,30m", "999999999999d", 5, 1.5])
def test_bad_durations(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_duration_text_reads_back(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(duration_text(duration)) == duration


@given(st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.lists(st.text()))
def test_toml_value_reads_back(value: object) -> None:
    import tomllib

    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


def test_lines_are_found_by_key_then_by_table() -> None:
    text = "a = 1\n\n[t]  # comment\n'b.c' = 2\nd.e = 3\n[t.u]\n\n[[v]]\n"
    keys = [("a",), ("t",), ("t", "b.c"), ("t", "d", "e"), ("t", "absent"), ("t", "u", "x"), ("v",), ("w",)]
    assert [line_of(text, key) for key in keys] == [1, 3, 4, 5, 3, 6, 8, None]


def test_template_loads_and_equals_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, config_template())
    assert check_config(path) == []
    assert load_config(path) == Config(home=tmp_path / ".cls")


def test_template_uncommented_is_valid_and_equals_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS_WEBHOOK_SECRET", "s" * 32)
    shown = [line for line in config_template().splitlines() if "unset by default" not in line]
    text = re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", "\n".join(shown))
    path = write(tmp_path, text)
    assert check_config(path) == []
    stream = load_config(path).streams["example"]
    assert stream == StreamConfig(task="regression", columns=stream.columns)


def field_names(model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()}
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= field_names(field.annotation)
    return names


def test_template_shows_every_field() -> None:
    template = config_template()
    names = field_names(Config) | field_names(StreamConfig)
    assert {
        name for name in names if not re.search(rf"(?m)^(# )?{name} = |[\[.]{name}[\].]", template)
    } == set()


def test_config_imports_no_heavy_library() -> None:
    code = (
        "import sys, cls.config, cls.settings.check, cls.settings.template, cls.infer\n"
        "print(sorted({'torch', 'pandas', 'pyarrow', 'numpy', 'mlflow', 'sqlalchemy', 'apscheduler'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
