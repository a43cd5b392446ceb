"""A version of the line finder in this process: a page's maps without a server."""

from __future__ import annotations

import os

import numpy as np

from htr_client.pages.reading import SIGNATURE
from serving.runner import LoadedModel, RunnerOptions
from serving.status import Code, ServingError


class LocalLineFinder:
    """The line finder of a version directory, run as the embedded server runs it.

    with LocalLineFinder("workspace/serving_model/htr-lines/1") as finder:
        maps, scale = finder.maps(Path("page.jpg").read_bytes())
        lines = pages.find_lines(maps, scale, width, height)
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Loads the version.

        Args:
            directory: The version's directory.

        Raises:
            ServingError: It cannot be loaded, or is no line finder.
        """
        self._model = LoadedModel(os.fspath(directory), RunnerOptions())
        if SIGNATURE not in self._model.signatures:
            self._model.close()
            raise ServingError(Code.FAILED_PRECONDITION, f"{directory} is no line finder: it has no {SIGNATURE}.")
        self._signature = self._model.signatures[SIGNATURE]

    def __enter__(self) -> LocalLineFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model."""
        self._model.close()

    def maps(self, image: bytes) -> tuple[np.ndarray, float]:
        """Marks the lines of a page.

        Args:
            image: Upright page, PNG or JPEG.

        Returns:
            Maps uint8 [rows, columns, 3] and cells for a pixel, as `htr_client.pages.find_lines` takes them; the scale
            is 0 where the image cannot be decoded.

        Raises:
            ServingError: The model fails.
        """
        feeds = {self._signature.inputs[0].tensor: np.array([image], object)}
        outputs = self._signature.outputs
        maps, scale = self._model.run(feeds, [outputs["maps"], outputs["scale"]])
        return maps[0], float(scale[0])
