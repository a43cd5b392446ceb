"""What a batch transcription writes: tables, or a document of each page. Light: a command asks before it loads more."""

from __future__ import annotations

import io
import json
import os
from typing import Any

from htr_client.tables import CsvWriter

_TABLES = {".jsonl": ("jsonl", "json"), ".csv": ("csv",)}  # by ending, what the format may be called


class BatchError(ValueError):
    """The batch cannot start, or cannot go on where it stopped; the message says why and what to do."""


def table_format(output: str, kind: str, format_: str | None) -> str | None:
    """The format of the table that an output is.

    Args:
        output: File name of the output, ending in .jsonl or .csv, or folder of documents.
        kind: Kind of the images: "line", "page" or "auto".
        format_: Format of documents; by default, the output's ending tells that of a table.

    Returns:
        "jsonl" or "csv"; None where each page becomes a document.

    Raises:
        BatchError: The output has another ending, or contradicts the kind or the format.
    """
    table = _TABLES.get(os.path.splitext(output)[1])
    if table is None and format_ is None:
        raise BatchError(
            f"The output {output} ends neither in .jsonl nor in .csv. Name such a file; or add --format, such as "
            "--format alto, and each page becomes a file in this folder."
        )
    if table is not None and format_ not in (None, *table):
        raise BatchError(f"In the format {format_} each page becomes a file: name a folder instead of {output}.")
    if table is None and kind == "line":
        raise BatchError(
            f"In {output} each page becomes a file. Images of lines become a table: name a .jsonl or .csv."
        )
    return table[0] if table is not None else None


def format_rows(rows: list[dict[str, Any]], columns: list[str], format_: str) -> bytes:
    """A file of a table.

    Args:
        rows: Values by column.
        columns: Columns of the table.
        format_: "jsonl" or "csv".
    """
    text = io.StringIO(newline="")
    if format_ == "csv":
        writer = CsvWriter(text)
        for values in (columns, *([row[column] for column in columns] for row in rows)):
            writer.writerow(values)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # File names need not be UTF-8.
    return text.getvalue().encode("utf-8", "surrogateescape")
