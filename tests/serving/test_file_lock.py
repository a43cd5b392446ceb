"""Locks between processes: regular files that are open for writing, since NFS locks nothing else."""

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from components.pusher import publishing
from pipeline.runners import local_runner
from serving.file_lock import LockHeld, NoLocks, locked
from serving.rollout.moving import Rollout


@pytest.fixture
def model_dir(tmp_path):
    version = tmp_path / "models" / "htr" / "1"
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"graph")
    return version.parent


def push(model_dir):
    publishing.push(str(model_dir / "1"), str(model_dir), 5)


def withdraw(model_dir):
    os.rename(model_dir / "1", model_dir / "2")
    (model_dir / "1").mkdir()
    publishing.roll_back(str(model_dir))


def promote(model_dir):
    Rollout(str(model_dir), "htr").promote(1, "stable")


def run(model_dir):
    with local_runner.locked(str(model_dir.parent)):
        pass


@pytest.mark.parametrize("act", [push, withdraw, promote, run])
def test_what_is_locked_is_a_regular_file_that_is_open_for_writing(act, model_dir, monkeypatch):
    seen, flock = [], fcntl.flock

    def noted(descriptor, operation):
        mode = os.fstat(descriptor).st_mode
        seen.append((stat.S_ISREG(mode), fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", noted)
    act(model_dir)
    assert seen and set(seen) == {(True, True)}


def test_who_waits_for_a_push_says_so(model_dir, capsys):
    said, waiting = "", threading.Thread(target=withdraw, args=(model_dir,))
    with locked(str(model_dir / ".versions.lock")):
        waiting.start()
        until = time.monotonic() + 10
        while f"Waiting for the end of a push into {model_dir}" not in said and time.monotonic() < until:
            time.sleep(0.02)
            said += capsys.readouterr().err
        assert time.monotonic() < until and waiting.is_alive()
    waiting.join(10)
    assert (model_dir / ".withdrawn-2").is_dir()


HOLD = "import sys; from serving.file_lock import locked\nwith locked(sys.argv[1]): print('held', flush=True); input()"


def test_another_process_refuses_or_waits_until_the_holder_is_killed(tmp_path):
    path = str(tmp_path / "lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockHeld, match=path), locked(path):
            pass
        holder.kill()
        with locked(path, wait=True):
            assert os.path.getsize(path) == 0
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777])
def test_whoever_may_write_into_the_directory_may_lock(tmp_path, mode):
    tmp_path.chmod(mode)
    before = os.umask(0o077)
    try:
        with locked(str(tmp_path / "lock")):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == mode & 0o666


def test_errors_name_the_file(tmp_path, monkeypatch):
    path = str(tmp_path / "lock")
    with pytest.raises(FileNotFoundError, match=f"{path}/nowhere"), locked(f"{path}/nowhere"):
        pass

    def unlockable(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    with pytest.raises(NoLocks, match=f"cannot be locked: No locks available: '{path}'"), locked(path):
        pass
