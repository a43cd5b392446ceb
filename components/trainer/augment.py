"""Random distortions of training pictures, on whole batches: other hands, pens and scanners than those in the data."""

from __future__ import annotations

import tensorflow as tf


def distort(images: tf.Tensor, widths: tf.Tensor, narrowest: tf.Tensor, strength: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Distorts a batch.

    Args:
        images: float32 [N, H, W, 1], ink 1, paper 0.
        widths: int32 [N], columns without padding.
        narrowest: int32 [N], columns that a label needs; no picture is scaled below.
        strength: factor of all ranges; 0 changes nothing.

    Returns:
        Images of the same shape, and their widths: horizontal scaling changes them.
    """
    images, widths = _affine(images, widths, narrowest, strength)
    images = _stroke(images, strength)
    return _levels(images, strength), widths


def _uniform(n: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return tf.random.uniform([n], low, high)


def _affine(images: tf.Tensor, widths: tf.Tensor, narrowest: tf.Tensor, strength: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Slant, rotation, scale and shift; ink never leaves the tensor to the right."""
    shape = tf.shape(images)
    n, height, width = shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    valid = tf.cast(widths, tf.float32)
    # Where the picture fills the tensor it can only be narrowed.
    scale_x = tf.maximum(
        1.0 + strength * _uniform(n, -0.2, 0.15), tf.cast(narrowest, tf.float32) / tf.maximum(valid, 1.0)
    )
    scale_x = tf.minimum(scale_x, width / tf.maximum(valid, 1.0))
    scale_y = 1.0 + strength * _uniform(n, -0.2, 0.05)
    slant, turn = strength * _uniform(n, -0.3, 0.3), strength * _uniform(n, -0.03, 0.03)
    shift_y = strength * _uniform(n, -0.07, 0.07) * height
    # The operation wants output -> input: in = centre + A (out - centre'), rows keep their order.
    a0, a1 = 1.0 / scale_x, slant
    b0, b1 = turn, 1.0 / scale_y
    centre = height / 2.0
    zero = tf.zeros([n])
    a2 = -a1 * centre
    b2 = centre - b1 * (centre + shift_y) - b0 * valid * scale_x / 2.0
    transforms = tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=transforms, output_shape=shape[1:3], fill_value=0.0,
        interpolation="BILINEAR", fill_mode="CONSTANT",
    )  # fmt: skip
    new_widths = tf.cast(tf.math.ceil(valid * scale_x), tf.int32)
    return moved, tf.where(widths > 0, tf.clip_by_value(new_widths, 1, shape[2]), 0)


def _stroke(images: tf.Tensor, strength: float) -> tf.Tensor:
    """Thicker or thinner strokes: a mixture with the grey dilation or erosion over 3 x 3 pixels."""
    n = tf.shape(images)[0]
    amount = strength * _uniform(n, -0.5, 0.6)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    thick = tf.nn.max_pool2d(images, 3, 1, "SAME")
    thin = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.maximum(amount, 0.0) * (thick - images) + tf.maximum(-amount, 0.0) * (thin - images)


def _levels(images: tf.Tensor, strength: float) -> tf.Tensor:
    """Fainter ink, gamma, and noise."""
    n = tf.shape(images)[0]

    def each(low: float, high: float) -> tf.Tensor:
        return strength * _uniform(n, low, high)[:, tf.newaxis, tf.newaxis, tf.newaxis]

    images = (1.0 + each(-0.3, 0.0)) * tf.pow(tf.clip_by_value(images, 0.0, 1.0), tf.exp(each(-0.3, 0.3)))
    return tf.clip_by_value(images + each(0.0, 0.06) * tf.random.normal(tf.shape(images)), 0.0, 1.0)
