"""PAGE XML: reads the versions of 2010 to 2019, writes that of 2019.

Readers on PyPI exist (pagexml-tools, ocrd), but bring SciPy, Shapely, lxml or a whole framework into a client that has
none of them; the part of the format that a page of lines needs is small. Tests let pagexml-tools read what is written
here, and validate it against the official schema.
"""

from __future__ import annotations

import datetime
import itertools
import math

from htr_client.pages.model import Line, Page, PageError, Word, one_line, require_pixels
from htr_client.pages.xml_files import (
    Element,
    Identifiers,
    SubElement,
    around,
    corners,
    legal,
    placed,
    points_text,
    read_confidence,
    read_number,
    read_points,
    serialise,
)
from htr_client.version import __version__

_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
_NOWHERE = around(())
_REGION_REFS = ("RegionRef", "RegionRefIndexed")


def from_page_xml(root: Element) -> Page:
    """Reads a page from the root of a PAGE file, as of `xml_files.parse`.

    Every element that has lines is a region, a cell of a table too. Regions come in the file's ReadingOrder, those
    without a place in it last; cells of a table row by row, lines in the order of the file. Points that are damaged
    count as none. Words that do not add up to the line's text, or lack a box, are left out: in the first case the text
    was corrected, and they were not. Where even their letters are others, the confidence of the line is left out too,
    which is that of the text before.

    Args:
        root: Element PcGts.

    Raises:
        PageError: It has no page, or several.
    """
    found = root.findall("Page")
    if len(found) != 1:
        reason = "several_pages" if found else "not_a_page"
        raise PageError(reason, f"The file has {len(found)} elements Page, and one image has one page.")
    page = found[0]
    lines = [_line(line, region.get("id", "")) for region in _regions(page) for line in region.findall("TextLine")]
    transkribus = root.find("Metadata/TranskribusMetadata")
    return Page(
        image=page.get("imageFilename", ""),
        width=read_number(page.get("imageWidth")),
        height=read_number(page.get("imageHeight")),
        lines=tuple(lines),
        document="" if transkribus is None else transkribus.get("docId", ""),
    )


def _regions(page: Element) -> list[Element]:
    """Elements with lines in reading order: each at its own place, else at that of the element around it."""
    order = {ref: place for place, ref in enumerate(_reading_order(page.find("ReadingOrder"))) if ref}
    found: list[tuple[float, Element]] = []
    waiting: list[tuple[Element, float]] = [(page, math.inf)]  # the next one last
    while waiting:
        element, around_it = waiting.pop()
        place = order.get(element.get("id", ""), around_it)
        if element.find("TextLine") is not None:
            found.append((place, element))
        waiting += [(one, place) for one in reversed(sorted(element, key=_cell))]
    return [element for _, element in sorted(found, key=lambda one: one[0])]


def _cell(element: Element) -> tuple[float, int]:
    """Row and column of a cell, whose order in the file means nothing; all other elements come after it."""
    row, column = element.get("row"), element.get("col")  # of Transkribus
    role = element.find("Roles/TableCellRole")
    if role is not None:
        row, column = role.get("rowIndex"), role.get("columnIndex")
    return (math.inf, 0) if row is None else (read_number(row), read_number(column))


def _reading_order(group: Element | None) -> list[str]:
    """Identifiers of regions in order, through nested groups, however deep a hostile file nests them."""
    found: list[str] = []
    waiting = [] if group is None else [group]  # the next one last
    while waiting:
        member = waiting.pop()
        if member.tag in _REGION_REFS:
            found.append(member.get("regionRef", ""))
        else:
            waiting += reversed(sorted(member, key=lambda element: read_number(element.get("index"))))
    return found


