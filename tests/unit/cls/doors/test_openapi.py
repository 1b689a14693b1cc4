"""What the document says of refusals holds for the refusals."""

from __future__ import annotations

import jsonschema_rs
import pytest

from cls.columns.faults import NAMED, FeatureError
from cls.columns.features import read_features
from cls.config import Config
from cls.doors.openapi import predict_document
from cls.doors.openapi_rows import categorical, numeric
from cls.serving.parts import Unreadable

COLUMNS = {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"}


def test_a_refusal_is_as_the_document_says() -> None:
    streams = {"s": {"task": "regression", "schema": COLUMNS}}
    document = predict_document(Config.model_validate({"streams": streams}, by_alias=True, by_name=False))
    responses = document["paths"]["/v1/streams/s/predict"]["post"]["responses"]
    schema = responses["422"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Unreadable"}
    with pytest.raises(FeatureError) as caught:
        read_features([{"x": "far"}] * 99, ["x"], ["c"])
    body = Unreadable(caught.value, "$.rows[{}]").body
    jsonschema_rs.validate(schema | {"components": document["components"]}, body)
    assert (len(body["errors"]), body["more"]) == (NAMED, 100 - NAMED)
    assert [one["path"] for one in body["errors"][:2]] == ["$.rows[*].c", "$.rows[0].x"]


@pytest.mark.parametrize(
    "value", [1, True, None, "true", " False", "1e3", "na", "far", "-nan", [1], {"a": 1}]
)
def test_what_the_document_allows_is_read_and_nothing_else(value: object) -> None:
    for schema, names in ((numeric("x"), (["x"], [])), (categorical("x"), ([], ["x"]))):
        allowed = jsonschema_rs.is_valid(schema, value)
        try:
            read_features([{"x": value}], *names)
        except FeatureError:
            assert not allowed
        else:
            assert allowed
