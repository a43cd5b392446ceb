"""The other model of a pipeline, which the same servers may serve: recogniser and line finder.

A server that is told of a label serves from then on exactly what the request names. TensorFlow Serving cannot list its
models, but it can be asked for this one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serving.rollout.labels import Labels, RolloutError, config_path
from serving.rollout.model_server import Server

_ONE_FOLDER = "keep both model directories in one folder (push.model_dir, pages.model_dir)"


@dataclass(frozen=True)
class Sibling:
    """The model beside the one whose label moves.

    Attributes:
        name: Name of the model.
        model_dir: Directory of its numbered versions.
        options: What suggested `htr` commands about it need besides.
    """

    name: str
    model_dir: str
    options: str = ""

    def check(self, server: Server, file: Labels, base_path: str) -> None:
        """Checks that a server would not unload this model because its labels are not in the file.

        Args:
            server: Server that is to be told of a label.
            file: The file of labels.
            base_path: Directory of the model whose label moves, as the servers see it.

        Raises:
            RolloutError: It would.
            ServerError: The server cannot be reached.
        """
        if self.name in file.others:
            return
        served = server.served(self.name)
        if not served.versions or self.name in server.kept:
            return
        number = served.labels.get("stable", max(served.versions))
        above = os.path.dirname(os.path.normpath(base_path))
        there = "" if above == str(file.path.parent) else f" --base-path {above}/{Path(self.model_dir).name}"
        if config_path(self.model_dir) == file.path:
            first = f"Write that first, without --server: htr promote {number} --label stable{self.options}{there}"
        else:
            first = f"Its versions are in {self.model_dir}, and servers read one file: {_ONE_FOLDER}"
        raise RolloutError(
            f"{server.address} also serves version {number} of {self.name}, which {file.path} does not name: it would "
            f"unload that. Nothing has changed. {first}. Or leave --server out, and start the servers again."
        )

    def note(self, model_dir: str) -> str | None:
        """What to say where both models have labels, but in two files.

        Args:
            model_dir: Directory of the model whose label moves.

        Returns:
            A sentence, or None.
        """
        path = config_path(self.model_dir)
        if path == config_path(model_dir) or Labels.read(self.model_dir, self.name).base_path is None:
            return None
        return (
            f"{self.name} has its labels in another file, {path}, and a server reads one of them. For servers of both, "
            f"{_ONE_FOLDER}."
        )
