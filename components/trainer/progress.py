"""Tells people how far a training is: a bar on a terminal; in logs, CI and notebooks a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from components.common.console import clock, console

# Seconds before the first line, between the others, and between updates of the bar.
_FIRST, _EVERY, _EVERY_OF_BAR = 5.0, 30.0, 0.5
# Epochs that are shorter than this many seconds, and many, do not get a line each.
_SHORT_EPOCH, _MANY_EPOCHS = 10.0, 60
# The first batches build the graph, once more for another shape: their time says nothing about the others. So many of
# those are enough to reckon with, and fewer where they take long.
_BUILDING, _ENOUGH, _LONG = 4, 10, 20.0
_MUCH_MORE = 1.5  # times the first estimate, from which on people are told another one


class Progress:
    """The display of one training; a context manager.

    What remains is reckoned from the batches of this process after its first few, which build the graph; the time of
    validations is in it once the first epoch has ended, and is told then where it is much.
    """

    def __init__(self, epochs: int, steps: int, images: int, done: int, seconds_before: float, shown: bool = True):
        """Sets what is to be done.

        Args:
            epochs: Number of epochs.
            steps: Batches of an epoch.
            images: Images of an epoch.
            done: Batches that an interrupted training has done already.
            seconds_before: Seconds that it took.
            shown: Whether to say anything; workers but the first are silent.
        """
        self.epochs, self.steps, self.images, self.shown = epochs, steps, images, shown
        self._begin, self._seconds_before = time.monotonic(), seconds_before
        self._resumed_at = self._first_done = done
        self._first_time = self._begin
        self._last_line, self._estimated = self._begin, False
        self._told_total = float("inf")
        self._last_epoch_line = float("-inf")
        self.on_terminal = console().is_terminal and shown
        self._bar = Bar(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"),
            console=console(), transient=True, disable=not self.on_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps, rest="")

    def __enter__(self) -> Progress:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Removes the bar."""
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds of the whole training so far, those before an interruption included."""
        return self._seconds_before + time.monotonic() - self._begin

    def batch(self, done: int, loss: Callable[[], float]) -> None:
        """Tells of a batch that has been trained on.

        Args:
            done: Batches so far.
            loss: Returns the current loss; called only where it is shown, since that waits for the device.
        """
        if not self.shown:
            return
        now = time.monotonic()
        if done <= self._resumed_at + _BUILDING:
            self._first_done, self._first_time = done, now
            return
        seen, waited = done - self._first_done, now - self._first_time
        if not self._estimated and ((waited >= _FIRST and seen >= _ENOUGH) or waited >= _LONG):
            self._estimated = True
            self._told_total = self.seconds + self._remaining(done)
            console().print(
                f"  about {_rough(self._told_total)} in all at {self._rate(done):.0f} images/s, unless training stops "
                "early"
            )
            self._show(done, loss())
        elif self._estimated and now - self._last_line >= (_EVERY_OF_BAR if self.on_terminal else _EVERY):
            self._show(done, loss())

    def _show(self, done: int, loss: float) -> None:
        self._last_line = time.monotonic()
        epoch, batch = divmod(done - 1, self.steps)
        told = f"loss {loss:7.3f}  {self._rate(done):.0f} images/s  {self._times(done)}"
        if self.on_terminal:
            self._bar.update(self._task, completed=batch + 1, description=f"epoch {epoch + 1}/{self.epochs}", rest=told)
        else:
            console().print(f"  epoch {epoch + 1:3d}/{self.epochs}  batch {batch + 1}/{self.steps}  {told}")

    def epoch(self, done: int, text: str, last: bool) -> None:
        """Prints the line of an epoch; of many short ones only some.

        Args:
            done: Batches so far.
            text: What the epoch has brought.
            last: Whether the training ends with it.
        """
        now = time.monotonic()
        total = self.seconds + self._remaining(done)
        if self.shown and not last and total > _MUCH_MORE * self._told_total:
            self._told_total = float("inf")
            console().print(f"  about {_rough(total)} in all with its validations, unless training stops early")
        if not self.shown or (not last and self.epochs > _MANY_EPOCHS and now - self._last_epoch_line < _SHORT_EPOCH):
            return
        self._last_epoch_line = self._last_line = now
        console().print(f"  epoch {done // self.steps:3d}/{self.epochs}  {text}  {self._times(done)}")

    def _times(self, done: int) -> str:
        return f"{clock(self.seconds)} elapsed, {clock(self._remaining(done))} remaining"

    def _rate(self, done: int) -> float:
        return self.images / self.steps * (done - self._first_done) / (time.monotonic() - self._first_time)

    def _remaining(self, done: int) -> float:
        a_batch = (time.monotonic() - self._first_time) / max(done - self._first_done, 1)
        return a_batch * (self.epochs * self.steps - done)


def _rough(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
