"""Write htr_client/descriptors.pb.z from the installed tensorflow-serving-api (a tool for developers of this package).

Run it after a new tensorflow-serving-api adds something this client needs, with protobuf older than 6, where
tensorflow-serving-api 2.19 cannot be imported as a whole:

    python client/dump_descriptors.py
"""

import zlib
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2


def descriptor_set() -> bytes:
    """The descriptors of both services with all they depend on, in dependency order.

    Returns:
        A serialised FileDescriptorSet.
    """
    files: dict[str, Any] = {}

    def add(file: Any) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = file

    add(prediction_service_pb2.DESCRIPTOR)
    add(model_service_pb2.DESCRIPTOR)
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        result.file.add().ParseFromString(file.serialized_pb)
    return result.SerializeToString(deterministic=True)


if __name__ == "__main__":
    target = Path(__file__).parent / "htr_client" / "descriptors.pb.z"
    target.write_bytes(zlib.compress(descriptor_set(), 9))
    print(f"{target}: {target.stat().st_size} bytes")
