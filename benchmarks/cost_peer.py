"""What a library's training costs, round by round. Runs in an environment of its own, see benchmarks/requirements-continual.txt.

    PYTHON -m benchmarks.cost_peer avalanche SCENARIO.safetensors '{"ewc_lambda": 1000.0}'
    PYTHON -m benchmarks.cost_peer capymoa SCENARIO.safetensors '{"strategy": "er", "memory_rows": 500}'
    PYTHON -m benchmarks.cost_peer stream STREAM.safetensors '{"memory_rows": 1000, "replayed": 64, "cpu_seconds": 60}'

The first task is learned as it comes. Of the second, each line that is read lets it learn for one more epoch, and the CPU-seconds of
that epoch are printed: whoever asks can measure others in between. What a library does at the end of a task is not in them.

A stream is learned ten rows at a time, each ten an experience of its own beside a class-balanced memory, until the CPU-seconds are
spent; CPU-seconds of every experience are printed as one list.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import benchmarks.torchvision_operators  # noqa: F401  # before the libraries import torchvision
from benchmarks.forgetting_plain import BATCH_ROWS, RATE, network
from benchmarks.scenarios import Scenario, load

TEN = 10  # rows of an experience of the stream
AT_ONCE = 100  # experiences that are made at a time


def _asked() -> bool:
    return bool(sys.stdin.readline().strip())


def _tell(cpu_seconds: float) -> None:
    print(json.dumps(cpu_seconds), flush=True)


def avalanche(scenario: Scenario, setting: dict[str, Any]) -> None:
    """Learn with Avalanche's own loop; a plugin that only looks at the clock waits between epochs."""
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin, SupervisedPlugin
    from avalanche.training.supervised import Naive

    class Clock(SupervisedPlugin):
        """Waits before each epoch, and tells what it took."""

        began = 0.0
        waits = False

        def before_training_epoch(self, *_: Any, **__: Any) -> None:
            """Wait until asked."""
            if self.waits and not _asked():
                raise SystemExit
            self.began = time.process_time()

        def after_training_epoch(self, *_: Any, **__: Any) -> None:
            """Tell the CPU-seconds."""
            if self.waits:
                _tell(time.process_time() - self.began)

    torch.manual_seed(scenario.seed)
    model, clock = network(scenario.classes), Clock()
    plugins: list[Any] = [clock]
    if "memory_rows" in setting:
        plugins.append(ReplayPlugin(mem_size=setting["memory_rows"]))
    if "ewc_lambda" in setting:
        plugins.append(EWCPlugin(ewc_lambda=setting["ewc_lambda"]))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=BATCH_ROWS,
        train_epochs=1,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )
    first, second = _experiences([(task.image, task.target) for task in scenario.train])
    strategy.train(first, num_workers=0)
    clock.waits, strategy.train_epochs = True, 1 << 20
    strategy.train(second, num_workers=0)


def capymoa(scenario: Scenario, setting: dict[str, Any]) -> None:
    """Learn batch by batch with a CapyMOA learner."""
    from capymoa.ocl.evaluation.events import TrainTaskBegin
    from capymoa.ocl.events import Dispatcher

    from benchmarks.forgetting_capymoa import _learner

    torch.manual_seed(scenario.seed)
    generator = torch.Generator().manual_seed(scenario.seed)
    learner, events = _learner(network(scenario.classes), scenario, setting), Dispatcher()
    if hasattr(learner, "attach_with"):
        learner.attach_with(events)
    for number, task in enumerate(scenario.train):
        image_NI, target_N = torch.from_numpy(task.image), torch.from_numpy(task.target)
        events.notify(TrainTaskBegin(number, 0))
        while number == 0 or _asked():
            began = time.process_time()
            for index_B in torch.randperm(len(task), generator=generator).split(BATCH_ROWS):
                learner.batch_train(image_NI[index_B], target_N[index_B])
            if number == 0:
                break
            _tell(time.process_time() - began)


def stream(scenario: Scenario, setting: dict[str, Any]) -> None:
    """Learn ten rows at a time beside Avalanche's class-balanced memory."""
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import Naive

    torch.manual_seed(scenario.seed)
    model = network(scenario.classes)
    memory = ClassBalancedBuffer(max_size=setting["memory_rows"])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=TEN,
        train_epochs=1,
        plugins=[
            ReplayPlugin(
                mem_size=setting["memory_rows"], batch_size_mem=setting["replayed"], storage_policy=memory
            )
        ],
        evaluator=EvaluationPlugin(),
    )
    task, spent = scenario.train[0], list[float]()
    for first in range(0, len(task), TEN * AT_ONCE):
        bounds = range(first, min(first + TEN * AT_ONCE, len(task)), TEN)
        for experience in _experiences(
            [(task.image[low : low + TEN], task.target[low : low + TEN]) for low in bounds]
        ):
            began = time.process_time()
            strategy.train(experience, num_workers=0)
            spent.append(time.process_time() - began)
            if sum(spent) > setting["cpu_seconds"]:
                print(json.dumps(spent), flush=True)
                return
    print(json.dumps(spent), flush=True)


def _experiences(tasks: list[tuple[Any, Any]]) -> list[Any]:
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import (
        _make_taskaware_tensor_classification_dataset,
    )

    made = benchmark_from_datasets(
        train=[
            _make_taskaware_tensor_classification_dataset(
                torch.from_numpy(image), torch.from_numpy(target), task_labels=0
            )
            for image, target in tasks
        ]
    )
    return list(made.train_stream)


KINDS: dict[str, Callable[[Scenario, dict[str, Any]], None]] = {
    "avalanche": avalanche,
    "capymoa": capymoa,
    "stream": stream,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of their dependencies
    KINDS[sys.argv[1]](load(Path(sys.argv[2])), json.loads(sys.argv[3]))
