"""XML in and out, for the formats of pages.

ElementTree of the standard library reads and writes it: the client has no other XML library among its dependencies.
The formats have schemas and no document type definition. One is refused, and with it entities: none is expanded, and no
file or address that it names is opened.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from htr_client.pages.model import Box, Line, PageError, Points

Element = ElementTree.Element
SubElement = ElementTree.SubElement

# Larger files are not of a page, and would fill the memory: a newspaper's page of 40,000 words has fewer.
MAX_BYTES = 16 * 2**20
MAX_NODES = 500_000
_LARGEST = 10**6  # coordinate in pixels
_NUMBER = re.compile(r"[^\s,]+")
# Names of XML 1.0 without colons.
_BEGIN = (
    "A-Z_a-z\xc0-\xd6\xd8-\xf6\xf8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c\u200d\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NAME = re.compile(f"[{_BEGIN}][{_BEGIN}.0-9\xb7\u0300-\u036f\u203f\u2040-]*")
# What XML 1.0 cannot hold.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Bounded(ElementTree.TreeBuilder):
    """Builds a tree of at most `MAX_NODES` elements and attributes, without a document type definition."""

    _nodes = 0

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self._nodes += 1 + len(attributes)
        if self._nodes > MAX_NODES:
            raise PageError("damaged_xml", f"The file has more than {MAX_NODES:,} elements and attributes.")
        return super().start(tag, attributes)

    def doctype(self, *_: object) -> None:
        raise PageError("damaged_xml", "The file has a document type definition, which is not read. Remove <!DOCTYPE>.")


def parse(data: bytes) -> Element:
    """Parses an XML file; tags lose their namespace.

    Args:
        data: Content of the file.

    Returns:
        The root.

    Raises:
        PageError: It is no well-formed XML, larger than `MAX_BYTES` or `MAX_NODES`, or has a document type definition.
    """
    if len(data) > MAX_BYTES:
        raise PageError("damaged_xml", f"The file is larger than {MAX_BYTES // 2**20} MiB.")
    parser = ElementTree.XMLParser(target=_Bounded())
    try:
        parser.feed(data)
        root: Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two of an unknown encoding
        if isinstance(error, PageError):
            raise
        raise PageError("damaged_xml", f"The file is no well-formed XML: {error}.") from None
    for element in root.iter():
        element.tag = sys.intern(local_name(element))
    return root


def local_name(element: Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]


def serialise(root: Element, indent: bool = True) -> str:
    """An XML file with its declaration; not to be indented where space between elements is text."""
    if indent:
        ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def legal(text: str) -> str:
    """The text with U+FFFD for each character that XML cannot hold, such as control characters."""
    return _ILLEGAL.sub("\ufffd", text)


def read_points(text: str | None) -> Points:
    """Points as "x,y x,y" or "x y x y"; what is not that is no points."""
    numbers = [_coordinate(number) for number in _NUMBER.findall(text or "")]
    if len(numbers) % 2 or None in numbers:
        return ()
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))  # type: ignore[arg-type]


def _coordinate(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return round(value) if abs(value) <= _LARGEST else None  # neither are infinity and NaN


def read_box(element: Element, names: Sequence[str]) -> Box | None:
    """The box that four attributes give.

    Args:
        element: The element.
        names: Names of the attributes with left edge, top edge, width and height.

    Returns:
        The box; None where one is missing or no number, or where it is empty.
    """
    values = [_coordinate(element.get(name, "")) for name in names]
    left, top, width, height = values
    if left is None or top is None or not width or not height or width < 0 or height < 0:
        return None
    return (left, top, left + width, top + height)


def read_number(text: str | None) -> int:
    """A whole number; 0 for what is none."""
    return _coordinate(text or "") or 0


def read_confidence(text: str | None) -> float | None:
    """A number from 0 to 1; None for what is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def points_text(points: Points) -> str:
    """Points as "x,y x,y", none below zero: schemas refuse a sign."""
    return " ".join(f"{max(0, x)},{max(0, y)}" for x, y in points)


def corners(box: Box) -> Points:
    """The corners of a box, clockwise from the left upper one."""
    left, top, right, bottom = box
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box around boxes; (0, 0, 0, 0) where there is none."""
    lefts, tops, rights, bottoms = zip(*(list(boxes) or [(0, 0, 0, 0)]), strict=True)
    return (min(lefts), min(tops), max(rights), max(bottoms))


def placed(lines: Iterable[Line]) -> list[Line]:
    """Those lines of which it is known where they lie."""
    return [line for line in lines if line.polygon or line.baseline or line.words]


class Identifiers:
    """Identifiers of a file: the wanted ones where they are possible, and each only once."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}  # and the last number that was tried behind each

    def take(self, wanted: str, otherwise: str) -> str:
        """The wanted identifier, or another one where it is no XML name; with a number where it is taken.

        Args:
            wanted: Identifier; "" for none.
            otherwise: The other one.
        """
        begin = wanted if _NAME.fullmatch(wanted) else otherwise
        found, number = begin, self._taken.get(begin, 1)
        while found in self._taken:
            number += 1
            found = f"{begin}_{number}"
        self._taken[begin] = number
        self._taken.setdefault(found, 1)
        return found
