"""Writes texts in the handwriting of many writers, as a dataset folder whose rows are all for training."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from components.tools.rendered_text.forms import on_form
from components.tools.sample_data.fonts import FONTS, load_glyphs
from components.tools.sample_data.render import Writer, make_writer, render

TABLE = "labels.csv"
COLUMNS = ("filename", "text", "writer", "split")
_WRITERS, _ROWS, _IMAGE = range(3)  # first entries of the seeds of the random streams


def write_dataset(
    directory: str | Path,
    texts: Iterable[str],
    *,
    seed: int,
    writers: int = 400,
    longest: float = 24.0,
    forms: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Renders texts as images of handwriting.

    A writer is a font with traits of its own (see `make_writer`). A text that no font can write is an error: the
    caller knows what it may draw from.

    Args:
        directory: New folder; gets `labels.csv` and `images/`. Images are grey PNG.
        texts: One for each image.
        seed: Where the random numbers start.
        writers: How many different ones.
        longest: Most that an image's width may be of its height.
        forms: Whether they are entries of forms: mostly single letters, some way apart, with what a form has around.
        progress: Called with the number of images done.

    Returns:
        How many images were written.

    Raises:
        FileExistsError: The folder exists.
        ValueError: No font has the characters of a text.
    """
    directory = Path(directory)
    (directory / "images").mkdir(parents=True)
    people = [(_form_writer if forms else _line_writer)(number, seed) for number in range(writers)]
    rng = np.random.default_rng([_ROWS, seed])
    rows: list[tuple[str, str, str, str]] = []
    for number, text in enumerate(texts):
        writer = _writer_for(text, people, rng)
        drawn = np.random.default_rng([_IMAGE, seed, number])
        image = render(text, writer, drawn, longest)
        if forms:
            image = on_form(image, drawn)
        filename = f"images/{number:06d}.png"
        cv2.imwrite(str(directory / filename), image)
        rows.append((filename, text, writer.name, "train"))
        if progress is not None:
            progress(number + 1)
    # The table comes last: a folder whose rendering was interrupted is no dataset.
    with (directory / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows)
    return len(rows)


def _line_writer(number: int, seed: int) -> Writer:
    rng = np.random.default_rng([_WRITERS, seed, number])
    writer = make_writer(f"rendered-{number:04d}", FONTS[number % len(FONTS)], rng)
    # Scanned lines have more pixels than the words of forms that the sample data imitate, and are mostly grey.
    return replace(writer, height=float(rng.uniform(36, 64)), colour=False, grain=float(rng.uniform(0.5, 7.0)))


def _form_writer(number: int, seed: int) -> Writer:
    """A writer who fills in a form: one in ten joins letters up."""
    rng = np.random.default_rng([_WRITERS, seed, number, 1])
    joined = rng.random() < 0.1
    kinds = [font for font in FONTS if font.joined == joined]
    writer = make_writer(f"rendered-form-{number:04d}", kinds[number % len(kinds)], rng)
    apart = 0.0 if writer.font.joined else float(rng.choice([rng.uniform(0, 0.08), rng.uniform(0.05, 0.4)]))
    loose = 0.0 if writer.font.joined else float(rng.uniform(0.02, 0.09))
    return replace(writer, height=float(rng.uniform(28, 60)), colour=False, spacing=apart, loose=loose)


def _writer_for(text: str, people: list[Writer], rng: np.random.Generator) -> Writer:
    """A writer who can write the text, drawn from all who can."""
    first = int(rng.integers(len(people)))
    for step in range(len(people)):
        writer = people[(first + step) % len(people)]
        if load_glyphs(writer.font).can_write(text):
            return writer
    missing = set(text) - {c for writer in people for c in set(text) if load_glyphs(writer.font).glyph(c)}
    raise ValueError(f"No font can write {text!r}" + (f": none has {''.join(sorted(missing))}" if missing else ""))
