"""From the image of a page to its text: find the lines, cut them out, recognise them.

The two models are functions here, so that they may be on a server, in this process, or anything else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from htr_client import image_files
from htr_client.errors import ModelNotFound
from htr_client.image_files import Image
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.cutting import Band, CutError, band_of, cut_band, line_pitch
from htr_client.pages.model import Box, Line, LineError, Page, Points, Word, one_line
from htr_client.pages.reading_order import skew_of
from htr_client.pages.vectorising import clarity_of, find_lines
from htr_client.results import Transcription
from htr_client.suspicion import TOO_WIDE

FindMaps = Callable[[bytes], tuple[np.ndarray, float]]
"""From a page, PNG or JPEG, to the line finder's maps and their scale, as `find_lines` takes them."""
Recognise = Callable[[Sequence[np.ndarray]], Iterable[Transcription]]
"""From images of lines, uint8 [height, width], to one transcription for each, such as `HtrClient.transcribe_many`."""

SIGNATURE = "find_lines"
"""Signature of the line finder."""

LONGEST = 2048
"""Pixels of the longest side of what is sent to the line finder; no line finder sees more."""
_TURNED = 2 * LONGEST  # pixels of the longest side of what is turned upright; fewer would blur what is sent
_SKEWED = math.radians(5)  # from which on a page is turned upright and looked at again
_KEPT = 0.9  # of the length of all baselines: with less of it, turning a page has cost lines
_SCARCE = 0.5  # length of all baselines, of the page's longest side: less may be a page on its side
# Upside down the network finds most lines, too, but is less sure of them (docs/pages.md): below this the recogniser is
# asked how sure it is of a character in some of them, and below its own bound also the other way up.
_CLEAR, _SURE = 0.87, 0.8
# Where the recogniser is less sure than this either way, it can read neither, and the line finder decides.
_READS = 0.5
_TRIED = 3  # lines


# An image lower than this, or much wider than high, is a line or a word.
_LEAST_HEIGHT, _MOST_ASPECT = 200, 4.0
# Those that are higher, and less wide, are hardly ever a word.
_PAGE_HEIGHT, _PAGE_ASPECT = 400, 2.0
# The body of a single line is at least this share of the height of its own image.
_LINE_SHARE = 0.4


def may_be_page(width: int, height: int) -> bool:
    """Whether an image of this size could be a page, so that it is worth looking for lines."""
    return height >= _LEAST_HEIGHT and width <= _MOST_ASPECT * height


def is_like_page(width: int, height: int) -> bool:
    """Whether an image of this size is a page rather than a large image of a word."""
    return height >= _PAGE_HEIGHT and width <= _PAGE_ASPECT * height


def is_page(page: Page) -> bool:
    """Whether an image, by the lines that were found in it, is a page rather than that of one line or word."""
    if len(page.lines) != 1:
        return len(page.lines) > 1
    _, top, _, bottom = page.lines[0].box
    return bottom - top < _LINE_SHARE * page.height


def find_page(
    image: Image,
    find_maps: FindMaps,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    recognise: Recognise | None = None,
) -> Page:
    """Finds the lines of a page.

    Args:
        image: Path, encoded bytes or an array, as for `image_files.load`; turned as its EXIF orientation says.
        find_maps: The line finder.
        name: Name of the image for the result.
        max_pixels: Larger images are refused by their header, before they are decoded.
        recognise: The recogniser of lines, which tells where a page is upside down. Without it none is, and one on
            its side lies as its lines are clearer.

    Returns:
        The page with its lines in reading order, without text, in pixels of the image as it is. An empty page has no
        lines. Where a page lies on its side or upside down, its baselines run up, down or to the left; `cut_line`
        turns the lines.

    Raises:
        ImageError: The image cannot be used.
    """
    return _found(image_files.load(image, max_pixels), find_maps, name, recognise)


def read_page(
    image: Image,
    find_maps: FindMaps,
    recognise: Recognise,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    try_out: Recognise | None = None,
) -> Page:
    """Finds the lines of a page and transcribes them.

    Args:
        image: As for `find_page`.
        find_maps: The line finder.
        recognise: The recogniser of lines.
        name: Name of the image for the result.
        max_pixels: As for `find_page`.
        try_out: What transcribes some of the lines to see which way up the page is; by default `recognise`.

    Returns:
        The page with its lines in reading order, with text, confidences and boxes of words. A line that cannot be cut
        or transcribed stays, without text and with its `error`.

    Raises:
        ImageError: The image cannot be used.
    """
    grey = image_files.load(image, max_pixels)
    return transcribe_lines(grey, _found(grey, find_maps, name, try_out or recognise), recognise)


