"""A server process that loads TensorFlow before there is a model for it, while other steps work.

Loading takes most of the time of a serving check. `python -m components.serving_check.early` does it, and becomes the
embedded server of the flags that it then reads.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from serving import runner, server

_waiting: Server | None = None


class Server:
    """A process of a model server and what it says; it ends with the process that started it."""

    def __init__(self, command: Sequence[str]):
        """Starts it.

        Args:
            command: Program and arguments.
        """
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "components.common.stopping", *command],
            stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT, env=_environment(),
        )  # fmt: skip
        assert self.process.stdin
        self._stdin = self.process.stdin

    def tell(self, flags: Sequence[str]) -> bool:
        """Gives the process that waits its flags. Returns whether it was still there."""
        with contextlib.suppress(BrokenPipeError), self._stdin:
            self._stdin.write(json.dumps(list(flags)).encode())
        return self.process.poll() is None

    def last_words(self) -> str:
        """The end of what it has said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ends it, also where it does not listen."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()  # or the folder that it serves is deleted before it has ended
        self._log.close()
        self._stdin.close()


def begin() -> None:
    """Starts a process that loads what the embedded server needs, unless one waits already."""
    global _waiting
    _waiting = _waiting or Server([sys.executable, "-m", "components.serving_check.early"])


def end() -> None:
    """Ends the process that waits, if there is one: there is nothing to serve."""
    global _waiting
    if _waiting:
        _waiting.stop()
    _waiting = None


@contextlib.contextmanager
def serving(flags: Sequence[str], command: Sequence[str]) -> Iterator[Server]:
    """Within it a server runs; the process that waits becomes it where it can.

    Args:
        flags: Flags of TensorFlow Serving.
        command: Command of a server that takes them; the embedded one if empty.
    """
    global _waiting
    started = None
    if not command and _waiting:
        started, _waiting = _waiting, None
        if not started.tell(flags):
            started.stop()
            started = None
    started = started or Server([*(command or [sys.executable, "-m", "serving.server"]), *flags])
    try:
        yield started
    finally:
        started.stop()


def _environment() -> dict[str, str]:
    # The server must find our packages also where they are not installed but on sys.path, as in a Beam worker.
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}


def _main() -> int:
    gc.set_threshold(50_000)  # imports make many objects that stay
    atexit.register(gc.freeze)
    with runner.without_extras():
        runner.import_tensorflow()
        import serving.service  # noqa: F401
    flags = sys.stdin.read()
    return server.main(json.loads(flags)) if flags else 0


if __name__ == "__main__":
    sys.exit(_main())
