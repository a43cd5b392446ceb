"""Writes texts in the handwriting of many writers, as a dataset folder whose rows are all for training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.tools.dataset_folder import COLUMNS, whole_dataset
from components.tools.rendered_text.forms import on_form
from components.tools.sample_data.fonts import FONTS, load_glyphs
from components.tools.sample_data.render import Writer, make_writer, render

_WRITERS, _ROWS, _IMAGE = range(3)  # first entries of the seeds of the random streams


def write_dataset(
    directory: str | Path,
    texts: Iterable[str],
    *,
    seed: int,
    writers: int = 400,
    longest: float = 24.0,
    forms: bool = False,
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

    Returns:
        How many images were written.

    Raises:
        FileExistsError: The folder exists.
        ValueError: No font has the characters of a text.
    """
    people = [(_form_writer if forms else _line_writer)(number, seed) for number in range(writers)]
    rng = np.random.default_rng([_ROWS, seed])
    written = 0
    with whole_dataset(Path(directory), (*COLUMNS, "split")) as add:
        for text in texts:
            writer = _writer_for(text, people, rng)
            drawn = np.random.default_rng([_IMAGE, seed, written])
            image = render(text, writer, drawn, longest)
            add(f"{written:06d}", on_form(image, drawn) if forms else image, text, writer.name, "train")
            written += 1
    return written


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
