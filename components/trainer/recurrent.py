"""The recurrent layers: LSTMs over the frames in both directions; cuDNN on GPUs, portable where they are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class BidirectionalLSTM(keras.layers.Layer):
    """LSTMs in both directions over the valid frames of each row.

    The backward one reads each row reversed up to its own length instead of a masked batch: the result does not
    depend on the padding, and both stay within what cuDNN computes.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.forward = keras.layers.LSTM(units, return_sequences=True, name="forward")
        self.backward = keras.layers.LSTM(units, return_sequences=True, name="backward")

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the weights for input [N, T, D]."""
        self.forward.build(shape)
        self.backward.build(shape)

    def call(self, x: tf.Tensor, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features [N, T, D] and valid frames int32 [N] to [N, T, 2 * units]."""
        reverse = tf.reverse_sequence(x, frames, seq_axis=1)
        # A graph with cuDNN's operation runs on GPUs only: what is served must not contain it.
        if training and tf.config.list_logical_devices("GPU"):
            onward, backward = self.forward(x, training=True), self.backward(reverse, training=True)
        else:
            onward, backward = self._both(x, reverse)
        return tf.concat([onward, tf.reverse_sequence(backward, frames, seq_axis=1)], axis=-1)

    def over_time(self, x: tf.Tensor, backwards: tf.Tensor) -> tf.Tensor:
        """The same for inference: float32, frames first, with `reversed_frames` instead of the numbers of frames."""
        shape = tf.shape(backwards)
        onward, backward = (
            _block_lstm(each, shape, *(tf.cast(weight.value, tf.float32) for weight in layer.cell.weights)).h
            for each, layer in ((x, self.forward), (_rearranged(x, backwards), self.backward))
        )
        return tf.concat([onward, _rearranged(backward, backwards)], axis=-1)

    def _both(self, x: tf.Tensor, reverse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Both directions with the same numbers as Keras's layers; in float32, whatever the network computes in."""
        layers = [[w.value for w in layer.cell.weights] for layer in (self.forward, self.backward)]
        kernels, recurrents, biases = (
            tf.stack([tf.cast(w, tf.float32) for w in ws]) for ws in zip(*layers, strict=True)
        )
        sequences = tf.transpose(tf.cast(tf.stack([x, reverse]), tf.float32), [0, 2, 1, 3])
        hidden = tf.cast(tf.transpose(lstm(sequences, kernels, recurrents, biases), [0, 2, 1, 3]), x.dtype)
        return hidden[0], hidden[1]


def reversed_frames(frames: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """Where each row's valid frames lie in reverse order in [T * N]; frames behind them stay in place.

    Args:
        frames: Valid frames int32 [N].
        most: T.

    Returns:
        int32 [T, N]. A gather with it takes a small part of the time of `tf.reverse_sequence`.
    """
    place, rows = tf.range(most)[:, tf.newaxis], tf.size(frames)
    return tf.where(place < frames, frames - 1 - place, place) * rows + tf.range(rows)


def _rearranged(x: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Features [T, N, D] in another order of their T * N places."""
    return tf.gather(tf.reshape(x, [-1, x.shape[2]]), order)


def _block_lstm(x: tf.Tensor, shape: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
    """TensorFlow's operation over [T, N, D] from zero states; its outputs, `h` [T, N, units] among them.

    It is told T and N, by one tensor for all layers: TensorFlow then makes states and steps once.
    """
    units = recurrent.shape[0]
    zero, no_peephole = tf.zeros([shape[1], units]), tf.zeros([units])
    return tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.cast(shape[0], tf.int64), x=x, cs_prev=zero, h_prev=zero,
        w=tf.concat([kernel, recurrent], 0), wci=no_peephole, wcf=no_peephole, wco=no_peephole, b=bias,
        cell_clip=-1.0, use_peephole=False,
    )  # fmt: skip


@tf.custom_gradient
def lstm(
    sequences: tf.Tensor, kernels: tf.Tensor, recurrents: tf.Tensor, biases: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
    """LSTMs (Hochreiter & Schmidhuber 1997, with forget gates) from zero states, K of them side by side.

    Forward it is one operation of TensorFlow for a whole sequence, where Keras's layer on CPUs is a loop of a dozen
    operations a frame. Backward (backpropagation through time, Graves & Schmidhuber 2005) it is written out: the
    gradient that comes with the operation gives other numbers than Keras's layer, and takes no less time.

    Args:
        sequences: float32 [K, T, N, D].
        kernels: float32 [K, D, 4 * units]; order of the gates as in Keras: input, forget, candidate, output.
        recurrents: float32 [K, units, 4 * units].
        biases: float32 [K, 4 * units].

    Returns:
        Hidden states float32 [K, T, N, units], and the function that `tf.custom_gradient` wants.
    """
    count, units = recurrents.shape[:2]
    shape = tf.shape(sequences)[1:3]
    frames, rows = tf.unstack(shape)
    runs = [_block_lstm(sequences[k], shape, kernels[k], recurrents[k], biases[k]) for k in range(count)]

    def gradient(of_hidden: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # All [T, K, N, units], since the loop goes over the frames.
        i, f, g, o, cells, tanh, hidden = (
            tf.stack([getattr(run, name) for run in runs], 1) for name in ("i", "f", "ci", "o", "cs", "co", "h")
        )
        of_hidden = tf.transpose(of_hidden, [1, 0, 2, 3])
        start = tf.zeros([1, count, rows, units])
        hidden_to_cell, hidden_to_o = o * (1.0 - tanh * tanh), tanh * o * (1.0 - o)
        cell_to_i, cell_to_g = g * i * (1.0 - i), i * (1.0 - g * g)
        cell_to_f = tf.concat([start, cells[:-1]], 0) * f * (1.0 - f)

        def step_back(t: tf.Tensor, of_h: tf.Tensor, of_c: tf.Tensor, of_gates: Any) -> Any:
            of_h += of_hidden[t]
            of_c += of_h * hidden_to_cell[t]
            here = tf.concat([of_c * cell_to_i[t], of_c * cell_to_f[t], of_c * cell_to_g[t], of_h * hidden_to_o[t]], -1)
            of_h = tf.matmul(here, recurrents, transpose_b=True)
            return t - 1, of_h, of_c * f[t], of_gates.write(t, here)

        array = tf.TensorArray(tf.float32, frames, element_shape=[count, None, 4 * units])
        loop = tf.while_loop(lambda t, *_: t >= 0, step_back, (frames - 1, start[0], start[0], array))
        of_gates = loop[3].stack()
        return (
            tf.einsum("tkng,kdg->ktnd", of_gates, kernels),
            tf.einsum("ktnd,tkng->kdg", sequences, of_gates),
            tf.einsum("tknu,tkng->kug", tf.concat([start, hidden[:-1]], 0), of_gates),
            tf.reduce_sum(of_gates, [0, 2]),
        )

    return tf.stack([run.h for run in runs]), gradient
