"""Encoded images to grey ones, in TensorFlow operations: what every served model begins with.

An image that cannot be decoded must not fail its batch, so files are looked at before they are decoded.
"""

from __future__ import annotations

import tensorflow as tf

# Larger images are treated as undecodable inside the graph: a small file can declare a huge image.
MAX_PIXELS = 50_000_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By JPEG marker: SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC).
_IS_FRAME_HEADER = [0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) for marker in range(256)]
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def kind_of(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether a file can be decoded.

    Args:
        data: string [], a file.

    Returns:
        Two booleans []: it is a whole PNG, it is a whole JPEG, of a size that memory allows.
    """
    # No image is that short, and tf.strings.substr refuses positions outside of the string.
    long_enough = tf.strings.length(data) > 64
    is_png = tf.cond(long_enough, lambda: _is_whole_png(data), lambda: False)
    is_jpeg = tf.cond(long_enough, lambda: _is_whole_jpeg(data), lambda: False)
    return is_png, is_jpeg


def decode_grey(data: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    """Decodes an image.

    Args:
        data: string [], a file that `kind_of` knows.
        is_png: Whether it is a PNG; else it is a JPEG.

    Returns:
        Grey float32 [h, w, 1] in 0..255.
    """
    return tf.cond(is_png, lambda: _decode_png(data), lambda: _decode_jpeg(data))


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
