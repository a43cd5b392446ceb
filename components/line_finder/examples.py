"""Pages as tf.Examples: what PageExampleGen writes, and Trainer, Evaluator and report read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import tensorflow as tf

from components.common.datasets import untuned
from components.line_finder.data import LabelledPage
from htr_client import image_files, pages

_FEATURES = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "page", "name", "document")}


def encode(page: LabelledPage) -> bytes:
    """Makes the serialized tf.Example of a page.

    Args:
        page: The page.

    Returns:
        Its features `image` (PNG, grey, of the page's size), `page` (lines and size as JSON of `htr_client.pages`),
        `name` and `document`.
    """
    height, width = page.grey.shape
    values = {
        "image": image_files.encode(page.grey, tall=height + 1),
        "page": pages.write(pages.Page(page.name, width, height, page.lines), "json").encode(),
        "name": page.name.encode(),
        "document": page.document.encode(),
    }
    example = tf.train.Example()
    for name, value in values.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def read_examples(files: Sequence[str]) -> Iterator[LabelledPage]:
    """Reads what `encode` made.

    Args:
        files: Paths of record files, or patterns of them.

    Yields:
        Pages at their full size, in the order of their records.
    """
    paths = sorted(path for pattern in files for path in tf.io.gfile.glob(pattern))
    for record in untuned(tf.data.TFRecordDataset(paths, "GZIP")).as_numpy_iterator():
        values = {name: value.numpy() for name, value in tf.io.parse_single_example(record, _FEATURES).items()}
        page = pages.from_json(values["page"].decode())
        # Not `image_files.load`: PageExampleGen has checked the size, and a large page takes more bytes as PNG.
        grey = cv2.imdecode(np.frombuffer(values["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
        yield LabelledPage(values["name"].decode(), values["document"].decode(), grey, page.lines)
