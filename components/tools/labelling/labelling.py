"""Self-training: what a model is sure to read in images that nobody has labelled becomes training data.

Lee 2013, Pseudo-Label; for handwriting Wolf and Fink 2022, arXiv 2206.03149, from where the choice by confidence is.
No TensorFlow here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from components.common.folders import made_whole
from components.common.words import counted
from components.example_gen.header import LABELLING_MODEL
from components.example_gen.table import plain
from components.tools.dataset_folder import whole_dataset
from components.tools.labelled import Counts, LeftOut
from htr_client import Transcription
from htr_client.errors import ImageError
from htr_client.image_files import pack
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.model import Page
from htr_client.pages.reading import is_page
from htr_client.results import rounded
from htr_client.suspicion import NO_TEXT, PAGE_LIKE

# No .csv: a training would look for labels in it, too. Spreadsheets open text with tabs.
LEFT_OUT_FILE = "left-out.txt"
# Whether there is writing, what the model recognises and how sure it is tell better. It may be sure of a page, too, but
# the shape does not tell that from a large image of a word: a line finder does.
_NO_REASONS = {NO_TEXT, PAGE_LIKE}
FIELDS = ("filename", "text", "split", "confidence", LABELLING_MODEL, "source")


class LabellingError(ValueError):
    """There is nothing to label, or nowhere to put it; the message says what to do."""


def write(
    answers: Iterable[Transcription],
    folder: str,
    above: float,
    counts: Counts,
    max_pixels: int = MAX_PIXELS,
    find_page: Callable[[str], Page] | None = None,
) -> None:
    """Writes the images that the model is sure of as a dataset: `labels.csv` and `images/`, all for training.

    `LEFT_OUT_FILE` beside them names the other images.

    Args:
        answers: What a model recognises in images, with their paths as sources.
        folder: New or empty folder; it is whole or not there.
        above: Confidence from which on a text is believed.
        counts: Counts that take what became of the images.
        max_pixels: Limit with which the model has read them.
        find_page: Function that finds the lines of a page, by its path; without it no image is told to be one.

    Raises:
        LabellingError: The folder holds something, or no text can be believed.
        LockHeld: Another command writes the folder.
        HtrError: The model fails.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabellingError(f"{folder} holds something already: name a new folder with --output.")
    with made_whole(target) as unfinished, whole_dataset(unfinished, FIELDS, crlf=True) as add:
        for answer, image in _believed(answers, above, counts, max_pixels, find_page):
            counts.labelled += 1
            confidence, source = rounded(answer.confidence), plain(answer.source or "")
            # An error rate that is measured on a model's own texts would say nothing.
            add(f"{counts.labelled:06d}", image, answer.text, "train", confidence, answer.version, source)
        if not counts.labelled:
            raise LabellingError(_nothing(counts, above))
        if counts.left_out:
            path = unfinished / LEFT_OUT_FILE
            with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                csv.writer(file, "excel-tab").writerows([LeftOut._fields, *counts.left_out])


def _believed(
    answers: Iterable[Transcription],
    above: float,
    counts: Counts,
    max_pixels: int,
    find_page: Callable[[str], Page] | None,
) -> Iterator[tuple[Transcription, bytes]]:
    for answer in answers:
        path, read = answer.source or "", (answer.text, str(rounded(answer.confidence)))
        if answer.error is not None:
            counts.leave_out("unread", path, detail=str(answer.error))
            continue
        if any(suspicion.code not in _NO_REASONS for suspicion in answer.suspicions):
            counts.leave_out("suspect", path, *read, " ".join(suspicion.code for suspicion in answer.suspicions))
            continue
        try:
            # Before the confidence: of a page, read as one line, a model is seldom sure.
            if find_page is not None and _is_page_like(answer) and is_page(find_page(path)):
                counts.leave_out("page", path, *read, PAGE_LIKE)
            elif not answer.text.strip():
                counts.leave_out("empty", path, *read)
            elif answer.confidence < above:
                counts.leave_out("unsure", path, *read)
            else:
                yield answer, pack(path, max_pixels).data
        except ImageError as error:  # gone since it was read
            counts.leave_out("unread", path, detail=str(error))


def _is_page_like(answer: Transcription) -> bool:
    return any(suspicion.code == PAGE_LIKE for suspicion in answer.suspicions)


def _nothing(counts: Counts, above: float) -> str:
    if counts.unsure > counts.page:
        return (
            f"Nothing to label: of no image the model is as sure as {above:g}. Label some by hand (htr review collects "
            "those that it is least sure of), or believe less sure texts: --above."
        )
    if counts.page:
        return (
            f"Nothing to label: {counted(counts.page, 'image')} of pages, and images have to be of one line or word "
            "each. htr transcribe --kind page finds the lines of pages; htr import cuts corrected ones out."
        )
    if counts.empty or counts.suspect:
        return (
            f"Nothing to label: in {counted(counts.empty, 'image')} the model sees no writing, and "
            f"{counts.suspect} of another kind than it was trained on. Label some by hand."
        )
    if counts.unread:
        return f"Nothing to label: {len(counts.unread)} could not be read; the first: {counts.unread[0]}"
    return "Nothing to label: all of these images are labelled already."
