"""Statistics of batch normalisation for images as they are."""

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.clean_statistics import BATCHES, move_statistics
from components.trainer.model import build
from tests.components.toy import SMALL


@pytest.mark.parametrize("share, frozen, softening", [(1.0, False, 0.0), (0.5, False, 0.25), (1.0, True, 0.0)])
def test_statistics_move_to_those_of_the_images(share, frozen, softening):
    model = build(SMALL.model_copy(update={"softening": softening}), 4, 32)
    first = model.stages[0]
    first.trainable = not frozen
    first.normalisation.moving_mean.assign(tf.fill(first.normalisation.moving_mean.shape, 3.0))
    images = tf.constant(np.random.default_rng(1).random((2, 32, 64, 1)), tf.float32)
    inputs = {"images": images, "widths": tf.constant([64, 64])}
    move_statistics(model, tf.data.Dataset.from_tensors((inputs, tf.zeros([2, 1]))).repeat(BATCHES), share)
    soft = tf.nn.conv2d(
        images, tf.constant([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[..., None, None] / 16, 1, "SAME"
    )
    seen = first.convolution(soft if softening else images)
    mean, variance = (moment.numpy() for moment in tf.nn.moments(seen, [0, 1, 2]))
    expected = np.full_like(mean, 3.0) if frozen else share * mean + (1 - share) * 3.0
    np.testing.assert_allclose(first.normalisation.moving_mean.numpy(), expected, atol=0.03)
    expected = np.ones_like(mean) if frozen else share * variance + (1 - share)
    np.testing.assert_allclose(first.normalisation.moving_variance.numpy(), expected, atol=0.01)
