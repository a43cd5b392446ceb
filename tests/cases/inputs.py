"""Small datasets from bug reports about similar tools, made here so that the tests need nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from tests.conftest import drawn_image, encode

WORDS = ("für", "Judith", "25 kg", "Smith, John", "yesterday", "27", "office", "Reyes", "10", "Boris")
ROWS = 30


def image_name(number: int) -> str:
    """Name of an image; both extensions occur."""
    return f"{number}{('.jpg', '.png')[number % 2]}"


def rows(*names: str, **values: Callable[[int], str]) -> list[dict[str, str]]:
    """Rows of a labels file, by default with filename, text and writer.

    Args:
        *names: Columns; all if there are none.
        **values: What stands in a column, by the number of the row.
    """
    usual: dict[str, Callable[[int], str]] = {
        "filename": image_name, "text": lambda i: WORDS[i % len(WORDS)], "writer": lambda i: f"writer-{i % 15:02d}",
    }  # fmt: skip
    columns = {**usual, **values}
    return [{name: columns[name](i) for name in names or columns} for i in range(ROWS)]


def table(found: list[dict[str, str]], delimiter: str = ",", end: str = "\n") -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, found[0], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def images(folder: Path) -> Path:
    """Writes the images that the rows name, large enough for all labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(ROWS):
        name = image_name(number)
        (folder / name).write_bytes(encode(drawn_image(260, 48, number), name[-4:]))
    return folder


def quoted_after_space() -> str:
    """A space after each comma, quotation marks after that."""
    lines = ["filename, text, writer"]
    lines += [f'"{row["filename"]}", "{row["text"]}", "{row["writer"]}"' for row in rows()]
    return "\n".join(lines) + "\n"


# Labels of all kinds, among them those from right to left, with and without marks of direction.
ODD = (
    "Привет", "Қазақстан", "әіңғүұқөһ", "مرحبا", "שלום", "שלום 123", "Cafe\u0301", "Café", "e\u0323\u0302", "😀",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "Straße", "STRA\u1e9eE", "\ufb01nd", "\ufb02ow", "“quoted”", "‘x’",
    "a\tb", "a\nb", " lead", "trail ", "two  spaces", "nb\xa0sp", "zero\u200bwidth", "soft\xadhyphen", "\u200fשלום",
    "…", "½", "①", "\u202eabc",
)  # fmt: skip

# Files by name of the case; those of csv are a labels.csv each.
LABELS: dict[str, str | bytes] = {
    "csv/sep.csv": "sep=;\r\n" + table(rows(), ";", "\r\n"),
    "csv/blank_first_line.csv": "\n" + table(rows(), end="\n\n"),
    "csv/noheader.csv": table(rows("filename", "text")).partition("\n")[2],
    "csv/noext.csv": table(rows("filename", "text", filename=str)),
    "csv/xlsx.csv": b"PK\x03\x04aaaa",
    "quotes-after-space/labels.csv": quoted_after_space(),
    "one-writer/labels.csv": table(rows(writer=lambda _: "me")),
    "right-to-left/labels.csv": table(rows(text=ODD.__getitem__), end="\r\n"),
    "mac-zip/labels.csv": table(rows()),
    "mac-zip/._labels.csv": b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X",
    "mac-zip/._0.jpg": b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X",
}
