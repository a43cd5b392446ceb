"""Sample data for the demos."""

from __future__ import annotations

from pathlib import Path

from components.common.console import console
from components.common.folders import made_whole
from components.tools.sample_data import generate


def render(data: Path, images: int) -> None:
    """Makes sample data where there is none; what an interrupted rendering has left is made anew.

    Args:
        data: Folder of the data.
        images: Number of images.
    """
    if data.exists():
        return
    console().print(f"Rendering {images} images of names and words in handwriting fonts")
    with made_whole(data) as folder:
        generate(folder, images=images)
