"""The few messages that TensorFlow Serving reads but its API package does not ship.

BatchingParameters, MonitoringConfig and SSLConfig (text files named on the command line) and the standard
health protocol. They are declared here at run time, in a private descriptor pool, so that they can never
clash with a package that brings the same ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format, wrappers_pb2

from htr_client.messages import message_class
from serving.status import invalid

_FieldProto = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FieldProto.TYPE_STRING,
    "bool": _FieldProto.TYPE_BOOL,
    "int64": _FieldProto.TYPE_INT64,
}
_INT64 = ".google.protobuf.Int64Value"
# name -> {field: (number, type)}; "*" repeats, a leading dot is a message type.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, _INT64),
        "batch_timeout_micros": (2, _INT64),
        "max_enqueued_batches": (3, _INT64),
        "num_batch_threads": (4, _INT64),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, "int64*"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, _INT64),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, ".htr.serving.PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int64")},  # an enum on the wire is a varint too
}


def _build() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="htr/serving.proto", package="htr.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _FieldProto.LABEL_REPEATED if kind.endswith("*") else _FieldProto.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, label=label)
            if kind.startswith("."):
                entry.type, entry.type_name = _FieldProto.TYPE_MESSAGE, kind
            else:
                entry.type = _TYPES[kind.rstrip("*")]
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_class(f"htr.serving.{name}", pool) for name in _MESSAGES}


_CLASSES = _build()
BatchingParameters: Any = _CLASSES["BatchingParameters"]
MonitoringConfig: Any = _CLASSES["MonitoringConfig"]
SSLConfig: Any = _CLASSES["SSLConfig"]
HealthCheckRequest: Any = _CLASSES["HealthCheckRequest"]
HealthCheckResponse: Any = _CLASSES["HealthCheckResponse"]


def read_text_proto(path: str | Path, message: Any, option: str = "") -> Any:
    """Reads a text protobuf file into a message.

    Args:
        path: The file.
        message: An empty message of the wanted type, which is filled.
        option: Name of the server's option that names the file, if one does.

    Returns:
        The message.

    Raises:
        ServingError: The file cannot be read or parsed.
    """
    return parse_text_proto(read_text(path, option), path, message)


def read_option(options: Any, name: str, message: Any) -> Any:
    """What `read_text_proto` reads from the file that an option of the server names."""
    return read_text_proto(getattr(options, name), message, name)


def read_text(path: str | Path, option: str = "") -> str:
    """Reads the text of a configuration file.

    Args:
        path: The file.
        option: Name of the server's option that names the file, if one does.

    Raises:
        ServingError: The file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        told = f"--{option}: " if option else ""
        raise invalid(f"{told}{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"Invalid protobuf file: '{path}': {error}") from error


def parse_text_proto(text: str, path: str | Path, message: Any) -> Any:
    """Parses a text protobuf into a message.

    Args:
        text: The content of a file.
        path: The file, for errors.
        message: An empty message of the wanted type, which is filled.

    Returns:
        The message.

    Raises:
        ServingError: The text cannot be parsed.
    """
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise invalid(f"Invalid protobuf file: '{path}': {error}") from error
    return message
