"""Warm-up requests of a version, which a server answers before it serves: clients do not wait for the first call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from serving.version_directory import WARMUP_FILE


def write_warmups(directory: str, name: str, requests: Iterable[tuple[str, str, Sequence[bytes]]]) -> None:
    """Writes the warm-up requests of a version.

    Args:
        directory: Directory of the version.
        name: Name of the servable.
        requests: Signature, name of its input, and batch of each request, in the order in which they are answered.
    """
    path = os.path.join(directory, WARMUP_FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature, given, batch in requests:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=name, signature_name=signature),
                inputs={given: tf.make_tensor_proto(batch, tf.string, [len(batch)])},
            )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
