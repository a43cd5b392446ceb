"""TensorFlow Serving's gRPC messages, without TensorFlow and without generated code.

The descriptors (dumped from tensorflow-serving-api by dump_descriptors.py) live in a private pool. So they clash
neither with tensorflow nor with tensorflow-serving-api in the same process, nor with any protobuf version: generated
code is bound to a range of versions, descriptors are not.
"""

import math
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# Values of the enum tensorflow.DataType that the signatures use.
DT_FLOAT, DT_INT32, DT_UINT8, DT_STRING = 1, 3, 4, 7
FLOATS_TAG = b"\x2a"  # of TensorProto.float_val: field 5, length-delimited


def _load_pool() -> descriptor_pool.DescriptorPool:
    packed = resources.files("htr_client").joinpath("descriptors.pb.z").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    # The files are in dependency order.
    for file in descriptor_pb2.FileDescriptorSet.FromString(zlib.decompress(packed)).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _load_pool()


def message_class(name: str, pool: descriptor_pool.DescriptorPool = POOL) -> Any:
    """A message class.

    Args:
        name: Full name of the message.
        pool: Where its descriptor is.

    Returns:
        The class.
    """
    factory: Any = message_factory
    get_class = getattr(factory, "GetMessageClass", None)  # absent before protobuf 4.22
    if get_class is None:
        get_class = factory.MessageFactory(pool).GetPrototype
    return get_class(pool.FindMessageTypeByName(name))


PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message_class("tensorflow.serving.GetModelStatusResponse")
ModelVersionStatus = message_class("tensorflow.serving.ModelVersionStatus")
TensorProto = message_class("tensorflow.TensorProto")


def predict_request(
    model: str, version: int | None, label: str | None, signature: str, inputs: dict[str, Sequence[bytes]]
) -> Any:
    """Builds a PredictRequest of string tensors.

    Args:
        model: Name of the served model.
        version: Exact version, or None.
        label: Version label, or None; at most one of version and label.
        signature: Name of the signature.
        inputs: Strings by input name; each becomes a tensor of rank 1.

    Returns:
        The PredictRequest.
    """
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    elif label is not None:
        request.model_spec.version_label = label
    for name, values in inputs.items():
        tensor = request.inputs[name]
        tensor.dtype = DT_STRING
        tensor.tensor_shape.dim.add().size = len(values)
        tensor.string_val.extend(values)
    return request


def to_array(tensor: Any) -> np.ndarray:
    """Reads a TensorProto, whether the values are typed (as TensorFlow Serving answers) or packed in tensor_content.

    Args:
        tensor: A TensorProto of DT_FLOAT, DT_INT32, DT_UINT8 or DT_STRING.

    Returns:
        float32, int32, uint8 or object (bytes) array of the tensor's shape.

    Raises:
        ValueError: When the type is another one or the number of values does not fit the shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if tensor.dtype == DT_FLOAT:
        flat = _packed_floats(tensor)
    elif tensor.dtype in (DT_INT32, DT_UINT8):
        flat = _integers(tensor, np.dtype("<i4" if tensor.dtype == DT_INT32 else "u1"))
    elif tensor.dtype == DT_STRING and not tensor.tensor_content:
        flat = np.array([*tensor.string_val, None], object)[:-1]  # None keeps numpy from making fixed-width strings
    else:
        raise ValueError(f"a tensor of type {tensor.dtype} is not one that the signatures of this system return")
    if flat.size != size or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of shape {shape} holds {flat.size} values")
    return flat.reshape(shape)


def _integers(tensor: Any, kind: np.dtype[Any]) -> np.ndarray:
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, kind)
    values = np.fromiter(tensor.int_val, "<i4", len(tensor.int_val))
    flat = values.astype(kind)
    if (flat != values).any():
        raise ValueError("a tensor of bytes holds other numbers")
    return flat


def _packed_floats(tensor: Any) -> np.ndarray:
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4")
    count = len(tensor.float_val)
    if count == 0:
        return np.empty(0, np.float32)
    # Serialised again, the floats are one packed little-endian block at the end, since no later field is set. Reading
    # it there is fast in every implementation of protobuf; protobuf 3 takes 50 ns a float one by one.
    wire = tensor.SerializeToString()
    start = len(wire) - 4 * count
    if wire[:start].endswith(FLOATS_TAG + varint(4 * count)):
        return np.frombuffer(wire, "<f4", count, offset=start)
    return np.array(tensor.float_val, np.float32)


def varint(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
