"""What schemathesis must be told: how bodies look that are no JSON. It loads this by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import pyarrow as pa
import schemathesis
from hypothesis import strategies as st

ROW: dict[str, Any] = json.loads(os.environ["CLS_TEST_ROW"])  # one that is right


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def arrow_stream(rows: list[dict[str, Any]]) -> bytes:
    return _arrow(rows, pa.ipc.new_stream)


def arrow_file(rows: list[dict[str, Any]]) -> bytes:
    return _arrow(rows, pa.ipc.new_file)


def _arrow(rows: list[dict[str, Any]], new_writer: Any) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with new_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


rows = st.integers(1, 3).map(lambda count: [ROW] * count)
schemathesis.openapi.media_type("application/x-ndjson", rows.map(lines))
schemathesis.openapi.media_type("application/vnd.apache.arrow.stream", rows.map(arrow_stream))
schemathesis.openapi.media_type("application/vnd.apache.arrow.file", rows.map(arrow_file))


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: Any, _keywords: Any) -> None:
    """Do what a document cannot say: the two headers of a sender go together; and do not wait for a minute."""
    headers = case.headers or {}
    if ("X-CLS-Producer" in headers) != ("X-CLS-Sequence" in headers):
        headers.setdefault("X-CLS-Producer", uuid.uuid4().hex)
        headers.setdefault("X-CLS-Sequence", "0")
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and 0.1 < wait <= 60:
        case.query["wait"] = 0.1
