"""The served model: raw image bytes in, log-probabilities or text out, with the Transform graph inside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from components.trainer.model import Recogniser
from components.transform.preprocessing import image_batch
from components.transform.settings import TransformConfig
from serving.version_directory import LANGUAGE_MODEL_FILE

VARIABLES_KEY = "network_variables"
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def best_path(log_probs: tf.Tensor, frames: tf.Tensor, alphabet: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Best-path decoding in the graph; `htr_client.decoding.BestPath` is its numpy twin and a test compares them.

    Args:
        log_probs: float32 [N, T, C].
        frames: int32 [N], valid frames.
        alphabet: string [C - 1].

    Returns:
        Text string [N], and the posterior probability of that text float32 [N] (CTC forward algorithm, Graves 2006).
    """
    blank = tf.shape(log_probs)[2] - 1
    best = tf.argmax(log_probs, axis=2, output_type=tf.int32)
    valid = tf.sequence_mask(frames, tf.shape(log_probs)[1])
    best = tf.where(valid, best, blank)
    previous = tf.pad(best, [[0, 0], [1, 0]], constant_values=-1)[:, :-1]
    keep = (best != blank) & (best != previous)
    characters = tf.gather(tf.concat([alphabet, [""]], 0), best)
    text = tf.strings.reduce_join(tf.where(keep, characters, ""), axis=1)
    return text, tf.where(frames > 0, tf.exp(_log_posterior(log_probs, valid, best, keep, blank)), 0.0)


