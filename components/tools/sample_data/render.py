"""Draws one word in the handwriting of one writer.

A word is set glyph by glyph at a few times the final size, bent (slant, waves of the baseline, trembling),
made thinner or thicker by moving its outline, scaled down and laid on paper.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from components.tools.sample_data.fonts import LINE_PX, FontInfo, Glyph, load_glyphs

MIN_HEIGHT, MAX_HEIGHT = 24, 64
MAX_ASPECT = 4.8
"""Images are at most this many times as wide as high."""
_COMFORTABLE = 3.9 / MAX_ASPECT  # just fits 128 x 32; longer labels are written narrower before they are let grow wider
_NARROWEST = 0.6

# Blue, green, red, as OpenCV orders them.
_INKS = {
    "black": (34, 30, 30),
    "grey": (88, 82, 80),
    "blue": (120, 48, 30),
    "royal": (150, 70, 40),
    "brown": (30, 44, 74),
}


@dataclass(frozen=True)
class Writer:
    """One synthetic writer: a font and the traits that all images of this writer share.

    Attributes:
        name: As it stands in the column WRITER.
        font: Shared with other writers.
        slant: Horizontal shift per unit of height.
        stroke: Width of the strokes as a fraction of the line height.
        spacing: Extra space between letters as a fraction of the line height.
        stretch: Width of the writing relative to the font's.
        height: Typical height of the images.
        wave: How far the baseline bends, as a fraction of the line height.
        tremor: How far strokes stray, in pixels of the large drawing.
        ink: Colour of the ink, blue-green-red.
        opacity: How strongly the ink covers the paper.
        paper: Colour of the paper, blue-green-red.
        grain: Standard deviation of the paper's noise.
        ruled: Chance that an image shows a ruled line.
        colour: Whether the images have colours.
        loose: How much letters differ from one to the next: standard deviation of their size, turn and slant.
    """

    name: str
    font: FontInfo
    slant: float
    stroke: float
    spacing: float
    stretch: float
    height: float
    wave: float
    tremor: float
    ink: tuple[float, ...]
    opacity: float
    paper: tuple[float, ...]
    grain: float
    ruled: float
    colour: bool
    loose: float = 0.0


def make_writer(name: str, font: FontInfo, rng: np.random.Generator) -> Writer:
    """Draws the traits of a writer."""
    tone = rng.uniform(205, 250)
    tint = rng.uniform(0, 14)  # yellowish rather than bluish, as old paper is
    return Writer(
        name=name,
        font=font,
        slant=float(rng.uniform(-0.12, 0.16) if font.joined else rng.uniform(-0.12, 0.28)),
        stroke=float(rng.uniform(0.035, 0.075)),
        spacing=float(rng.uniform(-0.01, 0.01) if font.joined else rng.uniform(-0.01, 0.07)),
        stretch=float(rng.uniform(0.88, 1.15)),
        height=float(np.clip(rng.lognormal(np.log(36), 0.2), 27, 54)),
        wave=float(rng.uniform(0.005, 0.035)),
        tremor=float(rng.uniform(0.3, 1.8)),
        ink=tuple(_INKS[rng.choice(list(_INKS))]),
        opacity=float(rng.uniform(0.85, 1.0)),
        paper=(tone - tint, tone - 0.3 * tint, tone),
        grain=float(rng.uniform(1.0, 5.0)),
        ruled=float(rng.choice([0.0, 0.1, 0.7], p=[0.5, 0.3, 0.2])),
        colour=bool(rng.random() < 0.5),
    )


def render(text: str, writer: Writer, rng: np.random.Generator, longest: float = MAX_ASPECT) -> np.ndarray:
    """Draws a text in a writer's handwriting.

    Args:
        text: One line, every character of which the writer's font must have.
        writer: Whose handwriting it is.
        rng: What differs from one image of the writer to the next.
        longest: Most that the image's width may be of its height; longer texts are written narrower and smaller.

    Returns:
        The image, uint8, [height, width] or [height, width, 3] (blue, green, red).

    Raises:
        ValueError: If the font lacks a character of the text.
    """
    return _draw(text, writer, rng, longest).image


def render_with_extents(
    text: str, writer: Writer, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[float, float] | None]]:
    """Draws a text as `render` does, and tells where each character is.

    Args:
        text: As for `render`.
        writer: As for `render`.
        rng: As for `render`.

    Returns:
        The image, and for each character the left and right edge of its ink in pixels of the image; None where it has
        no ink.

    Raises:
        ValueError: If the font lacks a character of the text.
    """
    drawing = _draw(text, writer, rng)
    map_x, map_y = drawing.written.map_x, drawing.written.map_y
    extents: list[tuple[float, float] | None] = []
    for x, y, glyph in drawing.written.placed:
        if not glyph.mask.size:
            extents.append(None)
            continue
        ink = cv2.remap(glyph.mask, map_x - x, map_y - y, cv2.INTER_LINEAR)
        columns = np.flatnonzero(ink.max(axis=0) > 127)
        left, right = (drawing.left + drawing.scale * float(edge) for edge in (columns[0], columns[-1] + 1))
        extents.append((left, right))
    return drawing.image, extents


def draw_ink(text: str, writer: Writer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a text without paper, so large that a line is `LINE_PX` high.

    Args:
        text: As for `render`.
        writer: As for `render`.
        rng: As for `render`.

    Returns:
        Ink float32 [height, width], 0 to 1, with some room around it, and the row of the baseline in each column.

    Raises:
        ValueError: If the font lacks a character of the text.
    """
    written = _write(text, writer, rng)
    return written.mask, np.abs(written.map_y - written.baseline).argmin(axis=0)


