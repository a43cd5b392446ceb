"""TensorProto conversion against TensorFlow's own."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from htr_client.messages import varint
from serving import tensors
from serving.runner import import_tensorflow

tf = import_tensorflow()
from tensorflow.core.framework import tensor_pb2  # noqa: E402

LIMIT = 1 << 20
DTYPES = ["f4", "f8", "f2", "i4", "i8", "u1", "i1", "i2", "u2", "u4", "u8", "?"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(ARRAYS)
def test_round_trip_and_agreement_with_tensorflow(array):
    proto = tensor_pb2.TensorProto()
    tensors.to_proto(array, proto)
    np.testing.assert_array_equal(tensors.from_proto(proto, LIMIT), array)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    theirs = tensors.from_proto(tf.make_tensor_proto(array), LIMIT)
    np.testing.assert_array_equal(theirs, array)
    assert theirs.dtype == array.dtype


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_strings(values):
    proto = tensor_pb2.TensorProto()
    tensors.to_proto(np.array([*values, None], dtype=object)[:-1], proto)
    assert tensors.from_proto(proto, LIMIT).tolist() == values
    # As TensorFlow packs them: all lengths, then all bytes.
    packed = make(7, [len(values)], tensor_content=b"".join([varint(len(value)) for value in values] + values))
    assert tensors.from_proto(packed, LIMIT).tolist() == values


@given(st.binary(max_size=60))
def test_any_bytes_end_in_an_array_or_an_error(data):
    proto = tensor_pb2.TensorProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        return
    with contextlib.suppress(tensors.TensorError):
        assert isinstance(tensors.from_proto(proto, LIMIT), np.ndarray)


def make(dtype: int, shape, **fields):
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def test_missing_values_repeat_the_last():
    assert tensors.from_proto(make(1, [4], float_val=[1, 2]), LIMIT).tolist() == [1, 2, 2, 2]
    assert tensors.from_proto(make(3, [2, 2]), LIMIT).tolist() == [[0, 0], [0, 0]]
    assert tensors.from_proto(make(7, [3], string_val=[b"a"]), LIMIT).tolist() == [b"a"] * 3


@pytest.mark.parametrize(
    "proto",
    [
        make(0, [1]),
        make(20, [1]),
        make(1, [2], tensor_content=b"123"),
        make(1, [-1], float_val=[1]),
        make(1, [1 << 40], float_val=[1]),
        make(7, [1 << 40], string_val=[b"x"]),
        make(7, [1000], string_val=[b"x" * 10_000]),
        make(1, [1 << 62, 1 << 62]),
        make(7, [2], tensor_content=b"\x05\x05abc"),
        make(1, [1] * 40, float_val=[1]),
    ],
    ids=lambda proto: str(proto).replace("\n", " ")[:40],
)
def test_hostile(proto):
    with pytest.raises(tensors.TensorError):
        tensors.from_proto(proto, LIMIT)
