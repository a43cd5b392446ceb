"""TensorProto to NumPy and back, by the rules TensorFlow's C++ follows.

`tf.make_ndarray` and `tf.make_tensor_proto` differ from them in small ways (errors, repeated values) and are
slow, so a server cannot use them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from htr_client.messages import FLOATS_TAG, varint

DT_STRING = 7
# DataType number -> (NumPy type, field of TensorProto)
_TYPES: dict[int, tuple[str, str]] = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    7: ("object", "string_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    17: ("uint16", "int_val"),
    19: ("float16", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}
_NUMBERS = {name: number for number, (name, _) in _TYPES.items()}
_DTYPE_NAMES = {1: "float", 2: "double", 7: "string", 10: "bool", 19: "half"}
# Every string costs this much inside TensorFlow on top of its bytes.
_STRING_OVERHEAD = 24
# NumPy's limit; TensorFlow's is far higher, but no model takes such a tensor.
MAX_RANK = 32


def dtype_name(number: int) -> str:
    """Returns TensorFlow's short name of a DataType number (float, int32, string...)."""
    if number in _DTYPE_NAMES:
        return _DTYPE_NAMES[number]
    return _TYPES[number][0] if number in _TYPES else f"unknown dtype enum ({number})"


@functools.cache  # NumPy computes a dtype's name anew each time, slowly
def number_of(dtype: np.dtype) -> int | None:
    """Returns the DataType number of a NumPy type, None if there is none."""
    return _NUMBERS.get("object" if dtype.kind in "OSU" else dtype.name)


class TensorError(ValueError):
    """A TensorProto that does not describe a tensor."""


def shape_of(proto: Any) -> tuple[int, ...]:
    """Returns the shape a TensorProto states.

    Raises:
        TensorError: The shape is negative or of too many dimensions.
    """
    # Without `dim` an unknown rank is rank 0, as TensorFlow's C++ has it.
    if len(proto.dim) > MAX_RANK:
        raise TensorError("shape")
    shape = tuple(dim.size for dim in proto.dim)
    if any(size < 0 for size in shape):
        raise TensorError("shape")
    return shape


def from_proto(proto: Any, max_bytes: int) -> np.ndarray:
    """Turns a TensorProto into an array, repeating the last value as TensorFlow does.

    Args:
        proto: The TensorProto.
        max_bytes: Bound on the memory the tensor may take, since a shape of a few bytes can ask for terabytes.

    Returns:
        The array; strings are an array of bytes objects.

    Raises:
        TensorError: Data and shape or type do not fit, or the bound is passed.
    """
    if proto.dtype not in _TYPES:
        raise TensorError("dtype")
    type_name, field = _TYPES[proto.dtype]
    shape = shape_of(proto.tensor_shape)
    count = math.prod(shape)
    if proto.dtype == DT_STRING:
        return _strings(proto, shape, count, max_bytes)
    dtype = np.dtype(type_name)
    if count * dtype.itemsize > max_bytes:
        raise TensorError("too large")
    content = proto.tensor_content
    if content:
        if len(content) != count * dtype.itemsize:
            raise TensorError("content")
        return np.frombuffer(content, dtype=dtype).reshape(shape)
    values = getattr(proto, field)
    if not values:
        return np.zeros(shape, dtype)
    wide: np.ndarray
    if type_name == "float16":
        wide = np.array(values[:count], dtype=np.int64).astype(np.uint16).view(np.float16)
    elif field == "int_val":
        wide = np.array(values[:count], dtype=np.int64).astype(dtype)  # wraps as a C cast does
    else:
        wide = np.array(values[:count], dtype=dtype)
    return _fill(wide, count).reshape(shape)


def _fill(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) >= count:
        return values[:count]
    return np.concatenate([values, np.full(count - len(values), values[-1], values.dtype)])


def _strings(proto: Any, shape: tuple[int, ...], count: int, max_bytes: int) -> np.ndarray:
    if count * _STRING_OVERHEAD > max_bytes:
        raise TensorError("too large")
    values: Sequence[bytes] = proto.string_val
    if not values and proto.tensor_content:
        values = _decode_strings(proto.tensor_content, count)
    array = np.empty(count, dtype=object)
    given = min(len(values), count)
    array[:given] = values[:given]
    if given < count:
        last = values[-1] if given else b""
        if (count - given) * len(last) > max_bytes:
            raise TensorError("too large")
        array[given:] = last
    return array.reshape(shape)


def _decode_strings(content: bytes, count: int) -> list[bytes]:
    lengths = []
    position = 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 28:
                raise TensorError("content")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise TensorError("content")
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return values


def to_proto(array: np.ndarray, proto: Any) -> None:
    """Writes an array into an empty TensorProto.

    Args:
        array: What the session returned.
        proto: Where to write.

    Raises:
        TensorError: No DataType stands for the array's type.
    """
    array = np.asarray(array)
    number = number_of(array.dtype)
    if number is None:
        raise TensorError(f"no DataType for {array.dtype}")
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if not array.ndim:
        proto.tensor_shape.SetInParent()
    if number == DT_STRING:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        proto.string_val.extend(values)
    elif number == 1:
        # Packed: one copy instead of a Python float per value.
        raw = array.astype("<f4", copy=False).tobytes()
        if raw:
            proto.MergeFromString(FLOATS_TAG + varint(len(raw)) + raw)
    elif number == 19:
        proto.half_val.extend(array.ravel().view(np.uint16).tolist())
    else:
        getattr(proto, _TYPES[number][1]).extend(array.ravel().tolist())
