"""Real processes of `htr`, to be killed, stopped and starved."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import FAST, data  # noqa: F401 - a fixture

REPOSITORY = Path(__file__).parents[2]


class Process:
    """A command that runs."""

    def __init__(self, forge, pid, folder):
        self.pid, self._forge, self._folder, self._code = pid, forge, folder, None

    @property
    def out(self):
        return (self._folder / "stdout").read_text()

    @property
    def err(self):
        return (self._folder / "stderr").read_text()

    def poll(self):
        if self._code is None:
            self._code = self._forge.ask(poll=self.pid)
        return self._code

    def wait(self, seconds=300.0):
        """Its exit code; below zero if a signal ended it."""
        self.until(lambda: self.poll() is not None, seconds)
        return self._code

    def until(self, condition, seconds=300.0):
        """Waits for something, at most until the process has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; so far it said:\n{self.err}"
            assert self.poll() is None or condition(), f"ended with {self._code}:\n{self.err}"
            time.sleep(0.02)

    def says(self, text, seconds=300.0):
        self.until(lambda: text in self.err + self.out, seconds)

    def signal(self, number):
        os.kill(self.pid, number)

    def family(self):
        """The processes that it has started, and theirs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []


class Forge:
    """Starts commands by way of warm.py."""

    def __init__(self, folder, *prefix):
        self._folder, self._count, self._running = folder, 0, []
        self._log = open(folder / "forge.log", "wb")  # noqa: SIM115 - closed with the process
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "ignore", str(Path(__file__).with_name("warm.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, (self._folder / "forge.log").read_text()
        return json.loads(answer)

    def start(self, *arguments, **more):
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        files = {name: str(folder / name) for name in ("stdout", "stderr")}
        process = Process(self, self.ask(start=[*map(str, arguments)], **files, **more), folder)
        process.until(lambda: (folder / "stderr").exists())
        self._running.append(process)
        return process

    def run(self, *arguments, **more):
        """Runs a command to its end; it has a `code` then."""
        process = self.start(*arguments, **more)
        process.code = process.wait()
        return process

    def close(self):
        for process in self._running:
            if process.poll() is None:
                process.signal(signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(30)
        self._log.close()


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    forge.close()


@pytest.fixture(scope="session")
def walled_forge(tmp_path_factory):
    """One that may mount small and read-only file systems, which nobody else sees."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare"):
        pytest.skip("needs unshare, of util-linux")
    folder = tmp_path_factory.mktemp("walled")
    probe = [*prefix, "mount", "-t", "tmpfs", "none", str(folder)]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount in a namespace of their own: {done.stderr.strip()}")
    forge = Forge(folder, *prefix)
    yield forge
    forge.close()


def run_arguments(data, workspace, *settings):  # noqa: F811
    return ["run", "--data", data, "--workspace", workspace, "--json", *(f"--set={s}" for s in [*FAST, *settings])]
