"""From rows to samples: the dataset contract, folders of CSV/TSV files and images, as Kaggle ships them.

No TFX here: `htr check` uses the same functions as the pipeline step, so both accept and reject the same rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.common import storage
from components.common.ahead import ahead
from components.example_gen.claims import refuse_claimed
from components.example_gen.folders import find_tables
from components.example_gen.images import find_image, read_image
from components.example_gen.labels import check_label, length_band
from components.example_gen.measures import describe
from components.example_gen.plan import Plan, make_plan, split_of
from components.example_gen.rejects import CONTROLS, FITS_AS_LINE, Reject, Rejected, rejected_image
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLIT_NAMES, SplitRule
from components.example_gen.table import Row, Table, plain, read_together, why_malformed
from components.transform.geometry import available_frames, fits_as_line, needed_frames
from components.transform.settings import TransformConfig
from htr_client import image_files
from htr_client.errors import ImageError
from htr_client.files import OTHER_FORMATS

_LARGE_FILE = 2**16  # bytes


class Sample(NamedTuple):
    """An accepted row: an image and its text.

    Attributes:
        id: Image's path below its dataset folder, with the folder's name in front.
        source: Name of the dataset folder, as in `Table`.
        image: Encoded PNG or JPEG.
        text: Label, NFC-normalised.
        writer: Who wrote it; empty if unknown.
        split: One of `SPLITS`.
        width, height: Pixels of `image`, which the model is sent too; a tall one is shrunk (`image_files.TALL`).
        original: Width and height of the upright image in the file, for people.
        statistics: Numbers that describe the image, by name (see `describe`).
        mend: How the image was found whose name the row does not give exactly, key of `images.MENDS`; else empty.
        by_model: Whether a model wrote the text, see `htr label`.
    """

    id: str
    source: str
    image: bytes
    text: str
    writer: str
    split: str
    width: int
    height: int
    original: tuple[int, int]
    statistics: dict[str, float]
    mend: str = ""
    by_model: bool = False


def examine_all(data: DataConfig, transform: TransformConfig) -> Iterator[Sample | Reject]:
    """Checks all rows of the dataset folders, see `examine_rows`.

    Args:
        data: Folders, and what to refuse.
        transform: Geometry of the image tensor.

    Yields:
        A sample or a reject for each row, in the order of the files.

    Raises:
        DatasetError: No table was found, or one cannot be read.
    """
    tables, _ = find_tables(data)
    plan = make_plan(tables, data)
    for table in tables:
        for rows in read_together(table, plan.lines(table)):
            yield from examine_rows(rows, plan.splits, data, transform)


def examine_rows(
    rows: Sequence[Row], splits: SplitRule, data: DataConfig, transform: TransformConfig
) -> list[Sample | Reject]:
    """Checks rows completely: their fields, their images, their labels against the frames.

    Args:
        rows: Rows to check; a hundred or so, since the images of all are held in memory.
        splits: How rows are divided, of `make_plan`.
        data: What to refuse.
        transform: Geometry of the image tensor, for the number of frames.

    Returns:
        For each row the sample, or the reject with its reason.
    """
    examined = examine_with_pixels(rows, splits, data, transform)
    return [result if isinstance(result, Reject) else result[0] for result in examined]


def examine_with_pixels(
    rows: Sequence[Row], splits: SplitRule, data: DataConfig, transform: TransformConfig
) -> list[tuple[Sample, np.ndarray] | Reject]:
    """As `examine_rows`, with the decoded images, uint8 [height, width], for callers that need them too."""
    # One step for all rows before the next: its code and data then stay in the processor's caches, which saves a sixth.
    checked = [_attempt(row, _check_fields, row, data) for row in rows]
    files = _read_files(rows, checked, data)
    read = [
        _attempt(row, _decode, file, fields.path, data) if isinstance(file, bytes) else file
        for row, fields, file in zip(rows, checked, files, strict=True)
    ]
    measured = iter(describe([image.grey for image in read if not isinstance(image, Reject)]))
    return [
        image
        if isinstance(image, Reject)
        else _attempt(row, _accept, row, fields, image, next(measured), splits, data, transform)
        for row, fields, image in zip(rows, checked, read, strict=True)
    ]


def _attempt(row: Row, step: Callable[..., Any], *arguments: Any) -> Any:
    """What a step makes of its arguments, or a reject of the row."""
    try:
        return step(*arguments)
    except Rejected as rejected:
        columns = (row.table.image, row.table.text)
        image, text = (row.fields[column] if len(row.fields) > column else "" for column in columns)
        return Reject(
            row.table.name, row.line, plain(image[:500]), plain(text[:200]), rejected.reason,
            plain(rejected.detail[:1000]).translate(CONTROLS),
        )  # fmt: skip


class _Fields(NamedTuple):
    """What the fields of a row say, once they are checked; `named` is the split, where the data gives one."""

    label: str
    path: str
    mend: str
    named: str | None


def _check_fields(row: Row, data: DataConfig) -> _Fields:
    table, fields = row.table, row.fields
    if len(fields) != table.columns:
        raise Rejected("malformed_row", why_malformed(row))
    label = check_label(fields[table.text], data)
    found = find_image(fields[table.image].strip(), table)
    refuse_claimed(fields[table.image].strip(), found, table, data)
    named = split_of(row)
    if named is None and table.split is not None and fields[table.split].strip():
        raise Rejected("unknown_split", f"{fields[table.split]!r} is none of {', '.join(SPLIT_NAMES)}")
    return _Fields(label, found.path, found.mend, named)


class _Image(NamedTuple):
    """Bytes that the Transform graph can decode, their pixels uint8 [height, width], and `Sample.original`."""

    encoded: bytes
    grey: np.ndarray
    original: tuple[int, int]


def _accept(
    row: Row, fields: _Fields, image: _Image, statistics: dict[str, float],
    splits: SplitRule, data: DataConfig, transform: TransformConfig,
) -> tuple[Sample, np.ndarray]:  # fmt: skip
    table, label = row.table, fields.label
    height, width = image.grey.shape
    frames = available_frames(width, height, transform)
    if 2 * len(label) > frames and (needed := needed_frames(label)) > frames:  # twice the length is always enough
        fits = f" ({FITS_AS_LINE})" if fits_as_line(label, width, height, transform) else ""
        width, height = image.original
        raise Rejected(
            "label_too_long",
            f"{len(label)} characters need {needed} frames, a {width} x {height} image has {frames}{fits}",
        )
    writer = row.writer
    id_, key = table.names_of(fields.path)
    sample = Sample(
        id=id_, source=table.source, image=image.encoded, text=label, writer=writer,
        split=splits.assign(fields.named, writer, key, table.root, data),
        width=image.grey.shape[1], height=image.grey.shape[0], original=image.original, statistics=statistics,
        mend=fields.mend, by_model=bool(row.labelling_model),
    )  # fmt: skip
    return sample, image.grey


def eval_slices(tables: Sequence[Table], plan: Plan, data: DataConfig) -> dict[str, set[str]]:
    """Writers, dataset folders and bands of lengths that the evaluation split has, before an image has been opened."""
    found: dict[str, set[str]] = {"writer": set(), "source": set(), "length_band": set()}
    for table in tables:
        for row in plan.read(table):
            with contextlib.suppress(Rejected):
                fields = _check_fields(row, data)
                key = table.names_of(fields.path)[1]
                if plan.splits.assign(fields.named, row.writer, key, table.root, data) == "eval":
                    found["writer"].add(row.writer)
                    found["source"].add(table.source)
                    found["length_band"].add(length_band(len(fields.label)))
    return found


def _read_files(rows: Sequence[Row], checked: Sequence[_Fields | Reject], data: DataConfig) -> list[Any]:
    """What `_read_file` returns for each row, or its reject; from a bucket, several at a time."""

    def attempt(row_and_fields: tuple[Row, _Fields | Reject]) -> Any:
        row, fields = row_and_fields
        return fields if isinstance(fields, Reject) else _attempt(row, _read_file, fields.path, data)

    several = len(rows) > 1 and storage.is_remote(rows[0].table.root)
    pairs = zip(rows, checked, strict=True)
    return list(ahead(attempt, pairs, storage.READERS) if several else map(attempt, pairs))


def _read_file(path: str, data: DataConfig) -> bytes | _Image:
    """Returns the file; if it is large, the decoded image instead, since files of many rows are held in memory."""
    encoded = read_image(path)
    return encoded if len(encoded) <= _LARGE_FILE else _decode(encoded, path, data)


def _decode(encoded: bytes, path: str, data: DataConfig) -> _Image:
    try:
        packed, grey = image_files.pack_with_pixels(encoded, data.max_pixels)
    except ImageError as error:
        rejected = rejected_image(error)
        if path.lower().endswith(OTHER_FORMATS) and error.reason in ("not_an_image", "undecodable"):
            ending = os.path.splitext(path)[1].lower()
            raise Rejected(rejected.reason, f"{ending} is not read: save the image as JPEG or PNG") from error
        raise rejected from error
    return _Image(packed.data, grey, (packed.width, packed.height))
