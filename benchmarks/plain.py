"""What the benchmarks compare with: a plain Keras loop, other ways to make frames of columns, a training script.

    python -m benchmarks.plain FOLDER [IMAGES]

is that script: it reads `labels.csv` and the images that it names into memory, trains one epoch on the first IMAGES of
them (all by default), and prints the number of these, seconds and peak memory as JSON.
"""

import argparse
import csv
import json
import resource
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf

from components.trainer.model import Recogniser
from components.trainer.schedule import RATE
from components.trainer.settings import ModelConfig, TrainConfig
from components.transform.settings import TransformConfig


class ConcatenatedColumns(Recogniser):
    """The network with the rows of a column concatenated to a frame instead of their maximum."""

    def frames_of(self, x: tf.Tensor) -> tf.Tensor:
        """Features [N, H, T, D] to [N, T, H * D]."""
        shape = tf.shape(x)
        return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [shape[0], shape[2], x.shape[1] * x.shape[3]])

    def frame_size(self, height: int, features: int) -> int:
        """H * D."""
        return height * features


class PlainLoop:
    """The same network as Keras users write it: stock layers, `Model.fit` on the padded batch, Keras's CTC loss."""

    def __init__(self, config: ModelConfig, classes: int, height: int, rate: float):
        """Creates and compiles the model; see `Recogniser` for the sizes."""
        layers = keras.layers
        image = keras.Input((height, None, 1))
        x = image
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
        self.model = keras.Model(image, logits)
        self.model.compile(keras.optimizers.AdamW(rate), loss=self._loss)

    @staticmethod
    def _loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """CTC over all frames; the blank is the last class, labels are padded with -1."""
        lengths = tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=1)
        frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
        return tf.nn.ctc_loss(
            tf.cast(tf.maximum(labels, 0), tf.int32), logits, lengths, frames, False, blank_index=logits.shape[-1] - 1
        )


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds labels.csv with the columns filename and text")
    parser.add_argument("images", type=int, nargs="?", help="to train on; all if not given")
    arguments = parser.parse_args()
    folder, config, transform = arguments.folder, ModelConfig(), TransformConfig()
    width, height = transform.width or 0, transform.height or 0
    begin = time.perf_counter()
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    alphabet = sorted(set("".join(row["text"] for row in rows)))
    labels = np.full((len(rows), max(len(row["text"]) for row in rows)), -1)
    images = np.empty((len(rows), height, width, 1), np.float32)
    for number, row in enumerate(rows):
        grey = cv2.imread(str(folder / row["filename"]), cv2.IMREAD_GRAYSCALE)
        images[number, :, :, 0] = cv2.resize(grey, (width, height)) / 255.0
        labels[number, : len(row["text"])] = [alphabet.index(character) for character in row["text"]]
    read = time.perf_counter()
    trained = arguments.images or len(rows)
    PlainLoop(config, len(alphabet) + 1, height, RATE).model.fit(
        images[:trained], labels[:trained], batch_size=TrainConfig().batch_size, epochs=1, verbose=0
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fitting = time.perf_counter() - read
    print(json.dumps({"images": len(images[:trained]), "read": read - begin, "fitting": fitting, "peak": peak}))


if __name__ == "__main__":
    main()
