"""The network: a small U-Net that marks baselines, bodies and ends of lines on a page of any size."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.common import storage
from components.line_finder.settings import COARSEST, LineFinderConfig
from components.trainer.model import FusedBatchNormalization
from components.trainer.warm_start import WarmStartError
from components.trainer.weights import read_weights
from serving.version_directory import SETTINGS_FILE

CHANNELS = 3
"""Of the maps, see `htr_client.pages.vectorising`."""


class _Convolution(keras.layers.Layer):
    """Convolution, batch normalisation, and ReLU where it is asked for."""

    def __init__(
        self, filters: int, kernel: int = 3, stride: int = 1, dilation: int = 1, active: bool = True, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.active = active
        self.convolution = keras.layers.Conv2D(
            filters, kernel, strides=stride, dilation_rate=dilation, padding="same", use_bias=False, name="convolution"
        )
        self.normalisation = FusedBatchNormalization(name="normalisation")

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.convolution.build(shape)
        self.normalisation.build((*shape[:3], self.convolution.filters))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.normalisation(self.convolution(x), training=training)
        return tf.nn.relu(x) if self.active else x


class _Residual(keras.layers.Layer):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, filters: int, dilation: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.first = _Convolution(filters, dilation=dilation, name="first")
        self.second = _Convolution(filters, dilation=dilation, active=False, name="second")

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.nn.relu(x + self.second(self.first(x, training=training), training=training))


class LineFinder(keras.Model):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with residual blocks, as ARU-Net and dhSegment are for pages
    (Grüning et al. 2019, arXiv 1802.03345; Oliveira et al. 2018, arXiv 1804.10371), but a hundredth of their size.

    It sees the page at strides 4 to 32, where a cell's surroundings of some hundred pixels tell a line of text from a
    stamp, a rule or the edge of the page. Its maps have stride 2: at the last stage each cell answers for four.
    """  # noqa: D205

    def __init__(self, config: LineFinderConfig, **kwargs: Any):
        """Creates the layers.

        Args:
            config: Their sizes.
            **kwargs: Arguments of keras.Model.
        """
        super().__init__(name="line_finder", **kwargs)
        first, *rest = config.filters
        self.entry = _Convolution(first, kernel=5, stride=2, name="entry")
        self.down = [_Convolution(filters, stride=2, name=f"down_{i}") for i, filters in enumerate(rest)]
        last = len(rest) - 1
        # The last stage sees further still.
        dilations = [(1,)] * last + [(1, 2)]
        self.encoder = [
            [_Residual(filters, dilation, name=f"encoder_{i}_{dilation}") for dilation in dilations[i]]
            for i, filters in enumerate(rest)
        ]
        self.up = [
            keras.layers.Conv2D(4 * filters, 1, use_bias=False, name=f"up_{i}") for i, filters in enumerate(rest[:-1])
        ]
        self.decoder = [_Convolution(filters, name=f"decoder_{i}") for i, filters in enumerate(rest[:-1])]
        self.head = keras.layers.Conv2D(
            4 * CHANNELS, 3, padding="same", dtype="float32", name="head",
            bias_initializer=keras.initializers.Constant(-2.0),  # most cells are empty
        )  # fmt: skip

    def call(self, ink: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Runs the network.

        Args:
            ink: float32 [N, H, W, 1] from `preprocessing.local_ink`; H and W are multiples of `COARSEST`.
            training: Whether the statistics of the batch are used.

        Returns:
            Logits float32 [N, H / 2, W / 2, 3] of the channels in `htr_client.pages.vectorising`.
        """
        x = self.entry(tf.cast(ink, self.compute_dtype), training=training)
        skips = []
        for down, blocks in zip(self.down, self.encoder, strict=True):
            x = down(x, training=training)
            for block in blocks:
                x = block(x, training=training)
            skips.append(x)
        for up, decoder, skip in zip(self.up[::-1], self.decoder[::-1], skips[-2::-1], strict=True):
            x = decoder(skip + tf.nn.depth_to_space(up(x), 2), training=training)
        return tf.nn.depth_to_space(self.head(x), 2)


def build(config: LineFinderConfig) -> LineFinder:
    """Creates a network with its weights."""
    model = LineFinder(config)
    model(tf.zeros([1, COARSEST, COARSEST, 1]))
    return model


def take_weights(model: LineFinder, version: str) -> None:
    """Gives a network the weights of an exported line finder.

    Args:
        model: The network.
        version: Directory of the version.

    Raises:
        WarmStartError: It has another network.
    """
    with storage.here(version) as folder:
        weights = read_weights(folder)
    for variable in model.variables:
        value = weights.get(variable.path)
        if value is None or value.shape != tuple(variable.shape):
            raise WarmStartError(
                f"line_training.warm_start: {version} has another network: there is no {variable.path} "
                f"{list(variable.shape)}. Train with the `line_finder` section of its {SETTINGS_FILE}"
            )
        variable.assign(value)
