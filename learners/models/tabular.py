"""A network for mixed tables: standardised numbers, embedded categories, a multilayer perceptron.

Shapes: N or B rows, F numeric and C categorical features, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from detectors.columns import Categorical, Columns, rows_of
from learners.errors import UnsuitableRowsError
from learners.models.base import Inputs, Model
from learners.models.configured import configured
from learners.models.head import grow_head, with_classes
from learners.models.numeric import Piecewise, numeric_embedding
from learners.models.standard import moments, positive, present, standardise
from learners.models.tabular_config import TabularConfig
from learners.rows import Rows
from learners.schema import Schema

FORMAT = 1  # of the spec; see also tabular_numpy


class TabularNetwork(Model):
    """Predicts from standardised target units (one output) or logits (one per class).

    Scales, vocabularies and the target's scale are fitted once on train rows and frozen; new categories append
    embedding rows. Category 0 of each feature is "missing or never seen".
    """

    numeric_mean: Tensor  # (F,)
    numeric_scale: Tensor  # (F,)

    def __init__(
        self,
        config: TabularConfig,
        schema: Schema,
        vocabularies: Sequence[Sequence[str]],
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.vocabularies = [list(vocabulary) for vocabulary in vocabularies]
        self._codes: list[dict[str, int]] = [{} for _ in self.vocabularies]  # see `_index`
        self.widths = list(widths or (_embedding_width(len(v), config) for v in self.vocabularies))
        features = len(schema.numeric)
        self.register_buffer("numeric_mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("numeric_scale", torch.ones(features, dtype=torch.float64))
        self.numeric = numeric_embedding(config.numeric_embedding, features, config.embedding_bins)
        self.embeddings = nn.ModuleList(
            _embedding(1 + len(vocabulary), width)
            for vocabulary, width in zip(self.vocabularies, self.widths, strict=True)
        )
        layers: list[nn.Module] = []
        width = self.numeric.width + sum(self.widths)
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, schema.outputs)

    @classmethod
    def fit_preprocessing(
        cls, config: TabularConfig | Mapping[str, Any] | None, schema: Schema, train: Rows
    ) -> Self:
        """Return an untrained network whose scales and vocabularies fit the train rows; `config` may be a table of its fields."""
        config = configured(TabularConfig, config)
        vocabularies = [
            _used(_categorical(train.columns, name))[: config.vocabulary_max] for name in schema.categorical
        ]
        network = cls(config, schema, vocabularies)
        mean_F, std_F = moments(train.columns, schema.numeric)
        network.numeric_mean.copy_(torch.from_numpy(mean_F))
        network.numeric_scale.copy_(torch.from_numpy(positive(std_F, mean_F)))
        if isinstance(network.numeric, Piecewise) and schema.numeric:
            network.numeric.fit(network._standardise(train.columns))
        network.fit_target(train.target)
        return network

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the network that `spec()` described, with unset weights and buffers."""
        if spec["name"] != "tabular" or spec["format"] != FORMAT:
            raise ValueError(f"not a tabular model of format {FORMAT}: {spec['name']} {spec['format']}")
        config = configured(TabularConfig, spec["config"])
        schema = Schema(
            tuple(spec["numeric"]), tuple(spec["categorical"]), spec["task"], tuple(spec["classes"])
        )
        return cls(config, schema, [spec["vocabularies"][c] for c in schema.categorical], spec["widths"])

    def spec(self) -> dict[str, Any]:
        """Return, as JSON, the registered name and what `from_spec` needs."""
        return {
            "name": "tabular",
            "format": FORMAT,
            "config": {**asdict(self.config), "hidden": list(self.config.hidden)},
            "numeric": list(self.schema.numeric),
            "categorical": list(self.schema.categorical),
            "vocabularies": {
                name: list(vocabulary)
                for name, vocabulary in zip(self.schema.categorical, self.vocabularies, strict=True)
            },
            "widths": list(self.widths),
            "task": self.schema.task,
            "classes": list(self.schema.classes),
        }

    def encode(self, columns: Columns) -> Inputs:
        """Return numeric_BF (float32, standardised, NaN = missing) and categorical_BC (int64).

        Raises
        ------
        UnsuitableRowsError
            If a feature is absent or numeric where it should be categorical, or the reverse.
        """
        device = self.numeric_mean.device
        codes_BC = np.zeros((rows_of(columns), len(self.vocabularies)), dtype=np.int64)
        for c, name in enumerate(self.schema.categorical):
            column, index = _categorical(columns, name), self._index(c)
            lookup = np.array([*(index.get(category, 0) for category in column.vocabulary), 0])
            codes_BC[:, c] = lookup[column.codes]  # code -1, missing, reads the 0 at the end
        return self._standardise(columns).to(device), torch.from_numpy(codes_BC).to(device)

    def forward(self, numeric_BF: Tensor, categorical_BC: Tensor) -> Tensor:
        """Return out_BK: the standardised prediction, or logits."""
        return cast(Tensor, self.head(self.represent(numeric_BF, categorical_BC)))

    def represent(self, *inputs: Tensor) -> Tensor:
        """Return features_BH, what the head reads."""
        numeric_BF, categorical_BC = inputs
        parts = [embedding(categorical_BC[:, c]) for c, embedding in enumerate(self.embeddings)]
        return cast(Tensor, self.body(torch.cat([self.numeric(numeric_BF), *parts], dim=1)))

    def grow(self, columns: Columns) -> None:
        """Append embedding rows for new categories: copies of the unknown row, so predictions stay."""
        for c, name in enumerate(self.schema.categorical):
            vocabulary, room = self.vocabularies[c], self.config.vocabulary_max - len(self.vocabularies[c])
            new = sorted(set(_used(_categorical(columns, name))) - set(vocabulary))[: max(room, 0)]
            if not new:
                continue
            vocabulary.extend(new)
            embedding = cast(nn.Embedding, self.embeddings[c])
            old = embedding.weight.detach()
            embedding.weight = nn.Parameter(torch.cat([old, old[:1].expand(len(new), -1)]))
            embedding.num_embeddings = len(embedding.weight)

    def grow_classes(self, classes: Sequence[str]) -> None:
        """Append an output for each new class; see `Model.grow_classes`."""
        self.schema = with_classes(self.schema, classes)
        grow_head(self.head, self.schema.outputs)

    def _index(self, c: int) -> dict[str, int]:
        """Return the codes of a feature's categories. Vocabularies only grow at their end, so their length tells whether it is old."""
        vocabulary, index = self.vocabularies[c], self._codes[c]
        if len(index) != len(vocabulary):
            index = self._codes[c] = {category: i for i, category in enumerate(vocabulary, start=1)}
        return index

    def _standardise(self, columns: Columns) -> Tensor:
        mean_F, scale_F = self.numeric_mean.cpu().numpy(), self.numeric_scale.cpu().numpy()
        return torch.from_numpy(standardise(columns, self.schema.numeric, mean_F, scale_F))


def _categorical(columns: Columns, name: str) -> Categorical:
    column = present(columns, name)
    if not isinstance(column, Categorical):
        raise UnsuitableRowsError(
            f"feature {name!r} is categorical: pass Categorical.of(strings), from detectors.columns, not "
            f"a column of {np.asarray(column).dtype}"
        )
    return column


def _used(column: Categorical) -> list[str]:
    """Return the categories that occur, most frequent first, then by name."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.vocabulary))
    ranked = sorted(
        (-int(count), category) for count, category in zip(counts, column.vocabulary, strict=True)
    )
    return [category for count, category in ranked if count]


def _embedding_width(categories: int, config: TabularConfig) -> int:
    return min(config.embedding_max, math.ceil(1.6 * math.pow(1 + categories, 0.56)))  # fastai's rule


def _embedding(categories: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(categories, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding
