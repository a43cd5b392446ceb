"""Images of a batch side by side: as if each were alone, and no wider than it takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from components.trainer.model import build
from components.trainer.strip import side_by_side
from tests.components.toy import SMALL

WIDTHS = st.lists(st.integers(0, 96), min_size=1, max_size=9)


def padded(widths):
    """Ink in every column of each image, and no paper at its edges; and the tensor's width is in whole frames."""
    random = np.random.default_rng(len(widths))
    images = np.zeros((len(widths), 32, -(-max([1, *widths]) // 4) * 4, 1), "float32")
    for image, width in zip(images, widths, strict=True):
        image[:, :width] = random.random((32, width, 1)) + 0.5
    return images


@pytest.fixture(scope="module")
def networks():
    """As images are, and with softening, for which a convolution sees furthest."""
    keras.utils.set_random_seed(3)
    kinds = [build(SMALL.model_copy(update={"softening": softening}), 5, 32) for softening in (0.0, 0.2)]
    for kind in kinds:
        for variable in kind.variables:
            if "beta" in variable.path:  # so that padding would not stay empty by itself
                variable.assign(np.random.default_rng(1).uniform(0.1, 1.0, variable.shape))
    return kinds


@given(widths=WIDTHS)
@example(widths=[96, 1, 1, 1, 1])
@example(widths=[0, 0, 0])
@example(widths=[0, 96, 3, 0])
def test_every_image_has_the_features_that_it_has_alone(networks, widths):
    images = padded(widths)
    for network in networks:
        strip = side_by_side(tf.constant(images), tf.constant(widths, tf.int32))
        together = strip.by_image(network.features(strip.images, strip.valid)).numpy()
        assert strip.frames.numpy().tolist() == [-(-width // 4) for width in widths]
        assert len(together) == max([1, *strip.frames.numpy()])
        for number, width in enumerate(widths):
            own = -(-width // 4)
            if own:
                alone = network.features(images[number : number + 1, :, : 4 * own], np.arange(4 * own)[None] < width)
                np.testing.assert_allclose(together[:own, number], alone[0], atol=1e-5)


@given(widths=WIDTHS)
def test_a_strip_holds_every_column_once_and_little_else(widths):
    images = padded(widths)
    strip = side_by_side(tf.constant(images), tf.constant(widths, tf.int32))
    ink = strip.images.numpy()[..., 0].transpose(0, 2, 1)[strip.valid.numpy()]
    own = [image[:, :width, 0].T for image, width in zip(images, widths, strict=True)]
    np.testing.assert_array_equal(ink, np.concatenate(own))
    assert np.count_nonzero(strip.images) == ink.size
    columns, needed = strip.valid.numpy().size, sum(-(-width // 4) * 4 + 4 for width in widths) - 4
    assert columns <= images.shape[0] * images.shape[2]
    assert len(widths) == 1 or columns * 0.95 <= max(needed * 17 / 16, needed + 12)


def test_strips_have_few_widths():
    """TensorFlow prepares its convolutions for each."""
    images = tf.zeros([5, 1, 400, 1])
    strips = [side_by_side(images, tf.constant([200, 200, 200, 4, width])) for width in range(4, 401, 4)]
    assert all(strip.images.shape[0] == 1 for strip in strips)
    assert len({strip.images.shape[2] for strip in strips}) <= 13


@pytest.mark.parametrize("widths", [[40], [96, 96, 96], [96, 92, 94]])
def test_images_that_are_about_as_wide_stay_where_they_are(widths):
    images = padded(widths)
    strip = side_by_side(tf.constant(images), tf.constant(widths))
    np.testing.assert_array_equal(strip.images, images)
