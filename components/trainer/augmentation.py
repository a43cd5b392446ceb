"""Random augmentation of training images, on whole batches: other writers, pens and scanners than those in the data.

Everything follows from a seed (stateless random numbers), whatever the number of threads and wherever training resumes.
"""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf

_CUTOUTS = 3  # rectangles of an image


class _Random:
    """Random tensors that follow from a seed int64 [2] and the order of the calls."""

    def __init__(self, seed: tf.Tensor):
        self._seed, self._calls = seed, 0

    def _next(self) -> tf.Tensor:
        self._calls += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._calls)

    def uniform(self, shape: list[int | tf.Tensor], low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, self._next(), low, high)

    def normal(self, shape: list[int | tf.Tensor]) -> tf.Tensor:
        return tf.random.stateless_normal(shape, self._next())


def augment_batch(
    images: tf.Tensor,
    widths: tf.Tensor,
    narrowest: tf.Tensor,
    strength: float,
    kinds: Collection[str],
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augments a batch.

    Args:
        images: float32 [N, H, W, 1], ink 1, paper 0.
        widths: int32 [N], columns without padding.
        narrowest: int32 [N], columns that a label needs; no image is scaled below.
        strength: Factor of all ranges; 0 changes nothing.
        kinds: Kinds that are used, of `settings.Augmentation`; their order does not count.
        seed: int64 [2], another one for each batch.

    Returns:
        Images of the same shape, and their widths: horizontal scaling changes them.
    """
    random = _Random(seed)
    if "affine" in kinds or "elastic" in kinds:
        affine, elastic = strength * ("affine" in kinds), strength * ("elastic" in kinds)
        images, widths = _warp(images, widths, narrowest, affine, elastic, random)
    for kind, change in _IN_PLACE.items():
        if kind in kinds:
            images = change(images, widths, strength, random)
    return images, widths


def _warp(
    images: tf.Tensor, widths: tf.Tensor, narrowest: tf.Tensor, affine: float, elastic: float, random: _Random
) -> tuple[tf.Tensor, tf.Tensor]:
    """Slant, rotation, scale, shift and a smooth random field in one resampling; no ink leaves to the right."""
    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)

    def each(low: float, high: float) -> tf.Tensor:
        return affine * random.uniform([shape[0], 1, 1], low, high)

    valid = tf.maximum(tf.cast(widths, tf.float32), 1.0)[:, tf.newaxis, tf.newaxis]
    scale_y = tf.exp(each(-0.4, 0.1))
    # Never narrower than its label needs; where the image fills the tensor it can only become narrower.
    scale_x = tf.maximum(scale_y * tf.exp(each(-0.15, 0.15)), tf.cast(narrowest, tf.float32)[:, None, None] / valid)
    scale_x = tf.minimum(scale_x, width / valid)
    # A smaller image may lie anywhere in the free rows.
    shift = each(-1.0, 1.0) * (0.05 + 0.5 * tf.maximum(1.0 - scale_y, 0.0)) * height
    slant, turn = each(-0.4, 0.4), each(-0.03, 0.03)

    x = tf.range(width)[tf.newaxis, tf.newaxis, :] - scale_x * valid / 2.0
    y = tf.range(height)[tf.newaxis, :, tf.newaxis] - height / 2.0
    source_x = x / scale_x + slant * y + valid / 2.0
    source_y = (y - shift) / scale_y + turn * x + height / 2.0
    if elastic:
        field = elastic * 0.04 * height * _smooth_field(shape, random)
        source_x, source_y = source_x + field[..., 0], source_y + field[..., 1]
    new_widths = tf.cast(tf.math.ceil(valid * scale_x), tf.int32)[:, 0, 0]
    return _sample(images, source_x, source_y), tf.where(widths > 0, tf.clip_by_value(new_widths, 1, shape[2]), 0)


def _smooth_field(shape: tf.Tensor, random: _Random) -> tf.Tensor:
    """Two components of smooth noise for images of shape [N, H, W, 1]: float32 [N, H, W, 2].

    Cubic B-splines over normal noise at knots half an image's height apart; about as wide as a letter.
    """
    spacing = tf.cast(shape[1], tf.float32) / 2.0

    def basis(length: tf.Tensor) -> tf.Tensor:
        positions = tf.range(tf.cast(length, tf.float32)) / spacing
        knots = tf.range(-1.0, tf.math.ceil(tf.cast(length, tf.float32) / spacing) + 2.0)
        d = tf.abs(positions[:, tf.newaxis] - knots[tf.newaxis, :])
        return tf.where(d < 1.0, 2.0 / 3.0 - d**2 + d**3 / 2.0, tf.maximum(2.0 - d, 0.0) ** 3 / 6.0)

    rows, columns = basis(shape[1]), basis(shape[2])
    noise = random.normal([shape[0], tf.shape(rows)[1], tf.shape(columns)[1], 2])
    return tf.einsum("hk,nklc,wl->nhwc", rows, noise, columns, optimize="optimal")


def _sample(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Bilinear samples of images [N, H, W, 1] at coordinates [N, H, W]; paper outside."""
    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    flat = tf.reshape(tf.pad(images[..., 0], [[0, 0], [1, 2], [1, 2]]), [-1])
    stride = shape[2] + 3
    x, y = tf.clip_by_value(x, -1.0, width) + 1.0, tf.clip_by_value(y, -1.0, height) + 1.0
    left, top = tf.floor(x), tf.floor(y)
    start = tf.range(shape[0])[:, tf.newaxis, tf.newaxis] * (stride * (shape[1] + 3))
    index = start + tf.cast(top, tf.int32) * stride + tf.cast(left, tf.int32)

    def row(offset: tf.Tensor | int) -> tf.Tensor:
        a, b = tf.gather(flat, index + offset), tf.gather(flat, index + offset + 1)
        return a + (x - left) * (b - a)

    upper = row(0)
    return (upper + (y - top) * (row(stride) - upper))[..., tf.newaxis]


def _neighbours(images: tf.Tensor, widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Strokes of a line above and one below, which are other images of the batch: lines of a page are cut with them."""
    shape = tf.shape(images)
    height = tf.cast(shape[1], tf.float32)
    columns = tf.sequence_mask(widths, shape[2], images.dtype)[:, tf.newaxis, :, tf.newaxis]
    for direction, others in ((-1.0, tf.reverse(images, [0])), (1.0, tf.roll(images, 1, 0))):
        distance = random.uniform([shape[0], 1], 0.6, 1.0) * height
        there = random.uniform([shape[0], 1], 0.0, 1.0) < 0.4 * strength
        rows = tf.range(shape[1])[tf.newaxis, :] - tf.cast(direction * distance, tf.int32)
        seen = there & (rows >= 0) & (rows < shape[1])
        moved = tf.gather(others, tf.clip_by_value(rows, 0, shape[1] - 1), axis=1, batch_dims=1)
        images = tf.maximum(images, moved * columns * tf.cast(seen, images.dtype)[..., tf.newaxis, tf.newaxis])
    return images


def _stroke(images: tf.Tensor, _widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Thicker or thinner strokes: a mixture with the grey dilation or erosion over 3 x 3 pixels."""
    amount = strength * random.uniform([tf.shape(images)[0], 1, 1, 1], -0.5, 0.6)
    # Erosion is the dilation of the negative.
    sign = tf.where(amount < 0.0, -1.0, 1.0)
    # More than the whole of it would lead out of the range of an image.
    return images + tf.minimum(tf.abs(amount), 1.0) * (sign * tf.nn.max_pool2d(sign * images, 3, 1, "SAME") - images)


def _contrast(images: tf.Tensor, _widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Fainter ink, and half-tones darker or lighter."""
    ink = 1.0 + strength * random.uniform([tf.shape(images)[0], 1, 1, 1], -0.3, 0.0)
    bend = tf.clip_by_value(strength * random.uniform([tf.shape(images)[0], 1, 1, 1], -0.5, 0.5), -1.0, 1.0)
    return tf.clip_by_value(ink, 0.1, 1.0) * (images + bend * images * (1.0 - images))


def _cutout(images: tf.Tensor, widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Papers over small rectangles (DeVries & Taylor 2017): broken strokes and worn paper."""
    shape = tf.shape(images)
    height = tf.cast(shape[1], tf.float32)

    def each(low: float, high: float) -> tf.Tensor:
        return random.uniform([shape[0], _CUTOUTS, 1, 1], low, high)

    x = tf.range(tf.cast(shape[2], tf.float32))[tf.newaxis, tf.newaxis, tf.newaxis, :]
    y = tf.range(height)[tf.newaxis, tf.newaxis, :, tf.newaxis]
    centre_x = each(0.0, 1.0) * tf.cast(widths, tf.float32)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    half_x, half_y = strength * each(0.0, 0.1) * height, strength * each(0.0, 0.2) * height
    inside = (tf.abs(x - centre_x) < half_x) & (tf.abs(y - each(0.0, 1.0) * height) < half_y)
    return images * tf.cast(~tf.reduce_any(inside, axis=1), images.dtype)[..., tf.newaxis]


def _noise(images: tf.Tensor, _widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Grain of paper and scanner."""
    amount = strength * random.uniform([tf.shape(images)[0], 1, 1, 1], 0.0, 0.1)
    return tf.clip_by_value(images + amount * random.uniform(tf.unstack(tf.shape(images)), -1.0, 1.0), 0.0, 1.0)


def _sharpness(images: tf.Tensor, _widths: tf.Tensor, strength: float, random: _Random) -> tf.Tensor:
    """Softer or sharper edges: a mixture with the binomial mean over 3 x 3 pixels, or away from it.

    Warping interpolates, so that without this a network sees no image in training that is as sharp as a scan.
    """
    amount = strength * random.uniform([tf.shape(images)[0], 1, 1, 1], -1.0, 1.0)
    mean = tf.constant([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[:, :, tf.newaxis, tf.newaxis] / 16.0
    soft = tf.nn.conv2d(images, mean, 1, "SAME")
    return tf.clip_by_value(images + tf.minimum(amount, 1.0) * (soft - images), 0.0, 1.0)


# The kinds that leave all ink where it is. Random numbers follow from the order, so a new kind goes to the end.
_IN_PLACE = {
    "neighbours": _neighbours, "stroke": _stroke, "contrast": _contrast, "cutout": _cutout, "noise": _noise,
    "sharpness": _sharpness,
}  # fmt: skip
