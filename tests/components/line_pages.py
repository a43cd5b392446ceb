"""Drawn pages of handwriting, more or less, whose lines are known."""

import cv2
import numpy as np

from components.line_finder.data import LabelledPage
from htr_client import image_files
from htr_client.pages import Line, Page, write


def straight(left, right, y, above=14, below=5, slope=0.0):
    """A line with its polygon, in pixels."""
    end = round(y + slope * (right - left))
    return Line(
        baseline=((left, y), (right, end)),
        polygon=((left, y - above), (right, end - above), (right, end + below), (left, y + below)),
    )


def drawn_page(seed, width=256, height=320, pitch=32):
    """A page of scribbled lines on paper with some grain."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(225, 3, (height, width)).clip(0, 255).astype(np.uint8)
    lines = []
    for y in range(pitch + 8, height - 16, pitch):
        left, right = int(rng.integers(10, 40)), int(rng.integers(width - 70, width - 10))
        x = np.arange(left, right, 3)
        course = np.stack([x, y - 5 + 5 * np.sin(x / 2.5 + rng.random())], 1)
        cv2.polylines(grey, [np.rint(course).astype(np.int32)], False, 50, 2, cv2.LINE_AA)
        lines.append(straight(left, right, y))
    return LabelledPage(f"page-{seed}", f"document-{seed}", grey, tuple(lines))


LINE = straight(20, 280, 60)


def save_page(folder, name, lines=(LINE,)):
    """Writes a grey page as PNG and PAGE XML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(image_files.encode(np.full((200, 300), 230, np.uint8)))
    page = Page(f"{name}.png", 300, 200, tuple(lines))
    (folder / f"{name}.xml").write_text(write(page, "page"), encoding="utf-8")
