"""The served line finder: raw image bytes in, maps out, with all preprocessing inside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.common.datasets import write_text
from components.common.warmup import write_warmups
from components.line_finder.model import CHANNELS, LineFinder
from components.line_finder.preprocessing import scaled_ink
from components.line_finder.settings import STRIDE, LineFinderConfig
from components.transform.decoding import NOTHING, decode_grey, kinds_of
from htr_client import image_files
from htr_client.model_facts import LINE_FINDER
from htr_client.pages.reading import SIGNATURE
from serving.version_directory import SETTINGS_FILE


class ServedLineFinder(tf.Module):
    """What is saved. It tracks raw variables only, see `trainer.export.ServedModel`.

    Pages of a request are worked on one after the other, in their own sizes: the maps of a page do not depend on its
    neighbours, and memory stays that of one page. On a GPU a page is work enough.
    """

    def __init__(self, model: LineFinder, config: LineFinderConfig):
        """Wires preprocessing and network together.

        Args:
            model: Trained network.
            config: Its sizes.
        """
        super().__init__(name="htr_lines")
        self.network_variables = {v.path: v.value for v in model.variables}
        most = config.longest // STRIDE

        def of_page(page: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """Maps on a square grid of the largest size, the cells that are the page's, and their scale."""

            def marked() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                ink, cells, scale = scaled_ink(decode_grey(*page), config)
                maps = tf.sigmoid(model(ink)[0, : cells[0], : cells[1]])
                maps = tf.cast(tf.round(255.0 * maps), tf.uint8)
                return tf.pad(maps, [[0, most - cells[0]], [0, most - cells[1]], [0, 0]]), cells, scale

            def nothing() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                return tf.zeros([most, most, CHANNELS], tf.uint8), tf.zeros([2], tf.int32), tf.constant(0.0)

            return tf.cond(page[1] != NOTHING, marked, nothing)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
        def find_lines(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            pages = tf.ensure_shape(image_bytes, [None])
            maps, cells, scale = tf.map_fn(
                of_page, (pages, kinds_of(pages)), parallel_iterations=1,
                fn_output_signature=(
                    tf.TensorSpec([most, most, CHANNELS], tf.uint8), tf.TensorSpec([2], tf.int32),
                    tf.TensorSpec([], tf.float32),
                ),
            )  # fmt: skip
            rows, columns = tf.unstack(tf.reduce_max(tf.concat([cells, [[1, 1]]], 0), axis=0))
            return {"maps": maps[:, :rows, :columns], "scale": scale}

        self.functions = {"serving_default": find_lines, SIGNATURE: find_lines}


def save(served: ServedLineFinder, directory: str, config: LineFinderConfig, facts: Mapping[str, Any]) -> None:
    """Writes the SavedModel, its settings and its warm-up requests.

    Args:
        served: Model to save.
        directory: Directory to write; it becomes the root of the servable version.
        config: Sizes of network and pages.
        facts: What else its settings file says.
    """
    tf.saved_model.save(served, directory, signatures=served.functions)
    page = image_files.encode(_drawn_page())
    write_warmups(directory, LINE_FINDER, [(SIGNATURE, "image_bytes", batch) for batch in ([page], [page, page])])
    settings = {"line_finder": config.model_dump(), **facts}
    write_text(os.path.join(directory, SETTINGS_FILE), json.dumps(settings, indent=1) + "\n")


def _drawn_page() -> np.ndarray:
    """A page for the warm-up: handwriting of people does not belong into a version that is handed on."""
    grey = np.full((480, 360), 235, np.uint8)
    for y in range(60, 440, 40):
        grey[y - 12 : y : 4, 30:330:5] = 40
    return grey