def _line(element: Element, region: str) -> Line:
    words = [word for word in map(_word, element.findall("Word")) if word.text]
    together = " ".join(word.text for word in words)
    text, confidence = _text(element)
    if not text:  # some tools write an empty one beside words
        text, confidence = together, None if together else confidence
    elif together and together.replace(" ", "") != text.replace(" ", ""):
        confidence = None
    return Line(
        text=text,
        baseline=_points(element.find("Baseline")),
        polygon=_points(element.find("Coords")),
        confidence=confidence,
        words=tuple(words) if together == text and all(word.box != _NOWHERE for word in words) else (),
        id=element.get("id", ""),
        region=region,
    )


def _word(element: Element) -> Word:
    """A word, which may have no text, or no box (`_NOWHERE`)."""
    text, confidence = _text(element)
    return Word(text or "", around((x, y, x, y) for x, y in _points(element.find("Coords"))), confidence)


def _text(element: Element) -> tuple[str | None, float | None]:
    """The text with its confidence, of several alternatives the first; None where there is none."""
    alternatives = sorted(element.findall("TextEquiv"), key=lambda one: read_number(one.get("index")))
    for alternative in alternatives:
        for tag in ("Unicode", "PlainText"):
            found = alternative.find(tag)
            if found is not None:
                return one_line(found.text or ""), read_confidence(alternative.get("conf"))
    return None, None


def _points(element: Element | None) -> tuple[tuple[int, int], ...]:
    if element is None:
        return ()
    text = element.get("points")
    if text is None:  # as until 2010
        text = " ".join(f"{point.get('x')},{point.get('y')}" for point in element.iter("Point"))
    return read_points(text)


def to_page_xml(page: Page) -> str:
    """Writes a page as PAGE XML of 2019.

    Lines without polygon get the box around their baseline or words, since the format asks for one. Coordinates below
    zero become zero, confidences have four decimals.

    Args:
        page: The page.

    Returns:
        Content of the file, to be written in UTF-8.

    Raises:
        ValueError: The page is not in pixels.
    """
    require_pixels(page, "PAGE XML")
    root = Element("PcGts", {"xmlns": _NAMESPACE})
    metadata = SubElement(root, "Metadata")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    for tag, text in (("Creator", f"htr {__version__}"), ("Created", now), ("LastChange", now)):
        SubElement(metadata, tag).text = text
    body = SubElement(
        root, "Page", imageFilename=legal(page.image), imageWidth=str(page.width), imageHeight=str(page.height)
    )
    if not page.lines:
        return serialise(root)
    identifiers = Identifiers()
    order = SubElement(SubElement(body, "ReadingOrder"), "OrderedGroup", id=identifiers.take("", "reading_order"))
    for place, (name, lines) in enumerate(itertools.groupby(page.lines, key=lambda line: line.region)):
        members = list(lines)
        region = SubElement(body, "TextRegion", id=identifiers.take(name, f"region_{place + 1}"))
        SubElement(order, "RegionRefIndexed", index=str(place), regionRef=region.get("id", ""))
        SubElement(region, "Coords", points=points_text(corners(around(map(_box, placed(members))))))
        for line in members:
            _write_line(region, line, identifiers)
    return serialise(root)


def _box(line: Line) -> tuple[int, int, int, int]:
    return around([line.box, *(word.box for word in line.words)])


def _write_line(region: Element, line: Line, identifiers: Identifiers) -> None:
    element = SubElement(region, "TextLine", id=identifiers.take(line.id, f"{region.get('id')}_line"))
    SubElement(element, "Coords", points=points_text(line.polygon if len(line.polygon) > 1 else corners(_box(line))))
    if len(line.baseline) > 1:
        SubElement(element, "Baseline", points=points_text(line.baseline))
    for word in line.words:
        child = SubElement(element, "Word", id=identifiers.take("", f"{element.get('id')}_word"))
        SubElement(child, "Coords", points=points_text(corners(word.box)))
        _write_text(child, word.text, word.confidence)
    _write_text(element, line.text, line.confidence)


def _write_text(element: Element, text: str, confidence: float | None) -> None:
    attributes = {} if confidence is None else {"conf": f"{confidence:.4f}"}
    SubElement(SubElement(element, "TextEquiv", attributes), "Unicode").text = legal(text)
