"""From encoded image and label to the image tensor and class ids, all in TensorFlow operations.

TFX Transform runs `preprocessing_fn` over the dataset; the exported model traces the same functions (`image_batch`).
There is no other implementation: what the network saw in training is what it sees in production.

Transform keeps an image as a PNG of the resized, normalised uint8 tensor: a fraction of the size of float32, quick to
decode, and of each image's own width, so that padding is decided when batches are made.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from components.common.datasets import write_text
from components.transform.decoding import NOTHING, decode_grey, kinds_of
from components.transform.settings import TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME, LEAST_CONTRAST

ALPHABET_ASSET = "alphabet.json"
# Widths of served batches are multiples of this: TensorFlow prepares its convolutions anew for every other width, which
# for a line takes a sixth of the time of the network. By preset, whole frames.
_COLUMNS_PER_STEP = {"word": 16, "line": 32}


@tf.autograph.experimental.do_not_convert
def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """The function that TFX Transform runs.

    Args:
        inputs: Raw features: `image` string [N, 1] (PNG or JPEG), `text`, `id`, `writer`, ... string [N, 1].
        custom_config: `transform`, the TransformConfig as JSON, and `alphabet`, allowed characters or None.

    Returns:
        `image_png` string [N] (see `resize_images`); `labels` int64 [N, None] sparse, class ids of the label's
        characters; `text`, `id`, `writer`, `source` string [N].
    """
    resize = _resizing(custom_config["transform"])
    outputs: dict[str, Any] = {"image_png": resize(tf.reshape(inputs["image"], [-1]))}
    outputs.update({name: tf.reshape(inputs[name], [-1]) for name in ("text", "id", "writer", "source")})
    codes = tf.strings.unicode_decode(outputs["text"], "UTF-8")
    alphabet = _alphabet(codes.flat_values, custom_config.get("alphabet"))
    outputs["labels"] = class_ids(codes, alphabet).to_sparse()
    return outputs


@functools.cache
def _resizing(config: str) -> Any:
    """`resize_images` with a section `transform` as JSON, traced once: Transform calls `preprocessing_fn` ten times."""
    transform = TransformConfig.model_validate_json(config)
    resize = tf.function(lambda encoded: resize_images(encoded, transform), autograph=False)
    return resize.get_concrete_function(tf.TensorSpec([None], tf.string))


def class_ids(codes: tf.RaggedTensor, alphabet: tf.Tensor) -> tf.RaggedTensor:
    """Code points [N, None] to class ids: positions in the sorted alphabet [C - 1]; unknown characters are left out.

    Unknown characters occur only outside the training split. The text itself keeps them, so that they count as errors.
    """
    position = tf.searchsorted(alphabet, codes.flat_values)
    known = tf.equal(tf.gather(alphabet, tf.minimum(position, tf.size(alphabet) - 1)), codes.flat_values)
    ids = tf.RaggedTensor.from_row_splits(tf.cast(position, tf.int64), codes.row_splits, validate=False)
    return tf.ragged.boolean_mask(ids, tf.RaggedTensor.from_row_splits(known, codes.row_splits, validate=False))


def resize_images(encoded: tf.Tensor, config: TransformConfig) -> tf.Tensor:
    """Decodes, turns grey, resizes and normalises images; one that cannot be decoded becomes an empty string.

    Args:
        encoded: string [N], PNG or JPEG files.
        config: Height and width of the image tensor.

    Returns:
        string [N]: PNG, uint8, `config.height` rows, at most `config.width` columns, 255 full ink, 0 paper.
    """

    def one(file: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        def resize() -> tf.Tensor:
            ink, size = _resize_ink(decode_grey(*file), config)
            if config.contrast:
                ink = _spread_levels(ink[tf.newaxis], tf.reduce_prod(size)[tf.newaxis])[0]
            # Level 1 takes 5 % more room than level 6 and two thirds of its time.
            return tf.io.encode_png(tf.cast(ink, tf.uint8), compression=1)

        return tf.cond(file[1] != NOTHING, resize, lambda: tf.constant(b""))

    return tf.map_fn(one, (encoded, kinds_of(encoded)), fn_output_signature=tf.string)


def image_batch(encoded: tf.Tensor, config: TransformConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Encoded images to a batch for the network: what `resize_images` and `decode_batch` give, without PNG in between.

    Args:
        encoded: string [N], PNG or JPEG files.
        config: Height and width of the image tensor.

    Returns:
        float32 [N, H, W, 1], padded to the widest image of the batch or some more, and the images' own widths
        int32 [N], 0 where there is no image.
    """

    def one(file: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        ink, size = _resize_ink(decode_grey(*file), config)
        return tf.pad(ink, [[0, 0], [0, config.width - size[1]], [0, 0]]), size

    kinds = kinds_of(encoded)
    signature = (tf.TensorSpec([config.height, config.width, 1], tf.uint8), tf.TensorSpec([2], tf.int32))
    ink, sizes = tf.map_fn(one, (encoded, kinds), fn_output_signature=signature)
    widths = tf.where(kinds != NOTHING, sizes[:, 1], 0)
    ink = ink[:, :, : tf.minimum(_whole(widths, _COLUMNS_PER_STEP[config.preset]), config.width)]
    ink = _spread_levels(ink, tf.reduce_prod(sizes, axis=1)) if config.contrast else tf.cast(ink, tf.float32)
    return ink / 255.0, widths


def _resize_ink(grey: tf.Tensor, config: TransformConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Antialiased bilinear resizing.

    Args:
        grey: float32 [h, w, 1], 255 white.
        config: Height and width of the image tensor.

    Returns:
        uint8 [config.height, w', 1], 255 black, and the rows and columns int32 [2] that the image covers.
    """
    height, width = config.height, config.width
    if config.resize == "stretch":
        size = tf.constant([height, width])
    else:
        shape = tf.cast(tf.shape(grey)[:2], tf.float32)
        scale = tf.reduce_min([height, width] / shape)
        size = tf.clip_by_value(tf.cast(shape * scale + 0.5, tf.int32), 1, [height, width])
    resized = tf.image.resize(grey, size, antialias=True)
    ink = tf.cast(tf.round(255.0 - tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)
    # An image wider than the tensor is lower than it: centre it between paper.
    above = (height - size[0]) // 2
    return tf.pad(ink, [[above, height - size[0] - above], [0, 0], [0, 0]]), size


def _spread_levels(ink: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Maps each image's own paper (30th percentile of ink) to 0 and its darkest strokes (99.5th) to 255.

    Strokes less than `LEAST_CONTRAST` levels darker than the paper stay faint: an empty image must not become noise.

    Args:
        ink: uint8 [N, H, W, 1], padded with 0.
        pixels: int32 [N], those of each image without padding.

    Returns:
        float32 [N, H, W, 1], whole numbers in 0..255; the padding stays 0.
    """
    values = tf.reshape(tf.cast(ink, tf.int32), [tf.shape(ink)[0], tf.reduce_prod(tf.shape(ink)[1:])])
    counts = tf.raw_ops.DenseBincount(input=values, size=256, weights=tf.zeros([0], tf.int32))
    below = tf.cumsum(counts, axis=1) - (tf.shape(values)[1] - pixels)[:, tf.newaxis]
    share = tf.cast(below, tf.float32) / tf.cast(pixels, tf.float32)[:, tf.newaxis]
    levels = tf.searchsorted(share, tf.tile([[0.3, 0.995]], [tf.shape(share)[0], 1]))
    paper, full = tf.split(tf.cast(levels, tf.float32)[:, :, tf.newaxis, tf.newaxis], 2, axis=1)
    spread = (tf.cast(ink, tf.float32) - paper) * 255.0 / tf.maximum(full - paper, float(LEAST_CONTRAST))
    return tf.round(tf.clip_by_value(spread, 0.0, 255.0))


class _CollectAlphabet(tft_beam.experimental.PTransformAnalyzer):
    """Analyzer: batches of code points -> the alphabet, as a sorted int32 array or as the path of a JSON file."""

    def __init__(self, given: str | None, as_file: bool):
        super().__init__()
        self._given, self._as_file = given, as_file

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        path = os.path.join(self.base_temp_dir, ALPHABET_ASSET) if self._as_file else None
        given = self._given

        def finish(codes: set[int]) -> Any:
            alphabet = sorted(codes if given is None else set(map(ord, given)))
            if path is None:
                return np.array(alphabet, np.int32)
            write_text(path, json.dumps([chr(code) for code in alphabet], ensure_ascii=False))
            return path

        return (
            batches
            | "Distinct" >> beam.FlatMap(lambda arrays: np.unique(arrays[0]).tolist())
            | "AllDistinct" >> beam.combiners.ToSet()
            | "Finish" >> beam.Map(finish)
        )


def _alphabet(codes: tf.Tensor, given: str | None) -> tf.Tensor:
    """The alphabet's sorted code points int32 [C - 1]: `given`, or those of the training split once it is analysed.

    Two analyzers, since ptransform_analyzer takes either tensors or assets. The file is for `read_alphabet`.
    """
    analyze = tft.experimental.ptransform_analyzer
    analyze([codes], _CollectAlphabet(given, as_file=True), [tf.string], [[]], [b"[]"])
    (alphabet,) = analyze([codes], _CollectAlphabet(given, as_file=False), [tf.int32], [[None]])
    return alphabet


def read_alphabet(tft_output: tft.TFTransformOutput) -> list[str]:
    """The characters of classes 0 to C - 2, in class order; class C - 1 is the blank."""
    path = os.path.join(tft_output.transform_savedmodel_dir, "assets", ALPHABET_ASSET)
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())


def decode_tensor(image_png: tf.Tensor) -> tf.Tensor:
    """One transformed image, PNG string [], to the image tensor float32 [H, w, 1]: ink 1, paper 0."""
    return tf.cast(tf.io.decode_png(image_png, channels=1), tf.float32) / 255.0


def image_widths(image_png: tf.Tensor) -> tf.Tensor:
    """Columns int32 [N] of transformed images, PNG string [N], from their headers; 0 for empty strings."""
    # At least 20 bytes, since tf.strings.substr refuses positions behind the end also where tf.where drops them.
    padded = tf.strings.join([image_png, tf.constant(b"\0" * 20)])
    empty = tf.strings.length(image_png) == 0
    header = tf.where(empty, b"\0\0\0\0", tf.strings.substr(padded, 16, 4))
    return tf.reshape(tf.io.decode_raw(header, tf.int32, little_endian=False), [-1])


def decode_batch(image_png: tf.Tensor, config: TransformConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Transformed images to a batch for the network, as training feeds it.

    Args:
        image_png: string [N], from `resize_images`; the empty string stands for an undecodable image.
        config: `word` pads to `config.width` columns, `line` to the widest image of the batch.

    Returns:
        float32 [N, H, W, 1] and the images' own widths int32 [N], 0 where there is no image.
    """
    widths = image_widths(image_png)
    columns = tf.constant(config.width) if config.preset == "word" else _whole(widths, COLUMNS_PER_FRAME)

    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.cond(
            tf.strings.length(data) > 0, lambda: decode_tensor(data), lambda: tf.zeros([config.height, 1, 1])
        )
        return tf.pad(image, [[0, 0], [0, columns - tf.shape(image)[1]], [0, 0]])

    width = config.width if config.preset == "word" else None
    images = tf.map_fn(one, image_png, fn_output_signature=tf.TensorSpec([config.height, width, 1], tf.float32))
    return tf.ensure_shape(images, [None, config.height, width, 1]), widths


def _whole(widths: tf.Tensor, step: int) -> tf.Tensor:
    """Columns int32 [] of a batch: its widest image, rounded up to a multiple of `step`."""
    longest = tf.reduce_max(tf.concat([widths, [step]], 0))
    return -(-longest // step) * step
