"""What TensorFlow sees, asked in a process of its own: `python -m pipeline.doctor.probe` prints one line of JSON.

A TensorFlow that does not fit the processor or the driver may end its process or never return.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any


def main() -> None:
    """Prints TensorFlow's version, CUDA and GPUs, and what failed; TensorFlow's log says why a GPU is not there."""
    found: dict[str, Any] = {"failed": {}}
    try:
        import ml_metadata  # noqa: F401 - wants a newer C library than TensorFlow does
    except Exception as error:  # whatever it is, the report shows it
        found["failed"]["ml_metadata"] = f"{type(error).__name__}: {error}"
    try:
        found.update(_tensorflow())
    except Exception as error:
        found["failed"]["tensorflow"] = f"{type(error).__name__}: {error}"
    print(f"\n{json.dumps(found)}")


def _tensorflow() -> dict[str, Any]:
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    found: dict[str, Any] = {
        "cuda": build.get("cuda_version"), "cudnn": build.get("cudnn_version"), "driver_cuda": _driver_cuda(),
        "gpus": [
            {"name": each.get("device_name"), "capability": ".".join(map(str, each.get("compute_capability", ())))}
            for each in details
        ],
    }  # fmt: skip
    if gpus:
        try:  # cuDNN loads its parts, and a card gets its machine code, at the first use only
            with tf.device("/GPU:0"):
                tf.nn.conv2d(tf.ones([1, 8, 8, 1]), tf.ones([3, 3, 1, 4]), 1, "SAME").numpy()
        except Exception as error:
            found["gpu_error"] = f"{type(error).__name__}: {error}"
    return found


def _driver_cuda() -> str | None:
    """Newest CUDA that the driver supports."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


if __name__ == "__main__":
    main()
