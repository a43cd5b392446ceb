"""The fonts of the sample data, and their glyphs as masks that are checked to have ink.

Authors and licences of the font files are listed in fonts/LICENSES.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_DIR = Path(__file__).parent / "fonts"

LINE_PX = 96
"""Height of a line (ascender to descender) at which glyphs are drawn: two to four times that of an image."""

_MARGIN = 48  # round a glyph's origin, since swashes reach far out of the advance box
_REFERENCE = "Hbdfklgpqy"  # its ink spans a line; the metrics in the font files do not (they differ by a factor of 2)
_UNASSIGNED = "\uffff"  # a noncharacter: no font maps it, so it draws .notdef


@dataclass(frozen=True)
class FontInfo:
    """One font file shipped with the package.

    Attributes:
        name: Name of its source package, without the scope.
        joined: Whether its letters join up, so that extra letter spacing would tear words apart.
    """

    name: str
    joined: bool = False

    @property
    def path(self) -> Path:
        """The font file."""
        return FONT_DIR / f"{self.name}-latin-400-normal.woff"


FONTS: tuple[FontInfo, ...] = (
    FontInfo("architects-daughter"),
    FontInfo("calligraffitti", joined=True),
    FontInfo("caveat"),
    FontInfo("cedarville-cursive", joined=True),
    FontInfo("coming-soon"),
    FontInfo("homemade-apple", joined=True),
    FontInfo("indie-flower"),
    FontInfo("kalam"),
    FontInfo("la-belle-aurore", joined=True),
    FontInfo("nothing-you-could-do"),
    FontInfo("patrick-hand"),
    FontInfo("reenie-beanie"),
    FontInfo("schoolbell"),
    FontInfo("shadows-into-light"),
)


@dataclass(frozen=True)
class Glyph:
    """A drawn character.

    Attributes:
        mask: Ink, 0 to 255, cropped to the ink; empty for a space.
        left: Where the mask starts, right of the pen position.
        top: Where the mask starts, below the baseline (so mostly negative).
        advance: How far the pen moves on.
    """

    mask: np.ndarray
    left: int
    top: int
    advance: float


class GlyphSet:
    """The glyphs of one font, drawn at a size at which a line is `LINE_PX` high.

    Attributes:
        info: The font.
        ascent: Height of a line above the baseline.
        descent: Depth of a line below the baseline.
        stroke: Typical width of the strokes.
    """

    def __init__(self, info: FontInfo) -> None:
        self.info = info
        probe = self._load(100).getbbox(_REFERENCE, anchor="ls")
        self._font = self._load(100.0 * LINE_PX / (probe[3] - probe[1]))
        box = self._font.getbbox(_REFERENCE, anchor="ls")
        self.ascent, self.descent = -box[1], box[3]
        self._notdef = self._draw(_UNASSIGNED)
        self._glyphs: dict[str, Glyph | None] = {}
        self.stroke = self._measure_stroke()

    def _load(self, size: float) -> ImageFont.FreeTypeFont:
        # The basic layout engine is part of every Pillow; the other one depends on a library found at run time,
        # and the images with it.
        return ImageFont.truetype(str(self.info.path), size, layout_engine=ImageFont.Layout.BASIC)

    def _draw(self, character: str) -> Glyph:
        advance = self._font.getlength(character)
        size = (int(advance) + 2 * _MARGIN, LINE_PX + 2 * _MARGIN + 48)
        baseline = _MARGIN + 24 + round(self.ascent)
        image = Image.new("L", size, 0)
        ImageDraw.Draw(image).text((_MARGIN, baseline), character, font=self._font, fill=255, anchor="ls")
        mask = np.asarray(image)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return Glyph(np.zeros((0, 0), np.uint8), 0, 0, advance)
        top, left = int(rows[0]), int(columns[0])
        return Glyph(mask[top : rows[-1] + 1, left : columns[-1] + 1], left - _MARGIN, top - baseline, advance)

    def _measure_stroke(self) -> float:
        area, outline = 0.0, 0.0
        for character in "aenolut":
            glyph = self.glyph(character)
            if glyph is not None:
                binary = np.pad((glyph.mask > 127).astype(np.uint8), 2)
                contours, _ = cv2.findContours(binary, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
                area += float(binary.sum())
                outline += sum(cv2.arcLength(contour, True) for contour in contours)
        return 2 * area / max(outline, 1.0)  # a stroke's outline runs along both of its sides

    def glyph(self, character: str) -> Glyph | None:
        """Returns the glyph of a character, or None if the font has none or draws nothing for it."""
        if character not in self._glyphs:
            glyph = self._draw(character)
            if character == " ":
                usable = glyph.advance > 0
            else:
                usable = glyph.mask.size > 0 and int(glyph.mask.max()) > 127 and not self._is_notdef(glyph)
            self._glyphs[character] = glyph if usable else None
        return self._glyphs[character]

    def _is_notdef(self, glyph: Glyph) -> bool:
        return glyph.advance == self._notdef.advance and np.array_equal(glyph.mask, self._notdef.mask)

    def missing(self, characters: Iterable[str]) -> set[str]:
        """Returns those of the characters that the font cannot write."""
        return {character for character in characters if self.glyph(character) is None}

    def can_write(self, text: str) -> bool:
        """Whether the font has ink for every character of the text."""
        return all(self.glyph(character) is not None for character in text)


@cache
def load_glyphs(info: FontInfo) -> GlyphSet:
    """Returns the glyphs of a font; each font is read and drawn once per process."""
    return GlyphSet(info)
