"""Where a run talks to the person who started it, apart from the logs of TensorFlow, TFX and Beam."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as bar

_T = TypeVar("_T")
_FIRST_WORD, _NEXT_WORD = 2.0, 15.0  # seconds after which a log hears how far something is

_console: Console | None = None


def console() -> Console:
    """The console for people; standard error unless `quiet_logs` is active."""
    return _console or Console(file=sys.stderr, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def quiet_logs(path: str) -> Iterator[None]:
    """Sends everything written to the process's standard output and error to a file, except what `console` prints.

    Works on file descriptors, since TensorFlow's C++ parts and worker processes write past Python's `sys.stderr`.

    Args:
        path: log file, appended to.
    """
    global _console
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(path, "a", encoding="utf-8") as log, os.fdopen(os.dup(2), "w", encoding="utf-8") as people:
        _console = Console(file=people, highlight=False, soft_wrap=True)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the log's disk may be full
                sys.stdout.flush()
                sys.stderr.flush()
            for descriptor, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
            _console = None


@contextlib.contextmanager
def announced(what: str | Callable[[], str], after: float = 2.0, every: float = 30.0) -> Iterator[None]:
    """Says what is under way if it takes longer than a moment, and again every half minute.

    Lines, not a bar: they are the same on a terminal, in a log and in a notebook, and mix with what others print.

    Args:
        what: what is done, such as "Reading images", or a function that says how far it is.
        after: seconds before the first line.
        every: seconds between the following lines.
    """
    ended, begin = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = after
        while not ended.wait(wait):
            minutes, seconds = divmod(int(time.monotonic() - begin), 60)
            said = what if isinstance(what, str) else what()
            with contextlib.suppress(OSError):  # a terminal that was closed
                console().print(f"  {said} ({minutes}:{seconds:02d} elapsed)", markup=False)
            wait = every

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def track(items: Iterable[_T], doing: str, total: int) -> Iterator[_T]:
    """Passes items on and tells how many have come: as a bar, or by a line now and then where no terminal is.

    Args:
        items: to pass on.
        doing: what is done with them, such as "Looking at images".
        total: their number.
    """
    out = console()
    if out.is_terminal:
        yield from bar(items, doing, total, console=out, transient=True)
        return
    due = time.monotonic() + _FIRST_WORD
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now >= due:
            out.print(f"{doing}: {number} of {total}", markup=False)
            due = now + _NEXT_WORD
