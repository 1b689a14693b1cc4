"""The commands and options of `cls`, as a list: a new one needs an argument for it, a lost one breaks somebody's script."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cls.cli.exits import EPILOG
from cls.cli.main import app

SURFACE = [
    "cls --config --version",
    "cls audit list --stream --limit --json",
    "cls backtest DATA --stream --out --set --step --json",
    "cls config check --json",
    "cls config show --json",
    "cls daemon",
    "cls db check --json",
    "cls db upgrade",
    "cls dead-letters list [STREAM] --limit --replayed --json",
    "cls dead-letters replay STREAM --id --all --json",
    "cls doctor --json",
    "cls drift episodes [STREAM] --limit --json",
    "cls drift evaluate FILE --changes --detector --reference-rows --window-rows --stream --json",
    "cls drift list [STREAM] --alarms --limit --json",
    "cls drift performance STREAM --limit --json",
    "cls drift profile build --out [FILE] --stream --version --from --to --like --json",
    "cls drift profile compare PROFILE CURRENT --stream --by --json",
    "cls drift profile merge PROFILE... --out --json",
    "cls drift profile show PROFILE --json",
    "cls drift show ID --json",
    "cls init [DIR]",
    "cls jobs cancel ID --json",
    "cls jobs list [STREAM] --limit --json",
    "cls jobs retry ID --json",
    "cls jobs show ID --json",
    "cls ledger [STREAM] --limit --json",
    "cls models export STREAM --to [NUMBER] --format --force --json",
    "cls models list STREAM --limit --json",
    "cls models promote STREAM NUMBER --timeout --json",
    "cls models rollback STREAM --timeout --json",
    "cls models show STREAM NUMBER --json",
    "cls rollback STREAM --timeout --json",
    "cls rollout abort STREAM --timeout --json",
    "cls rollout approve STREAM --timeout --json",
    "cls rollout list [STREAM] --limit --json",
    "cls rollout pause STREAM --timeout --json",
    "cls rollout resume STREAM --timeout --json",
    "cls rollout show STREAM --id --json",
    "cls send STREAM FILE --labels --rows --producer --json",
    "cls serve",
    "cls status [STREAM] --watch --interval --json",
    "cls stream infer DATA --name --write --json",
    "cls streams --json",
    "cls token create NAME --scope --expires --json",
    "cls token list --json",
    "cls token revoke ID --json",
    "cls train STREAM --strategy --full --wait/--no-wait --timeout --json",
    "cls ui",
    "cls up --ui/--no-ui",
    "cls webhook list --json",
    "cls webhook resume NAME --json",
    "cls webhook test NAME --json",
    "cls worker --slot --reports",
]
COMPLETION = {"install_completion", "show_completion"}  # typer's own
HEAVY = {
    "alembic", "evidently", "httpx", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "river", "rich", "scipy",
    "sqlalchemy", "structlog", "torch",
}  # fmt: skip


def commands(command: Any, path: tuple[str, ...] = ("cls",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", {})
    if not inner or len(path) == 1:
        yield path, command
    for name, below in inner.items():
        yield from commands(below, (*path, name))


def line(path: tuple[str, ...], command: Any) -> str:
    words = list(path)
    for parameter in command.params:
        if parameter.name not in COMPLETION:
            if parameter.param_type_name == "option":
                words.append("/".join([*parameter.opts, *parameter.secondary_opts]))
            else:
                words.append(parameter.metavar if parameter.required else f"[{parameter.metavar}]")
    return " ".join(words)


def test_the_surface_is_what_it_was() -> None:
    assert sorted(line(path, command) for path, command in commands(get_command(app))) == SURFACE


@pytest.mark.parametrize("path", [path for path, _ in commands(get_command(app))], ids=" ".join)
def test_every_command_explains_itself_and_its_options(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path[1:], "--help"])
    assert result.exit_code == 0
    command = dict(commands(get_command(app)))[path]
    assert (command.help or "").strip().endswith(".")
    assert all(parameter.help for parameter in command.params)


def test_the_exit_codes_are_told() -> None:
    assert " ".join(CliRunner().invoke(app, ["--help"]).output.split()).endswith(" ".join(EPILOG.split()))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["drift", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import json, sys\n"
        "from cls.cli.main import app\n"
        "try:\n    app(sys.argv[1:], prog_name='cls')\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert not code
    allowed = {"pydantic"} if len(arguments) > 1 else set()  # typer itself asks it about typed options
    assert HEAVY.intersection(modules) <= allowed


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("2", str(min(os.cpu_count() or 1, 2)))])
def test_linear_algebra_takes_one_thread_unless_told_otherwise(given: str | None, found: str) -> None:
    script = (
        "import atexit, os\n"
        "from cls.cli.main import main\n"
        "def tell():\n    import numpy\n    from threadpoolctl import threadpool_info\n"
        "    print({pool['num_threads'] for pool in threadpool_info() if pool['internal_api'] == 'openblas'})\n"
        "atexit.register(tell)\n"
        "main()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {} if given is None else {"OPENBLAS_NUM_THREADS": given}
    command = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] in (
        f"{{{found}}}",
        "set()",
    )  # other builds of numpy have other libraries


def test_usage_faults_end_with_2() -> None:
    for arguments in (
        ["nonsense"],
        ["jobs", "show", "x"],
        ["jobs", "list", "--limit", "0"],
        ["status", "--nonsense"],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 2, arguments


@pytest.mark.parametrize("arguments", [["streams"], ["config", "show"]])
def test_a_pipe_that_closes_early_is_no_fault(arguments: list[str], tmp_path: Any) -> None:
    path = tmp_path / "cls.toml"
    path.write_text("")
    command = [sys.executable, "-m", "cls.cli.main", "--config", str(path), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"NO_COLOR": "1"}
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert b"Traceback" not in errors
