"""Drawn pages of handwriting, more or less, whose lines are known."""

import cv2
import numpy as np

from components.line_finder.data import LabelledPage
from components.tools.sample_data.fonts import FONTS
from components.tools.sample_data.render import make_writer, render
from components.tools.sample_data.words import WORDS
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


def written_page(seed, columns=2, rows=16):
    """A page of words that one writer has written, column by column; uint8 [1400, 1000]."""
    rng = np.random.default_rng(seed)
    writer = make_writer("writer", FONTS[seed % len(FONTS)], rng)
    page = np.full((1400, 1000), 235, np.uint8)
    width = 860 // columns
    for column in range(columns):
        for y in range(90, 90 + rows * 78, 78):
            text = " ".join(rng.choice(WORDS, 7 // columns))
            line = render(text, writer, rng, longest=30)
            line = line if line.ndim == 2 else cv2.cvtColor(line, cv2.COLOR_BGR2GRAY)
            size = min(width - 80, line.shape[1] * 46 // len(line)), 46
            line = cv2.resize(line, size, interpolation=cv2.INTER_AREA)
            left = 70 + column * width + int(rng.integers(0, 30))
            below = page[y : y + 46, left : left + line.shape[1]]
            below[:] = np.minimum(below, (line * (235 / np.median(line))).clip(0, 255).astype(np.uint8))
    return page


LINE = straight(20, 280, 60)


def save_page(folder, name, lines=(LINE,)):
    """Writes a grey page as PNG and PAGE XML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(image_files.encode(np.full((200, 300), 230, np.uint8)))
    page = Page(f"{name}.png", 300, 200, tuple(lines))
    (folder / f"{name}.xml").write_text(write(page, "page"), encoding="utf-8")
