"""Files that somebody made to harm: refused as Corrupt or Refused, naming the file, in bounded memory and time."""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cls.checkpoints import HEADER_BYTES, check_finite, pack, restore, unpack
from cls.errors import Corrupt, Refused
from cls.golden import Golden, make_golden
from cls.layout import GOLDEN, MODEL, PROFILE, SPEC
from detectors.columns import Categorical, Columns
from learners.checkpoint import Checkpoint, prefixed
from learners.models.base import Model
from learners.models.registry import load
from learners.models.tabular import TabularNetwork
from learners.rows import Rows
from learners.schema import Schema

RNG = np.random.default_rng(0)
COLUMNS: Columns = {"x": RNG.normal(size=50), "c": Categorical.of(RNG.choice(["u", "v"], 50).tolist())}
ROWS = Rows(COLUMNS, RNG.normal(size=50), np.arange(50))
MEMORY = 200 << 20  # bytes that refusing may take


def files_of(model: Model) -> dict[str, bytes]:
    return pack(Checkpoint(model.spec(), prefixed("model", model.state_dict()), {"state": "finished"}))


TABULAR = TabularNetwork.fit_preprocessing({"hidden": [4]}, Schema(("x",), ("c",)), ROWS).eval()
FILES = files_of(TABULAR)
MLP = files_of(
    load("mlp").fit_preprocessing(
        {"hidden": [4]}, Schema(("x",)), Rows({"x": COLUMNS["x"]}, ROWS.target, np.arange(50))
    )
)
GOLDEN_FILE = make_golden(TABULAR, COLUMNS, 0).to_json()


def opened(files: Mapping[str, bytes]) -> Model:
    model = restore(unpack(files))
    check_finite(model)
    return model


def with_spec(files: Mapping[str, bytes], **change: Any) -> dict[str, bytes]:
    document = json.loads(files[SPEC])
    document["spec"] |= change
    return {**files, SPEC: json.dumps(document).encode()}


def with_header(header: bytes, data: bytes = b"") -> dict[str, bytes]:
    return {**FILES, MODEL: struct.pack("<Q", len(header)) + header + data}


def with_tensors(**change: torch.Tensor) -> dict[str, bytes]:
    return {**FILES, MODEL: save_tensors(load_tensors(FILES[MODEL]) | change)}


