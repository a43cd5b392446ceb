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

    def _both(self, x: tf.Tensor, reverse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Both directions in one loop. What does not depend on the frame before is computed for all frames at once."""
        weights = [[tf.cast(w.value, x.dtype) for w in layer.cell.weights] for layer in (self.forward, self.backward)]
        gates = [
            tf.einsum("ntd,dg->tng", sequence, kernel) + bias
            for sequence, (kernel, _, bias) in zip((x, reverse), weights, strict=True)
        ]
        hidden = lstm(tf.stack(gates, 1), tf.stack([recurrent for _, recurrent, _ in weights]))
        hidden = tf.transpose(hidden, [1, 2, 0, 3])
        return hidden[0], hidden[1]


@tf.custom_gradient
def lstm(
    inputs: tf.Tensor, recurrent: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """LSTMs (Hochreiter & Schmidhuber 1997, with forget gates) from zero states.

    The gradient is written out (backpropagation through time, Graves & Schmidhuber 2005): TensorFlow's own keeps a
    stack for every operation of the loop and adds up the weights' gradient frame by frame, which takes longer.

    Args:
        inputs: [T, K, N, 4 * units], the gates' part that comes from the input, for K independent LSTMs; order of
            the gates as in Keras: input, forget, candidate, output.
        recurrent: [K, units, 4 * units].

    Returns:
        Hidden states [T, K, N, units], and the function that `tf.custom_gradient` wants.
    """
    units = recurrent.shape[1]
    frames = tf.shape(inputs)[0]
    zero = tf.zeros_like(inputs[0][..., :units])

    def array() -> tf.TensorArray:
        return tf.TensorArray(inputs.dtype, frames, element_shape=[*inputs.shape[1:3], None])

    def step(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, hidden: Any, cells: Any, gates: Any) -> Any:
        i, f, g, o = tf.split(inputs[t] + tf.matmul(h, recurrent), 4, axis=-1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, hidden.write(t, h), cells.write(t, c), gates.write(t, tf.concat([i, f, g, o], -1))

    loop = tf.while_loop(lambda t, *_: t < frames, step, (0, zero, zero, array(), array(), array()))
    hidden, cells, gates = (stack.stack() for stack in loop[3:])
    hidden = tf.ensure_shape(hidden, [*inputs.shape[:3], units])

    def gradient(of_hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def before(states: tf.Tensor) -> tf.Tensor:
            return tf.concat([zero[tf.newaxis], states[:-1]], 0)

        i, f, g, o = tf.split(gates, 4, axis=-1)
        tanh = tf.tanh(cells)
        hidden_to_cell, hidden_to_o = o * (1.0 - tanh * tanh), tanh * o * (1.0 - o)
        cell_to_i, cell_to_f, cell_to_g = g * i * (1.0 - i), before(cells) * f * (1.0 - f), i * (1.0 - g * g)

        def step_back(t: tf.Tensor, of_h: tf.Tensor, of_c: tf.Tensor, of_inputs: Any) -> Any:
            of_h += of_hidden[t]
            of_c += of_h * hidden_to_cell[t]
            of_gates = tf.concat(
                [of_c * cell_to_i[t], of_c * cell_to_f[t], of_c * cell_to_g[t], of_h * hidden_to_o[t]], -1
            )
            of_h = tf.matmul(of_gates, recurrent, transpose_b=True)
            return t - 1, of_h, of_c * f[t], of_inputs.write(t, of_gates)

        loop = tf.while_loop(lambda t, *_: t >= 0, step_back, (frames - 1, zero, zero, array()))
        of_inputs = tf.ensure_shape(loop[3].stack(), inputs.shape)
        return of_inputs, tf.einsum("tknu,tkng->kug", before(hidden), of_inputs)

    return hidden, gradient
