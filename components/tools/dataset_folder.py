"""The folder of a dataset as tools write it: a table, and the images that its rows name."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from components.common.folders import emptied_on_error
from htr_client.headers import suffix
from htr_client.tables import CsvWriter

LABELS_FILE, IMAGES_FOLDER, COLUMNS = "labels.csv", "images", ("filename", "text", "writer")
_Write = Callable[[Iterable[object]], object]


@contextlib.contextmanager
def whole_dataset(
    folder: Path, columns: Sequence[str] = COLUMNS, crlf: bool = False
) -> Iterator[Callable[..., Sequence[object]]]:
    """Fills a new or empty folder. Its table comes last: what a kill leaves is no dataset. An exception deletes it.

    Yields:
        Function that writes an image and its row, which it returns. It takes the name of the file without its ending,
        the image (PNG or JPEG as bytes, or an array, which becomes a PNG), and the other fields of the row.
    """
    (folder / IMAGES_FOLDER).mkdir(parents=True)
    with emptied_on_error(folder), whole_table(folder / LABELS_FILE, columns, crlf) as write:

        def add(name: str, image: bytes | np.ndarray, *fields: object) -> Sequence[object]:
            content = image if isinstance(image, bytes) else cv2.imencode(".png", image)[1].tobytes()
            file = f"{IMAGES_FOLDER}/{name}.{suffix(content)}"
            (folder / file).write_bytes(content)
            write(row := (file, *fields))
            return row

        yield add


@contextlib.contextmanager
def whole_table(
    path: str | Path, columns: Sequence[str], crlf: bool = False, whole: Callable[[str], None] = lambda _: None
) -> Iterator[_Write]:
    """Yields a function that writes a row of a CSV file, which appears or is replaced when it is whole.

    Until then it has another name, with which `whole` is called just before.
    """
    incoming = f"{path}.incoming"
    # Details of errors may hold paths that are not UTF-8.
    with open(incoming, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write: _Write = (csv.writer(file) if crlf else CsvWriter(file)).writerow
        write(columns)
        yield write
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave an empty file with the name
    whole(incoming)
    os.replace(incoming, path)
