"""ALTO: reads versions 2 to 4, writes version 4.

No well-kept reader on PyPI keeps what lines need: alto-tools and alto-xml read words and their boxes, neither baselines
nor polygons. Tests let alto-tools read what is written here, and validate it against the official schema.
"""

from __future__ import annotations

import itertools
import math
import re

from htr_client.pages.model import Box, Line, Page, PageError, Points, Word, one_line
from htr_client.pages.xml_files import (
    Element,
    Identifiers,
    SubElement,
    around,
    corners,
    legal,
    placed,
    points_text,
    read_box,
    read_confidence,
    read_number,
    read_points,
    serialise,
)
from htr_client.version import __version__

_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_BOX = ("HPOS", "VPOS", "WIDTH", "HEIGHT")
_SOFT_HYPHEN = "\xad"  # invisible where a line is not broken, while the hyphen at its end was written
_HYPHENS = ("-", "\u2010", "=", "\xac")  # of print and handwriting; the last one is how transcribers mark them


def from_alto(root: Element) -> Page:
    """Reads a page from the root of an ALTO file, as of `xml_files.parse`.

    Lines come in the file's ReadingOrder, where it has one (since 4.3), at their own place or that of the block around
    them, those without a place in it last; else in the order of the file. Points that are damaged count as none; a line
    without polygon has its box. A String with spaces is a text, and not a word. The hyphen at the end of a line counts
    once, and as a visible one.

    Args:
        root: Element alto.

    Raises:
        PageError: It has no page, several, or measures in a unit that nothing relates to pixels.
    """
    pages = root.findall("Layout/Page")
    if len(pages) != 1:
        reason = "several_pages" if pages else "not_a_page"
        raise PageError(reason, f"The file has {len(pages)} elements Page, and one image has one page.")
    width, height = (read_number(pages[0].get(name)) for name in ("WIDTH", "HEIGHT"))
    unit = (root.findtext("Description/MeasurementUnit") or "pixel").strip()
    if unit != "pixel" and not (width and height):
        raise PageError("unknown_scale", f"Lengths are in {unit}, and Page has no WIDTH and HEIGHT to compare with.")
    order = {ref: place for place, one in enumerate(root.iter("ElementRef")) if (ref := one.get("REF"))}
    source = "Description/sourceImageInformation"
    return Page(
        image=(root.findtext(f"{source}/fileName") or "").strip(" \t\r\n"),
        width=width,
        height=height,
        lines=tuple(line for _, line in sorted(_placed_lines(pages[0], order), key=lambda pair: pair[0])),
        document=(root.findtext(f"{source}/documentIdentifier") or "").strip(" \t\r\n"),
        unit=unit,
    )


def _placed_lines(page: Element, order: dict[str, int]) -> list[tuple[float, Line]]:
    """Lines in the order of the file, each with its own place or that of the nearest block around it."""
    found: list[tuple[float, Line]] = []
    waiting: list[tuple[Element, float]] = [(page, math.inf)]  # the next one last
    while waiting:
        element, around_it = waiting.pop()
        place = order.get(element.get("ID", ""), around_it)
        if element.tag == "TextBlock":
            for line in element.findall("TextLine"):
                found.append((order.get(line.get("ID", ""), place), _line(line, element)))
        waiting += [(one, place) for one in reversed(element)]
    return found


def _line(element: Element, block: Element) -> Line:
    box = read_box(element, _BOX)
    polygon = element.find("Shape/Polygon")
    points = () if polygon is None else read_points(polygon.get("POINTS"))
    strings = element.findall("String")
    contents = [one_line(string.get("CONTENT", "")) for string in strings]
    hyphen = element.find("HYP")
    if hyphen is not None and contents:
        if not contents[-1].endswith((*_HYPHENS, _SOFT_HYPHEN)):  # some tools write it in both elements
            contents[-1] += one_line(hyphen.get("CONTENT", "-"))
        contents[-1] = re.sub(f"{_SOFT_HYPHEN}$", "-", contents[-1])
    words = [
        Word(content, place, read_confidence(string.get("WC")))
        for string, content in zip(strings, contents, strict=True)
        if content and (place := read_box(string, _BOX)) and " " not in content
    ]
    texts = [content for content in contents if content]
    return Line(
        text=" ".join(texts),
        baseline=_baseline(element.get("BASELINE"), box),
        polygon=points or (corners(box) if box else ()),
        confidence=read_confidence(strings[0].get("WC")) if len(strings) == 1 else None,
        words=tuple(words) if len(words) == len(texts) else (),
        id=element.get("ID", ""),
        region=block.get("ID", ""),
    )


