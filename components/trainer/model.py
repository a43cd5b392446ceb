"""The network: convolutions over the picture, recurrent layers over its columns, a class per frame for CTC."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.transform.geometry import COLUMNS_PER_FRAME
from pipeline.config import ModelConfig


class FusedBatchNormalization(keras.layers.Layer):
    """Batch normalisation over [N, H, W, D] in TensorFlow's one fused operation (cuDNN on GPUs).

    Keras 3 computes the same from single operations, which takes a third of the time of a training step on CPUs.
    """

    def __init__(self, momentum: float = 0.95, epsilon: float = 1e-3, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for D channels, float32 under every precision policy."""

        def weight(name: str, initial: str, trainable: bool) -> keras.Variable:
            return self.add_weight(
                shape=(shape[-1],), initializer=initial, trainable=trainable, name=name, dtype="float32", autocast=False
            )

        self.gamma, self.beta = weight("gamma", "ones", True), weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises with the statistics of the batch in training, with the moving ones otherwise."""
        if not training:
            y, _, _ = tf.compat.v1.nn.fused_batch_norm(
                x, self.gamma.value, self.beta.value, self.moving_mean.value, self.moving_variance.value,
                epsilon=self.epsilon, is_training=False,
            )  # fmt: skip
            return y
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1.0 - self.momentum) * batch)
        return y


class ConvolutionStage(keras.layers.Layer):
    """3 x 3 convolution, batch normalisation, ReLU, max-pooling; columns right of a picture's width stay zero.

    Without the mask, biases would fill the padding and leak back over the edge, so that a picture's result would
    depend on the widths of its neighbours in the batch.
    """

    def __init__(self, filters: int, pool: tuple[int, int], **kwargs: Any):
        super().__init__(**kwargs)
        self.pool_rows, self.pool_columns = pool
        self.convolution = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.normalisation = FusedBatchNormalization()

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for input [N, H, W, D]."""
        self.convolution.build(shape)
        self.normalisation.build((*shape[:3], self.convolution.filters))

    def call(self, x: tf.Tensor, widths: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Features [N, H, W, D] and valid widths int32 [N] to those of the next stage."""
        x = tf.nn.relu(self.normalisation(self.convolution(x), training=training))
        pool = (self.pool_rows, self.pool_columns)
        if max(pool) > 1:
            x = tf.nn.max_pool2d(x, pool, pool, "VALID")
        # Rounded up like the frames, though pooling drops an odd last column: `decode_batch` pads to whole frames.
        widths = -(-widths // self.pool_columns)
        mask = tf.sequence_mask(widths, tf.shape(x)[2], dtype=x.dtype)
        return x * mask[:, tf.newaxis, :, tf.newaxis], widths


class BidirectionalLSTM(keras.layers.Layer):
    """LSTMs in both directions over the valid frames of each row.

    The backward one reads each row reversed up to its own length instead of a masked batch: the result does not
    depend on the padding, and both layers stay within what cuDNN computes.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.forward = keras.layers.LSTM(units, return_sequences=True)
        self.backward = keras.layers.LSTM(units, return_sequences=True)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for input [N, T, D]."""
        self.forward.build(shape)
        self.backward.build(shape)

    def call(self, x: tf.Tensor, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features [N, T, D] and valid frames int32 [N] to [N, T, 2 * units]."""
        reverse = tf.reverse_sequence(x, frames, seq_axis=1)
        backward = tf.reverse_sequence(self.backward(reverse, training=training), frames, seq_axis=1)
        return tf.concat([self.forward(x, training=training), backward], axis=-1)


class Recogniser(keras.Model):
    """CNN - BiLSTM - CTC (Shi et al. 2015, arXiv 1507.05717), with a maximum over each column of the last
    convolution instead of the concatenation of its rows (Retsinas et al. 2022, arXiv 2404.11339).
    """  # noqa: D205

    def __init__(self, config: ModelConfig, classes: int, **kwargs: Any):
        """Creates the layers.

        Args:
            config: their sizes.
            classes: C, characters of the alphabet plus the blank, which is the last class.
            **kwargs: for keras.Model.
        """
        super().__init__(**kwargs)
        last = len(config.filters) - 1
        pools = [(2, 2) if i < 2 else (2, 1) if i < last else (1, 1) for i in range(last + 1)]
        self.stages = [ConvolutionStage(f, p) for f, p in zip(config.filters, pools, strict=True)]
        self.recurrent = [BidirectionalLSTM(config.recurrent_units) for _ in range(config.recurrent_layers)]
        self.dropout = keras.layers.Dropout(config.dropout)
        # float32 also under mixed precision: the loss needs it.
        self.classes = keras.layers.Dense(classes, dtype="float32")

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs the network.

        Args:
            inputs: `images` float32 [N, H, W, 1] (ink 1, paper 0), `widths` int32 [N] (columns without padding).
            training: whether dropout and batch statistics are used.

        Returns:
            `logits` float32 [N, T, C] with T = ceil(W / 4), and `frames` int32 [N], of which each row uses the first.
        """
        x, widths = tf.cast(inputs["images"], self.compute_dtype), inputs["widths"]
        for stage in self.stages:
            x, widths = stage(x, widths, training=training)
        x = tf.reduce_max(x, axis=1)
        for layer in self.recurrent:
            x = layer(self.dropout(x, training=training), widths, training=training)
        return {"logits": self.classes(self.dropout(x, training=training)), "frames": widths}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Mean CTC loss of the batch (Graves et al. 2006) in nats per sample.

        Args:
            x: unused.
            y: labels int [N, L], class ids padded with -1.
            y_pred: output of `call`.
            sample_weight: unused.
            training: unused.

        Returns:
            float32 [].
        """
        return tf.reduce_mean(ctc_loss(y, y_pred["logits"], y_pred["frames"]))


def ctc_loss(labels: tf.Tensor, logits: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    """CTC loss of each sample; the blank is the last class.

    Args:
        labels: int [N, L], class ids padded with -1.
        logits: float32 [N, T, C].
        frames: int32 [N], valid frames of each row.

    Returns:
        float32 [N]. Samples that cannot be aligned (see `geometry.needed_frames`) have loss 0: they must be kept
        out beforehand, which ExampleGen does.
    """
    where = tf.where(labels >= 0)
    sparse = tf.SparseTensor(where, tf.cast(tf.gather_nd(labels, where), tf.int32), tf.shape(labels, out_type=tf.int64))
    return tf.nn.ctc_loss(
        sparse, tf.cast(logits, tf.float32), None, frames, logits_time_major=False, blank_index=logits.shape[-1] - 1
    )


def needed_frames(labels: tf.Tensor) -> tf.Tensor:
    """Frames int32 [N] that CTC needs for labels int [N, L] padded with -1; `geometry.needed_frames` for a batch."""
    characters = tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=1)
    repeats = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)
    return characters + tf.reduce_sum(tf.cast(repeats, tf.int32), axis=1)


def build(config: ModelConfig, classes: int, height: int) -> Recogniser:
    """Creates a network with its weights for pictures of `height` rows."""
    model = Recogniser(config, classes)
    model({"images": tf.zeros([1, height, 8 * COLUMNS_PER_FRAME, 1]), "widths": tf.constant([8 * COLUMNS_PER_FRAME])})
    return model
