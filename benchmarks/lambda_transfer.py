"""Whether one lambda of elastic weight consolidation suits all: five data sets, three widths, and three units of the information.

    python -m benchmarks.lambda_transfer --data DIR [--scratch DIR]

In each cell, a data set and a width, a network learns regime A, then B under EWC at every lambda of a grid. Its gain is by how much the
loss, the mean of both regimes' tests, ends below that of going on without EWC. The information of A counts as it is (nats), scaled to
trace one, or to mean one as in learners.fisher: with one consolidation these differ by a factor, so that one curve of gains, read
at other places, is that of all three. For each of them the one lambda with the highest mean share of the cells' own best gains is
chosen on seeds that are not reported, as the grid was; what that share is on the reported ones, is the figure.

Regimes: permuted inputs, but for nsl_kdd, where from row 25,192 of the file there are attacks that were not seen before.

Shapes: C cells, L lambdas of the grid.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost_steps import concluded
from benchmarks.lambda_figures import draw, figures, text
from benchmarks.prequential_data import read_stream
from benchmarks.report import write_results
from benchmarks.scenarios import read
from learners.fisher import diagonal_fisher, normalised
from learners.learn import start
from learners.losses import row_loss
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema
from learners.training import outputs_of

DATASETS = ("mnist", "nsl_kdd", "elec2", "avocado", "bike_sharing")
WIDTHS = (64, 256, 512)
REPORTED, TUNING = (0, 1), (100,)
POWERS = np.arange(-2.0, 4.0)  # of ten: the grid of information with mean one
TRAIN_ROWS, TEST_ROWS = 1000, 1000  # of each regime
FIRST_EPOCHS = 10.0
RECIPE = replace(
    RECIPES["ewc"],
    learning_rate=1e-3,
    batch_rows=64,
    epochs=5.0,
    warmup_steps=0,
    clip_norm=0.0,
    average_share=0.0,
    fisher_rows=500,
    loss="auto",
)


@dataclass(frozen=True, eq=False)
class Regimes:
    """Two regimes, each to learn from and to test on."""

    schema: Schema
    train: tuple[Rows, Rows]
    test: tuple[Rows, Rows]


@dataclass(frozen=True)
class Curve:
    """What came of one cell and one seed."""

    naive: float  # loss on both tests without EWC
    log_lambda: Sequence[float]  # log10 of the lambdas tried, for information with mean one
    loss: Sequence[float]  # of each of these
    mean: float  # of the information of A, in nats
    weights: int


def regimes(directory: Path, name: str, seed: int) -> Regimes:
    """Return the regimes of a data set, rows drawn by the seed."""
    random = np.random.default_rng(seed)
    if name == "mnist":
        digits = read(directory)
        values_NF, target_N = digits.image.astype(np.float64), digits.target.astype(np.float64)
        task, classes = "classification", tuple(map(str, range(10)))
    else:
        stream = read_stream(directory, name, 100_000)
        values_NF = np.stack([stream.rows.columns[column] for column in stream.schema.numeric], axis=1)
        target_N, task, classes = stream.rows.target, stream.schema.task, stream.schema.classes
        values_NF = (values_NF - values_NF.mean(axis=0)) / np.maximum(values_NF.std(axis=0), 1e-9)
    names = tuple(f"x{number}" for number in range(values_NF.shape[1]))
    size = TRAIN_ROWS + TEST_ROWS
    if name == "nsl_kdd":
        bounds = ((0, 25_192), (25_192, len(target_N)))
        places = [low + random.permutation(high - low)[:size] for low, high in bounds]
        orders = [np.arange(len(names))] * 2
    else:
        places = np.split(random.permutation(len(target_N))[: 2 * size], 2)
        orders = [np.arange(len(names)), random.permutation(len(names))]
    train, test = list[Rows](), list[Rows]()
    for index, order in zip(places, orders, strict=True):
        columns = dict(zip(names, np.ascontiguousarray(values_NF[index][:, order].T), strict=True))
        rows = Rows(columns, target_N[index], np.arange(size))
        train.append(rows.take(np.arange(TRAIN_ROWS)))
        test.append(rows.take(np.arange(TRAIN_ROWS, size)))
    schema = Schema(names, (), task, classes)
    return Regimes(schema, (train[0], train[1]), (test[0], test[1]))


def curve(told: Regimes, width: int, seed: int) -> Curve:
    """Learn A, then B at every lambda."""
    hidden = {"hidden": (width, width)}
    first = replace(RECIPE, epochs=FIRST_EPOCHS)
    training = start(None, told.train[0], first, schema=told.schema, model="mlp", config=hidden, seed=seed)
    learner = concluded(training)
    inputs = learner.model.encode(told.train[0].columns)
    fisher = diagonal_fisher(learner.model, tuple(t[: RECIPE.fisher_rows] for t in inputs), told.schema.task)
    scaled = normalised(fisher)
    mean = sum(float(w.sum()) for w in fisher.values()) / sum(float(w.sum()) for w in scaled.values())

    def loss(strength: float) -> float:
        recipe = replace(RECIPE, ewc_lambda=strength)
        later = start(copy.deepcopy(learner), told.train[1], recipe, new_regime=True, seed=seed)
        model = concluded(later).model
        losses = row_loss("auto", told.schema.task)
        return float(
            np.mean(
                [
                    losses(
                        outputs_of(model, model.encode(test.columns)), model.encode_target(test.target)
                    ).mean()
                    for test in told.test
                ]
            )
        )

    # Every cell has a grid of its own: on one for all, lambdas in our unit alone would fall on its points.
    log_lambda = (
        POWERS + np.random.default_rng([seed, width, len(inputs[0][0])]).uniform(-0.5, 0.5)
    ).tolist()
    weights = sum(w.numel() for w in fisher.values())
    return Curve(loss(0.0), log_lambda, [loss(10**power) for power in log_lambda], mean, weights)


def measure(directory: Path, scratch: Path) -> dict[str, dict[int, Curve]]:
    """Return the curves by cell and seed."""
    found: dict[str, dict[int, Curve]] = {}
    for seed in (*TUNING, *REPORTED):
        for name in DATASETS:
            told: Regimes | None = None
            for width in WIDTHS:
                path = scratch / f"{name}-{width}-{seed}.json"
                if not path.exists():
                    told = told or regimes(directory, name, seed)
                    path.write_text(json.dumps(asdict(curve(told, width, seed))))
                    print(path.stem, path.read_text(), flush=True)
                found.setdefault(f"{name}, {width}", {})[seed] = Curve(**json.loads(path.read_text()))
    return found


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "lambda_transfer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.data, arguments.scratch)
    draw(found, TUNING, REPORTED)
    write_results(
        "lambda_transfer",
        dataset=", ".join(DATASETS),
        seeds=REPORTED,
        figures=figures(found, TUNING, REPORTED),
        text=text(found, TUNING, REPORTED),
        details={
            cell: {str(seed): asdict(curve) for seed, curve in curves.items()}
            for cell, curves in found.items()
        },
    )


if __name__ == "__main__":
    main()
