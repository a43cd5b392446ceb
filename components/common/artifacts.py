"""What steps share of their artifacts: how files are written into them, and the artifact that several steps know."""

from __future__ import annotations

import os

from tfx.dsl.io import fileio
from tfx.types.artifact import Artifact


def write_text(path: str, text: str) -> None:
    """Writes a file of an artifact in UTF-8, wherever TFX keeps it; its folder is made if missing."""
    fileio.makedirs(os.path.dirname(path))
    with fileio.open(path, "wb") as file:
        file.write(text.encode())


def bless(blessing: Artifact, blessed: bool) -> None:
    """Marks a ModelBlessing as TFX's Evaluator does, by a file and a property, whatever was marked before."""
    for name, holds in (("BLESSED", blessed), ("NOT_BLESSED", not blessed)):
        path = os.path.join(blessing.uri, name)
        if holds:
            write_text(path, "")
        elif fileio.exists(path):
            fileio.remove(path)
    blessing.set_int_custom_property("blessed", int(blessed))


def is_blessed(blessing: Artifact) -> bool:
    """Whether the gate has blessed the model."""
    return blessing.get_int_custom_property("blessed") == 1


class Report(Artifact):
    """Report of a run; `components.report.component` lists the files."""

    TYPE_NAME = "htr.Report"  # the form that Kubeflow asks for
