"""What TensorFlow computes on: GPUs, float16 or bfloat16, several replicas or workers."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

from components.common.console import console
from components.common.words import counted
from components.trainer.devices import system_gpus, tf_config, unused_gpus, worker_count
from components.trainer.settings import TrainConfig
from htr_client.cores import usable_cores
from serving.precision import use_bfloat16


def use_accelerators(train: TrainConfig) -> str:
    """Lets TensorFlow take GPU memory as needed and, where it pays, compute in float16, or on CPUs in bfloat16.

    Warns where the system has a GPU that TensorFlow does not see.

    Args:
        train: Section `train` of the configuration.

    Returns:
        What is used, such as "1 GPU (NVIDIA L4), float16" or "CPU, 2 cores, bfloat16".
    """
    # Steps that `pipeline.runners.steps` launches have it already. `set_memory_growth` would fail after an earlier step
    # of the process, Transform for one, has used TensorFlow.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    mixed = train.mixed_precision and bool(gpus) and all(d.get("compute_capability", (0,))[0] >= 7 for d in details)
    keras.mixed_precision.set_global_policy("mixed_float16" if mixed else "float32")
    bfloat16 = use_bfloat16(train.bfloat16 and not gpus)
    if not gpus:
        if warning := unused_gpus(system_gpus()):
            console().print(f"  warning: {warning}", style="yellow", markup=False)
        if train.bfloat16 and not bfloat16:
            warning = "train.bfloat16: this machine's processor has neither AVX512_BF16 nor AMX: it computes in float32"
            console().print(f"  warning: {warning}", style="yellow", markup=False)
        return f"CPU, {counted(usable_cores(), 'core')}{', bfloat16' if bfloat16 else ''}"
    names = ", ".join(sorted({detail.get("device_name", "unknown kind") for detail in details}))
    return f"{counted(len(gpus), 'GPU')} ({names}){', float16' if mixed else ''}"


def use_float32() -> None:
    """What this process computes from now on, the export for one, is float32."""
    keras.mixed_precision.set_global_policy("float32")
    use_bfloat16(False)


def training_strategy() -> tf.distribute.Strategy:
    """How training is spread: over the workers that TF_CONFIG names, over the GPUs of this machine, or not at all.

    To be called before any other TensorFlow operation: TensorFlow sets up collective operations only then.
    """
    if worker_count() > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief() -> bool:
    """Whether this process is the one that writes: the only one, or the first worker of TF_CONFIG."""
    cluster, task = (tf_config().get(part, {}) for part in ("cluster", "task"))
    chief = ("chief" if "chief" in cluster else "worker", 0)
    return not cluster or (task["type"], int(task["index"])) == chief
