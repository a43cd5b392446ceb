"""A page as all of htr knows it: an image and its lines of text, in reading order.

Coordinates are whole pixels of the upright image, x to the right and y down. What a file format cannot say is empty or
None. The readers and writers of this package share these classes, and so do import and transcription of pages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

Points = tuple[tuple[int, int], ...]
Box = tuple[int, int, int, int]  # left, top, right, bottom

_SPACE = re.compile(r"[ \t\r\n]+")


class PageError(ValueError):
    """A file holds no page that can be used.

    Attributes:
        reason: One word for counting: "damaged_xml", "not_a_page", "several_pages" or "unknown_scale".
    """

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PageError], tuple[str, str]]:
        # The default would call PageError(what), so that an error could not come back from a worker process.
        return (type(self), (self.reason, str(self)))


def one_line(text: str) -> str:
    """The text without line breaks, with single spaces, and none at its ends, as XML attributes keep it."""
    return _SPACE.sub(" ", text).strip(" ")


@dataclass(frozen=True)
class Word:
    """A word of a line.

    Attributes:
        text: Its characters, without spaces.
        box: Left, top, right and bottom edge.
        confidence: How sure the network is of its characters, 0 to 1, as a product; not calibrated, and too low where a
            language model has chosen the word. Of a word from a file: what the file says. None if unknown.
    """

    text: str
    box: Box
    confidence: float | None = None


@dataclass(frozen=True)
class LineError:
    """Why a line was not transcribed.

    Attributes:
        reason: One word for counting, as of `htr_client.ImageError` or `CutError`.
        message: One sentence or two for a person.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class Line:
    """A line of text.

    Attributes:
        text: Its text; "" where nothing was transcribed.
        baseline: Polyline on which the text stands, in reading direction.
        polygon: Outline of the line's body.
        confidence: Probability that the whole text is right, 0 to 1; None if unknown.
        words: The words of the text in order; empty, or all of them.
        id: Identifier in the file; writers make one up where there is none.
        region: Identifier of the block (paragraph, column) that the line belongs to.
        error: Why the line was not transcribed; None where it was, even as an empty text, or where nobody tried.
    """

    text: str = ""
    baseline: Points = ()
    polygon: Points = ()
    confidence: float | None = None
    words: tuple[Word, ...] = ()
    id: str = ""
    region: str = ""
    error: LineError | None = None

    def __post_init__(self) -> None:
        if self.text != one_line(self.text):
            raise ValueError(f"The text of a line is one line with single spaces, not {self.text!r}.")
        if self.words and " ".join(word.text for word in self.words) != self.text:
            raise ValueError(f"The words of a line are not those of its text {self.text!r}.")

    @property
    def box(self) -> Box:
        """The smallest box around polygon and baseline, else around the words; without any, nothing: (0, 0, 0, 0)."""
        points = self.polygon + self.baseline
        if not points:
            points = tuple(corner for word in self.words for corner in (word.box[:2], word.box[2:]))
        if not points:
            return (0, 0, 0, 0)
        xs, ys = zip(*points, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        image: Name of its image, as the file gives it.
        width: Width of the image in pixels, or of the page in the file's own unit; 0 if unknown.
        height: Its height in the same unit.
        lines: Lines in reading order.
        document: Identifier of the document that the page belongs to; "" if unknown.
        model: Name of the model that transcribed the lines; "" if unknown.
        model_version: The newest of its versions that answered for a line; 0 if unknown.
        unit: Unit of all lengths: "pixel", or another one of an ALTO file, such as "mm10".
        lines_too_wide: Number of lines that are so wide for that model that their writing became illegibly small.
    """

    image: str
    width: int
    height: int
    lines: tuple[Line, ...] = ()
    document: str = ""
    model: str = ""
    model_version: int = 0
    unit: str = "pixel"
    lines_too_wide: int = 0

    @property
    def text(self) -> str:
        """The text of all lines, one a line."""
        return "\n".join(line.text for line in self.lines)

    def scaled(self, width: int, height: int) -> Page:
        """The page in the pixels of an image, from another size or unit.

        Args:
            width: Width of that image.
            height: Height of that image.

        Raises:
            ValueError: The size of this page is unknown.
        """
        if not (self.width and self.height):
            raise ValueError("the size of the page is unknown")
        if (width, height) == (self.width, self.height):
            return replace(self, unit="pixel")  # as Transkribus writes ALTO: pixels, and says mm10
        across, down = width / self.width, height / self.height

        def point(x: int, y: int) -> tuple[int, int]:
            return (round(x * across), round(y * down))

        def line(one: Line) -> Line:
            return replace(
                one,
                baseline=tuple(point(*p) for p in one.baseline),
                polygon=tuple(point(*p) for p in one.polygon),
                words=tuple(replace(w, box=(*point(*w.box[:2]), *point(*w.box[2:]))) for w in one.words),
            )

        return replace(self, width=width, height=height, lines=tuple(map(line, self.lines)), unit="pixel")


def require_pixels(page: Page, name: str) -> None:
    """Refuses a page in another unit, for a format that has pixels only.

    Args:
        page: The page.
        name: Name of the format, for the message.

    Raises:
        ValueError: The page is in another unit.
    """
    if page.unit != "pixel":
        raise ValueError(
            f"The page is measured in {page.unit}, and {name} in pixels. Scale it to its image first, with "
            "page.scaled(width, height); where its numbers are pixels all the same, with page.width and page.height."
        )
