"""The messages without generated code: equal to the official ones, beside them, and read in both forms."""

import contextlib
import importlib
import subprocess
import sys
import zlib

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from htr_client import messages


def stored():
    from importlib import resources

    data = zlib.decompress(resources.files("htr_client").joinpath("descriptors.pb.z").read_bytes())
    return descriptor_pb2.FileDescriptorSet.FromString(data)


def on_the_wire(file):
    """All that decides about bytes: fields, values of enumerations, methods; each with the name of what it is in."""
    found = set()

    def walk(messages, place):
        for message in messages:
            name = f"{place}.{message.name}"
            found.update((name, f.name, f.number, f.type, f.label, f.type_name) for f in message.field)
            found.update((name, e.name, v.name, v.number) for e in message.enum_type for v in e.value)
            walk(message.nested_type, name)

    walk(file.message_type, file.package)
    found.update((file.package, e.name, v.name, v.number) for e in file.enum_type for v in e.value)
    found.update((s.name, m.name, m.input_type, m.output_type) for s in file.service for m in s.method)
    return found


def test_descriptors_are_those_of_tensorflow_serving_api():
    pytest.importorskip("tensorflow_serving")
    from google.protobuf import descriptor_pool

    # Importing these registers all that they depend on in the default pool. After that, those of
    # tensorflow-serving-api 2.19 stumble over protobuf 6.
    for name in ("model_service_pb2", "prediction_service_pb2"):
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{name}")

    # A newer TensorFlow Serving may add fields and move files; what is stored must not change.
    ours, theirs, seen = set(), set(), set()
    for file in stored().file:
        ours |= on_the_wire(file)

    def collect(file):
        if file.name not in seen:
            seen.add(file.name)
            theirs.update(on_the_wire(descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)))
            for dependency in file.dependencies:
                collect(dependency)

    for name in ("model_service", "prediction_service"):
        collect(descriptor_pool.Default().FindFileByName(f"tensorflow_serving/apis/{name}.proto"))
    assert len(ours) > 100 and not ours - theirs


def test_both_read_what_the_other_writes():
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.apis import predict_pb2

    request = messages.predict_request("htr", 3, None, "serving_default", {"image_bytes": [b"a", b"\0\xff"]})
    official = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert official.model_spec.version.value == 3
    assert list(official.inputs["image_bytes"].string_val) == [b"a", b"\0\xff"]
    assert messages.PredictRequest.FromString(official.SerializeToString()) == request


def test_lives_beside_tensorflow_serving_api_when_loaded_first():
    """Loaded second is what happens in this process, in the tests above."""
    pytest.importorskip("tensorflow_serving")
    code = """
import htr_client.messages
from tensorflow_serving.apis import predict_pb2
request = htr_client.messages.predict_request("htr", None, "stable", "serving_default", {"image_bytes": [b"a"]})
assert predict_pb2.PredictRequest.FromString(request.SerializeToString()).model_spec.version_label == "stable"
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (0, 4), (2, 300, 80)])
def test_floats_in_both_forms(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    typed, packed = messages.TensorProto(dtype=1), messages.TensorProto(dtype=1)
    for tensor in (typed, packed):
        for size in shape:
            tensor.tensor_shape.dim.add().size = size
    typed.float_val.extend(values.ravel().tolist())
    packed.tensor_content = values.tobytes()
    for tensor in (typed, packed):
        found = messages.to_array(messages.TensorProto.FromString(tensor.SerializeToString()))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)


def test_other_fields_do_not_disturb_floats():
    tensor = messages.TensorProto(dtype=1, version_number=7, float_val=[1.0, 2.0], double_val=[3.0])
    tensor.tensor_shape.dim.add().size = 2
    np.testing.assert_array_equal(messages.to_array(tensor), [1.0, 2.0])


def test_integers_and_strings():
    typed = messages.TensorProto(dtype=3, int_val=[1, -2])
    packed = messages.TensorProto(dtype=3, tensor_content=np.array([1, -2], "<i4").tobytes())
    strings = messages.TensorProto(dtype=7, string_val=[b"a", b"\0b"])
    small = messages.TensorProto(dtype=4, int_val=[0, 255])
    both = [(typed, [1, -2]), (packed, [1, -2]), (strings, [b"a", b"\0b"]), (small, [0, 255])]
    for tensor, expected in both:
        tensor.tensor_shape.dim.add().size = 2
        assert messages.to_array(tensor).tolist() == expected


@pytest.mark.parametrize(
    "tensor",
    [
        messages.TensorProto(dtype=1, float_val=[1.0, 2.0]),
        messages.TensorProto(dtype=1, tensor_content=b"123"),
        messages.TensorProto(dtype=2, double_val=[1.0]),
        messages.TensorProto(dtype=4, int_val=[256]),
        messages.TensorProto(),
    ],
)
def test_tensors_that_do_not_fit(tensor):
    with pytest.raises(ValueError):
        messages.to_array(tensor)
    tensor.tensor_shape.dim.add().size = -1
    with pytest.raises(ValueError):
        messages.to_array(tensor)


SIZES = st.lists(st.integers(-1, 5) | st.sampled_from([2**31, 2**62]), max_size=4)


@given(
    st.sampled_from([0, 1, 2, 3, 4, 7, 99]),
    SIZES,
    st.binary(max_size=24),
    st.lists(st.floats(width=32), max_size=6),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
    st.lists(st.binary(max_size=4), max_size=6),
)
def test_any_tensor_is_an_array_of_its_shape_or_a_value_error(kind, sizes, content, floats, integers, strings):
    tensor = messages.TensorProto(
        dtype=kind, tensor_content=content, float_val=floats, int_val=integers, string_val=strings
    )
    for size in sizes:
        tensor.tensor_shape.dim.add().size = size
    try:
        array = messages.to_array(tensor)
    except ValueError:
        return
    assert array.shape == tuple(sizes) and kind in (1, 3, 4, 7)
    assert array.nbytes < 10_000


@given(st.binary(max_size=80))
def test_any_answer_is_read_or_refused(data):
    try:
        response = messages.PredictResponse.FromString(data)
    except DecodeError:
        return
    for tensor in response.outputs.values():
        with contextlib.suppress(ValueError):
            messages.to_array(tensor)
