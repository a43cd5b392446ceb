"""Models for batches that cost nothing: one that reads sizes and checksums, one that finds dark bars."""

from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from htr_client.pages.reading import SIGNATURE
from serving.version_directory import LANGUAGE_MODEL_FILE

ALPHABET = "0123456789 ehort"


class ToyReader(tf.Module):
    """Reads an image's width and a checksum of its bytes: cheap, and wrong as soon as images are mixed up.

    The wider the image, the surer it is that there is the last digit.
    """

    def __init__(self, prefix: str, language_model: bytes):
        super().__init__()
        self.prefix = tf.Variable(prefix)
        query = tf.TensorSpec([None], tf.string, name="query")
        alphabet = tf.constant(list(ALPHABET))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def recognise(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            widths = tf.map_fn(lambda d: tf.shape(tf.io.decode_image(d))[1], image_bytes, fn_output_signature=tf.int32)
            checksums = tf.strings.to_hash_bucket_fast(image_bytes, 10**9)
            texts = tf.strings.join([self.prefix, tf.strings.as_string(widths), " ", tf.strings.as_string(checksums)])
            read = tf.strings.unicode_split(texts, "UTF-8")
            length = tf.cast(read.row_lengths(), tf.int32)
            sees = tf.cast(read.to_tensor()[:, :, tf.newaxis] == alphabet, tf.float32)
            last = tf.one_hot(length - 1, tf.shape(sees)[1])
            sees *= (
                1.0
                - last[:, :, tf.newaxis]
                * (0.5 - tf.cast(tf.minimum(widths, 400), tf.float32) / 1000)[:, tf.newaxis, tf.newaxis]
            )
            sees = tf.concat([sees, 1.0 - tf.reduce_sum(sees, axis=2, keepdims=True)], axis=2)
            blanks = tf.one_hot(tf.fill(tf.shape(sees)[:2], len(ALPHABET)), len(ALPHABET) + 1)
            frames = tf.reshape(tf.stack([sees, blanks], axis=2), [tf.shape(sees)[0], -1, len(ALPHABET) + 1])
            return {"log_probs": tf.math.log(frames + 1e-9), "frames": 2 * length}

        @tf.function(input_signature=[query])
        def tell_alphabet(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"characters": tf.tile(alphabet[tf.newaxis], [tf.size(query), 1])}

        @tf.function(input_signature=[query])
        def tell_language_model(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"model_bytes": tf.fill([tf.size(query)], language_model)}

        self.functions = {
            "serving_default": recognise, "alphabet": tell_alphabet, "language_model": tell_language_model
        }  # fmt: skip


def save(path: Path, prefix: str = "", language_model: bytes = b"") -> str:
    module = ToyReader(prefix, language_model)
    tf.saved_model.save(module, str(path), signatures=module.functions)
    (path / LANGUAGE_MODEL_FILE).parent.mkdir(exist_ok=True)
    (path / LANGUAGE_MODEL_FILE).write_bytes(language_model)
    return str(path)


class ToyLineFinder(tf.Module):
    """Each dark bar of a page is a line that stands on the bar's lower edge."""

    def __init__(self):
        super().__init__()
        self.least = tf.Variable(128, dtype=tf.int32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def find(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            grey = tf.io.decode_image(image_bytes[0], channels=1, expand_animations=False)[::2, ::2, 0]
            body = tf.cast(grey, tf.int32) < self.least
            below = tf.pad(body[1:], [[0, 1], [0, 0]])
            edge = body & ~below
            baseline = edge | tf.pad(edge[1:], [[0, 1], [0, 0]])
            maps = tf.stack([baseline, body, tf.zeros_like(body)], -1)
            return {"maps": tf.cast(maps, tf.uint8)[tf.newaxis] * 255, "scale": tf.constant([0.5])}

        self.functions = {SIGNATURE: find}


def bars(*bottoms: int, width: int = 400) -> bytes:
    """A page with a dark bar above each of the heights, which the line finder takes for a line, as PNG."""
    grey = np.full((700, 900), 240, np.uint8)
    for bottom in bottoms:
        grey[bottom - 30 : bottom, 100 : 100 + width] = 30
    return cv2.imencode(".png", grey)[1].tobytes()


def save_line_finder(path: Path) -> str:
    module = ToyLineFinder()
    tf.saved_model.save(module, str(path), signatures=module.functions)
    return str(path)
