"""CapyMOA's strategies on one scenario. Runs in an environment of its own, see benchmarks/requirements-continual.txt.

    CAPYMOA/bin/python -m benchmarks.forgetting_capymoa SCENARIO.safetensors '{"strategy": "er", "memory_rows": 200}' [SETTING ...]

CapyMOA learns online, batch by batch; here the batches come as often as the scenario says, and the events that tell its EWC
where a task begins are sent. One line of JSON each tells the accuracies and the CPU-seconds of training, without CapyMOA's own
loop, which predicts every batch before learning it.

finetune    fine-tuning
er          experience replay from a reservoir, a memory batch as large as the new one
rar         the same on shifted images (repeated augmented rehearsal, one repeat)
gdumb       a class-balanced memory alone is learned, from fresh weights, before each test
ewc         elastic weight consolidation from the squares of batch means, over the last 1,000 rows
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import benchmarks.torchvision_operators  # noqa: F401  # before capymoa imports torchvision
from benchmarks.forgetting_plain import BATCH_ROWS, FISHER_ROWS, RATE, Run, accuracies, network
from benchmarks.scenarios import Scenario, load
from benchmarks.shifting import shifted

GDUMB_EPOCHS = 50  # over the memory, which is all that it learns from


def learn(scenario: Scenario, setting: dict[str, Any]) -> Run:
    """Learn the tasks one after the other."""
    from capymoa.ocl.evaluation.events import TestTaskBegin, TrainTaskBegin
    from capymoa.ocl.events import Dispatcher

    torch.manual_seed(scenario.seed)
    generator = torch.Generator().manual_seed(scenario.seed)
    model = network(scenario.classes)
    learner = _learner(model, scenario, setting)
    events = Dispatcher()
    if hasattr(learner, "attach_with"):
        learner.attach_with(events)
    accuracy, cpu_seconds, steps = list[list[float]](), 0.0, 0
    for number, task in enumerate(scenario.train):
        image_NI, target_N = torch.from_numpy(task.image), torch.from_numpy(task.target)
        began = time.process_time()
        events.notify(TrainTaskBegin(number, steps))
        # What GDumb remembers of a row that is offered again is no sample: it reads the stream once.
        for _ in range(1 if setting["strategy"] == "gdumb" else scenario.epochs):
            for index_B in torch.randperm(len(task), generator=generator).split(BATCH_ROWS):
                learner.batch_train(image_NI[index_B], target_N[index_B])
                steps += 1
        events.notify(TestTaskBegin(number, 0, 0, steps))
        cpu_seconds += time.process_time() - began
        accuracy.append(accuracies(model, scenario.test))
    return Run(accuracy, cpu_seconds, steps)


def _learner(model: nn.Module, scenario: Scenario, setting: dict[str, Any]) -> Any:
    """Return one of CapyMOA's learners."""
    from capymoa.classifier import Finetune
    from capymoa.ocl.strategy import EWC, RAR, ExperienceReplay, GDumb
    from capymoa.stream import Schema

    schema = Schema.from_custom(
        features=[f"pixel_{number}" for number in range(784)] + ["digit"],
        target="digit",
        categories={"digit": [str(number) for number in range(scenario.classes)]},
    )
    strategy = setting["strategy"]
    if strategy == "ewc":
        optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
        return EWC(schema, model, optimiser, setting["ewc_lambda"], fim_buffer=FISHER_ROWS)
    if strategy == "gdumb":
        return GDumb(
            schema, model, GDUMB_EPOCHS, BATCH_ROWS, setting["memory_rows"], lr=RATE, seed=scenario.seed
        )
    plain = Finetune(
        schema,
        model,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        random_seed=scenario.seed,
    )
    if strategy == "finetune":
        return plain
    if strategy == "er":
        return ExperienceReplay(plain, setting["memory_rows"])
    return RAR(
        plain, lambda image: shifted(image.flatten(1), setting["shift"]), coreset_size=setting["memory_rows"]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of their dependencies
    for line in sys.argv[2:]:
        print(json.dumps(asdict(learn(load(Path(sys.argv[1])), json.loads(line)))), flush=True)
