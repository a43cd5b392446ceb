"""Encoded images to grey ones, in TensorFlow operations: what every served model begins with.

An image that cannot be decoded must not fail its batch, so files are looked at before they are decoded.
"""

from __future__ import annotations

import tensorflow as tf

from htr_client.model_facts import MAX_PIXELS

NOTHING, _JPEG, _GREY_PNG, _OPAQUE_PNG, _TRANSPARENT_PNG = range(5)
"""What a file can be decoded as, see `kinds_of`."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By JPEG marker: SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC).
_IS_FRAME_HEADER = [0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) for marker in range(256)]
# Of these baseline, extended, progressive, and both with arithmetic coding: TensorFlow fails for the others.
_IS_DECODED = [marker in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) for marker in range(256)]
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def kinds_of(files: tf.Tensor) -> tf.Tensor:
    """Looks at files of a batch, all at once: for small images operations cost more than what they do.

    Args:
        files: string [N], the contents of the files.

    Returns:
        int32 [N]: how `decode_grey` decodes each; NOTHING where it is no whole PNG or JPEG, or too large for memory.
    """
    # No image is that short, and tf.strings.substr refuses positions outside of the string.
    files = tf.where(tf.strings.length(files) > 64, files, b"\0" * 65)
    kinds = tf.where(_are_whole_pngs(files), _png_kinds(files), NOTHING)
    return tf.where(_are_whole_jpegs(files), _JPEG, kinds)


def decode_grey(data: tf.Tensor, kind: tf.Tensor) -> tf.Tensor:
    """Decodes an image.

    Args:
        data: string [], content of a file.
        kind: int32 [], what `kinds_of` says.

    Returns:
        Grey float32 [h, w, 1] in 0..255; one white pixel where there is nothing to decode.
    """
    return tf.switch_case(
        kind,
        {
            NOTHING: lambda: tf.fill([1, 1, 1], 255.0),
            _JPEG: lambda: _decode_jpeg(data),
            _GREY_PNG: lambda: tf.cast(tf.io.decode_png(data, channels=1), tf.float32),
            # Not with 4 channels: TensorFlow gives palettes of 1, 2 or 4 bits an alpha of 1, 3 or 15.
            _OPAQUE_PNG: lambda: _grey(tf.io.decode_png(data, channels=3))[..., tf.newaxis],
            _TRANSPARENT_PNG: lambda: _decode_transparent(data),
        },
    )


def _fit(widths: tf.Tensor, heights: tf.Tensor) -> tf.Tensor:
    areas = tf.cast(widths, tf.int64) * tf.cast(heights, tf.int64)
    return (widths > 0) & (heights > 0) & (areas <= MAX_PIXELS)


def _are_whole_pngs(files: tf.Tensor) -> tf.Tensor:
    """Signature, size of the image in the IHDR chunk and IEND trailer are right (PNG specification, 5 and 11.2)."""
    whole = (tf.strings.substr(files, 0, 8) == _PNG_SIGNATURE) & (
        tf.strings.substr(files, -len(_PNG_END), len(_PNG_END)) == _PNG_END
    )
    sizes = tf.io.decode_raw(tf.strings.substr(files, 16, 8), tf.int32, little_endian=False)
    sizes = tf.reshape(sizes, [-1, 2])  # decode_raw makes [0, 0] of no files
    return whole & _fit(sizes[:, 0], sizes[:, 1])


def _png_kinds(pngs: tf.Tensor) -> tf.Tensor:
    """Kinds of PNGs by their colour type and their tRNS chunk, which makes some colours transparent."""
    colour_types = tf.strings.substr(pngs, 25, 1)
    # It would lie before IDAT, which mostly comes first: then the file need not be searched.
    searched = tf.where(tf.strings.substr(pngs, 37, 4) == b"IDAT", b"", pngs)
    transparent = tf.strings.regex_full_match(searched, r"\C*tRNS\C*")
    transparent |= (colour_types == b"\4") | (colour_types == b"\6")  # with an alpha channel
    return tf.where(transparent, _TRANSPARENT_PNG, tf.where(colour_types == b"\0", _GREY_PNG, _OPAQUE_PNG))


def _are_whole_jpegs(files: tf.Tensor) -> tf.Tensor:
    """Whether each starts with SOI, ends with EOI, and has a frame header that can be decoded (ITU T.81, annex B).

    Of CMYK, lossless and 12-bit JPEGs TensorFlow makes an error, which would fail the whole batch.
    """
    whole = (tf.strings.substr(files, 0, 3) == b"\xff\xd8\xff") & (tf.strings.substr(files, -2, 2) == b"\xff\xd9")
    lengths = tf.strings.length(files)

    def four_bytes(at: tf.Tensor) -> list[tf.Tensor]:
        found = tf.io.decode_raw(tf.strings.substr(files, at, tf.fill(tf.shape(at), 4)), tf.uint8)
        return tf.unstack(tf.cast(tf.ensure_shape(found, [None, 4]), tf.int32), axis=1)

    def headers_are_right() -> tf.Tensor:
        # From segment to segment, in all files at once.
        def next_segment(at: tf.Tensor, searching: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # A file whose segment claims to end beyond it is done with, but substr would fail there while others go on.
            start, marker, high, low = four_bytes(tf.minimum(at, lengths - 10))
            searching &= (start == 0xFF) & ~tf.gather(_IS_FRAME_HEADER, marker)
            # A fill byte (FF before the marker's own FF) is one byte long, a segment as long as it says.
            behind = tf.where(marker == 0xFF, at + 1, at + 2 + high * 256 + low)
            at = tf.where(searching, behind, at)
            return at, searching & (at + 10 <= lengths)

        at, _ = tf.while_loop(
            lambda _, searching: tf.reduce_any(searching), next_segment, (tf.fill(tf.shape(lengths), 2), whole)
        )
        inside = at + 10 <= lengths
        at = tf.minimum(at, lengths - 10)
        start, marker, _, _ = four_bytes(at)
        precision, height_high, height_low, width_high = four_bytes(at + 4)
        _, _, width_low, components = four_bytes(at + 6)
        found = inside & (start == 0xFF) & tf.gather(_IS_DECODED, marker)
        found &= (precision == 8) & ((components == 1) | (components == 3))
        return found & _fit(width_high * 256 + width_low, height_high * 256 + height_low)

    return whole & tf.cond(tf.reduce_any(whole), headers_are_right, lambda: whole)


def _grey(colours: tf.Tensor) -> tf.Tensor:
    """Grey float32 [h, w] of uint8 [h, w, 3 or 4], ITU-R BT.601 as JPEG's own."""
    # Planes, since TensorFlow is slow where the innermost dimension is that short.
    red, green, blue, *_ = tf.unstack(tf.cast(colours, tf.float32), axis=-1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _decode_transparent(data: tf.Tensor) -> tf.Tensor:
    """Grey float32 [h, w, 1] of a PNG whose transparent pixels show white paper."""
    colours = tf.io.decode_png(data, channels=4)
    opacity = tf.cast(colours[..., 3], tf.float32) / 255.0
    return (255.0 + (_grey(colours) - 255.0) * opacity)[..., tf.newaxis]


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Grey float32 [h, w, 1] in 0..255."""
    return tf.cast(
        tf.io.decode_jpeg(data, channels=1, dct_method="INTEGER_ACCURATE", try_recover_truncated=True), tf.float32
    )
