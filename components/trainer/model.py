"""The network: convolutions over the image, recurrent layers over its columns, a class per frame for CTC."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.trainer.recurrent import BidirectionalLSTM, reversed_frames
from components.trainer.settings import ModelConfig
from components.trainer.strip import side_by_side
from htr_client.model_facts import COLUMNS_PER_FRAME

_MOMENTUM, _EPSILON = 0.95, 1e-3


class FusedBatchNormalization(keras.layers.Layer):
    """Batch normalisation over [N, H, W, D] in TensorFlow's one fused operation (cuDNN on GPUs).

    Keras 3 computes the same from single operations, which takes a third of the time of a training step on CPUs.
    """

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for D channels, float32 under every precision policy."""

        def weight(name: str, initial: str, trainable: bool) -> keras.Variable:
            return self.add_weight(
                shape=(shape[-1],), initializer=initial, trainable=trainable, name=name, dtype="float32",
                autocast=False, aggregation="mean",
            )  # fmt: skip

        self.gamma, self.beta = weight("gamma", "ones", True), weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def scale_and_offset(self) -> tuple[tf.Tensor, tf.Tensor]:
        """What normalisation with the moving statistics comes to: factors and summands float32 [D]."""
        scale = self.gamma.value * tf.math.rsqrt(self.moving_variance.value + _EPSILON)
        return scale, self.beta.value - self.moving_mean.value * scale

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises with the statistics of the batch in training, with the moving ones otherwise."""
        if not training:
            y, _, _ = tf.compat.v1.nn.fused_batch_norm(
                x, self.gamma.value, self.beta.value, self.moving_mean.value, self.moving_variance.value,
                epsilon=_EPSILON, is_training=False,
            )  # fmt: skip
            return y
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, self.gamma.value, self.beta.value, epsilon=_EPSILON, is_training=True
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(_MOMENTUM * moving + (1.0 - _MOMENTUM) * batch)
        return y


def softened(kernels: tf.Tensor, softening: float) -> tf.Tensor:
    """Kernels that see softer images: a pixel is the mean of itself and its neighbours, across and down.

    Args:
        kernels: float32 [H, W, D, C], those of a convolution with padding `SAME`.
        softening: Weight of each neighbour; 0 changes nothing.

    Returns:
        float32 [H + 2, W + 2, D, C].
    """
    if not softening:
        return kernels
    for axis in (0, 1):
        beside = _shifted(kernels, axis, 0) + _shifted(kernels, axis, 2)
        kernels = softening * beside + (1.0 - 2.0 * softening) * _shifted(kernels, axis, 1)
    return kernels


def _shifted(kernels: tf.Tensor, axis: int, by: int) -> tf.Tensor:
    """Kernels with room for two more weights along an axis, of which so many are before theirs."""
    return tf.pad(kernels, [[by, 2 - by] if axis == dimension else [0, 0] for dimension in range(4)])


class ConvolutionStage(keras.layers.Layer):
    """Convolution, batch normalisation, ReLU, max-pooling; columns right of an image's width stay zero.

    Without the mask, biases would fill the padding and leak back over the edge, so that an image's result would
    depend on the widths of its neighbours in the batch.
    """

    def __init__(
        self, filters: int, kernel: int, stride: int, pool: tuple[int, int], softening: float = 0.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.stride, self.pool, self.softening = stride, pool, softening
        self.convolution = keras.layers.Conv2D(
            filters, kernel, strides=stride, padding="same", use_bias=False, name="convolution"
        )
        self.normalisation = FusedBatchNormalization(name="normalisation")

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for input [N, H, W, D]."""
        self.convolution.build(shape)
        self.normalisation.build((*shape[:3], self.convolution.filters))

    def rows(self, height: int) -> int:
        """H of the output for that of the input."""
        return -(-height // self.stride) // self.pool[0]

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Features [N, H, W, D] and their mask [N, 1, W, 1], 1 in columns of an image, to those of the next stage."""
        if training:
            # A frozen stage keeps its statistics as well as its weights.
            x = self.normalisation(self.convolution(x), training=self.trainable)
        else:
            scale, offset = self.normalisation.scale_and_offset()
            # Folded, since both are constants of what is served.
            kernel = softened(tf.cast(self.convolution.kernel.value, tf.float32) * scale, self.softening)
            x = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), self.stride, "SAME")
            x = tf.nn.bias_add(x, tf.cast(offset, x.dtype))
        x = tf.nn.relu(x)
        if max(self.pool) > 1:
            x = tf.nn.max_pool2d(x, self.pool, self.pool, "VALID")
        # Images begin at whole frames: of the columns that become one the first is an image's if any is.
        step = self.stride * self.pool[1]
        mask = mask[:, :, ::step] if step > 1 else mask
        return x * mask, mask


class Recogniser(keras.Model):
    """CNN - BiLSTM - CTC (Shi et al. 2015, arXiv 1507.05717), with a maximum over each column of the last
    convolution instead of the concatenation of its rows, and a second CTC head that skips the recurrent layers in
    training (Retsinas et al. 2022, arXiv 2404.11339): the convolutions learn from it before the LSTMs do.

    Attributes:
        height: Rows of its images.
        softening: How soft images get when they are not those of training, which augmentation has softened.
    """  # noqa: D205

    def __init__(self, config: ModelConfig, classes: int, **kwargs: Any):
        """Creates the layers.

        Args:
            config: Their sizes.
            classes: C, characters of the alphabet plus the blank, which is the last class.
            **kwargs: Arguments of keras.Model.
        """
        super().__init__(name="recogniser", **kwargs)
        last = len(config.filters) - 1
        # The first stage has few channels at full size, where time goes to memory: a stride instead of pooling.
        shapes = [(5, 2, (1, 1)), (3, 1, (2, 2)), *[(3, 1, (2, 1))] * (last - 2), (3, 1, (1, 1))]
        self.softening = config.softening or 0.0
        self.stages = [
            ConvolutionStage(filters, *shape, 0.0 if i else self.softening, name=f"convolution_{i}")
            for i, (filters, shape) in enumerate(zip(config.filters, shapes, strict=True))
        ]
        self.recurrent = [
            BidirectionalLSTM(config.recurrent_units, name=f"recurrent_{i}") for i in range(config.recurrent_layers)
        ]
        self.dropout = keras.layers.Dropout(config.dropout)
        # float32 also under mixed precision: the loss needs it.
        self.classes = keras.layers.Dense(classes, dtype="float32", name="classes")
        self.shortcut_classes = keras.layers.Dense(classes, dtype="float32", name="shortcut_classes")

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for images [N, H, W, 1].

        Without it Keras would trace the whole network for their shapes, which takes ten times as long.
        """
        self.height = height = shape[1] or 0
        for stage in self.stages:
            stage.build(shape)
            height = stage.rows(height)
            shape = (None, height, None, stage.convolution.filters)
        frames = (None, None, self.frame_size(height, shape[3] or 0))
        self.shortcut_classes.build(frames)
        for layer in self.recurrent:
            layer.build(frames)
            frames = (None, None, 2 * layer.units)
        self.classes.build(frames)

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs the network.

        Args:
            inputs: `images` float32 [N, H, W, 1] (ink 1, paper 0; W a multiple of 4), `widths` int32 [N] (columns
                without padding).
            training: Whether dropout, batch statistics and the shortcut are used.

        Returns:
            `logits` float32 [N, T, C], and `frames` int32 [N], of which each row uses the first; T is the most that an
            image has. In training T is W / 4, and there are `shortcut_logits` float32 [N, T, C], too.
        """
        images, widths = inputs["images"], inputs["widths"]
        if not training:
            strip = side_by_side(images, widths)
            x = strip.by_image(self.features(strip.images, strip.valid))
            return {"frames": strip.frames, "logits": self._logits(x, strip.frames)}
        frames = -(-widths // COLUMNS_PER_FRAME)
        x = self.features(images, tf.sequence_mask(widths, tf.shape(images)[2]), training=True)
        outputs = {"frames": frames, "shortcut_logits": self.shortcut_classes(self.dropout(x, training=True))}
        for layer in self.recurrent:
            x = layer(self.dropout(x, training=True), frames, training=True)
        outputs["logits"] = self.classes(self.dropout(x, training=True))
        return outputs

    def features(self, images: tf.Tensor, valid: tf.Tensor, training: bool = False) -> tf.Tensor:
        """What the convolutions make of images float32 [N, H, W, 1], of which columns are valid, bool [N, W].

        Returns:
            [N, W / 4, D] in the precision that the network computes in, 0 for frames that are no image's.
        """
        x, mask = tf.cast(images, self.compute_dtype), tf.cast(valid, self.compute_dtype)[:, tf.newaxis, :, tf.newaxis]
        for stage in self.stages:
            x, mask = stage(x, mask, training=training)
        return self.frames_of(x)

    def _logits(self, x: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """What training computes from frames [T, N, D], without dropout and in as few operations as it takes."""
        x, shape = tf.cast(x, tf.float32), tf.shape(x)
        backwards = reversed_frames(frames, shape[0])
        for layer in self.recurrent:
            x = layer.over_time(x, backwards)
        logits = self.classes(tf.reshape(x, [-1, x.shape[2]]))
        return tf.transpose(tf.reshape(logits, [shape[0], shape[1], logits.shape[1]]), [1, 0, 2])

    def frames_of(self, x: tf.Tensor) -> tf.Tensor:
        """Features of the convolutions [N, H, T, D] to frames [N, T, D]: the strongest of each column."""
        return tf.reduce_max(x, axis=1)

    def frame_size(self, height: int, features: int) -> int:
        """D of what `frames_of` makes of H rows of features."""
        return features


def ctc_loss(labels: tf.Tensor, logits: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    """CTC loss of each sample; the blank is the last class.

    Args:
        labels: int [N, L], class ids padded with -1.
        logits: float32 [N, T, C].
        frames: int32 [N], valid frames of each row.

    Returns:
        float32 [N].

    Raises:
        tf.errors.InvalidArgumentError: A sample cannot be aligned (see `needed_frames`) or is empty; ExampleGen
            rejects such images, and `input_pipeline.survey` leaves out what another geometry makes so.
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


def build(config: ModelConfig, classes: int, height: int, kind: type[Recogniser] = Recogniser) -> Recogniser:
    """Creates a network with its weights for images of `height` rows."""
    model = kind(config, classes)
    model.build((None, height, None, 1))
    return model
