"""hOCR: HTML with lines and words, as the tools around searchable PDFs read it."""

from __future__ import annotations

import itertools

import numpy as np

from htr_client.pages.model import Box, Line, Page, Points, Word, require_pixels
from htr_client.pages.xml_files import Element, Identifiers, SubElement, around, legal, placed, serialise
from htr_client.version import __version__

_CAPABILITIES = "ocr_page ocr_carea ocr_par ocr_line ocrx_word"


def to_hocr(page: Page) -> str:
    """Writes a page as hOCR.

    A baseline becomes a straight line, with slope and offset; confidences become whole per cents. Tools look for text
    in words only, so a line whose words are unknown is one word, with spaces, of the line's box.

    Args:
        page: The page.

    Returns:
        Content of the file, to be written in UTF-8.

    Raises:
        ValueError: The page is not in pixels.
    """
    require_pixels(page, "hOCR")
    root = Element("html", {"xmlns": "http://www.w3.org/1999/xhtml"})
    head = SubElement(root, "head")
    SubElement(head, "title").text = legal(page.image)
    SubElement(head, "meta", {"http-equiv": "Content-Type", "content": "text/html; charset=utf-8"})
    SubElement(head, "meta", name="ocr-system", content=f"htr {__version__}")
    SubElement(head, "meta", name="ocr-capabilities", content=_CAPABILITIES)
    identifiers = Identifiers()
    # A quotation mark would end the name early, and a semicolon the property.
    image = legal(page.image).translate({ord('"'): "%22", ord(";"): "%3B"})
    title = f'image "{image}"; bbox 0 0 {page.width} {page.height}; ppageno 0'
    body = _element(SubElement(root, "body"), "div", "ocr_page", identifiers.take("", "page_1"), title)
    for place, (name, lines) in enumerate(itertools.groupby(page.lines, key=lambda line: line.region)):
        members = list(lines)
        identifier = identifiers.take(name, f"block_{place + 1}")
        box = _bbox(around(line.box for line in placed(members)))
        area = _element(body, "div", "ocr_carea", identifier, box)
        # Tools that follow Tesseract's files look for lines in paragraphs only.
        paragraph = _element(area, "p", "ocr_par", identifiers.take("", f"{identifier}_par"), box)
        paragraph.text = area.tail = "\n"
        for line in members:
            _write_line(paragraph, line, identifiers)
    return serialise(root, indent=False)


def _write_line(paragraph: Element, line: Line, identifiers: Identifiers) -> None:
    name = identifiers.take(line.id, f"{paragraph.get('id')}_line")
    title = [_bbox(line.box)]
    if len(line.baseline) > 1:
        title.append(_straight(line.baseline, line.box))
    if line.confidence is not None:
        title.append(_confidence(line.confidence))
    if line.polygon:
        title.append("poly " + " ".join(f"{x} {y}" for x, y in line.polygon))
    element = _element(paragraph, "span", "ocr_line", name, "; ".join(title))
    element.tail = "\n"
    words = line.words or ((Word(line.text, line.box, line.confidence),) if line.text else ())
    for number, word in enumerate(words):
        title = [_bbox(word.box)] + ([] if word.confidence is None else [_confidence(word.confidence)])
        child = _element(element, "span", "ocrx_word", identifiers.take("", f"{name}_word"), "; ".join(title))
        child.text = legal(word.text)
        child.tail = " " if number + 1 < len(words) else None


def _element(parent: Element, tag: str, kind: str, name: str, title: str) -> Element:
    return SubElement(parent, tag, {"class": kind, "id": name, "title": title})


def _bbox(box: Box) -> str:
    return "bbox " + " ".join(str(max(0, edge)) for edge in box)


def _confidence(confidence: float) -> str:
    return f"x_wconf {round(100 * confidence)}"


def _straight(baseline: Points, box: Box) -> str:
    """Slope and offset of a baseline, from the left lower corner of the line's box."""
    x, y = np.array(baseline, float).T
    upright = np.ptp(x) <= np.ptp(y)  # of text that runs up or down the page hOCR cannot tell the slope
    slope, offset = (0.0, 0.0) if upright else np.polyfit(x - box[0], y - box[3], 1)
    return f"baseline {slope:.4f} {offset:.0f}"
