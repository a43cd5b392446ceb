"""The served model: raw image bytes in, log-probabilities or text out, with Transform's preprocessing inside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from components.common.warmup import write_warmups
from components.trainer.model import Recogniser
from components.transform.preprocessing import image_batch
from components.transform.settings import TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME
from serving.version_directory import LANGUAGE_MODEL_FILE

_NEVER = -100.0  # logarithm of a probability that float32 no longer holds


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
    return text, tf.where(frames > 0, tf.exp(_log_posterior(log_probs, frames, best, keep, blank)), 0.0)


def _log_posterior(
    log_probs: tf.Tensor, frames: tf.Tensor, best: tf.Tensor, keep: tf.Tensor, blank: tf.Tensor
) -> tf.Tensor:
    """Log of the sum over all alignments of the kept classes [N]: one operation for all frames, where a loop over them
    takes twenty operations a frame.
    """  # noqa: D205
    # It refuses an empty label, which has one alignment only.
    is_empty = ~tf.reduce_any(keep, axis=1)
    only_blanks = tf.reduce_sum(tf.where(tf.sequence_mask(frames, tf.shape(log_probs)[1]), log_probs[:, :, -1], 0.0), 1)
    keep |= is_empty[:, tf.newaxis] & (tf.range(tf.shape(keep)[1]) == 0)
    kept = tf.ragged.boolean_mask(tf.minimum(best, blank - 1), keep).to_sparse()
    loss, _ = tf.raw_ops.CTCLoss(
        inputs=tf.transpose(log_probs, [1, 0, 2]), labels_indices=kept.indices, labels_values=kept.values,
        sequence_length=tf.maximum(frames, 1),
    )  # fmt: skip
    return tf.minimum(tf.where(is_empty, only_blanks, -loss), 0.0)


class ServedModel(tf.Module):
    """What is saved. It tracks raw variables only.

    A Keras 3 model as an attribute would load in Python, but TensorFlow Serving could not find its variables.
    The signatures use constants instead; the variables are for warm starts and base models, which read them.
    """

    def __init__(
        self,
        model: Recogniser,
        alphabet: Sequence[str],
        config: TransformConfig,
        temperature: float = 1.0,
    ):
        """Wires preprocessing, network and decoding together.

        Args:
            model: Trained network.
            alphabet: Characters of classes 0 to C - 2.
            config: Geometry of the image tensor.
            temperature: The logits are divided by it, so that confidences are neither too high nor too low.
        """
        super().__init__(name="htr")
        # By path, for `transfer.start_from`; the attribute's name is `weights.VARIABLES_KEY`.
        self.network_variables = {v.path: v.value for v in model.variables if "seed_generator" not in v.path}
        characters = tf.constant(list(alphabet))
        feature_spec = {"image": tf.io.FixedLenFeature([1], tf.string)}

        network = with_constants(model)
        certain_blank = tf.constant([[[_NEVER] * len(alphabet) + [0.0]]])

        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")

        @tf.function(input_signature=[encoded], autograph=False)  # traced once, for all signatures
        def recognise(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            images, widths = image_batch(image_bytes, config)
            frames, logits = network(images, widths)
            log_probs = tf.nn.log_softmax(logits / temperature)
            if config.preset == "word":  # as many frames in every answer
                missing = (config.width or 0) // COLUMNS_PER_FRAME - tf.shape(log_probs)[1]
                log_probs = tf.pad(log_probs, [[0, 0], [0, missing], [0, 0]])
            # Behind an image's own frames is nothing that its neighbours could change.
            valid = tf.sequence_mask(frames, tf.shape(log_probs)[1])[:, :, tf.newaxis]
            return {"log_probs": tf.where(valid, log_probs, certain_blank), "frames": frames}

        def transcribe(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = recognise(image_bytes)
            text, confidence = best_path(outputs["log_probs"], outputs["frames"], characters)
            return {"text": text, "confidence": confidence}

        self.language_model: Any = None  # the file that holds it, see `save`

        @tf.function(input_signature=[encoded], autograph=False)
        def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return _answered(recognise, tf.ensure_shape(image_bytes, [None]))

        @tf.function(input_signature=[encoded], autograph=False)
        def transcribe_images(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return _answered(transcribe, tf.ensure_shape(image_bytes, [None]))

        # An input and a batch dimension, which servers with batching insist on.
        query = tf.TensorSpec([None], tf.string, name="query")

        @tf.function(input_signature=[query], autograph=False)
        def tell_alphabet(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"characters": tf.tile(characters[tf.newaxis], [tf.size(query), 1])}

        @tf.function(input_signature=[query], autograph=False)
        def tell_language_model(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"model_bytes": tf.fill([tf.size(query)], tf.io.read_file(self.language_model.asset_path))}

        # A documented signature, for pipelines of 0.1.0, whose Evaluator calls it on a version in service, and for
        # users' own TensorFlow Model Analysis. Our Evaluator decodes `serving_default` as clients do.
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
        def evaluate(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            raw = tf.io.parse_example(examples, feature_spec)
            answer = _answered(transcribe, raw["image"][:, 0])
            # TensorFlow Model Analysis wants a column.
            return {name: value[:, tf.newaxis] for name, value in answer.items()}

        self.functions = {
            "serving_default": serving_default,
            "transcribe": transcribe_images,
            "alphabet": tell_alphabet,
            "language_model": tell_language_model,
            "evaluate": evaluate,
        }


def _answered(answer: Callable[[tf.Tensor], dict[str, tf.Tensor]], files: tf.Tensor) -> dict[str, tf.Tensor]:
    """The answer for N files, also for none: TensorFlow's convolutions and CTC loss fail for an empty batch."""
    number = tf.size(files)
    some = tf.cond(number > 0, lambda: files, lambda: tf.constant([""]))
    return {name: value[:number] for name, value in answer(some).items()}


