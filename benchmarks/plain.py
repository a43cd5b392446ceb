"""What the benchmarks of training compare with: a plain Keras loop, and other ways to make frames of columns."""

import keras
import tensorflow as tf

from components.trainer.model import Recogniser
from pipeline.config import ModelConfig


class ConcatenatedColumns(Recogniser):
    """The network with the rows of a column concatenated to a frame instead of their maximum."""

    def frames_of(self, x: tf.Tensor) -> tf.Tensor:
        """Features [N, H, T, D] to [N, T, H * D]."""
        shape = tf.shape(x)
        return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [shape[0], shape[2], x.shape[1] * x.shape[3]])


class PlainLoop:
    """The same network as Keras users write it: stock layers, `Model.fit` on the padded batch, Keras's CTC loss."""

    def __init__(self, config: ModelConfig, classes: int, height: int, rate: float):
        """Creates and compiles the model; see `Recogniser` for the sizes."""
        layers = keras.layers
        picture = keras.Input((height, None, 1))
        x = picture
        last = len(config.filters) - 1
        for i, filters in enumerate(config.filters):
            x = layers.Conv2D(filters, 5 if i == 0 else 3, strides=2 if i == 0 else 1, padding="same", use_bias=False)(
                x
            )
            x = layers.ReLU()(layers.BatchNormalization()(x))
            if 0 < i < last:
                x = layers.MaxPooling2D((2, 2) if i == 1 else (2, 1))(x)
        x = layers.Lambda(lambda t: tf.reduce_max(t, axis=1))(x)
        for _ in range(config.recurrent_layers):
            x = layers.Bidirectional(layers.LSTM(config.recurrent_units, return_sequences=True))(
                layers.Dropout(config.dropout)(x)
            )
        logits = layers.Dense(classes)(layers.Dropout(config.dropout)(x))
        self.model = keras.Model(picture, logits)
        self.model.compile(keras.optimizers.AdamW(rate), loss=self._loss)

    @staticmethod
    def _loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """CTC over all frames; the blank is the last class, labels are padded with -1."""
        lengths = tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=1)
        frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
        return tf.nn.ctc_loss(
            tf.cast(tf.maximum(labels, 0), tf.int32), logits, lengths, frames, False, blank_index=logits.shape[-1] - 1
        )
