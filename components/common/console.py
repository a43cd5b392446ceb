"""Where a run talks to the person who started it, apart from the logs of TensorFlow, TFX and Beam."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from htr_client.streams import discard


class _Console(Console):
    """A console whose reader may go: what it tells is lost then, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Overrides that of rich, which ends the process."""
        self.quiet = True
        discard(self.file)


_console: Console | None = None


def console() -> Console:
    """The console for people; standard error unless `quiet_logs` is active."""
    return _console or _Console(file=sys.stderr, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def quiet_logs(path: str) -> Iterator[None]:
    """Sends everything written to the process's standard output and error to a file, except what `console` prints.

    Works on file descriptors, since TensorFlow's C++ parts and worker processes write past Python's `sys.stderr`.

    Args:
        path: Log file, appended to.
    """
    global _console
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    # Messages may hold file names that are not UTF-8.
    with (
        open(path, "a", encoding="utf-8") as log,
        os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as people,
    ):
        _console = _Console(file=people, highlight=False, soft_wrap=True)
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
def quiet() -> Iterator[None]:
    """Keeps what `quiet_logs` takes to itself, and shows it if the work fails.

    TensorFlow tells of its start whatever `TF_CPP_MIN_LOG_LEVEL` says (2.19 and later).
    """
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        try:
            with quiet_logs(log):
                yield
        except BaseException:
            with open(log, encoding="utf-8", errors="replace") as file:
                sys.stderr.write(file.read())
            raise


def clock(seconds: float) -> str:
    """Seconds as "m:ss" or "h:mm:ss"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def announced(what: str | Callable[[], str], after: float = 2.0, every: float = 30.0) -> Iterator[None]:
    """Says what is under way if it takes longer than a moment, and again every half minute.

    Lines, not a bar: they are the same on a terminal, in a log and in a notebook, and mix with what others print.

    Args:
        what: What is done, such as "Reading images", or a function that says how far it is.
        after: Seconds before the first line.
        every: Seconds between the following lines.
    """
    ended, begin = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = after
        while not ended.wait(wait):
            said = what if isinstance(what, str) else what()
            with contextlib.suppress(OSError):  # a terminal that was closed
                console().print(f"  {said} ({clock(time.monotonic() - begin)} elapsed)", markup=False)
            wait = every

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