def transcribe_lines(grey: np.ndarray, page: Page, recognise: Recognise) -> Page:
    """Transcribes the lines of a page that are known, as `read_page` does those that it finds.

    Where most lines are light on dark, as on a negative, the recogniser is given all of them inverted.

    Args:
        grey: uint8 [height, width], the upright image of the page.
        page: The page, of the size of the image.
        recognise: The recogniser of lines.
    """
    pitch = line_pitch(page.lines)
    lines, cut, bands = list(page.lines), [], []
    for place, line in enumerate(page.lines):
        try:
            band = band_of(line, page.width, page.height, pitch)
            cut.append(cut_band(grey, band))
        except CutError as error:
            lines[place] = replace(line, error=LineError(error.reason, str(error)))
            continue
        bands.append((place, band))
    # Once for the page: a line with little on it says nothing certain, and its neighbours do.
    if sum(map(_is_light_on_dark, cut)) > len(cut) / 2:
        cut = [255 - line for line in cut]
    model, version, too_wide = page.model, page.model_version, 0
    for (place, band), transcription in zip(bands, recognise(cut), strict=True):
        lines[place] = with_text(lines[place], band, transcription, page.width, page.height)
        model, version = transcription.model, max(version, transcription.version)
        too_wide += any(suspicion.code == TOO_WIDE for suspicion in transcription.suspicions)
    return replace(page, lines=tuple(lines), model=model, model_version=version, lines_too_wide=too_wide)


