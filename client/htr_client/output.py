"""Results as a command prints them: a line each, or a document for a page."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from typing import TextIO

from htr_client import pages
from htr_client.files import LINE_FORMATS, PAGE_FORMATS
from htr_client.kinds import failure, suspicions
from htr_client.pages.model import Page
from htr_client.results import Transcription, rounded
from htr_client.tables import CsvWriter
from htr_client.whole_files import write_whole

_SEPARATORS = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def plain(name: str) -> str:
    """A name that can be written as UTF-8: bytes of a file name that are none become escapes."""
    return name.encode(errors="backslashreplace").decode()


def one_field(name: str) -> str:
    """A file name for a line of fields between tabs: tabs and line breaks become escapes, as bytes do in `plain`."""
    return name.translate(_SEPARATORS)


def files_of(paths: Iterable[str], folder: str, format_: str) -> list[str]:
    """The file that each image becomes in a folder, if it shows a page.

    Args:
        paths: Images; - for standard input.
        folder: The folder.
        format_: As for `ResultWriter`.

    Returns:
        The image's name with the ending of the format, and with a number where there are several of a name.
    """
    files, taken = [], set()
    for path in paths:
        stem = os.path.splitext(plain(os.path.basename(path)))[0] if path != "-" else "page"
        name, number = f"{stem}{PAGE_FORMATS[format_]}", 1
        while name.casefold() in taken:  # to some file systems a.xml is A.xml
            number += 1
            name = f"{stem}-{number}{PAGE_FORMATS[format_]}"
        taken.add(name.casefold())
        files.append(os.path.join(folder, name))
    return files


class ResultWriter:
    """Prints results in one of the formats.

    Attributes:
        files_written: Number of files of pages.
    """

    def __init__(
        self, format_: str, out: TextIO, files: Sequence[str] | None = None, *, overwrite: bool = False
    ) -> None:
        """Begins the output.

        Args:
            format_: One of `LINE_FORMATS`; for pages also another of `PAGE_FORMATS`.
            out: Where results are printed.
            files: The file that each image becomes instead if it shows a page, as of `files_of`. Their folder is made
                with the first one.
            overwrite: Whether a file that is there already is replaced.
        """
        self.files_written = 0
        self._format = format_
        self._out = out
        self._csv = CsvWriter(out)
        self._files = None if files is None else iter(files)
        self._overwrite = overwrite
        self._has_header = False
        if files is None and format_ == "csv":
            self._header()

    def __call__(self, path: str, result: Transcription | Page) -> None:
        """Prints one result.

        Args:
            path: Name of the image.
            result: What was transcribed.

        Raises:
            OSError: When the file of a page cannot be written, or is there already.
        """
        file = next(self._files) if self._files is not None else None
        if isinstance(result, Page):
            self._page(path, result, file)
        else:
            self._transcription(path, result)

    def _page(self, path: str, page: Page, file: str | None) -> None:
        page = dataclasses.replace(page, image=plain(page.image))
        if file is not None:
            content = pages.write(page, self._format).encode()  # before there is a file, which would stay empty
            os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            write_whole(file, content, new=not self._overwrite)
            self.files_written += 1
        elif self._format not in LINE_FORMATS:
            self._out.write(pages.write(page, self._format))
        elif self._format == "json":
            fields = dataclasses.asdict(page)
            for line in fields["lines"]:
                for one in (line, *line["words"]):
                    one["confidence"] = None if one["confidence"] is None else rounded(one["confidence"])
            self._record({"file": path, "text": page.text, **fields}, page)
        else:
            if not page.lines:  # every image that was read is in the output
                if self._format == "csv":
                    self._row([path, "", 0.0, page.model_version, "", *(one.code for one in suspicions(page))])
                else:
                    print(f"{one_field(path)}\t\t0.000", file=self._out)
            for number, line in enumerate(page.lines, 1):
                if self._format == "csv":
                    row = [f"{path}:{number}", line.text, rounded(line.confidence or 0.0), page.model_version]
                    self._row([*row, line.error.reason if line.error else "", ""])
                else:
                    print(f"{one_field(path)}:{number}\t{line.text}\t{line.confidence or 0.0:.3f}", file=self._out)

    def _row(self, row: list[object]) -> None:
        if not self._has_header:  # beside files of pages, until an image of a line comes
            self._header()
        self._csv.writerow(row)

    def _header(self) -> None:
        self._has_header = True
        self._csv.writerow(["file", "text", "confidence", "model_version", "error", "suspicions"])

    def _transcription(self, path: str, result: Transcription) -> None:
        error = result.error
        if self._format == "csv":
            row = [path, result.text, rounded(result.confidence), result.version, error.reason if error else ""]
            self._row([*row, " ".join(suspicion.code for suspicion in result.suspicions)])
        elif self._format == "text" and error is None:
            print(f"{one_field(path)}\t{result.text}\t{result.confidence:.3f}", file=self._out)
            for text, confidence in result.alternatives:
                print(f"\t{text}\t{confidence:.3f}", file=self._out)
        elif self._format == "json":
            fields = {
                "file": path,
                "text": result.text,
                "confidence": rounded(result.confidence),
                "characters": [
                    {"text": text, "confidence": rounded(confidence), "span": [round(edge, 1) for edge in span]}
                    for text, confidence, span in result.characters
                ],
                "alternatives": [
                    {"text": text, "confidence": rounded(confidence)} for text, confidence in result.alternatives
                ],
                "model": result.model,
                "model_version": result.version,
            }
            self._record(fields, result)

    def _record(self, fields: dict[str, object], result: Transcription | Page) -> None:
        """Prints an object of JSON, with what images of lines and of pages have in common."""
        error = failure(result)
        fields["suspicions"] = [suspicion._asdict() for suspicion in suspicions(result)]
        fields["error"] = None if error is None else {"reason": error.reason, "message": str(error)}
        print(json.dumps(fields, ensure_ascii=False), file=self._out)
