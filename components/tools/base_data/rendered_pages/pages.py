"""Renders pages: letters, lists, forms, envelopes; handwriting beside print, on plain, ruled or squared paper.

What real pages of few sources cannot teach a line finder: other layouts, other distances of lines, print. The lines are
known exactly, also where they nearly touch. Print is no line, as in the labels of the real pages: a recogniser of
handwriting makes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.line_finder.data import LabelledPage
from components.tools.base_data.rendered_pages.paper import aged, draw_paper
from components.tools.base_data.rendered_text.texts import CHARACTERS
from components.tools.sample_data.fonts import FONTS, LINE_PX, load_glyphs
from components.tools.sample_data.render import Writer, draw_ink, make_writer
from htr_client.pages import Line

LONGEST = 1280
"""Pixels of a page's longest side."""
_PITCHES = (24.0, 72.0)  # pixels from one baseline to the next
_PRINT = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol")
_PRINT_PX = 60  # height of a printed line as it is drawn


@dataclass(frozen=True)
class _Ink:
    """A line of writing before it lies on the page.

    Attributes:
        mask: float32 [h, w], 1 where there is ink.
        baseline: Row of the baseline in each column.
        above: How far its body reaches above the baseline, in pixels of the mask.
        below: How far it reaches below.
    """

    mask: np.ndarray
    baseline: np.ndarray
    above: float
    below: float