def _baseline(text: str | None, box: Box | None) -> Points:
    """A polyline; up to version 4.1 also the height of a horizontal line."""
    points = read_points(text)
    if points or not text or box is None or len(text.split()) != 1:
        return points
    height = read_points(f"{text} {text}")
    return ((box[0], height[0][1]), (box[2], height[0][1])) if height else ()


def to_alto(page: Page) -> str:
    """Writes a page as ALTO 4.

    The format has a confidence for words only: that of a line is kept where its words are unknown. Coordinates below
    zero become zero, confidences have four decimals.

    Args:
        page: The page.

    Returns:
        Content of the file, to be written in UTF-8.
    """
    root = Element("alto", {"xmlns": _NAMESPACE})
    description = SubElement(root, "Description")
    SubElement(description, "MeasurementUnit").text = legal(page.unit)
    source = SubElement(description, "sourceImageInformation")
    SubElement(source, "fileName").text = legal(page.image)
    if page.document:
        SubElement(source, "documentIdentifier").text = legal(page.document)
    software = SubElement(SubElement(description, "Processing", ID="htr"), "processingSoftware")
    SubElement(software, "softwareName").text = "htr"
    SubElement(software, "softwareVersion").text = __version__
    size = {"WIDTH": str(page.width), "HEIGHT": str(page.height)}
    body = SubElement(SubElement(root, "Layout"), "Page", {"ID": "page", "PHYSICAL_IMG_NR": "1", **size})
    space = SubElement(body, "PrintSpace", {"HPOS": "0", "VPOS": "0", **size})
    identifiers = Identifiers()
    for taken in ("htr", "page"):
        identifiers.take(taken, taken)
    for place, (name, lines) in enumerate(itertools.groupby(page.lines, key=lambda line: line.region)):
        members = list(lines)
        block = SubElement(space, "TextBlock", ID=identifiers.take(name, f"block_{place + 1}"))
        block.attrib.update(_box([line.box for line in placed(members)]))
        for line in members:
            _write_line(block, line, identifiers)
    return serialise(root)


def _write_line(block: Element, line: Line, identifiers: Identifiers) -> None:
    element = SubElement(block, "TextLine", ID=identifiers.take(line.id, f"{block.get('ID')}_line"))
    # Without a polygon there is no box either: a reader would take the one around the baseline for the line's body.
    around_line = _box([line.box] if line.polygon else [word.box for word in line.words])
    element.attrib.update(around_line)
    if line.baseline:
        element.set("BASELINE", points_text(line.baseline))
    if line.polygon:
        SubElement(SubElement(element, "Shape"), "Polygon", POINTS=points_text(line.polygon))
    if not line.words:
        _write_string(element, line.text, around_line, line.confidence, identifiers)
    for number, word in enumerate(line.words):
        if number:
            SubElement(element, "SP")
        _write_string(element, word.text, _box([word.box]), word.confidence, identifiers)


def _write_string(
    line: Element, text: str, box: dict[str, str], confidence: float | None, identifiers: Identifiers
) -> None:
    name = identifiers.take("", f"{line.get('ID')}_string")
    string = SubElement(line, "String", {"ID": name, "CONTENT": legal(text), **box})
    if confidence is not None:
        string.set("WC", f"{confidence:.4f}")


def _box(boxes: list[Box]) -> dict[str, str]:
    """Attributes of the smallest box around boxes; none where there is none."""
    if not boxes:
        return {}
    left, top, right, bottom = (max(0, edge) for edge in around(boxes))
    return dict(zip(_BOX, map(str, (left, top, right - left, bottom - top)), strict=True))
