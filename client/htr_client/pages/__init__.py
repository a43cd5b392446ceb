"""Pages of text: what they are, the file formats of the field, and the cutting of lines.

From one file format to another:

    from pathlib import Path

    from htr_client import pages

    page = pages.read(Path("page.xml").read_bytes())  # PAGE XML or ALTO
    Path("page.hocr").write_text(pages.write(page, "hocr"), encoding="utf-8")
"""

from collections.abc import Callable

from htr_client.pages.alto import from_alto, to_alto
from htr_client.pages.cutting import CutError, cut_line, line_pitch
from htr_client.pages.hocr import to_hocr
from htr_client.pages.model import Box, Line, LineError, Page, PageError, Points, Word
from htr_client.pages.page_xml import from_page_xml, to_page_xml
from htr_client.pages.plain import from_json, to_csv, to_json, to_text
from htr_client.pages.reading import find_page, read_page
from htr_client.pages.vectorising import find_lines
from htr_client.pages.xml_files import parse

__all__ = [
    "FORMATS",
    "Box",
    "CutError",
    "Line",
    "LineError",
    "Page",
    "PageError",
    "Points",
    "Word",
    "cut_line",
    "find_lines",
    "find_page",
    "from_json",
    "line_pitch",
    "read",
    "read_page",
    "write",
]

# Writers by the name of their format.
FORMATS: dict[str, Callable[[Page], str]] = {
    "text": to_text,
    "json": to_json,
    "csv": to_csv,
    "alto": to_alto,
    "page": to_page_xml,
    "hocr": to_hocr,
}
_READERS = {"PcGts": from_page_xml, "alto": from_alto}


def read(data: bytes) -> Page:
    """Reads a page from PAGE XML (2010 to 2019) or ALTO (2 to 4), whichever it is.

    Args:
        data: Content of the file.

    Raises:
        PageError: With its reason.
    """
    root = parse(data)
    if root.tag not in _READERS:
        raise PageError("not_a_page", f"The file is neither PAGE XML nor ALTO: its root is {root.tag}.")
    return _READERS[root.tag](root)


def write(page: Page, name: str) -> str:
    """Writes a page in one of `FORMATS`.

    Args:
        page: The page.
        name: Name of the format: "text", "json", "csv", "alto" (version 4), "page" (2019) or "hocr".

    Returns:
        Content of the file, to be written in UTF-8.

    Raises:
        ValueError: There is no such format; or it has pixels only, and the page another unit.
    """
    if name not in FORMATS:
        raise ValueError(f"There is no format {name!r}; there are {', '.join(FORMATS)}.")
    return FORMATS[name](page)