def with_constants(model: Recogniser) -> Any:
    """The network as what is served has it: a function of images and widths with its weights as constants.

    TensorFlow computes once, when it loads the graph, what depends on constants only: folded normalisation, weights in
    the order that its convolutions want. All signatures share the function, and so the constants.

    Args:
        model: Trained network.

    Returns:
        The function, from images float32 [N, H, W, 1] and widths int32 [N] to frames int32 [N] and logits float32
        [N, T, C].
    """
    signature = [tf.TensorSpec([None, model.height, None, 1]), tf.TensorSpec([None], tf.int32)]

    @tf.function(input_signature=signature, autograph=False)
    def network(images: tf.Tensor, widths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model({"images": images, "widths": widths}, training=False)
        return outputs["frames"], outputs["logits"]

    return convert_variables_to_constants_v2(network.get_concrete_function())


def save(served: ServedModel, directory: str, images: Sequence[bytes], name: str) -> None:
    """Writes the SavedModel and its warm-up requests.

    Args:
        served: Model to save.
        directory: Directory to write; it becomes the root of the servable version.
        images: A few encoded images for the warm-up requests (`drawn_image`).
        name: Name of the servable.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Empty, since there is none yet. As a file of its own it is put in without saving the graph again.
        file = Path(folder, os.path.basename(LANGUAGE_MODEL_FILE))
        file.touch()
        served.language_model = tf.saved_model.Asset(str(file))
        tf.saved_model.save(served, directory, signatures=served.functions)
    asked = [
        (signature, "image_bytes", batch)
        for signature in ("serving_default", "transcribe")
        for batch in (images[:1], images)
    ]
    write_warmups(directory, name, [*asked, ("alphabet", "query", [b""]), ("language_model", "query", [b""])])


def drawn_image(height: int, width: int) -> bytes:
    """An image for the warm-up: handwriting of people does not belong into a version that is handed on.

    Args:
        height: Rows.
        width: Columns.

    Returns:
        A PNG with dark strokes on light paper, the same for the same size.
    """
    random, grey = np.random.default_rng(0), np.full((height, width, 1), 235, np.uint8)
    for x in range(2, width - 1, 6):
        top, bottom = np.sort(random.integers(0, height, 2))
        grey[top : bottom + 1, x : x + 2] = 40
    return tf.io.encode_png(grey).numpy()