def peak() -> int:
    """Return the most bytes that this process has ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refuses(files: Mapping[str, bytes], named: str, because: str | None = None) -> None:
    """Check that files are refused, by name, in seconds and in bounded memory."""
    before, begun = peak(), time.monotonic()
    with pytest.raises((Corrupt, Refused), match=because) as caught:
        opened(files)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - begun < 5
    assert peak() - before < MEMORY


def test_the_files_that_the_tests_alter_are_whole() -> None:
    assert opened(FILES).predict(COLUMNS) == pytest.approx(TABULAR.predict(COLUMNS))
    opened(MLP)


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "a/b", "..", "", "a\x00b", "x" * 101, "\\\\host"]
)
def test_a_file_that_leads_elsewhere(name: str) -> None:
    refuses({**FILES, name: b""}, "a checkpoint has no file", "no file")


@pytest.mark.parametrize("length", [HEADER_BYTES + 1, 100 << 20, 1 << 40, (1 << 64) - 1])
def test_an_oversized_header(length: int) -> None:
    refuses({**FILES, MODEL: struct.pack("<Q", length) + FILES[MODEL][8:]}, MODEL, "header of")


def test_a_header_as_long_as_it_says_is_bounded_too() -> None:
    padded = b"{" + b" " * (HEADER_BYTES + 1) + b"}"
    refuses(with_header(padded), MODEL, "header of")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b"[" * 1_000_000,
        b'{"a":' * 50_000,
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}',
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}',
        b'{"a":{"dtype":"Z99","shape":[4],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    ],
    ids=range(12),
)
def test_a_header_that_lies(header: bytes) -> None:
    refuses(with_header(header, bytes(24)), MODEL)


def test_truncated_files() -> None:
    for name in (MODEL, SPEC):
        for length in {0, 1, 7, 8, 9, len(FILES[name]) // 2, len(FILES[name]) - 1}:
            refuses({**FILES, name: FILES[name][:length]}, name)
    refuses({SPEC: FILES[SPEC]}, MODEL, "missing")
    refuses({MODEL: FILES[MODEL]}, SPEC, "missing")


def test_tensors_of_another_shape_type_or_name() -> None:
    weight = load_tensors(FILES[MODEL])["head.weight"]
    refuses(with_tensors(**{"head.weight": weight.T.contiguous()}), MODEL, "shape")
    refuses(with_tensors(**{"head.weight": weight.double()}), MODEL, "float64")
    refuses(with_tensors(**{"head.weight": weight.to(torch.int32)}), MODEL, "int32")
    refuses(with_tensors(**{"head.weight": weight.to(torch.complex64)}), MODEL)
    refuses(with_tensors(**{"../../head": weight}), MODEL)
    for value in (np.nan, np.inf):
        refuses(with_tensors(**{"head.weight": torch.full_like(weight, value)}), MODEL, "no number")


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"hidden": [10**9]}},
        {"config": {"hidden": [65_536, 65_536, 65_536]}},
        {"config": {"hidden": [1] * 100_000}},
        {"config": {"hidden": [10**30]}},
        {"config": {"hidden": ["a"]}},
        {"config": {"hidden": [4], "embedding_bins": 10**12}},
        {"config": None},
        {"widths": [10**12]},
        {"widths": [-1]},
        {"widths": [1] * 50_000},
        {"vocabularies": {"c": None}},
        {"vocabularies": []},
        {"numeric": [f"x{i}" for i in range(100_000)]},
        {"numeric": ["x", "x"]},
        {"numeric": 5},
        {"classes": ["a"] * 1000},
        {"task": "classification", "classes": [str(i) for i in range(1_000_000)]},
        {"task": {}},
        {"format": 99},
        {"name": "../../model"},
        {"name": 5},
        {"name": "nobody:knows"},
    ],
)
def test_a_specification_that_asks_for_more_than_there_is(change: dict[str, Any]) -> None:
    refuses(with_spec(FILES, **change), "model.")


@pytest.mark.parametrize(
    "arguments",
    [{"hidden": [10**9, 10**9]}, {"hidden": [1] * 30_000}, {"hidden": 5}, {"depth": 1}, {"hidden": [[[4]]]}],
)
def test_arguments_of_a_network_that_ask_for_more_than_there_is(arguments: dict[str, Any]) -> None:
    refuses(with_spec(MLP, arguments=arguments), "model.")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("transformer", {"depth": 10**9}),
        ("transformer", {"depth": 64, "heads": 64, "head_width": 1024, "expansion": 16}),
        ("cnn", {"shape": [1, 4096, 4096], "channels": [4096] * 12}),
    ],
)
def test_other_networks_that_ask_for_more_than_there_is(name: str, arguments: dict[str, Any]) -> None:
    refuses(with_spec(MLP, name=name, arguments=arguments), "model.")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"spec":' + b"9" * 1_000_000 + b"}",
        b"[" + b"[]," * 2_000_000 + b"[]]",
        b'{"spec":{},"meta":{},"format":NaN}',
        b'{"spec":{"name":"\\ud800"},"meta":{},"format":1}',
        b'{"spec":{"name":"tabular"},"meta":[],"format":1}',
        b'{"spec":{"name":"tabular"},"meta":{},"format":1,"distribution":5}',
        b'{"spec":{"name":"tabular"},"meta":{},"format":1e400}',
        b"\xff\xfe{}",
        b"\x00" * 100,
        b"null",
    ],
    ids=range(12),
)
def test_bombs_of_json(data: bytes) -> None:
    refuses({**FILES, SPEC: data}, SPEC)


def changed(data: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    """Overwrite, insert or delete bytes at relative places."""
    found = bytearray(data)
    for place, value, kind in edits:
        at = min(int(place * len(found)), max(len(found) - 1, 0))
        if kind == 0 and found:
            found[at] = value
        elif kind == 1:
            found.insert(at, value)
        else:
            del found[at : at + value % 9]
    return bytes(found)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=4)


def refusal(work: Callable[[], object]) -> str:
    """Return why something is refused, nothing if it is not."""
    try:
        work()
    except (Corrupt, Refused) as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([MODEL, SPEC]), edits=EDITS)
def test_altered_bytes_load_or_are_refused_and_nothing_else(
    name: str, edits: list[tuple[float, int, int]]
) -> None:
    for files in (FILES, MLP):
        altered = {**files, name: changed(files[name], edits)}
        why = refusal(partial(opened, altered))
        assert not why or "model." in why


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(files=st.sampled_from([FILES, MLP]), place=st.integers(0, 8), inner=st.booleans(), value=ANYTHING)
def test_a_specification_with_anything_in_it_loads_or_is_refused_and_nothing_else(
    files: dict[str, bytes], place: int, inner: bool, value: Any
) -> None:
    document = json.loads(files[SPEC])
    spec = document["spec"]
    key = sorted(spec)[place % len(spec)]
    if inner and isinstance(spec[key], dict) and spec[key]:
        spec[key][next(iter(spec[key]))] = value
    else:
        spec[key] = value
    why = refusal(partial(opened, {**files, SPEC: json.dumps(document).encode()}))
    assert not why or "model." in why


@settings(max_examples=200, deadline=None)
@given(edits=EDITS)
def test_altered_golden_rows_are_read_or_refused_and_nothing_else(
    edits: list[tuple[float, int, int]],
) -> None:
    def read() -> None:
        golden = Golden.from_json(changed(GOLDEN_FILE, edits), TABULAR.schema)
        golden.check(TABULAR, TABULAR.predict(golden.columns))

    why = refusal(read)
    assert not why or GOLDEN in why


def test_the_profile_of_a_version_is_not_read_to_serve_it() -> None:
    opened({**FILES, PROFILE: b"\xff" * 100})
