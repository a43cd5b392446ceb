"""The standard streams of a command: there, and in an encoding that takes every text."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import IO, TextIO


def replace_missing() -> None:
    """Opens the null device in place of standard output and error where they are closed, as after `2>&-`.

    Standard input stays None where it is closed: whoever needs it has to say so.
    """
    # The descriptors too: otherwise the next file or connection would take their numbers, and with them the messages
    # of C libraries.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process


def quiet_opencv() -> None:
    """Keeps OpenCV from logging to standard error, unless its own variable says otherwise; before it is imported.

    What it says of a file lacks the file's name, and stands beside the client's own message, which has it.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")


def discard(out: IO[str]) -> None:
    """Sends what is still to be written to the null device, so that no later write, nor the end of the process, fails.

    Args:
        out: Output whose reader has gone.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, out.fileno())
    os.close(null)


def take_every_text(out: TextIO) -> None:
    """Has an output written as UTF-8, whatever the locale says, unless it is a terminal.

    What is redirected is read by programs, and XML declares UTF-8. A terminal keeps its encoding, and shows escapes for
    characters that it does not have.

    Args:
        out: The output. What is no file, such as the output of a notebook, stays as it is.
    """
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(encoding=None if out.isatty() else "utf-8", errors="backslashreplace")


@contextlib.contextmanager
def warnings_as_lines(before: Callable[[], None]) -> Iterator[None]:
    """Prints each warning of this package as a line on standard error, without a place in the source.

    Args:
        before: Called before each line.
    """

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, UserWarning) and os.path.dirname(filename) == os.path.dirname(__file__):
            before()
            print(f"warning: {message}", file=sys.stderr)
        else:
            others(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        # `htr` ignores the warnings of all libraries.
        warnings.filterwarnings("always", category=UserWarning, module=r"htr_client\.")
        others = warnings.showwarning
        warnings.showwarning = show
        yield
