"""What a person at a terminal sees while work goes on: a bar, and a word when nothing has happened for a while."""

import sys
import threading
from types import TracebackType

_WORD_AFTER = 2.0
_BAR = 30


class Waiting:
    """Writes a line to standard error when nothing has moved for two seconds, then for four, eight and so on.

    Args:
        word: The line.
    """

    def __init__(self, word: str) -> None:
        self._word = word
        self._moved = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="htr-waiting", daemon=True)

    def __enter__(self) -> "Waiting":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._moved.set()
        self._thread.join()

    def moved(self) -> None:
        """Says that there is progress."""
        self._moved.set()

    def _watch(self) -> None:
        seconds = _WORD_AFTER
        while not self._over:
            if self._moved.wait(seconds):
                self._moved.clear()
            else:
                seconds *= 2
                print(self._word, file=sys.stderr, flush=True)


class Bar:
    """A progress bar on standard error, below the lines that are written meanwhile.

    Args:
        total: Number of steps; there is no bar for one, and none where standard error is no terminal.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = sys.stderr.isatty() and total > 1
        self._drawn = False

    def clear(self) -> None:
        """Erases the bar, before a line is written to the same terminal."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False

    def draw(self, done: int, failed: int) -> None:
        """Draws the bar; after the last step there is none any more.

        Args:
            done: Number of steps so far.
            failed: How many of them failed.
        """
        if not self._shown or done == self._total:
            return
        filled = _BAR * done // self._total
        note = f", {failed} failed" if failed else ""
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{self._total}{note}"
        print(f"\r\x1b[K{bar}", end="", file=sys.stderr, flush=True)
        self._drawn = True