def _log_posterior(
    log_probs: tf.Tensor, valid: tf.Tensor, best: tf.Tensor, keep: tf.Tensor, blank: tf.Tensor
) -> tf.Tensor:
    """Log of the sum over all alignments of the kept classes. A plain loop over frames: no label may be empty for
    TensorFlow's CTC operation, and this one runs on any device.
    """  # noqa: D205
    ragged = tf.ragged.boolean_mask(best, keep)
    ids = ragged.to_tensor(default_value=blank)
    n, length = tf.shape(ids)[0], tf.shape(ids)[1]
    blanks = tf.fill([n, length], blank)
    states = tf.concat([tf.reshape(tf.stack([blanks, ids], 2), [n, 2 * length]), tf.fill([n, 1], blank)], 1)
    earlier = tf.pad(states, [[0, 0], [2, 0]], constant_values=-1)[:, :-2]
    impossible = tf.constant(-1e30)
    skip = tf.where((states != blank) & (states != earlier), 0.0, impossible)
    emissions = tf.gather(log_probs, states, axis=2, batch_dims=1)

    def shifted(alpha: tf.Tensor, by: int) -> tf.Tensor:
        return tf.pad(alpha, [[0, 0], [by, 0]], constant_values=-1e30)[:, : tf.shape(alpha)[1]]

    def step(alpha: tf.Tensor, frame: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        emission, is_valid = frame
        ways = tf.stack([alpha, shifted(alpha, 1), shifted(alpha, 2) + skip])
        return tf.where(is_valid[:, tf.newaxis], tf.reduce_logsumexp(ways, axis=0) + emission, alpha)

    # Before the first frame: as if on the leading blank, from where both it and the first character can be next.
    start = tf.one_hot(tf.zeros([n], tf.int32), 2 * length + 1, on_value=0.0, off_value=impossible)
    frames_first = (tf.transpose(emissions, [1, 0, 2]), tf.transpose(valid))
    alpha = tf.foldl(step, frames_first, initializer=start)
    last = 2 * tf.cast(ragged.row_lengths(), tf.int32)
    ends = tf.stack([last, tf.maximum(last - 1, 0)], 1)
    final = tf.gather(alpha, ends, axis=1, batch_dims=1)
    final = tf.where((last > 0)[:, tf.newaxis], final, tf.stack([final[:, 0], tf.fill([n], impossible)], 1))
    return tf.minimum(tf.reduce_logsumexp(final, axis=1), 0.0)


class ServedModel(tf.Module):
    """What is saved. It tracks raw variables and the Transform graph only.

    A Keras 3 model as an attribute would load in Python, but TensorFlow Serving could not find its variables.
    """

    def __init__(
        self,
        model: Recogniser,
        alphabet: Sequence[str],
        config: TransformConfig,
        temperature: float = 1.0,
    ):
        """Wires Transform, network and decoding together.

        Args:
            model: trained network.
            alphabet: characters of classes 0 to C - 2.
            config: geometry of the image tensor.
            temperature: the logits are divided by it, so that confidences are neither too high nor too low.
        """
        super().__init__(name="htr")
        # By path, for `transfer.start_from`; the attribute's name is VARIABLES_KEY.
        self.network_variables = {v.path: v.value for v in model.variables if "seed_generator" not in v.path}
        characters = tf.constant(list(alphabet))
        feature_spec = {"image": tf.io.FixedLenFeature([1], tf.string)}

        network = _with_constants(model, config.height)

        def recognise(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            images, widths = image_batch(image_bytes, config)
            frames, logits = network(images, widths)
            return {"log_probs": tf.nn.log_softmax(logits / temperature), "frames": frames}

        def transcribe(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = recognise(image_bytes)
            text, confidence = best_path(outputs["log_probs"], outputs["frames"], characters)
            return {"text": text, "confidence": confidence}

        self.language_model: Any = None  # the file that holds it, see `save`

        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")

        @tf.function(input_signature=[encoded])
        def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return recognise(tf.ensure_shape(image_bytes, [None]))

        @tf.function(input_signature=[encoded])
        def transcribe_images(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return transcribe(tf.ensure_shape(image_bytes, [None]))

        # An input and a batch dimension, which servers with batching insist on.
        query = tf.TensorSpec([None], tf.string, name="query")

        @tf.function(input_signature=[query])
        def tell_alphabet(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"characters": tf.tile(characters[tf.newaxis], [tf.size(query), 1])}

        @tf.function(input_signature=[query])
        def tell_language_model(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"model_bytes": tf.fill([tf.size(query)], tf.io.read_file(self.language_model.asset_path))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def evaluate(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            raw = tf.io.parse_example(examples, feature_spec)
            # Evaluator and BulkInferrer want a column.
            return {name: value[:, tf.newaxis] for name, value in transcribe(raw["image"][:, 0]).items()}

        self.functions = {
            "serving_default": serving_default,
            "transcribe": transcribe_images,
            "alphabet": tell_alphabet,
            "language_model": tell_language_model,
            "evaluate": evaluate,
        }


def _with_constants(model: Recogniser, height: int | None) -> Any:
    """The network as a function of images and widths with its weights as constants.

    TensorFlow computes once, when it loads the graph, what depends on constants only: folded normalisation, weights in
    the order that its convolutions want. All signatures share the function, and so the constants.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, height, None, 1]), tf.TensorSpec([None], tf.int32)])
    def network(images: tf.Tensor, widths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model({"images": images, "widths": widths}, training=False)
        return outputs["frames"], outputs["logits"]

    return convert_variables_to_constants_v2(network.get_concrete_function())


def save(served: ServedModel, directory: str, images: Sequence[bytes], name: str) -> None:
    """Writes the SavedModel and its warm-up requests.

    Args:
        served: to save.
        directory: where; it becomes the root of the servable version.
        images: a few encoded images of the training data for the warm-up requests.
        name: of the servable.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Empty, since there is none yet. As a file of its own it is put in without saving the graph again.
        file = Path(folder, os.path.basename(LANGUAGE_MODEL_FILE))
        file.touch()
        served.language_model = tf.saved_model.Asset(str(file))
        tf.saved_model.save(served, directory, signatures=served.functions)
    path = os.path.join(directory, WARMUP_FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for log in warmup_requests(images, name):
            writer.write(log.SerializeToString())


def warmup_requests(images: Sequence[bytes], name: str) -> list[Any]:
    """PredictionLogs that a server answers before it serves the version: what clients ask."""
    logs = []
    for signature in ("serving_default", "transcribe"):
        for batch in (list(images[:1]), list(images)):
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=name, signature_name=signature),
                inputs={"image_bytes": tf.make_tensor_proto(batch, tf.string, [len(batch)])},
            )
            logs.append(prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request)))
    for signature in ("alphabet", "language_model"):
        request = predict_pb2.PredictRequest(
            model_spec=model_pb2.ModelSpec(name=name, signature_name=signature),
            inputs={"query": tf.make_tensor_proto([b""], tf.string, [1])},
        )
        logs.append(prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request)))
    return logs
