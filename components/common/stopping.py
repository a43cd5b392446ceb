"""How commands end when they are told to: SIGTERM works as Ctrl-C does, and no process stays behind.

`python -m components.common.stopping COMMAND ...` runs a command that ends when the process which started it is killed.
Python could call `follow_parent` between fork and exec as well, but not safely where there are threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_PATIENCE = 3.0  # seconds until children that do not listen are killed
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_on_abort: Any = None  # the handler of SIGABRT, which must not be collected


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGINT came.

    Attributes:
        code: Exit code that tells so, 128 and the signal's number.
    """

    # Beam adds the name of the step to the message of whatever a step raises, and would make a RuntimeError of this.
    # An exception that has the name already it lets through.
    _tagged_with_step = True

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


@contextlib.contextmanager
def stoppable(patience: float | None = None) -> Iterator[None]:
    """Within it SIGTERM and SIGINT end the worker processes and raise `Stopped`; the second one kills.

    Args:
        patience: Seconds after which the process ends, wherever the exception has come to by then: a pool whose workers
            were ended may wait for them for ever. None leaves the process to its owner.

    Raises:
        Stopped: A signal came, in the main thread; elsewhere signals cannot be caught, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        came.append(number)
        for each in _NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        # Before the exception: on its way up there are pools that wait for their workers.
        end_children()
        if patience is not None:
            timer = threading.Timer(patience, os._exit, [128 + number])
            timer.daemon = True
            timer.start()
            _exit_instead_of_abort(128 + number)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _NUMBERS}
    try:
        yield
    except Exception as error:
        if came:  # libraries catch what is raised in their callbacks and raise an error of their own
            raise Stopped(came[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_instead_of_abort(code: int) -> None:
    """Gives a process that is ending its exit code also when C++ aborts it.

    The exception of `stoppable` can come up in a Python function that TensorFlow's C++ code calls, and not every such
    place lets exceptions through. `signal.signal` would not do: its handlers run when C++ has returned to Python.
    """
    global _on_abort
    if _LIBC:
        _on_abort = _HANDLER(lambda _: os._exit(code))
        _LIBC.signal(signal.SIGABRT, _on_abort)


def end_children() -> None:
    """Ends all processes that this one has started, and theirs."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, _PATIENCE)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()


def follow_parent() -> None:
    """To be called first in a child process: signals end it at once, and on Linux so does the end of its parent."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    follow_parent()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]} cannot be run: {error.strerror}.")
