"""From a grey page to the network's input, in TensorFlow operations: the same in training, validation and service."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from components.line_finder.settings import COARSEST, STRIDE, LineFinderConfig

_BLOCK = 16  # pixels: local statistics are those of 3 x 3 blocks
_NOISE = 10.0  # grey levels: an empty page must not become noise


def scaled_ink(grey: tf.Tensor, config: LineFinderConfig) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Scales a page and turns it into the network's input.

    Args:
        grey: float32 [h, w, 1] in 0..255.
        config: Size of pages.

    Returns:
        Ink float32 [1, H, W, 1], padded to the network's multiples with 0, positive where the page is written on, be it
        black on white or white on black; the cells of the maps that the page covers int32 [2], rows and columns;
        cells for a pixel of the page float32 [].
    """
    size = tf.cast(tf.shape(grey)[:2], tf.float32)
    zoom = tf.minimum(config.longest / tf.reduce_max(size), config.largest_scale)
    scaled = tf.maximum(tf.cast(tf.round(size * zoom), tf.int32), 1)
    ink = local_ink(tf.image.resize(grey, scaled, antialias=True)[tf.newaxis])
    ink = tf.where(is_dark_paper(ink), -ink, ink)
    padding = -scaled % COARSEST
    ink = tf.pad(ink, [[0, 0], [0, padding[0]], [0, padding[1]], [0, 0]])
    return ink, -(-scaled // STRIDE), zoom / STRIDE


def on_light_paper(grey: np.ndarray) -> np.ndarray:
    """A page as it is where its writing is dark, else its negative; `scaled_ink` decides so, too.

    Args:
        grey: uint8 [h, w].
    """
    ink = local_ink(tf.cast(grey[np.newaxis, ..., np.newaxis], tf.float32))
    return 255 - grey if is_dark_paper(ink)[0] else grey


def local_ink(grey: tf.Tensor) -> tf.Tensor:
    """How much darker each pixel is than its surroundings, in units of what is usual there.

    Uneven light, faint ink and dark borders look alike afterwards; the network has to learn neither.

    Args:
        grey: float32 [N, H, W, 1] in 0..255.

    Returns:
        float32 [N, H, W, 1], -2 to 2; 0 for even paper.
    """
    mean = _local_mean(grey)
    darker = mean - grey
    deviation = tf.sqrt(_local_mean(tf.square(darker)))
    return tf.clip_by_value(darker / (2.0 * deviation + _NOISE), -2.0, 2.0)


def _local_mean(values: tf.Tensor) -> tf.Tensor:
    """Mean over some three blocks in each direction, interpolated between the blocks."""
    blocks = tf.nn.avg_pool2d(values, _BLOCK, _BLOCK, "SAME")  # which leaves the padding out
    blocks = tf.nn.avg_pool2d(blocks, 3, 1, "SAME")
    shape = tf.shape(values)
    # On whole blocks first: the last one may be a part only.
    full = tf.image.resize(blocks, tf.shape(blocks)[1:3] * _BLOCK)
    return full[:, : shape[1], : shape[2]]


def is_dark_paper(ink: tf.Tensor) -> tf.Tensor:
    """Whether pages are white on black: thin strokes stand out from what is around them, to one side.

    Args:
        ink: float32 [N, H, W, 1] from `local_ink`.

    Returns:
        Boolean [N].
    """
    return tf.reduce_mean(ink**3, axis=[1, 2, 3]) < 0.0