def _is_light_on_dark(cut: np.ndarray) -> bool:
    """Whether the image of a line is light on dark: ink fills the smaller part of it, and not its edges."""
    values = cut[:: 1 + len(cut) // 64].astype(np.float32) - cut.mean()
    return bool(np.median(values[[0, -1]]) < 0 < (values**3).mean())


def with_text(line: Line, band: Band, transcription: Transcription, width: int, height: int) -> Line:
    """A line with what was transcribed in its image.

    Args:
        line: The line.
        band: Where its image lies on the page.
        transcription: Transcription of that image.
        width: Width of the page in pixels.
        height: Height of the page.

    Returns:
        The line with text, confidence and words, or with the error. A word's box lies within that of the line's polygon
        and baseline, and on the page; its confidence is the product of those of its characters, which
        know nothing of the language model.
    """
    if transcription.error is not None:
        return replace(line, error=LineError(transcription.error.reason, str(transcription.error)))
    # A band is cut with a margin, and its end may lie beyond the line.
    limits = _within(line.box, (0, 0, width - 1, height - 1)) if line.polygon else (0, 0, width - 1, height - 1)
    words, current = [], []
    for character in (*transcription.characters, None):
        # At the spaces of `one_line`: a no-break space stays in the text, and in its word.
        if character is not None and character.text.strip(" \t\r\n"):
            current.append(character)
        elif current:
            left, right = current[0].span[0], current[-1].span[1]
            confidence = math.prod(one.confidence for one in current)
            box = _within(band.box(left, right), limits)
            words.append(Word("".join(one.text for one in current), box, confidence))
            current = []
    text = one_line(transcription.text)
    known = words if " ".join(word.text for word in words) == text else []
    return Line(text, line.baseline, line.polygon, transcription.confidence, tuple(known), line.id, line.region)


def _within(box: Box, limits: Box) -> Box:
    """The part of a box that lies in another one; its nearest edge or corner where there is none."""
    (left, top, right, bottom), (first, highest, last, lowest) = box, limits
    return (
        min(max(left, first), last), min(max(top, highest), lowest),
        min(max(right, first), last), min(max(bottom, highest), lowest),
    )  # fmt: skip


def name_of(image: Image) -> str:
    """Name of the image's file; "" where it has none."""
    return os.path.basename(image_files.path_of(image) or "")


class _Look(NamedTuple):
    """What the line finder sees in a page that `np.rot90` has turned, in the pixels that it has then."""

    quarters: int
    lines: tuple[Line, ...]
    clarity: float


def _found(grey: np.ndarray, find_maps: FindMaps, name: str, recognise: Recognise | None) -> Page:
    height, width = grey.shape

    def look(quarters: int) -> _Look:
        return _Look(quarters, *_lines(np.rot90(grey, quarters), find_maps))

    def sureness(one: _Look, turned: int = 0) -> float:
        with suppress(ModelNotFound):  # on a server that only finds lines
            if recognise is not None:
                return _sureness(np.rot90(grey, one.quarters), one.lines, recognise, turned)
        return 1 + one.clarity  # surer than any recogniser is, so that none is turned over by this alone

    best = look(0)
    # Of a page that lies on its side the network marks next to nothing.
    if _length(best.lines) < _SCARCE * max(grey.shape):
        least = max(_SCARCE * max(grey.shape), 2.0 * _length(best.lines))
        turned = [one for one in (look(1), look(3)) if _length(one.lines) > least]
        if turned:
            sure = [sureness(one) for one in turned] if len(turned) > 1 else [1.0]
            best = turned[int(np.argmax(sure if max(sure) >= _READS else [one.clarity for one in turned]))]
    if best.lines and not best.quarters and best.clarity < _CLEAR and (as_it_is := sureness(best)) < _SURE:
        reads = max(as_it_is, as_turned := sureness(best, turned=2)) >= _READS
        if as_turned > as_it_is or not reads:
            over = look(2)
            if sureness(over) > as_it_is if reads else over.clarity > best.clarity:
                best = over
    lines = best.lines
    if _SKEWED < abs(skew := skew_of([np.array(line.baseline, np.float64) for line in lines])) < math.pi / 4:
        upright = _lines_of_skewed(np.rot90(grey, best.quarters), skew, find_maps)
        # What turning joins at wide gaps is longer, too.
        lines = upright if _length(upright) > _KEPT * _length(lines) else lines
    return Page(name, width, height, _turned_back(lines, best.quarters, width, height))


def _sureness(grey: np.ndarray, lines: Sequence[Line], recognise: Recognise, turned: int) -> float:
    """How sure a recogniser is of a character in the longest of a page's lines, with their images turned or not."""
    longest = sorted(lines, key=lambda line: -_length([line]))[:_TRIED]
    page = Page("", grey.shape[1], grey.shape[0], tuple(longest))

    def recognise_turned(cut: Sequence[np.ndarray]) -> Iterable[Transcription]:
        return recognise([np.ascontiguousarray(np.rot90(one, turned)) for one in cut])

    read = transcribe_lines(grey, page, recognise_turned).lines
    sure = [(len(line.text), line.confidence) for line in read if line.text and line.confidence]
    return math.exp(sum(math.log(one) for _, one in sure) / sum(length for length, _ in sure)) if sure else 0.0


def _lines(grey: np.ndarray, find_maps: FindMaps) -> tuple[tuple[Line, ...], float]:
    """The lines of a page, and how clear they are."""
    height, width = grey.shape
    sent, shrink = _shrunk(np.ascontiguousarray(grey), LONGEST)
    maps, scale = find_maps(image_files.encode(sent, tall=LONGEST + 1))
    return (find_lines(maps, scale * shrink, width, height), clarity_of(maps)) if scale > 0 else ((), 0.0)


def _shrunk(grey: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """An image whose longer side has at most so many pixels, and how much smaller than the given one it is."""
    height, width = grey.shape
    shrink = min(1.0, longest / max(height, width))
    if shrink == 1:
        return grey, shrink
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA), shrink


def _lines_of_skewed(grey: np.ndarray, skew: float, find_maps: FindMaps) -> tuple[Line, ...]:
    """Lines of a page that is turned upright for the line finder, in the pixels that it has."""
    # OpenCV turns no image with a side of 32,767 pixels or more, and the line finder sees a smaller one anyway.
    small, shrink = _shrunk(grey, _TURNED)
    height, width = small.shape
    turn: np.ndarray = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), math.degrees(skew), 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = math.ceil(width * cosine + height * sine), math.ceil(width * sine + height * cosine)
    turn[:, 2] += np.array([size[0] - width, size[1] - height]) / 2
    upright = cv2.warpAffine(small, turn, size, borderValue=[float(np.median(small))])
    back = cv2.invertAffineTransform(turn)

    def placed(points: Points) -> Points:
        found = (np.array(points, np.float64) @ back[:, :2].T + back[:, 2] + 0.5) / shrink - 0.5
        return tuple((int(x), int(y)) for x, y in np.rint(found).clip(0, [grey.shape[1] - 1, grey.shape[0] - 1]))

    found, _ = _lines(upright, find_maps)
    return tuple(replace(line, baseline=placed(line.baseline), polygon=placed(line.polygon)) for line in found)


def _length(lines: Sequence[Line]) -> float:
    """Length of all baselines from end to end."""
    return sum(math.dist(line.baseline[0], line.baseline[-1]) for line in lines)


def _turned_back(lines: tuple[Line, ...], quarters: int, width: int, height: int) -> tuple[Line, ...]:
    """Lines of a page that `np.rot90` has turned, in the pixels that the page had before, of the size given."""
    if not quarters:
        return lines

    def back(points: Points) -> Points:
        if quarters == 2:
            return tuple((width - 1 - x, height - 1 - y) for x, y in points)
        return tuple((width - 1 - y, x) if quarters == 1 else (y, height - 1 - x) for x, y in points)

    return tuple(replace(line, baseline=back(line.baseline), polygon=back(line.polygon)) for line in lines)
