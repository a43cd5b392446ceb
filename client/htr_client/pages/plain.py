"""Pages as plain text, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

from htr_client.pages.model import Line, LineError, Page, PageError, Points, Word
from htr_client.results import rounded
from htr_client.tables import CsvWriter


def to_text(page: Page) -> str:
    """The text of a page, one line of it a line, with an empty line between regions."""
    parts = []
    for before, line in zip((None, *page.lines), page.lines, strict=False):
        if before is not None and before.region != line.region:
            parts.append("")
        parts.append(line.text)
    return "".join(f"{part}\n" for part in parts)


def to_json(page: Page) -> str:
    """All of a page as JSON: the attributes of `Page`, `Line` and `Word` by name; points are [x, y]."""
    return json.dumps(dataclasses.asdict(page), ensure_ascii=False) + "\n"


def to_csv(page: Page) -> str:
    """A row for each line of a page: its number from 1, its text, its confidence."""
    table = io.StringIO(newline="")
    rows = CsvWriter(table)
    rows.writerow(["line", "text", "confidence"])
    for number, line in enumerate(page.lines, 1):
        rows.writerow([number, line.text, "" if line.confidence is None else rounded(line.confidence)])
    return table.getvalue()


def from_json(text: str) -> Page:
    """Reads what `to_json` writes.

    Raises:
        PageError: It is something else.
    """
    try:
        content = json.loads(text)
        lines = tuple(_line(line) for line in content.pop("lines"))
        width, height = (int(content.pop(name)) for name in ("width", "height"))
        return Page(**content, width=width, height=height, lines=lines)
    # Of numbers such as 1e999, and of deep nesting.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise PageError("not_a_page", f"This is no page in htr's JSON: {error}.") from None


def _line(content: dict[str, Any]) -> Line:
    words = tuple(Word(**{**word, "box": tuple(map(int, word["box"]))}) for word in content["words"])
    error = content["error"]
    points = {name: _points(content[name]) for name in ("baseline", "polygon")}
    return Line(**{**content, "words": words, "error": LineError(**error) if error else None, **points})


def _points(content: list[list[int]]) -> Points:
    return tuple((int(x), int(y)) for x, y in content)
