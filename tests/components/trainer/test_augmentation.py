"""Random augmentation of training images: what each kind changes, and what it leaves alone."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.augmentation import augment_batch
from components.trainer.settings import Augmentation
from tests.conftest import drawn_image

KINDS = list(get_args(Augmentation))


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("kinds", [[kind] for kind in KINDS] + [KINDS], ids=lambda kinds: "+".join(kinds))
def test_augmentation_keeps_shape_range_and_room_for_the_label(kinds, strength):
    images = np.stack([1 - drawn_image(128, 32, seed)[..., None] / 255 for seed in range(8)]).astype("float32")
    widths, narrowest = tf.constant([128, 100, 60, 20, 128, 128, 0, 128]), tf.constant([128, 90, 40, 20, 4, 4, 0, 4])
    seed = tf.constant([1, 2], tf.int64)
    moved, new_widths = augment_batch(images, widths, narrowest, strength, kinds, seed)
    assert moved.shape == images.shape
    assert float(tf.reduce_max(tf.abs(moved - images))) > 0.05
    assert float(tf.reduce_min(moved)) >= 0 and float(tf.reduce_max(moved)) <= 1.0001
    assert (new_widths.numpy() >= np.minimum(narrowest, widths)).all() and (new_widths.numpy() <= 128).all()
    assert int(new_widths[6]) == 0
    again, _ = augment_batch(images, widths, narrowest, strength, kinds, seed)
    np.testing.assert_array_equal(moved, again)
    in_other_order, _ = augment_batch(images, widths, narrowest, strength, kinds[::-1], seed)
    np.testing.assert_array_equal(moved, in_other_order)
    other, _ = augment_batch(images, widths, narrowest, strength, kinds, seed + 1)
    assert float(tf.reduce_max(tf.abs(moved - other))) > 0.01
    same, same_widths = augment_batch(images, widths, narrowest, 0.0, kinds, seed)
    np.testing.assert_allclose(same, images, atol=1e-5)
    assert same_widths.numpy().tolist() == widths.numpy().tolist()


def test_some_edges_become_softer_and_others_sharper():
    images = np.zeros((64, 20, 20, 1), np.float32)
    images[:, 8:12, 5:15] = 0.6
    widths = tf.constant([20] * 64)
    moved, _ = augment_batch(images, widths, widths, 1.0, ["sharpness"], tf.constant([1, 2], tf.int64))
    inside, outside = moved.numpy()[:, 8, 10, 0], moved.numpy()[:, 7, 10, 0]
    softer = (inside < 0.55) & (outside > 0.05)
    sharper = (inside > 0.65) & (outside == 0)
    assert softer.sum() > 16 and sharper.sum() > 16
    np.testing.assert_allclose(moved[:, :6], 0.0)


def test_neighbours_leave_the_middle_and_the_padding_alone():
    """Their strokes come from the other images of the batch, above and below, never into the middle of a line."""
    images = np.zeros((64, 40, 30, 1), np.float32)
    images[1::2, :, :20] = 1  # every other line is all ink, and a neighbour of two blank ones
    moved, widths = augment_batch(
        images, tf.constant([20] * 64), tf.constant([1] * 64), 1.0, ["neighbours"], tf.constant([1, 2], tf.int64)
    )
    assert widths.numpy().tolist() == [20] * 64
    inked = moved.numpy()[::2, ..., 0] > 0
    assert not inked[:, 16:24].any() and not inked[:, :, 20:].any()
    above, below = inked[:, 0].all(1, where=np.arange(30) < 20), inked[:, -1].all(1, where=np.arange(30) < 20)
    assert all(4 < count < 28 for count in (above.sum(), below.sum(), (above ^ below).sum()))