class _Handwriting:
    """Handwriting of one writer."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.writer: Writer = make_writer("", FONTS[rng.integers(len(FONTS))], rng)
        self.glyphs = load_glyphs(self.writer.font)

    def can_write(self, word: str) -> bool:
        return self.glyphs.can_write(word)

    def width(self, text: str) -> float:
        """Of a text in units of the height of a line."""
        drawn = (self.glyphs.glyph(character) for character in text)
        return sum(glyph.advance / LINE_PX + self.writer.spacing for glyph in drawn if glyph)

    def draw(self, text: str, rng: np.random.Generator) -> _Ink:
        mask, baseline = draw_ink(text, self.writer, rng)
        return _Ink(mask, baseline, self.glyphs.ascent, self.glyphs.descent)


class _Print:
    """Print in one typeface."""

    def __init__(self, rng: np.random.Generator) -> None:
        # Those that come with matplotlib: DejaVu and STIX, both under free licences.
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        file = folder / f"{_PRINT[rng.integers(len(_PRINT))]}.ttf"
        self.font = ImageFont.truetype(str(file), round(0.8 * _PRINT_PX), layout_engine=ImageFont.Layout.BASIC)

    def can_write(self, word: str) -> bool:
        return CHARACTERS.issuperset(word)

    def width(self, text: str) -> float:
        """Of a text in units of the height of a line."""
        return self.font.getlength(text) / _PRINT_PX

    def draw(self, text: str, rng: np.random.Generator) -> _Ink:
        foot = _PRINT_PX
        image = Image.new("L", (int(self.font.getlength(text)) + _PRINT_PX, 2 * _PRINT_PX), 0)
        ImageDraw.Draw(image).text((_PRINT_PX // 2, foot), text, font=self.font, fill=255, anchor="ls")
        mask = np.asarray(image, np.float32) / 255
        return _Ink(mask, np.full(mask.shape[1], float(foot)), 0.6 * _PRINT_PX, 0.18 * _PRINT_PX)


_Pen = _Handwriting | _Print


class _Sheet:
    """A page in the making.

    Attributes:
        grey: float32 [height, width].
        lines: What was written on it.
    """

    def __init__(self, height: int, width: int, texts: Iterator[str], rng: np.random.Generator) -> None:
        self.height, self.width, self.texts, self.rng = height, width, texts, rng
        self.pitch = float(np.exp(rng.uniform(*np.log(_PITCHES))))
        self.slope = float(rng.normal(0, 0.012))
        self.grey, self.ink = draw_paper(height, width, self.pitch, rng)
        self.lines: list[Line] = []

    def words(self, pen: _Pen, height: float, width: float) -> str:
        """Words that fill a width, as long as they are written so high."""
        taken: list[str] = []
        while True:
            for word in next(self.texts).split():
                if not pen.can_write(word):
                    continue
                if height * pen.width(" ".join([*taken, word])) > width:
                    return " ".join(taken) or word
                taken.append(word)

    def write(self, pen: _Pen, text: str, x: float, y: float, height: float, slope: float = 0.0) -> float:
        """Writes a line that begins near a point of the page, if it fits. Returns where it ends."""
        ink = pen.draw(text, self.rng)
        columns = np.flatnonzero(ink.mask.max(0) > 0.5)
        if not len(columns):
            return x
        handwritten = isinstance(pen, _Handwriting)
        scale = height / (LINE_PX if handwritten else _PRINT_PX)
        slope += self.slope + (float(self.rng.normal(0, 0.006)) if handwritten else 0.0)
        first, last = columns[0], columns[-1]
        # One point for each height of a line.
        at = np.linspace(first, last, max(2, round((last - first) * scale / height) + 1)).round().astype(int)
        start = float(ink.baseline[first])
        xs = x + scale * (at - first)
        ys = y + scale * (ink.baseline[at] - start) + slope * scale * (at - first)
        course = np.stack([xs, ys], 1)
        above, below = np.array([[0.0, scale * ink.above], [0.0, scale * ink.below]])
        outline = np.concatenate([course - above, (course + below)[::-1]])
        if (outline < 2).any() or (outline > [self.width - 3, self.height - 3]).any():
            return x
        self._lay(ink.mask, scale, slope, x - scale * first, y - scale * start, first * scale)
        if handwritten:
            self.lines.append(Line(text=text, baseline=_whole(course), polygon=_whole(outline)))
        return float(xs[-1])

    def _lay(self, mask: np.ndarray, scale: float, slope: float, left: float, top: float, fixed: float) -> None:
        """Lays ink on the page, sheared so that it climbs or falls about a column."""
        size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
        small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
        rise = abs(slope) * size[0]
        x0, y0 = int(np.floor(left)), int(np.floor(top - rise)) - 1
        moved = np.array([[1.0, 0.0, left - x0], [slope, 1.0, top - y0 - slope * fixed]])
        rows, columns = size[1] + 2 * int(np.ceil(rise)) + 3, size[0] + 2
        alpha = cv2.warpAffine(small, moved, (columns, rows))
        a, b, c, d = max(0, y0), min(self.height, y0 + rows), max(0, x0), min(self.width, x0 + columns)
        alpha = alpha[a - y0 : b - y0, c - x0 : d - x0] * float(self.rng.uniform(0.75, 1.0))
        place = self.grey[a:b, c:d]
        place += alpha * np.minimum(self.ink - place, 0)


def _whole(course: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((int(x), int(y)) for x, y in np.rint(course))


def render_page(name: str, texts: Iterator[str], rng: np.random.Generator) -> LabelledPage:
    """Renders a page.

    Args:
        name: Its name.
        texts: Where its words come from; must not end.
        rng: What is drawn.

    Returns:
        A page whose longest side has `LONGEST` pixels, and its handwritten lines, at least one, with baseline and
        polygon.
    """
    longer, shorter = LONGEST, round(LONGEST * rng.uniform(0.6, 0.95))
    height, width = (longer, shorter) if rng.random() < 0.8 else (shorter, longer)
    layouts: Sequence[Callable[[_Sheet], None]] = (_prose, _prose, _prose, _columns, _form, _table, _scattered)
    while True:
        sheet = _Sheet(height, width, texts, rng)
        layouts[rng.integers(len(layouts))](sheet)
        for _ in range(int(rng.choice([0, 0, 0, 1, 2]))):
            _printed(sheet)
        if sheet.lines:
            return LabelledPage(name, name, aged(sheet.grey, rng), tuple(sheet.lines))


def _height(sheet: _Sheet, pen: _Pen) -> float:
    """How high lines are on a page: handwriting may reach into those above and below."""
    lowest, highest = (0.65, 1.15) if isinstance(pen, _Handwriting) else (0.55, 0.9)
    return sheet.pitch * float(sheet.rng.uniform(lowest, highest))


def _printed(sheet: _Sheet) -> None:
    """Some printed lines in small type, at times askew: a notice, a stamp."""
    rng, pen = sheet.rng, _Print(sheet.rng)
    height = float(rng.uniform(9, 34))
    slope = float(rng.normal(0, 0.1)) if rng.random() < 0.3 else 0.0
    x, width = sheet.width * float(rng.uniform(0.03, 0.6)), sheet.width * float(rng.uniform(0.1, 0.9))
    y = sheet.height * float(rng.choice([rng.uniform(0.02, 0.08), rng.uniform(0.1, 0.95)]))
    for _ in range(int(rng.integers(1, 5))):
        sheet.write(pen, sheet.words(pen, height, min(width, 0.95 * sheet.width - x)), x, y, height, slope)
        y += 1.1 * height


def _paragraphs(sheet: _Sheet, pen: _Handwriting, left: float, right: float, top: float, bottom: float) -> None:
    """Lines of a text, from margin to margin, with some that are short."""
    rng, height = sheet.rng, _height(sheet, pen)
    loose = 0.15  # of the pitch
    indent = float(rng.choice([0.0, rng.uniform(0.5, 3)])) * sheet.pitch
    y, begins = top, True
    while y < bottom:
        x = left + begins * indent + loose * sheet.pitch * float(rng.normal())
        ends = rng.random() < 0.15
        width = (right - x) * (rng.uniform(0.15, 0.9) if ends else 1.0)
        sheet.write(pen, sheet.words(pen, height, width), x, y + loose * 0.3 * sheet.pitch * rng.normal(), height)
        if rng.random() < 0.03:  # added above the line
            some = sheet.words(pen, 0.6 * height, 4 * height)
            sheet.write(pen, some, x + rng.uniform(0.2, 0.7) * (right - x), y - 0.55 * sheet.pitch, 0.6 * height)
        y += sheet.pitch * (rng.choice([1.0, 1.5, 2.0]) if ends else 1.0)
        begins = ends
    if rng.random() < 0.3:  # a signature, which may climb or fall
        height *= float(rng.uniform(1.0, 1.6))
        name = sheet.words(pen, height, float(rng.uniform(2, 5)) * height)
        slope = float(rng.normal(0, 0.25))
        sheet.write(pen, name, left + rng.uniform(0.2, 0.7) * (right - left), y + sheet.pitch, height, slope)


def _prose(sheet: _Sheet) -> None:
    """A letter or a page of a book, at times with a heading, and something in the margin."""
    rng, pen = sheet.rng, _Handwriting(sheet.rng)
    left, right = sheet.width * float(rng.uniform(0.03, 0.25)), sheet.width * float(rng.uniform(0.85, 0.98))
    top = sheet.height * float(rng.uniform(0.04, 0.2))
    if rng.random() < 0.5:
        heading: _Pen = _Print(rng) if rng.random() < 0.4 else _Handwriting(rng)
        height = sheet.pitch * float(rng.uniform(0.8, 1.5))
        text = sheet.words(heading, height, 0.45 * (right - left))
        sheet.write(heading, text, left + rng.uniform(0, 0.5) * (right - left), top, height)
        top += float(rng.uniform(1.5, 4)) * sheet.pitch
    if left > 0.18 * sheet.width and rng.random() < 0.5:
        _notes(sheet, 0.02 * sheet.width, 0.8 * left)
    _paragraphs(sheet, pen, left, right, top, sheet.height * float(rng.uniform(0.5, 0.97)))


def _notes(sheet: _Sheet, left: float, right: float) -> None:
    """Small words in the margin."""
    rng, pen = sheet.rng, _Handwriting(sheet.rng)
    y = sheet.height * float(rng.uniform(0.1, 0.8))
    for _ in range(int(rng.integers(1, 6))):
        height = 0.6 * sheet.pitch
        sheet.write(pen, sheet.words(pen, height, right - left), left, y, height)
        y += 0.8 * sheet.pitch


def _columns(sheet: _Sheet) -> None:
    """Two pages of a book, or columns."""
    rng, count = sheet.rng, int(sheet.rng.integers(2, 4))
    edges = np.linspace(0.04 * sheet.width, 0.97 * sheet.width, count + 1)
    gap = float(rng.uniform(0.8, 2.5)) * sheet.pitch
    pen = _Handwriting(rng)
    for left, right in zip(edges[:-1], edges[1:] - gap, strict=True):
        if right - left > 3 * sheet.pitch:
            top = sheet.height * float(rng.uniform(0.04, 0.15))
            _paragraphs(sheet, pen, float(left), float(right), top, sheet.height * float(rng.uniform(0.6, 0.97)))


def _form(sheet: _Sheet) -> None:
    """Printed captions with what was written beside or below them, and a printed passage."""
    rng, print_, writing = sheet.rng, _Print(sheet.rng), _Handwriting(sheet.rng)
    height, written = _height(sheet, print_), _height(sheet, writing)
    left, y = sheet.width * float(rng.uniform(0.04, 0.15)), sheet.height * float(rng.uniform(0.05, 0.15))
    ruled, below = rng.random() < 0.6, rng.random() < 0.3
    passage = int(rng.integers(0, 4))
    while y < 0.95 * sheet.height:
        if passage and rng.random() < 0.2:
            for _ in range(passage):
                sheet.write(print_, sheet.words(print_, height, 0.88 * sheet.width - left), left, y, height)
                y += sheet.pitch
            y += sheet.pitch
        end = sheet.write(print_, sheet.words(print_, height, rng.uniform(3, 8) * height), left, y, height)
        x = left if below else end + float(rng.uniform(0.5, 4)) * sheet.pitch
        y += below * 1.2 * sheet.pitch
        if ruled:
            foot = round(y + 0.15 * written), round(y + 0.15 * written + sheet.slope * (0.95 * sheet.width - x))
            cv2.line(
                sheet.grey, (round(x), foot[0]), (round(0.95 * sheet.width), foot[1]), (float(rng.uniform(60, 180)),), 1
            )
        if rng.random() < 0.85 and x < 0.8 * sheet.width:
            width = float(rng.uniform(0.2, 1)) * (0.95 * sheet.width - x)
            sheet.write(writing, sheet.words(writing, written, width), x, y, written)
        y += float(rng.choice([1.3, 1.6, 2.2])) * sheet.pitch


def _table(sheet: _Sheet) -> None:
    """Rows and columns of short entries, with or without rules."""
    rng, pen = sheet.rng, _Handwriting(sheet.rng)
    height = min(_height(sheet, pen), 0.85 * sheet.pitch)
    count = int(rng.integers(2, 6))
    edges = np.cumsum([0.0, *rng.uniform(0.5, 2, count)])
    edges = (0.04 + 0.92 * edges / edges[-1]) * sheet.width
    top, row = sheet.height * float(rng.uniform(0.06, 0.2)), sheet.pitch * float(rng.uniform(1.1, 1.7))
    bottom = sheet.height * float(rng.uniform(0.6, 0.97))
    down, across = rng.random(2) < 0.6
    shade = (float(rng.uniform(40, 170)),)
    if down:
        for edge in edges:
            cv2.line(sheet.grey, (round(edge), round(top - row)), (round(edge), round(bottom)), shade, 1)
    y = top
    while y < bottom:
        for left, right in pairwise(edges.tolist()):
            room = right - left - 0.8 * sheet.pitch
            if room > 1.5 * height and rng.random() < 0.8:
                text = sheet.words(pen, height, room * float(rng.uniform(0.2, 0.9)))
                if height * pen.width(text) < room:
                    sheet.write(pen, text, left + 0.3 * sheet.pitch, y, height)
        if across:
            foot = round(y + 0.35 * row)
            cv2.line(sheet.grey, (round(edges[0]), foot), (round(edges[-1]), foot), shade, 1)
        y += row


def _scattered(sheet: _Sheet) -> None:
    """A few lines of several sizes: an envelope, a label, the back of a card."""
    rng, pen = sheet.rng, _Handwriting(sheet.rng)
    y = sheet.height * float(rng.uniform(0.1, 0.5))
    x = sheet.width * float(rng.uniform(0.05, 0.5))
    for _ in range(int(rng.integers(1, 9))):
        height = sheet.pitch * float(rng.uniform(0.8, 2.2))
        text = sheet.words(pen, height, (0.95 * sheet.width - x) * float(rng.uniform(0.2, 1)))
        sheet.write(pen, text, x, y, height)
        y += height * float(rng.uniform(1.2, 2.5))
        x = float(np.clip(x + rng.normal(0, 0.08) * sheet.width, 0.03 * sheet.width, 0.6 * sheet.width))
