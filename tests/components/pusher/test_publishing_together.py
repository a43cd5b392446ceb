"""Pushes at the same time, from one machine or several, with locks and on file systems without."""

import errno
import fcntl
import threading
import time

import pytest

from components.common import storage
from components.common.in_service import holds
from components.common.versions import list_versions
from components.pusher import publishing
from serving.rollout.labels import RolloutError
from serving.rollout.moving import Rollout


def test_two_pushes_at_once_make_two_whole_versions(model, tmp_path, monkeypatch):
    """Without the lock the second would delete what the first has copied so far, and the first publish the rest."""
    copy, base, both = storage.copy_tree, tmp_path / "htr", []

    def slowly(source, target, last=""):
        copy(source, target, last)
        if not both:
            both.append(threading.Thread(target=publishing.push, args=(str(model), str(base), 5)))
            both[0].start()
            time.sleep(0.5)

    monkeypatch.setattr(storage, "copy_tree", slowly)
    publishing.push(str(model), str(base), 5)
    both[0].join()
    found = list_versions(str(base))
    assert len(found) == 2 and all(holds(version, str(model)) for version in found)


@pytest.fixture
def no_locks(monkeypatch):
    """Every process gets every lock, as on two machines whose file system keeps locks to each of them."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def test_two_pushes_at_once_without_locks_make_two_whole_versions(model, tmp_path, monkeypatch, no_locks):
    """The second begins and ends while the first copies: it must take nothing of it away."""
    copy, base, second = storage.copy_file, tmp_path / "htr", []

    def interrupted(source, target):
        copy(source, target)
        if not second:
            second.append(None)
            second[0] = publishing.push(str(model), str(base), 5)

    monkeypatch.setattr(storage, "copy_file", interrupted)
    first = publishing.push(str(model), str(base), 5)
    found = list_versions(str(base))
    assert [version.number for version in found] == [second[0], first]
    assert all(holds(version, str(model)) for version in found)


def test_a_number_that_another_machine_has_just_taken_is_left_to_it(model, tmp_path, monkeypatch):
    base = tmp_path / "m"
    taken = publishing.push(str(model), str(base), 5)
    monkeypatch.setattr(publishing, "_next_number", lambda _: taken)  # a listing that is behind, as NFS may give it
    assert publishing.push(str(model), str(base), 5) == taken + 1
    assert all(holds(version, str(model)) for version in list_versions(str(base)))


def test_a_file_system_without_locks(model, tmp_path, monkeypatch):
    """Pushes do without; rollouts refuse, since each sends a whole configuration. Both name the file."""

    def unlockable(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    base = tmp_path / "m"
    number = publishing.push(str(model), str(base), 5)
    assert [version.number for version in list_versions(str(base))] == [number]
    with pytest.raises(RolloutError, match=r"/\.models\.config\.lock, which keeps .*: cannot be locked: No locks"):
        Rollout(str(base), "m").promote(number, "stable")
