"""Writes the sample data set: a CSV, images, and a few rows that a pipeline has to reject."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from components.common.folders import emptied_on_error
from components.tools.dataset_folder import whole_table
from components.tools.sample_data.fonts import SAMPLE_FONTS, load_glyphs
from components.tools.sample_data.render import Writer, make_writer, render
from components.tools.sample_data.words import WORDS

CSV_NAME = "written_name.csv"
IMAGE_DIR = "images"
COLUMNS = ("FILENAME", "IDENTITY", "WRITER")

DIRTY_KINDS: dict[str, str] = {
    "missing_file": "the CSV names an image that does not exist",
    "truncated_png": "a PNG that ends half-way",
    "truncated_jpeg": "a JPEG that ends half-way",
    "empty_label": "a good image with an empty label",
    "label_empty": "a good image with the placeholder label EMPTY",
    "label_unreadable": "a good image with the placeholder label UNREADABLE",
    "zero_byte_file": "an image file of zero bytes",
    "text_file": "a text file renamed to .png",
}
"""The kinds of rows that a pipeline must reject, and what each is."""

_LABELS = {"empty_label": "", "label_empty": "EMPTY", "label_unreadable": "UNREADABLE"}
_PNG_ONLY = {"truncated_png", "text_file"}
_JPEG_ONLY = {"truncated_jpeg"}

# Cameras, scanners and people disagree about the case of extensions.
_JPEG_EXTENSIONS = (".jpg", ".jpg", ".jpg", ".JPG", ".jpeg", ".Jpeg")
_PNG_EXTENSIONS = (".png", ".png", ".png", ".PNG", ".Png")

# The first entry of each random stream's seed, so that, say, more writers do not change the labels.
_WRITERS, _LABEL_ORDER, _ROWS, _DIRTY, _IMAGE = range(5)


@dataclass(frozen=True)
class DirtyRow:
    """A row that a pipeline must reject.

    Attributes:
        row: Number of the row in the CSV; the first row below the header is 1.
        filename: What stands in the column FILENAME.
        kind: One of `DIRTY_KINDS`.
    """

    row: int
    filename: str
    kind: str


@dataclass(frozen=True)
class Summary:
    """What `generate` wrote.

    Attributes:
        directory: The data set's folder.
        csv: The CSV file.
        images: The folder of the images.
        rows: Number of rows in the CSV, good and dirty.
        good: Number of rows that a pipeline should accept.
        dirty: Number of dirty rows by kind; kinds that do not occur count 0.
        dirty_rows: The dirty rows, in the order of the CSV.
        writers: Number of different writers.
        labels: Number of different labels among the good rows.
        characters: The characters of the good rows' labels, sorted.
    """

    directory: Path
    csv: Path
    images: Path
    rows: int
    good: int
    dirty: dict[str, int]
    dirty_rows: tuple[DirtyRow, ...]
    writers: int
    labels: int
    characters: str


def generate(
    directory: str | Path,
    images: int = 3500,
    seed: int = 7647,
    writers: int = 48,
    dirty_fraction: float = 0.015,
) -> Summary:
    """Writes a data set of handwriting-like words in the Kaggle layout.

    The folder gets `written_name.csv` (columns FILENAME, IDENTITY, WRITER), the images in `images/`, found by
    base name, and a README.txt that lists the dirty rows. The same arguments give the same bytes, as long as
    Pillow, NumPy and OpenCV stay the same.

    A writer is one font with personal traits: slant, stroke width, letter spacing, size, steadiness, ink and paper.
    There are fewer fonts than writers, so several writers share a font. A split by writer thus measures how well a
    model recognises other traits of (mostly) known letter shapes, not how well it recognises unknown ones.

    Dirty rows are part of the `images` rows. Their kinds take turns, so every kind occurs as soon as there are as
    many dirty rows as kinds.

    Args:
        directory: The folder to write; must not exist or be empty.
        images: Number of rows in the CSV.
        seed: Where the random numbers start.
        writers: Number of writers; each writes about the same number of images.
        dirty_fraction: Fraction of the rows that a pipeline must reject.

    Returns:
        What was written, dirty rows included.

    Raises:
        FileExistsError: If the directory is a file or holds anything.
        ValueError: If an argument is out of range.
    """
    directory = Path(directory)
    if images < 1 or writers < 1 or seed < 0:
        raise ValueError("images and writers must be at least 1, and seed must not be negative.")
    if not 0 <= dirty_fraction <= 1:
        raise ValueError("dirty_fraction must lie between 0 and 1.")
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; sample data needs a new or empty folder.")
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"The folder {directory} is not empty; choose a new or empty folder for the sample data.")
    with emptied_on_error(directory):
        return _write(directory, images, seed, writers, dirty_fraction)


def _write(directory: Path, images: int, seed: int, writers: int, dirty_fraction: float) -> Summary:
    drawn = make_writers(min(writers, images), seed)
    labels = draw_labels(images, seed)
    rng = np.random.default_rng([_ROWS, seed])
    order = rng.permutation(np.arange(images) % len(drawn))
    jpeg = rng.random(images) < 0.6
    extensions = rng.random(images)
    kinds = choose_dirty(images, dirty_fraction, seed)

    folder = directory / IMAGE_DIR
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    dirty_rows: list[DirtyRow] = []
    good_labels: Counter[str] = Counter()
    for index in range(images):
        kind = kinds.get(index)
        as_jpeg = bool(jpeg[index])
        if kind in _PNG_ONLY or kind in _JPEG_ONLY:
            as_jpeg = kind in _JPEG_ONLY
        choice = _JPEG_EXTENSIONS if as_jpeg else _PNG_EXTENSIONS
        filename = f"SAMPLE_{index + 1:05d}{choice[int(extensions[index] * len(choice))]}"
        label = labels[index]
        writer = matching_writer(drawn, int(order[index]), label)
        content = _content(kind, filename, label, writer, as_jpeg, np.random.default_rng([_IMAGE, seed, index]))
        if content is not None:
            (folder / filename).write_bytes(content)
        rows.append((filename, _LABELS.get(kind or "", label), writer.name))
        if kind is None:
            good_labels[label] += 1
        else:
            dirty_rows.append(DirtyRow(index + 1, filename, kind))

    counts = Counter(row.kind for row in dirty_rows)
    summary = Summary(
        directory=directory,
        csv=directory / CSV_NAME,
        images=folder,
        rows=images,
        good=images - len(dirty_rows),
        dirty={kind: counts[kind] for kind in DIRTY_KINDS},
        dirty_rows=tuple(dirty_rows),
        writers=len({row[2] for row in rows}),
        labels=len(good_labels),
        characters="".join(sorted(set("".join(good_labels)))),
    )
    (directory / "README.txt").write_text(_readme(summary, seed), encoding="utf-8", newline="\n")
    # The CSV comes last: a folder whose generation was interrupted is no data set.
    with whole_table(summary.csv, COLUMNS) as write:
        for row in rows:
            write(row)
    return summary


def make_writers(count: int, seed: int) -> list[Writer]:
    """Returns the writers, the fonts spread evenly over them.

    Args:
        count: How many.
        seed: Decides which.
    """
    order = np.random.default_rng([_WRITERS, seed]).permutation(len(SAMPLE_FONTS))
    digits = max(2, len(str(count)))
    return [
        make_writer(
            f"writer-{index + 1:0{digits}d}",
            SAMPLE_FONTS[order[index % len(SAMPLE_FONTS)]],
            np.random.default_rng([_WRITERS, seed, index]),
        )
        for index in range(count)
    ]


def draw_labels(count: int, seed: int) -> list[str]:
    """Draws labels with mildly skewed frequencies: the commonest is some ten times as likely as the rarest.

    Args:
        count: How many.
        seed: Decides which.
    """
    rng = np.random.default_rng([_LABEL_ORDER, seed])
    weights = 1 / np.sqrt(rng.permutation(len(WORDS)) + 10.0)
    return [WORDS[i] for i in rng.choice(len(WORDS), size=count, p=weights / weights.sum())]


def matching_writer(writers: Sequence[Writer], first: int, label: str) -> Writer:
    """Returns the first writer, beginning with the one asked for, whose font has every character of the label.

    Args:
        writers: All writers.
        first: Number of the one that is asked for.
        label: What is to be written.

    Raises:
        ValueError: No font has them all.
    """
    for step in range(len(writers)):
        writer = writers[(first + step) % len(writers)]
        if load_glyphs(writer.font).can_write(label):
            return writer
    raise ValueError(f"No font of the sample data can write {label!r}.")


def choose_dirty(count: int, fraction: float, seed: int) -> dict[int, str]:
    """Returns the kind of each dirty row by its index.

    Args:
        count: Rows of the dataset.
        fraction: Share of them that is dirty.
        seed: Decides which.
    """
    rng = np.random.default_rng([_DIRTY, seed])
    chosen = rng.permutation(count)[: round(count * fraction)]
    names = list(DIRTY_KINDS)
    return {int(index): names[turn % len(names)] for turn, index in enumerate(chosen)}


def _content(
    kind: str | None, filename: str, label: str, writer: Writer, as_jpeg: bool, rng: np.random.Generator
) -> bytes | None:
    """Returns the bytes of an image file, spoilt if its row is dirty; None for a file that must not exist."""
    if kind == "missing_file":
        return None
    if kind == "zero_byte_file":
        return b""
    if kind == "text_file":
        return f"This is {filename}, and it is not an image.\n".encode()
    content = _encode(render(label, writer, rng), as_jpeg, rng)
    return content[: len(content) // 2] if kind in ("truncated_png", "truncated_jpeg") else content


def _encode(image: np.ndarray, as_jpeg: bool, rng: np.random.Generator) -> bytes:
    if as_jpeg:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        done, content = cv2.imencode(".jpg", image, options)
    else:
        done, content = cv2.imencode(".png", image)
    if not done:
        raise RuntimeError("OpenCV could not encode an image of the sample data.")
    return content.tobytes()


def _readme(summary: Summary, seed: int) -> str:
    """Returns the text of the README beside the data."""
    lines = [
        "Sample data for handwritten text recognition",
        "============================================",
        "",
        f"{CSV_NAME}  columns {', '.join(COLUMNS)}; {summary.rows} rows, seed {seed}",
        f"{IMAGE_DIR}/  the images, JPEG and PNG, found by base name",
        "",
        "The images are not handwriting: they are drawn from handwriting-style fonts and altered at random.",
        "They show that the pipeline works. They do not show how well a model transcribes real handwriting.",
        f"Number of writers: {summary.writers}. Each has a slant, stroke, spacing and paper of their own, but",
        f"there are only {len(SAMPLE_FONTS)} fonts, so writers share them.",
        "",
        f"{summary.rows - summary.good} rows are dirty on purpose, and a pipeline has to reject them:",
        "",
    ]
    lines += [f"  {summary.dirty[kind]:4d}  {kind:<17} {meaning}" for kind, meaning in DIRTY_KINDS.items()]
    lines += ["", "Rows (1 is the first below the header):", ""]
    lines += [f"  {dirty.row:6d}  {dirty.filename:<20} {dirty.kind}" for dirty in summary.dirty_rows]
    return "\n".join(lines) + "\n"