class _Written(NamedTuple):
    """A text in a writer's handwriting, without paper.

    Attributes:
        mask: Ink float32 [height, width], 0 to 1.
        baseline: Row of the baseline on the straight line.
        placed: Left column, top row and glyph of each character on the straight line.
        map_x: For each pixel, the column on the straight line.
        map_y: Likewise the row.
    """

    mask: np.ndarray
    baseline: int
    placed: list[tuple[int, int, Glyph]]
    map_x: np.ndarray
    map_y: np.ndarray


def _write(text: str, writer: Writer, rng: np.random.Generator) -> _Written:
    placed, canvas, baseline = _set_glyphs(text, writer, rng)
    map_x, map_y = _bend(canvas.shape, baseline, writer, rng)
    mask = _restroke(cv2.remap(canvas, map_x, map_y, cv2.INTER_LINEAR), writer, rng)
    return _Written(mask, baseline, placed, map_x, map_y)


class _Drawing(NamedTuple):
    """An image, and what its characters went through.

    Attributes:
        image: Result of `render`.
        left: Where column 0 of the bent text lies in the image, in pixels.
        scale: Pixels of the image for a column of the bent text.
        written: The text before it was laid on paper.
    """

    image: np.ndarray
    left: float
    scale: float
    written: _Written


def _draw(text: str, writer: Writer, rng: np.random.Generator, longest: float = MAX_ASPECT) -> _Drawing:
    written = _write(text, writer, rng)
    return _Drawing(*_on_paper(written.mask, written.baseline, writer, rng, longest), written)


