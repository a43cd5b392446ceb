"""Statistics of batch normalisation for images as they are, after a training on augmented ones."""

from __future__ import annotations

import tensorflow as tf

from components.trainer.model import Recogniser, softened

BATCHES = 100  # the moving statistics forget what they were before within these


def move_statistics(model: Recogniser, images: tf.data.Dataset, share: float) -> None:
    """Moves the statistics of batch normalisation towards those of images as the network transcribes them.

    Training normalises augmented images, which are softer and smaller than those that are transcribed later. Networks
    gain where their statistics fit what comes (Touvron et al. 2019, arXiv 1906.06423). Layers that are frozen keep
    theirs.

    Args:
        model: The network.
        images: Batches of training images without augmentation: inputs and labels, as of `input_pipeline.batches`.
            They are softened as `Recogniser` softens what is not augmented.
        share: Weight of their statistics against those that the network has.
    """
    normalisations = [stage.normalisation for stage in model.stages]
    before = [(one.moving_mean.numpy(), one.moving_variance.numpy()) for one in normalisations]

    kernel = softened(tf.ones([1, 1, 1, 1]), model.softening)

    def take_in(inputs: dict[str, tf.Tensor]) -> None:
        soft = tf.nn.conv2d(inputs["images"], kernel, 1, "SAME")
        model.features(soft, tf.sequence_mask(inputs["widths"], tf.shape(soft)[2]), training=True)

    traced = tf.function(take_in, input_signature=[images.element_spec[0]], autograph=False)
    for inputs, _ in images:
        traced(inputs)
    for one, (mean, variance) in zip(normalisations, before, strict=True):
        one.moving_mean.assign((1.0 - share) * mean + share * one.moving_mean.numpy())
        one.moving_variance.assign((1.0 - share) * variance + share * one.moving_variance.numpy())
