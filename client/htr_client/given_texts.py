"""Words and texts as callers give them: in files, or several in a row."""

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO, Union

Path = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def utf8(path: Path) -> Iterator[TextIO]:
    """Opens a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.

    Yields:
        The open file.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not UTF-8 ({error}): convert it, for example with iconv") from None


def refuse_one_text(texts: object, name: str) -> None:
    """Refuses one text where several are expected; its characters would be taken for texts.

    Args:
        texts: What a caller gave.
        name: Name of the class that it is for.

    Raises:
        TypeError: When it is one text.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"{name} takes several texts, such as a list, not one {type(texts).__name__}: give [text], "
            f"text.splitlines(), or a file with {name}.from_file(path)"
        )
