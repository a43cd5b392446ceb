"""How well a line finder serves a recogniser: its lines beside the true ones, and what is read in both.

The pipeline's Evaluator, `make base-line-finder` and the benchmark measure with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from components.common.metrics import ErrorCounts
from components.line_finder.data import LabelledPage
from components.line_finder.geometry import points, x_heights
from components.line_finder.metric import FindLines, covered
from htr_client.pages import Line, Page, find_page
from htr_client.pages.reading import Recognise, transcribe_lines
from serving.local_lines import LocalLineFinder

_ON = 0.5  # share of a found baseline on a true one, within an x-height, from which on its text counts there


def as_served(finder: LocalLineFinder) -> FindLines:
    """The line finder with all that a service does: shrink, encode, find, vectorise.

    Args:
        finder: A version in this process.
    """
    return lambda grey: find_page(grey, finder.maps, max_pixels=grey.size).lines


@dataclass
class TextErrors:
    """Errors of a recogniser on pages, which add up over pages.

    Lines without a label do not count, nor do those that cannot be cut: they would count as misread on both sides.

    Attributes:
        true: Errors of the true lines.
        found: Errors of the true lines, each read in the found ones that lie on it: a missed line counts with all
            of its characters; a found line without a label counts nowhere.
        pages: Errors of the texts of whole pages in reading order: what is found but has no label counts as errors.
        uncut: Lines with a label that cannot be cut.
    """

    true: ErrorCounts = field(default_factory=ErrorCounts)
    found: ErrorCounts = field(default_factory=ErrorCounts)
    pages: ErrorCounts = field(default_factory=ErrorCounts)
    uncut: int = 0

    def merge(self, other: TextErrors) -> TextErrors:
        """Adds other errors to these and returns them."""
        self.true.merge([other.true])
        self.found.merge([other.found])
        self.pages.merge([other.pages])
        self.uncut += other.uncut
        return self

    @property
    def ratio(self) -> float:
        """CER in the found lines by CER in the true lines; an error counts as one at least, so that it is finite."""
        return max(self.found.edits, 1) / max(self.true.edits, 1)


def texts_of(page: LabelledPage, lines: Sequence[Line], recognise: Recognise) -> list[str | None]:
    """How a recogniser transcribes the lines of a page, cut as a service cuts them; None where a line cannot be cut.

    Args:
        page: The page.
        lines: True lines or found ones.
        recognise: The recogniser.
    """
    height, width = page.grey.shape
    read = transcribe_lines(page.grey, Page("", width, height, tuple(lines)), recognise).lines
    return [None if line.error is not None else line.text for line in read]


def compare(
    page: LabelledPage, read: Sequence[str | None], found: Sequence[Line], texts: Sequence[str | None]
) -> TextErrors:
    """Compares what was read on a page with its labels.

    Args:
        page: The page with labels.
        read: What was read in its true lines, as of `texts_of`.
        found: The lines that were found.
        texts: What was read in them, as of `texts_of`.
    """
    errors = TextErrors()
    for line, text, x_height in zip(page.lines, read, x_heights(page.lines), strict=True):
        if not line.text:
            continue
        if text is None:
            errors.uncut += 1
            continue
        course = points(line.baseline)
        on_it = [covered(points(one.baseline), course, x_height) > _ON for one in found]
        errors.true.add(line.text, text)
        errors.found.add(line.text, " ".join(one for one, is_on in zip(texts, on_it, strict=True) if is_on and one))
    errors.pages.add("\n".join(line.text for line in page.lines if line.text), "\n".join(one or "" for one in texts))
    return errors
