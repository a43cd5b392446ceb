"""The images of a batch side by side: padding narrow ones to the widest would take time, too."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from htr_client.model_facts import COLUMNS_PER_FRAME


class Strip(NamedTuple):
    """Images beside each other with an empty frame between two, or below each other where they are about as wide.

    An empty frame is as far as the network's convolutions see, so each image has the features that it would have alone.

    Attributes:
        images: float32 [R, H, S, 1] with R = 1 or N, 0 where no image is.
        valid: Columns that are an image's own, bool [R, S].
        frames: Frames of each image, int32 [N].
        starts: The first of them among all R * S / 4, int32 [N].
    """

    images: tf.Tensor
    valid: tf.Tensor
    frames: tf.Tensor
    starts: tf.Tensor

    def by_image(self, features: tf.Tensor) -> tf.Tensor:
        """Features of all frames [R, S / 4, D] by image: [T, N, D]. T is the most frames of one, 1 at least.

        Behind an image's own frames are those of others.
        """
        frame = tf.range(tf.maximum(tf.reduce_max(self.frames), 1))[:, tf.newaxis] + self.starts
        features = tf.reshape(features, [-1, features.shape[2]])
        return tf.gather(features, tf.minimum(frame, tf.shape(features)[0] - 1))


def side_by_side(images: tf.Tensor, widths: tf.Tensor) -> Strip:
    """Puts a batch into a strip, unless the padded batch is hardly larger.

    TensorFlow prepares its convolutions for each new width, which for a line takes a sixth of the time of the network:
    widths of strips are rounded up, to multiples of 16 columns or by 6 % at most.

    Args:
        images: float32 [N, H, W, 1], 0 right of an image's own columns. W is a multiple of 4.
        widths: Columns of each image, int32 [N].
    """
    number, columns = tf.shape(images)[0], tf.shape(images)[2]
    frames, most = -(-widths // COLUMNS_PER_FRAME), columns // COLUMNS_PER_FRAME

    def below() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return images, tf.sequence_mask(widths, columns), tf.range(number) * most

    def beside() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        ends = tf.cumsum(frames + 1) - 1
        length, starts = _rounded_up(ends[-1]), ends - frames

        def strip() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            frame = tf.range(length)
            image = tf.minimum(tf.searchsorted(ends, frame), number - 1)
            column = (frame - tf.gather(starts, image))[:, tf.newaxis] * COLUMNS_PER_FRAME + tf.range(COLUMNS_PER_FRAME)
            valid = column < tf.gather(widths, image)[:, tf.newaxis]
            by_column = tf.reshape(tf.transpose(images, [0, 2, 1, 3]), [-1, images.shape[1]])
            ink = tf.gather(by_column, tf.where(valid, image[:, tf.newaxis] * columns + column, 0))
            ink = tf.transpose(tf.reshape(tf.where(valid[..., tf.newaxis], ink, 0.0), [-1, images.shape[1]]))
            return ink[tf.newaxis, :, :, tf.newaxis], tf.reshape(valid, [1, -1]), starts

        return tf.cond(20 * length < 19 * number * most, strip, below)

    laid, valid, starts = tf.cond(number > 1, beside, below)
    return Strip(tf.ensure_shape(laid, [None, images.shape[1], None, 1]), valid, frames, starts)


def _rounded_up(frames: tf.Tensor) -> tf.Tensor:
    """The next multiple of 4, from 128 on of 8, from 256 on of 16, and so on."""
    steps = tf.constant([4 * 2**n for n in range(16)])
    step = steps[tf.searchsorted(32 * steps, frames[tf.newaxis], side="right")[0]]
    return -(-frames // step) * step
