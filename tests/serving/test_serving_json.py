"""Bodies of REST requests: anything ends in a request or in an error with a status code."""

from __future__ import annotations

import base64
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client import messages
from serving import rest_json, tensors
from serving.service import Prediction
from serving.status import Code, ServingError

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


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("depth", [40, 1500])
@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["lists", "objects"])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_values_deeper_than_tensors_are_errors(key, wrap, depth):
    """Parsers go deeper than Python's own functions: on 3.13 to some thousand levels."""
    with pytest.raises(ServingError) as failure:
        filled({key: nested(depth, wrap)}, {"x": 1})
    assert failure.value.code == Code.INVALID_ARGUMENT


def test_bodies_as_deep_as_the_parser_goes_are_errors():
    for depth in range(900, 1000):
        with pytest.raises(ServingError):
            rest_json.parse_json(b"[" * depth + b"]" * depth)


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


ONE = {"x": 1, "y": 1}


@pytest.mark.parametrize(("document", "types", "message"), [
    ({"instances": [{"image_bytes": {"b64": 1}}]}, STRINGS, "not formatted correctly for base64 data"),
    ({"instances": [{"b64": "YQ="}]}, STRINGS, "Unable to base64 decode"),
    ({"instances": [{"x": {"b64": "YQ"}, "y": 1}]}, FLOATS, "Type: Object is not of expected type: float"),
    ({"instances": [{"x": "a", "y": 1}]}, FLOATS, "Type: String is not of expected type: float"),
    ({"inputs": {"x": 1 << 1024, "y": 1}}, FLOATS, "Type: Number is not of expected type: float"),
    ({"inputs": {"x": 1, "y": [1 << 40]}}, FLOATS, "Type: Array is not of expected type: int32"),
    ({"inputs": {"x": [[1], 2], "y": 1}}, FLOATS, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ({"inputs": {"x": [1, [2]], "y": 1}}, FLOATS, "Encountered list at unexpected level: 1 expected < 1"),
    ({"inputs": {"x": [[1], [2, 3]], "y": 1}}, FLOATS, "Encountered list at unexpected size: 2 at level: 1"),
    ({"instances": [{**ONE, "x": [1, 2]}, {**ONE, "x": [1]}]}, FLOATS, "Expecting tensor size: 2 but got: 1"),
    ({"instances": [{**ONE, "x": [1, 2]}, {**ONE, "x": [[1], [2]]}]}, FLOATS, "Expecting shape [2] but got: [2,1]"),
    ({"instances": [ONE, 5]}, FLOATS, "Expecting object but got list at item 1 of input list"),
    ({"instances": ["a", {"image_bytes": "b"}]}, STRINGS, "Expecting value/list but got object at item 1"),
    ({"instances": [{"x": 1}]}, FLOATS, "keys must be equal to: x,y"),
    ({"instances": 7}, STRINGS, "Expecting 'instances' to be an list/array"),
    ({"instances": [1]}, FLOATS, "instances is a plain list, but expecting list of objects"),
    ({"inputs": [1]}, FLOATS, "inputs is a plain value/list, but expecting an object"),
    ({"instances": ["a"], "inputs": ["a"]}, STRINGS, "expecting only one of 'inputs' or 'instances'"),
    ({"instances": ["a"]}, {}, "Failed to get input map for signature: DEFAULT"),
])  # fmt: skip
def test_what_does_not_fit_the_signature_is_refused(document, types, message):
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: .*{re.escape(message)}"):
        filled(document, types)


def test_types_that_json_does_not_have():
    with pytest.raises(ServingError, match=r"^UNIMPLEMENTED: Conversion of JSON Value to type: "):
        filled({"inputs": {"x": []}}, {"x": 8})


@pytest.mark.parametrize(("outputs", "message"), [
    ({"a": np.float32(1), "b": np.zeros(2)}, "Tensor name: a has no shape information"),
    ({"a": np.zeros(3), "b": np.zeros(2)}, "Tensor name: b has inconsistent batch size: 2 expecting: 3"),
])  # fmt: skip
def test_answers_without_common_rows_are_no_predictions(outputs, message):
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: {message}"):
        rest_json.prediction_json(Prediction("htr", 1, "serving_default", outputs), row_format=True)


def test_floats_are_written_with_no_more_digits_than_they_have():
    answer = rest_json.prediction_json(Prediction("htr", 1, "serving_default", {"a": np.float32([0.1, 1e-8])}), True)
    assert json.dumps(answer) == '{"predictions": [0.1, 1e-08]}'


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_images_arrive_as_they_were_sent(files):
    sent = json.dumps({"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}).encode()
    request = filled(rest_json.parse_json(sent), STRINGS)
    assert list(request.inputs["image_bytes"].string_val) == files
