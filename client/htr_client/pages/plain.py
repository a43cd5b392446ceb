"""Pages as plain text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from htr_client.pages.model import Line, Page, PageError, Points, Word


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


def from_json(text: str) -> Page:
    """Reads what `to_json` writes.

    Raises:
        PageError: It is something else.
    """
    try:
        content = json.loads(text)
        lines = tuple(_line(line) for line in content.pop("lines"))
        return Page(**content, lines=lines)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PageError("not_a_page", f"This is no page in htr's JSON: {error}.") from None


def _line(content: dict[str, Any]) -> Line:
    words = tuple(Word(**{**word, "box": tuple(word["box"])}) for word in content["words"])
    return Line(**{**content, "words": words, **{name: _points(content[name]) for name in ("baseline", "polygon")}})


def _points(content: list[list[int]]) -> Points:
    return tuple((x, y) for x, y in content)
