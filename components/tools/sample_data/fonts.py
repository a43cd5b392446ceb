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
_SUBSETS = ("latin", "latin-ext", "cyrillic", "cyrillic-ext")  # a font's files; each has other characters
_UNASSIGNED = "\uffff"  # a noncharacter: no font maps it, so it draws .notdef


@dataclass(frozen=True)
class FontInfo:
    """One font shipped with the package.

    Attributes:
        name: Name of its source package, without the scope.
        joined: Whether its letters join up, so that extra letter spacing would tear words apart.
    """

    name: str
    joined: bool = False

    @property
    def paths(self) -> list[Path]:
        """The font's files, one for each subset of its characters; the Latin one is first."""
        files = (FONT_DIR / f"{self.name}-{subset}-400-normal.woff" for subset in _SUBSETS)
        return [file for file in files if file.exists()]


SAMPLE_FONTS: tuple[FontInfo, ...] = (
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
"""The handwriting of the sample data."""

FONTS: tuple[FontInfo, ...] = (
    *SAMPLE_FONTS,
    FontInfo("allura", joined=True),
    FontInfo("annie-use-your-telescope"),
    FontInfo("arizonia", joined=True),
    FontInfo("bad-script"),
    FontInfo("bilbo", joined=True),
    FontInfo("covered-by-your-grace"),
    FontInfo("crafty-girls"),
    FontInfo("damion", joined=True),
    FontInfo("dawning-of-a-new-day", joined=True),
    FontInfo("fuggles", joined=True),
    FontInfo("gloria-hallelujah"),
    FontInfo("great-vibes", joined=True),
    FontInfo("grey-qo", joined=True),
    FontInfo("hurricane", joined=True),
    FontInfo("italianno", joined=True),
    FontInfo("just-another-hand"),
    FontInfo("kristi", joined=True),
    FontInfo("league-script", joined=True),
    FontInfo("licorice", joined=True),
    FontInfo("loved-by-the-king"),
    FontInfo("mansalva"),
    FontInfo("ms-madi", joined=True),
    FontInfo("neucha"),
    FontInfo("oooh-baby", joined=True),
    FontInfo("over-the-rainbow"),
    FontInfo("pangolin"),
    FontInfo("playwrite-de-grund", joined=True),
    FontInfo("playwrite-fr-moderne", joined=True),
    FontInfo("playwrite-it-moderna", joined=True),
    FontInfo("playwrite-pl", joined=True),
    FontInfo("qwigley", joined=True),
    FontInfo("ruthie", joined=True),
    FontInfo("satisfy", joined=True),
    FontInfo("sedgwick-ave"),
    FontInfo("send-flowers", joined=True),
    FontInfo("square-peg", joined=True),
    FontInfo("sue-ellen-francisco"),
    FontInfo("swanky-and-moo-moo"),
    FontInfo("the-girl-next-door"),
    FontInfo("vujahday-script", joined=True),
    FontInfo("waiting-for-the-sunrise"),
    FontInfo("whisper", joined=True),
    FontInfo("windsong", joined=True),
    FontInfo("yellowtail", joined=True),
    FontInfo("zeyada"),
)
"""All of them."""


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
        files = info.paths
        probe = _load(files[0], 100).getbbox(_REFERENCE, anchor="ls")
        self._fonts = [_load(file, 100.0 * LINE_PX / (probe[3] - probe[1])) for file in files]
        box = self._fonts[0].getbbox(_REFERENCE, anchor="ls")
        self.ascent, self.descent = -box[1], box[3]
        self._notdefs = [self._draw(_UNASSIGNED, font) for font in self._fonts]
        self._glyphs: dict[str, Glyph | None] = {}
        self.stroke = self._measure_stroke()

    def _draw(self, character: str, font: ImageFont.FreeTypeFont) -> Glyph:
        advance = font.getlength(character)
        size = (int(advance) + 2 * _MARGIN, LINE_PX + 2 * _MARGIN + 48)
        baseline = _MARGIN + 24 + round(self.ascent)
        image = Image.new("L", size, 0)
        ImageDraw.Draw(image).text((_MARGIN, baseline), character, font=font, fill=255, anchor="ls")
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
            drawn = (self._usable(character, *file) for file in zip(self._fonts, self._notdefs, strict=True))
            self._glyphs[character] = next(filter(None, drawn), None)
        return self._glyphs[character]

    def _usable(self, character: str, font: ImageFont.FreeTypeFont, notdef: Glyph) -> Glyph | None:
        """The glyph of a character in one of the font's files, None if it is not there or has no ink."""
        glyph = self._draw(character, font)
        if character == " ":
            return glyph if glyph.advance > 0 else None
        if not glyph.mask.size or int(glyph.mask.max()) <= 127:
            return None
        return None if glyph.advance == notdef.advance and np.array_equal(glyph.mask, notdef.mask) else glyph

    def missing(self, characters: Iterable[str]) -> set[str]:
        """Returns those of the characters that the font cannot write."""
        return {character for character in characters if self.glyph(character) is None}

    def can_write(self, text: str) -> bool:
        """Whether the font has ink for every character of the text."""
        return all(self.glyph(character) is not None for character in text)


def _load(file: Path, size: float) -> ImageFont.FreeTypeFont:
    # The basic layout engine is part of every Pillow; the other one depends on a library found at run time,
    # and the images with it.
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def load_glyphs(info: FontInfo) -> GlyphSet:
    """Returns the glyphs of a font; each font is read and drawn once per process."""
    return GlyphSet(info)
