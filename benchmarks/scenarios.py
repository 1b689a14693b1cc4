"""What is learned one task after the other: the scenarios of continual learning on MNIST, as plain arrays.

Ten thousand digits are divided by a seed into 8,000 to learn from and 2,000 to test on. For choosing hyper-parameters the
seeds are others, and the 2,000 are never looked at: the 8,000 are divided again, into 6,400 and 1,600.

    class        five tasks of two digits each, one head of ten classes, no task id
    domain       the same five pairs, told apart as even and odd: one head of two classes
    permuted     all digits under five permutations of the pixels, five epochs each
    permuted-6   six permutations
    alternating  all digits upright, then turned by 90 degrees, then upright again: six visits of new rows each

A scenario also travels as a file: the peers read it in environments of their own, which have numpy and safetensors alone.

Shapes: N rows, 784 pixels from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

Name = Literal["class", "domain", "permuted", "permuted-6", "alternating"]
NAMES: tuple[Name, ...] = ("class", "domain", "permuted", "permuted-6", "alternating")
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
VISITS = 6
REPORTED = (0, 1, 2)
TUNING = (100, 101, 102)
TRAIN_ROWS, TUNING_ROWS = 8000, 6400
SHUFFLE, PERMUTATION = 0, 1  # what a seed is used for


@dataclass(frozen=True)
class Digits:
    """Rows of images and what they show."""

    image: NDArray[np.float32]  # (N, 784)
    target: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.target)

    def at(self, index: NDArray[np.generic]) -> Digits:
        """Return chosen rows."""
        return Digits(self.image[index], self.target[index])


@dataclass(frozen=True)
class Scenario:
    """Tasks in the order in which they are learned, and what is tested after each of them."""

    name: Name
    seed: int
    classes: int
    epochs: int  # per task
    train: tuple[Digits, ...]
    test: tuple[Digits, ...]  # one for each task; for alternating scenes one for each scene

    @property
    def together(self) -> Digits:
        """All tasks' rows: what joint training learns from."""
        return Digits(
            np.concatenate([task.image for task in self.train]),
            np.concatenate([task.target for task in self.train]),
        )


def read(directory: Path) -> Digits:
    """Return the ten thousand digits."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "mnist_test10k.parquet")
    pixels = np.frombuffer(b"".join(table["image"].to_pylist()), dtype=np.uint8).reshape(-1, 784)
    return Digits(pixels.astype(np.float32) / 255, table["label"].to_numpy().astype(np.int64))


def split(digits: Digits, seed: int) -> tuple[Digits, Digits]:
    """Return what a seed learns from and is tested on."""
    order = np.random.default_rng([SHUFFLE, seed]).permutation(len(digits))
    first, last = (0, TRAIN_ROWS) if seed not in TUNING else (TRAIN_ROWS - TUNING_ROWS, TRAIN_ROWS)
    if seed in TUNING:
        return digits.at(order[first:last]), digits.at(order[:first])
    return digits.at(order[first:last]), digits.at(order[last:])


def scenario(name: Name, digits: Digits, seed: int) -> Scenario:
    """Return one scenario's arrays for one seed."""
    train, test = split(digits, seed)
    if name in ("class", "domain"):
        return Scenario(name, seed, 10 if name == "class" else 2, 10, _pairs(train, name), _pairs(test, name))
    if name == "alternating":
        visits = np.array_split(np.arange(len(train)), VISITS)
        scenes = (test, _turned(test))
        learned = (train.at(rows) for rows in visits)
        return Scenario(
            name,
            seed,
            10,
            10,
            tuple(_turned(part) if visit % 2 else part for visit, part in enumerate(learned)),
            scenes,
        )
    generator = np.random.default_rng([PERMUTATION, seed])
    orders = [generator.permutation(784) for _ in range(6 if name == "permuted-6" else 5)]
    return Scenario(
        name,
        seed,
        10,
        5,
        tuple(Digits(np.ascontiguousarray(train.image[:, order]), train.target) for order in orders),
        tuple(Digits(np.ascontiguousarray(test.image[:, order]), test.target) for order in orders),
    )


def _pairs(digits: Digits, name: Name) -> tuple[Digits, ...]:
    tasks = (digits.at(np.flatnonzero(np.isin(digits.target, pair))) for pair in PAIRS)
    return tuple(task if name == "class" else Digits(task.image, task.target % 2) for task in tasks)


def _turned(digits: Digits) -> Digits:
    """Return the images turned by 90 degrees, which interpolates nothing."""
    turned = np.rot90(digits.image.reshape(-1, 28, 28), axes=(1, 2)).reshape(-1, 784)
    return Digits(np.ascontiguousarray(turned), digits.target)


def save(scenario: Scenario, path: Path) -> None:
    """Write a scenario to a file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for part, tasks in (("train", scenario.train), ("test", scenario.test)):
        for number, task in enumerate(tasks):
            arrays[f"{part}.{number}.image"] = np.ascontiguousarray(task.image)
            arrays[f"{part}.{number}.target"] = np.ascontiguousarray(task.target)
    told = {field: str(getattr(scenario, field)) for field in ("name", "seed", "classes", "epochs")}
    save_file(arrays, path, told)


def load(path: Path) -> Scenario:
    """Read what `save` wrote."""
    with safe_open(path, framework="numpy") as file:
        told, names = file.metadata(), file.keys()

        def tasks(part: str) -> tuple[Digits, ...]:
            count = sum(name.startswith(f"{part}.") for name in names) // 2
            return tuple(
                Digits(*(file.get_tensor(f"{part}.{number}.{field}") for field in ("image", "target")))
                for number in range(count)
            )

        numbers = (int(told[field]) for field in ("seed", "classes", "epochs"))
        return Scenario(cast(Name, told["name"]), *numbers, tasks("train"), tasks("test"))
