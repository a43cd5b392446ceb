"""Bodies of REST requests: anything ends in a request or in an error with a status code."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client import messages
from serving import rest_json, tensors
from serving.status import ServingError

STRINGS, FLOATS = {"image_bytes": tensors.DT_STRING}, {"x": 1, "y": 3}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"b64": "YQ"}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["b64", "x", "y", "image_bytes"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def filled(document: dict[str, Any], types: dict[str, int]) -> Any:
    """The request that a document becomes for a signature with these inputs."""
    request = messages.PredictRequest()
    service: Any = SimpleNamespace(input_types=lambda spec, name: types)
    rest_json.fill_predict_request(document, request, service)
    return request


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_an_object_or_an_error(body):
    try:
        assert isinstance(rest_json.parse_json(body), dict)
    except ServingError as error:
        assert error.message


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b'"' + b"a" * 10**7])
def test_deep_and_long_bodies_are_errors(body):
    with pytest.raises(ServingError):
        rest_json.parse_json(body)


@given(st.sampled_from(["instances", "inputs"]), JSON, st.sampled_from([STRINGS, FLOATS]))
def test_any_values_are_tensors_of_equal_length_or_an_error(key, values, types):
    try:
        request = filled({key: values}, types)
    except ServingError as error:
        assert error.message
        return
    assert set(request.inputs) <= set(types)
    for proto in request.inputs.values():
        array = tensors.from_proto(proto, 1 << 20)
        assert array.shape == tuple(dim.size for dim in proto.tensor_shape.dim)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_images_arrive_as_they_were_sent(files):
    sent = json.dumps({"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}).encode()
    request = filled(rest_json.parse_json(sent), STRINGS)
    assert list(request.inputs["image_bytes"].string_val) == files
