"""Files that are seen whole or not at all."""

import os

import pytest

from htr_client.whole_files import write_whole


@pytest.mark.parametrize("new", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(new, tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        synced.append((os.fstat(descriptor).st_size, (tmp_path / "page.txt").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_whole(tmp_path / "page.txt", b"whole", new=new)
    assert synced == [(5, False)] and (tmp_path / "page.txt").read_bytes() == b"whole"


def test_a_new_file_replaces_none(tmp_path, monkeypatch):
    write_whole(tmp_path / "page.txt", b"first", new=True)
    for linked in (True, False):
        if not linked:  # as on file systems without links
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
        with pytest.raises(FileExistsError, match=r"page\.txt"):
            write_whole(tmp_path / "page.txt", b"second", new=True)
    assert os.listdir(tmp_path) == ["page.txt"] and (tmp_path / "page.txt").read_bytes() == b"first"
    write_whole(tmp_path / "page.txt", b"third")
    assert (tmp_path / "page.txt").read_bytes() == b"third"


def test_permissions_are_those_that_are_asked_for_from_the_start(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_mode & 0o777))
    before = os.umask(0o027)
    try:
        for mode in (0o600, 0o644, None):
            write_whole(tmp_path / f"{mode}", b"", mode=mode)
    finally:
        os.umask(before)
    assert seen == [0o600, 0o640, 0o640]
    modes = [(tmp_path / f"{mode}").stat().st_mode & 0o777 for mode in (0o600, 0o644, None)]
    assert modes == [0o600, 0o644, 0o640]


def test_what_fails_leaves_nothing_and_names_the_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*page\.txt'"):
        write_whole(tmp_path / "page.txt", b"x")
    assert os.listdir(tmp_path) == []
