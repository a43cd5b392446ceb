"""From encoded image and label to the image tensor and class ids, all in TensorFlow operations.

TFX Transform runs `preprocessing_fn` over the dataset and saves its graph; the exported model contains that graph.
There is no other implementation: what the network saw in training is what it sees in production.

The transformed image is kept as a PNG of the resized, normalised uint8 tensor: a fraction of the size of float32,
quick to decode, and of each image's own width, so that padding is decided when batches are made.
"""

from __future__ import annotations

import json
import os
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from components.transform.geometry import COLUMNS_PER_FRAME
from components.transform.settings import TransformConfig

ALPHABET_ASSET = "alphabet.json"
# Larger images are treated as undecodable inside the graph: a small file can declare a huge image.
MAX_PIXELS = 50_000_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By JPEG marker: SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC).
_IS_FRAME_HEADER = [0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) for marker in range(256)]
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """The function that TFX Transform runs.

    Args:
        inputs: raw features: `image` string [N, 1] (PNG or JPEG), `text`, `id`, `writer`, ... string [N, 1].
        custom_config: `transform`, the TransformConfig as JSON, and `alphabet`, allowed characters or None.

    Returns:
        `image_png` string [N] (see `resize_images`); `labels` int64 [N, None] sparse, class ids of the label's
        characters; `text`, `id`, `writer`, `source` string [N].
    """
    config = TransformConfig.model_validate_json(custom_config["transform"])
    outputs: dict[str, Any] = {"image_png": resize_images(tf.reshape(inputs["image"], [-1]), config)}
    outputs.update({name: tf.reshape(inputs[name], [-1]) for name in ("text", "id", "writer", "source")})
    codes = tf.strings.unicode_decode(outputs["text"], "UTF-8")
    alphabet = _alphabet(codes.flat_values, custom_config.get("alphabet"))
    outputs["labels"] = class_ids(codes, alphabet).to_sparse()
    return outputs


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
        config: height and width of the image tensor.

    Returns:
        string [N]: PNG, uint8, `config.height` rows, at most `config.width` columns, 255 full ink, 0 paper.
    """
    return tf.map_fn(lambda data: _resize_image(data, config), encoded, fn_output_signature=tf.string)


def _resize_image(data: tf.Tensor, config: TransformConfig) -> tf.Tensor:
    # No image is that short, and tf.strings.substr refuses positions outside of the string.
    long_enough = tf.strings.length(data) > 64
    is_png = tf.cond(long_enough, lambda: _is_whole_png(data), lambda: False)
    is_jpeg = tf.cond(long_enough, lambda: _is_whole_jpeg(data), lambda: False)

    def resize() -> tf.Tensor:
        grey = tf.cond(is_png, lambda: _decode_png(data), lambda: _decode_jpeg(data))
        # Level 1 takes 5 % more room than level 6 and two thirds of its time, which each request pays too.
        return tf.io.encode_png(_normalise(grey, config), compression=1)

    return tf.cond(is_png | is_jpeg, resize, lambda: tf.constant(b""))


def _fits(width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    area = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    return (width > 0) & (height > 0) & (area <= MAX_PIXELS)


def _is_whole_png(data: tf.Tensor) -> tf.Tensor:
    """Signature, size of the image in the IHDR chunk and IEND trailer are right (PNG specification, 5 and 11.2)."""
    is_png = tf.strings.substr(data, 0, 8) == _PNG_SIGNATURE
    whole = is_png & (tf.strings.substr(data, -len(_PNG_END), len(_PNG_END)) == _PNG_END)

    def size_fits() -> tf.Tensor:
        size = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        return _fits(size[0], size[1])

    return tf.cond(whole, size_fits, lambda: False)


def _is_whole_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Starts with SOI, ends with EOI, and the frame header gives a size that fits (ITU T.81, annex B)."""
    length = tf.strings.length(data)
    is_jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    whole = is_jpeg & (tf.strings.substr(data, -2, 2) == b"\xff\xd9")

    def four_bytes(at: tf.Tensor) -> list[tf.Tensor]:
        found = tf.io.decode_raw(tf.strings.substr(data, at, 4), tf.uint8)
        return tf.unstack(tf.cast(tf.ensure_shape(found, [4]), tf.int32))

    def size_fits() -> tf.Tensor:
        # From segment to segment; without tf.cond, which would take longer than what it passes over.
        def next_segment(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            start, marker, high, low = four_bytes(at)
            searching = (start == 0xFF) & ~tf.gather(_IS_FRAME_HEADER, marker)
            # A fill byte (FF before the marker's own FF) is one byte long, a segment as long as it says.
            behind = tf.where(marker == 0xFF, at + 1, at + 2 + high * 256 + low)
            return tf.where(searching, behind, at), searching

        at, _ = tf.while_loop(
            lambda at, searching: searching & (at + 9 <= length), next_segment, (tf.constant(2), tf.constant(True))
        )
        inside = at + 9 <= length
        at = tf.minimum(at, length - 9)
        start, marker, _, _ = four_bytes(at)
        found = inside & (start == 0xFF) & tf.gather(_IS_FRAME_HEADER, marker)
        height_high, height_low, width_high, width_low = four_bytes(at + 5)
        return found & _fits(width_high * 256 + width_low, height_high * 256 + height_low)

    return tf.cond(whole, size_fits, lambda: False)


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    """Grey float32 [h, w, 1] in 0..255, ITU-R BT.601 as JPEG's own; transparent pixels show white paper."""
    colour_type = tf.strings.substr(data, 25, 1)
    transparent = tf.strings.regex_full_match(data, r"\C*tRNS\C*")  # a chunk that makes one grey level transparent

    def of_grey() -> tf.Tensor:
        return tf.cast(tf.io.decode_png(data, channels=1), tf.float32)

    def of_colours() -> tf.Tensor:
        # Planes, since TensorFlow is slow where the innermost dimension is that short.
        red, green, blue, alpha = tf.unstack(tf.cast(tf.io.decode_png(data, channels=4), tf.float32), axis=-1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        return (255.0 + (grey - 255.0) * (alpha / 255.0))[..., tf.newaxis]

    return tf.cond((colour_type == b"\0") & ~transparent, of_grey, of_colours)


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Grey float32 [h, w, 1] in 0..255."""
    return tf.cast(
        tf.io.decode_jpeg(data, channels=1, dct_method="INTEGER_ACCURATE", try_recover_truncated=True), tf.float32
    )


def _normalise(grey: tf.Tensor, config: TransformConfig) -> tf.Tensor:
    """Grey float32 [h, w, 1] to uint8 [config.height, w', 1], 255 ink, 0 paper; antialiased bilinear."""
    height, width = config.height, config.width
    shape = tf.cast(tf.shape(grey)[:2], tf.float32)
    if config.resize == "stretch":
        columns = tf.constant(width)
        rows = tf.constant(height)
    else:
        scale = tf.minimum(height / shape[0], width / shape[1])
        columns = tf.clip_by_value(tf.cast(shape[1] * scale + 0.5, tf.int32), 1, width)
        rows = tf.clip_by_value(tf.cast(shape[0] * scale + 0.5, tf.int32), 1, height)
    resized = tf.image.resize(grey, tf.stack([rows, columns]), antialias=True)
    ink = 255.0 - tf.clip_by_value(resized, 0.0, 255.0)
    if config.contrast:
        ink = _spread_levels(ink)
    # An image wider than the tensor is lower than it: centre it between paper.
    above = (height - rows) // 2
    ink = tf.pad(ink, [[above, height - rows - above], [0, 0], [0, 0]])
    return tf.cast(tf.round(ink), tf.uint8)


def _spread_levels(ink: tf.Tensor) -> tf.Tensor:
    """Maps the image's own paper (30th percentile of ink) to 0 and its darkest strokes (99.5th) to 255.

    Strokes less than 40 levels darker than the paper stay faint: an empty image must not become noise.
    """
    values = tf.cast(tf.round(tf.reshape(ink, [-1])), tf.int32)
    below = tf.cumsum(tf.math.bincount(values, minlength=256, maxlength=256))
    share = tf.cast(below, tf.float32) / tf.cast(tf.size(values), tf.float32)
    paper, full = tf.unstack(tf.cast(tf.searchsorted(share, [0.3, 0.995]), tf.float32))
    return tf.clip_by_value((tf.round(ink) - paper) * 255.0 / tf.maximum(full - paper, 40.0), 0.0, 255.0)


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
            tf.io.gfile.makedirs(os.path.dirname(path))
            with tf.io.gfile.GFile(path, "w") as file:
                file.write(json.dumps([chr(code) for code in alphabet], ensure_ascii=False))
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
    """Transformed images to a batch, as training and serving both feed it to the network.

    Args:
        image_png: string [N], from `resize_images`; the empty string stands for an undecodable image.
        config: `word` pads to `config.width` columns, `line` to the widest image of the batch.

    Returns:
        float32 [N, H, W, 1] and the images' own widths int32 [N], 0 where there is no image.
    """
    widths = image_widths(image_png)
    if config.preset == "word":
        columns = tf.constant(config.width)
    else:
        longest = tf.maximum(tf.reduce_max(tf.concat([widths, [1]], 0)), COLUMNS_PER_FRAME)
        columns = -(-longest // COLUMNS_PER_FRAME) * COLUMNS_PER_FRAME

    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.cond(
            tf.strings.length(data) > 0, lambda: decode_tensor(data), lambda: tf.zeros([config.height, 1, 1])
        )
        return tf.pad(image, [[0, 0], [0, columns - tf.shape(image)[1]], [0, 0]])

    width = config.width if config.preset == "word" else None
    images = tf.map_fn(one, image_png, fn_output_signature=tf.TensorSpec([config.height, width, 1], tf.float32))
    return tf.ensure_shape(images, [None, config.height, width, 1]), widths