def _field(shape: tuple[int, ...], step: float, rng: np.random.Generator) -> np.ndarray:
    """Returns smooth noise [height, width] of about unit variance that changes over distances of `step` pixels."""
    nodes = rng.standard_normal((int(shape[0] / step) + 2, int(shape[1] / step) + 2)).astype(np.float32)
    return cv2.resize(nodes, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _set_glyphs(
    text: str, writer: Writer, rng: np.random.Generator
) -> tuple[list[tuple[int, int, Glyph]], np.ndarray, int]:
    """Sets the text on a straight line with room on all sides.

    Returns:
        Left column, top row and glyph of each character; the ink of the text; the row of the baseline.
    """
    glyphs = load_glyphs(writer.font)
    spacing = writer.spacing * LINE_PX
    unsteady = 0.0 if writer.font.joined else 0.012 * LINE_PX
    placed: list[tuple[int, int, Glyph]] = []
    pen = 0.0
    for character in text:
        glyph = glyphs.glyph(character)
        if glyph is None:
            raise ValueError(f"The font {writer.font.name} cannot write {character!r} (in {text!r}).")
        if writer.loose and glyph.mask.size:
            glyph = _loosened(glyph, writer.loose, rng)
        shift, drop = rng.standard_normal(2) * unsteady
        placed.append((round(pen + shift) + glyph.left, round(drop) + glyph.top, glyph))
        pen += glyph.advance + spacing
    pad = LINE_PX // 2  # what bending may need
    left = min(x for x, _, g in placed if g.mask.size) - pad
    right = max(x + g.mask.shape[1] for x, _, g in placed if g.mask.size) + pad
    top = min(*(y for _, y, g in placed if g.mask.size), -round(glyphs.ascent)) - pad // 2
    bottom = max(*(y + g.mask.shape[0] for _, y, g in placed if g.mask.size), round(glyphs.descent)) + pad // 2
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    for x, y, glyph in placed:
        height, width = glyph.mask.shape
        window = canvas[y - top : y - top + height, x - left : x - left + width]
        np.maximum(window, glyph.mask, out=window)
    return [(x - left, y - top, glyph) for x, y, glyph in placed], canvas, -top


def _loosened(glyph: Glyph, loose: float, rng: np.random.Generator) -> Glyph:
    """The glyph a little larger or smaller, turned and slanted, about where it stood."""
    scale, turn, slant = 1 + loose * rng.standard_normal(), *(loose * rng.standard_normal(2))
    matrix = scale * np.array([[1.0, -slant - turn], [turn, 1.0]])
    height, width = glyph.mask.shape
    # Corners of the ink, right of the pen and below the baseline.
    box = np.array([[glyph.left + x, glyph.top + y] for x in (0, width) for y in (0, height)])
    moved = box @ matrix.T
    left, top = np.floor(moved.min(axis=0)).astype(int)
    right, bottom = np.ceil(moved.max(axis=0)).astype(int) + 1
    shift = matrix @ (glyph.left, glyph.top) - (left, top)
    mask = cv2.warpAffine(glyph.mask, np.column_stack([matrix, shift]), (int(right - left), int(bottom - top)))
    return Glyph(mask, int(left), int(top), glyph.advance * scale)


def _bend(
    shape: tuple[int, ...], baseline: int, writer: Writer, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the maps that slant the text and let its baseline wave and its strokes tremble, for `cv2.remap`."""
    height, width = shape
    columns = np.arange(width, dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    slant = writer.slant + rng.normal(0, 0.03)
    length = LINE_PX * rng.uniform(2.5, 6.0)
    wave = writer.wave * LINE_PX * np.sin(2 * np.pi * (columns / length + rng.random())).astype(np.float32)
    slope = rng.normal(0, 0.012) * (columns - width / 2)
    limit = LINE_PX / 8  # a long word on a steep line would leave the canvas
    map_x = columns + slant * (rows - baseline) + writer.tremor * _field(shape, LINE_PX / 5, rng)
    map_y = rows + np.clip(wave + slope, -limit, limit) + writer.tremor * _field(shape, LINE_PX / 5, rng)
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _restroke(mask: np.ndarray, writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Gives the strokes the writer's width: moves the outline by a distance that changes along the word."""
    natural = load_glyphs(writer.font).stroke
    wanted = LINE_PX * writer.stroke * rng.lognormal(0, 0.08)
    # Too much of either kind would break thin strokes or fill the eyes of letters.
    grow = np.clip((wanted - natural) / 2, -0.2 * natural, 0.02 * LINE_PX)
    ink = (mask > 127).astype(np.uint8)
    inside = cv2.distanceTransform(ink, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - ink, cv2.DIST_L2, 3)
    pressure = 0.25 * _field((1, mask.shape[1]), LINE_PX, rng)
    return np.clip(inside - outside + grow + pressure + 0.5, 0, 1).astype(np.float32)


def _on_paper(
    mask: np.ndarray, baseline: int, writer: Writer, rng: np.random.Generator, longest: float
) -> tuple[np.ndarray, float, float]:
    """Scales the ink down and lays it on paper.

    Returns:
        The image; where column 0 of the mask would be in it; pixels of the image for a column of the mask.
    """
    glyphs = load_glyphs(writer.font)
    rows, columns = np.flatnonzero(mask.max(axis=1) > 0.5), np.flatnonzero(mask.max(axis=0) > 0.5)
    ink = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    # Crops lie between the whole line and the ink alone: "nurse" fills more of the height when cut out tightly.
    tight = rng.uniform(0, 0.6)
    line_top, line_bottom = baseline - glyphs.ascent, baseline + glyphs.descent
    box_top = min(rows[0], (1 - tight) * line_top + tight * rows[0])
    box_bottom = max(rows[-1] + 1, (1 - tight) * line_bottom + tight * (rows[-1] + 1))

    height = int(np.clip(round(writer.height * rng.lognormal(0, 0.1)), MIN_HEIGHT, MAX_HEIGHT))
    scale = rng.uniform(0.74, 0.94) * height / (box_bottom - box_top)
    stretch = writer.stretch * rng.uniform(0.94, 1.06)
    left, right = rng.uniform(0.04, 0.3, 2) * height
    natural = ink.shape[1] * scale
    stretch = min(stretch, max(_NARROWEST, (_COMFORTABLE * longest * height - left - right) / natural))
    scale *= min(1.0, (longest * height - left - right - 2) / (natural * stretch))
    ink_width = max(2, round(ink.shape[1] * scale * stretch))
    ink_height = max(2, min(height - 2, round(ink.shape[0] * scale)))
    width = ink_width + int(left) + int(right) + 1

    room = height - (box_bottom - box_top) * scale
    top = round(room * rng.uniform(0.2, 0.8) + (rows[0] - box_top) * scale)
    top = int(np.clip(top, 1, height - 1 - ink_height))
    alpha = np.zeros((height, width), np.float32)
    alpha[top : top + ink_height, int(left) : int(left) + ink_width] = cv2.resize(
        ink, (ink_width, ink_height), interpolation=cv2.INTER_AREA
    )
    alpha *= np.clip(writer.opacity + 0.06 * _field(alpha.shape, height, rng), 0.7, 1.0)

    paper = _paper((height, width), writer, rng)
    if rng.random() < writer.ruled:
        foot = top + (baseline - rows[0]) * scale
        _rule(paper, foot + rng.uniform(0.0, 0.08) * height, rng)
    image = paper * (1 - alpha[..., None]) + np.asarray(writer.ink, np.float32) * alpha[..., None]
    if not writer.colour:
        image = image @ np.array([[0.114], [0.587], [0.299]], np.float32)
    sigma = rng.uniform(0, 0.75)
    if sigma > 0.25:  # less is no blur at all
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image = image.reshape(height, width, -1)
    image = image + rng.normal(0, writer.grain * rng.uniform(0.6, 1.4), image.shape)
    shrink = ink_width / ink.shape[1]
    return np.squeeze(np.clip(np.rint(image), 0, 255).astype(np.uint8)), int(left) - shrink * columns[0], shrink


def _paper(shape: tuple[int, int], writer: Writer, rng: np.random.Generator) -> np.ndarray:
    """Returns an empty piece of the writer's paper, float32, with uneven light."""
    height, width = shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    light = rng.normal(0, 4) + rng.normal(0, 5) * x + rng.normal(0, 3) * y + 2.0 * _field(shape, height / 2, rng)
    return np.asarray(writer.paper, np.float32) + light[..., None].astype(np.float32)


def _rule(paper: np.ndarray, y: float, rng: np.random.Generator) -> None:
    """Draws a ruled line across the paper, in place, lighter than any ink."""
    height, width, _ = paper.shape
    slope = rng.normal(0, 0.01)
    distance = np.abs(np.arange(height)[:, None] - y - slope * (np.arange(width) - width / 2))
    strength = np.clip(rng.uniform(0.8, 1.3) - distance, 0, 1)[..., None].astype(np.float32)
    paper -= strength * rng.uniform(18, 55) * np.array([0.7, 0.9, 1.0], np.float32)  # bluish
