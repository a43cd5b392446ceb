"""TensorFlow Serving's JSON of requests and answers: to a PredictRequest, and back from arrays."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving import tensors
from serving.service import Prediction, Service
from serving.status import Code, ServingError, invalid

_SURROGATE = re.compile(r"(?i)\\ud[89a-f]")
_DEBUG_BYTES = 256
_INTEGERS = {3, 4, 5, 6, 9, 17, 22, 23}


# -- JSON to tensors -----------------------------------------------------------------------------------------


def _debug(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # the parser goes deeper
        text = _json_type(value)
    return text[:_DEBUG_BYTES]


def _json_type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    kinds: list[tuple[type, str]] = [(dict, "Object"), (list, "Array"), (str, "String")]
    return next((name for kind, name in kinds if isinstance(value, kind)), "Number")


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid(
        f"JSON Value: {_debug(value)} Type: {_json_type(value)} is not of expected type: {tensors.dtype_name(dtype)}"
    )


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _decode_base64(value: Any) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_debug(value)} not formatted correctly for base64 data")
    try:
        # As absl::Base64Unescape: encoders of mail wrap lines, and padding may be left out or be dots.
        text = value["b64"].encode("ascii").translate(None, b" \t\n\v\f\r")
        body = text.rstrip(b"=.")
        padding = -len(body) % 4
        if len(text) - len(body) not in (0, padding):
            raise ValueError("a wrong number of padding characters")
        return base64.b64decode(body + b"=" * padding, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == tensors.MAX_RANK:  # or what flattens it would recurse too deeply
            raise invalid(f"JSON Value: {_debug(value)} has more than {tensors.MAX_RANK} dimensions")
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _scalar(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        if dtype != tensors.DT_STRING:
            raise _type_error(value, dtype)
        return _decode_base64(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in (1, 2) and number:
        with contextlib.suppress(OverflowError):  # an integer that is too large for a double
            return float(value)
    if dtype in _INTEGERS and number and isinstance(value, int):
        return value
    if dtype == tensors.DT_STRING and isinstance(value, str):
        return value.encode()
    if dtype == 10 and isinstance(value, bool):
        return value
    raise _type_error(value, dtype)


def _flatten(value: Any, shape: list[int], level: int, dtype: int, out: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        out.append(_scalar(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, shape, level + 1, dtype, out)


def _fill_proto(proto: Any, values: list[Any], shape: list[int], dtype: int) -> None:
    proto.dtype = dtype
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype not in tensors._TYPES:
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value to type: {tensors.dtype_name(dtype)}")
    try:
        getattr(proto, tensors._TYPES[dtype][1]).extend(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise _type_error(values[:1], dtype) from error


def parse_json(body: bytes) -> dict[str, Any]:
    """Parses a request body.

    Raises:
        ServingError: It is no JSON object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8")
        document = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()  # half of a pair is no character
    except (ValueError, RecursionError) as error:
        position = getattr(error, "pos", 0)
        raise invalid(f"JSON Parse error: {getattr(error, 'msg', 'Invalid value')} at offset: {position}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_debug(document)} Is not object")
    return document


def fill_predict_request(document: dict[str, Any], request: Any, service: Service) -> bool:
    """Turns the JSON of a predict call into a PredictRequest.

    Args:
        document: The parsed body.
        request: A PredictRequest with name and version set; inputs are added.
        service: Knows the signature's inputs.

    Returns:
        Whether the request was in row format ("instances"), which the answer follows.

    Raises:
        ServingError: The JSON does not fit the signature.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = name
    types = service.input_types(request.model_spec, name)
    if not types:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_debug(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {_debug(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {_debug(document)} No values in 'instances' array")
        _fill_rows(instances, types, request)
        return True
    if "inputs" in document:
        _fill_columns(document["inputs"], types, request)
        return False
    raise invalid("Missing 'inputs' or 'instances' key")


def _fill_rows(instances: list[Any], types: Mapping[str, int], request: Any) -> None:
    def is_object(value: Any) -> bool:
        return isinstance(value, dict) and not _is_base64(value)

    objects = is_object(instances[0])
    if not isinstance(instances[0], dict) and len(types) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    only = next(iter(types))
    values: dict[str, list[Any]] = {name: [] for name in types}
    shapes: dict[str, list[int]] = {}

    def add(name: str, item: Any) -> None:
        if name not in types:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape = _shape(item)
        before = len(values[name])
        _flatten(item, shape, 0, types[name], values[name])
        first = shapes.setdefault(name, shape)
        size = len(values[name]) - before
        if int(np.prod(first)) != size:
            raise invalid(f"Expecting tensor size: {int(np.prod(first))} but got: {size}")
        if first != shape:
            raise invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")

    for index, item in enumerate(instances):
        if objects != is_object(item):
            if objects:
                raise invalid(f"Expecting object but got list at item {index} of input list")
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        for name, value in item.items() if objects else [(only, item)]:
            try:
                add(name, value)
            except ServingError as error:
                key = f" key: {name}" if objects else ""
                raise invalid(f"Failed to process element: {index}{key} of 'instances' list. Error: {error}") from error
        if objects and set(item) != set(types):
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_debug(item)} keys must be "
                f"equal to: {','.join(sorted(types))}"
            )
    for name, flat in values.items():
        _fill_proto(request.inputs[name], flat, [len(instances), *shapes[name]], types[name])


def _shape_text(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _fill_columns(value: Any, types: Mapping[str, int], request: Any) -> None:
    if not isinstance(value, dict) or _is_base64(value):
        if len(types) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(types)): value}
    for name, dtype in types.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape = _shape(value[name])
        flat: list[Any] = []
        _flatten(value[name], shape, 0, dtype, flat)
        _fill_proto(request.inputs[name], flat, shape, dtype)


# -- tensors to JSON -----------------------------------------------------------------------------------------


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind in "OSU":
        flat = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        if name.endswith("_bytes"):
            items: list[Any] = [{"b64": base64.b64encode(value).decode()} for value in flat]
        else:
            items = [value.decode("utf-8", "surrogateescape") for value in flat]
        boxed = np.empty(len(items), dtype=object)
        boxed[:] = items
        return boxed.reshape(array.shape).tolist()
    if array.dtype == np.float32:
        # The shortest text that gives the same float32 back; a plain conversion adds noise digits.
        return np.array(list(map(float, array.ravel().astype("U32"))), dtype=object).reshape(array.shape).tolist()
    return array.tolist()


def prediction_json(result: Prediction, row_format: bool) -> dict[str, Any]:
    """Returns the answer to a predict call.

    Args:
        result: The outputs.
        row_format: One entry per row ("predictions") instead of one per output ("outputs").

    Raises:
        ServingError: The outputs have no common first dimension.
    """
    columns = {name: _to_json(name, array) for name, array in result.outputs.items()}
    if not row_format:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    batch = -1
    for name, array in result.outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [{name: column[row] for name, column in columns.items()} for row in range(batch)]}


def message_json(message: Any, keep_names: bool) -> Any:
    """Returns a message as JSON values, with all its fields.

    Args:
        message: The message.
        keep_names: Whether to keep the fields' names instead of lowerCamelCase.
    """
    from google.protobuf import json_format

    to_json: Any = json_format.MessageToJson
    try:
        text = to_json(message, preserving_proto_field_name=keep_names, including_default_value_fields=True)
    except TypeError:  # protobuf 5 renamed it
        text = to_json(message, preserving_proto_field_name=keep_names, always_print_fields_with_no_presence=True)
    return json.loads(text)
