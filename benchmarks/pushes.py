"""Hot pushes under light load: memory and file handles of the embedded server after each, as a table.

    python -m benchmarks.pushes --model=/abs/serving_model/htr/1795361526 --pushes=26
    python -m benchmarks.pushes --model=... --preload=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2

Every push is a copy of the same version, so what grows is the server's own. `--preload` measures a second server, with
another allocator, after the first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import print_rows, spawn, synthetic_png

_SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Measure:
    """The server after a push.

    Attributes:
        push: Number of the push; 0 is the version that the server started with.
        seconds: Time from the push to the first answer of the new version.
        resident: Resident memory, in bytes.
        handles: Open file handles.
        answers: Requests answered so far.
        failures: Requests failed so far.
    """

    push: int
    seconds: float
    resident: int
    handles: int
    answers: int
    failures: int


class Load:
    """One caller with a pause after each answer."""

    def __init__(self, address: str, name: str, pause: float) -> None:
        from htr_client import HtrClient

        self.answers = self.failures = self.version = 0
        self._client = HtrClient(address, name)
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from htr_client import HtrError

        image = synthetic_png()
        while not self._stop.wait(self._pause):
            try:
                self.version = self._client.transcribe(image).version
                self.answers += 1
            except HtrError as error:
                self.failures += 1
                print(error, file=sys.stderr)

    def wait_version(self, version: int, timeout: float = 300.0) -> None:
        """Waits until a version answers.

        Raises:
            TimeoutError: It does not.
        """
        until = time.monotonic() + timeout
        while self.version != version:
            if time.monotonic() > until:
                raise TimeoutError(f"version {version} does not answer")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends the load."""
        self._stop.set()
        self._thread.join()
        self._client.close()


def resident(pid: int) -> int:
    """Returns the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles(pid: int) -> int:
    """Returns the number of open file handles of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def push(model: Path, base: Path, version: int) -> None:
    """Puts a copy of a version in place by one rename, and drops all but the version before it."""
    temporary = base / f".incoming-{version}"
    shutil.copytree(model, temporary)
    temporary.rename(base / str(version))
    if version > 2:
        shutil.rmtree(base / str(version - 2))


def measure(model: Path, name: str, pushes: int, pause: float, flags: list[str], preload: str = "") -> list[Measure]:
    """Starts a server, pushes, and looks at it after each push.

    Args:
        model: Directory of one version.
        name: Name to serve it under.
        pushes: Number of pushes.
        pause: Seconds between two requests.
        flags: More flags of the server.
        preload: Library that is loaded before all others, such as an allocator.

    Returns:
        One measure for the start and one for each push.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, name)
        base.mkdir()
        push(model, base, 1)
        process, address, _ = spawn(str(base), name, flags, preload)
        load = Load(address, name, pause)
        rows = []
        try:
            for number in range(pushes + 1):
                started = time.monotonic()
                if number:
                    push(model, base, number + 1)
                load.wait_version(number + 1)
                seconds = time.monotonic() - started
                time.sleep(_SETTLE_SECONDS)  # the version before ends, its memory goes back
                pid = process.pid
                rows.append(Measure(number, seconds, resident(pid), handles(pid), load.answers, load.failures))
        finally:
            load.stop()
            process.terminate()
            process.wait()
    return rows


def print_table(rows: list[Measure]) -> None:
    """Prints the measures of one server as a table."""
    second = rows[min(2, len(rows) - 1)].resident
    print_rows([
        {
            "push": str(row.push),
            "first answer s": f"{row.seconds:.1f}",
            "RSS MB": f"{row.resident / 1e6:.0f}",
            "ratio to the second": f"{row.resident / second:.2f}",
            "file handles": str(row.handles),
            "answers": str(row.answers),
            "failures": str(row.failures),
        }
        for row in rows
    ])  # fmt: skip


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="directory of one version")
    parser.add_argument("--name", default="htr")
    parser.add_argument("--pushes", type=int, default=26)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two requests")
    parser.add_argument(
        "--preload", action="append", default=[], metavar="LIB", help="library for one more server; may be repeated"
    )
    parser.add_argument("flags", nargs="*", help="after --: more flags of the server")
    arguments = parser.parse_args()
    for preload in ("", *arguments.preload):
        print(f"\n{preload or 'as it is'}:", flush=True)
        print_table(
            measure(arguments.model, arguments.name, arguments.pushes, arguments.pause, arguments.flags, preload)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
