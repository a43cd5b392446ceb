"""Sample data for the demos."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.common.console import console
from pipeline import cli


def render(data: Path, images: int) -> int:
    """Makes sample data where there is none; what an interrupted rendering has left is made anew.

    Args:
        data: Folder of the data.
        images: Number of images.

    Returns:
        Exit code.
    """
    if data.exists():
        return cli.OK
    console().print(f"Rendering {images} images of names and words in handwriting fonts")
    unfinished = data.with_name(f"{data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    code = cli.main(["sample-data", str(unfinished), "--images", str(images)])
    if not code:
        unfinished.rename(data)
    return code
