"""`cls up`, `daemon`, `worker`, `serve`, `ui`: the processes. They end on SIGTERM and Ctrl-C, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Annotated, Any

import typer

from cls.cli.exits import FAILED, OK, say
from cls.cli.home import config_of, config_path


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, daemon, worker, serve, ui):
        app.command()(command)


@contextmanager
def stop_signals(hurry: Event | None = None) -> Iterator[Event]:
    """Turn SIGTERM and SIGINT into an event, and the second one into `hurry`."""
    stop, asked = Event(), False

    def handle(_number: int, _frame: Any) -> None:
        nonlocal asked
        event = hurry if asked and hurry is not None else stop
        asked = True
        # Event.set() takes a lock that the interrupted main thread may hold: another thread sets it
        Thread(target=event.set, name="stop", daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(
    context: typer.Context,
    with_ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Start the MLflow UI, too.")] = True,
) -> None:
    """Run everything on this machine: daemon, workers, reporter, serve and the MLflow UI. Ctrl-C stops it all, a second one at once."""
    from cls.config import ConfigError
    from cls.settings.check import check_config
    from cls.up import up as run_up

    path = config_path(context)
    if faults := check_config(path):
        raise ConfigError(faults)
    hurry = Event()
    with stop_signals(hurry) as stop:
        run_up(config_of(context), path, stop, say, ui=with_ui, hurry=hurry)
    say("everything was stopped")


def daemon(context: typer.Context) -> None:
    """Listen for events and labels, detect, decide, roll out."""
    from cls.daemon import run
    from cls.logging import configure

    config = config_of(context)
    configure("daemon")
    with stop_signals() as stop:
        run(config, stop)


def worker(
    context: typer.Context,
    slot: Annotated[int, typer.Option("--slot", min=0, help="Number of this worker on its machine.")] = 0,
    reports: Annotated[
        bool, typer.Option("--reports", help="Tell MLflow what happened and make reports, nothing else.")
    ] = False,
) -> None:
    """Do jobs: train and assess; or, with --reports, what people look at: MLflow and the reports of alarms."""
    from cls.logging import configure

    config = config_of(context)
    with stop_signals() as stop:
        if reports:
            from cls.reporter import run_reporter

            configure("reporter")
            run_reporter(config, stop, slot)
        else:
            from cls.worker import run_worker

            configure(f"worker-{slot}")
            run_worker(config, stop, slot)


def serve(context: typer.Context) -> None:
    """Predict, and score what came without a prediction."""
    from cls.logging import configure
    from cls.serve import serve as run_serve
    from cls.serving.stuck import Hung

    config = config_of(context)
    configure("serve")
    with stop_signals() as stop:
        try:
            ended = run_serve(config, stop)
        except Hung as error:
            say(f"cls: {error}")
            os._exit(FAILED)  # Python would wait for its thread for ever
    if not ended:  # a canary's, or that of a champion which was late when this was to stop
        os._exit(OK)


def ui(context: typer.Context) -> None:
    """Start the MLflow UI on the store that CLS writes to, or say where it is."""
    from cls.up import is_mlflow, refuse_taken, ui_command, ui_environment, ui_is_ours, ui_url

    config = config_of(context)
    if not ui_is_ours(config):
        from cls.logging import redact

        typer.echo(redact(config.mlflow))
        return
    if is_mlflow(config.http.mlflow):  # that of `cls up`
        typer.echo(ui_url(config))
        return
    refuse_taken("mlflow", config.http.mlflow)
    typer.echo(ui_url(config))
    command = ui_command(config)
    os.execve(command[0], command, os.environ | ui_environment(config))  # noqa: S606 - no shell in between
