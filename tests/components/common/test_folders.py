"""A folder is there when it is whole, and not before."""

import shutil

import pytest

from components.common.folders import made_whole
from serving.file_lock import LockHeld


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), made_whole(folder) as target:
        target.mkdir()
        (target / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with made_whole(folder) as target:
        target.mkdir()
        (target / "whole").touch()
        assert not folder.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "whole"]


def test_what_a_kill_has_left_is_deleted(tmp_path):
    with made_whole(tmp_path / "set") as target:
        target.mkdir()
        (target / "half").touch()
        left = shutil.copytree(target.parent, tmp_path / "left")
    shutil.rmtree(tmp_path / "set")
    left.rename(tmp_path / "set.unfinished")
    with made_whole(tmp_path / "set") as target:
        assert not target.exists()
        target.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["set"]


def test_a_folder_is_filled_by_one_process_at_a_time(tmp_path):
    folder = tmp_path / "set"
    with made_whole(folder) as target:
        target.mkdir()
        (target / "one").touch()
        with pytest.raises(LockHeld, match=f"Another command writes {folder} and holds "), made_whole(folder) as other:
            other.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "one"]


def test_a_link_leads_to_the_folder_and_stays(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with made_whole(tmp_path / "link") as target:
        target.mkdir()
        (target / "whole").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "whole").exists()


def test_what_cannot_be_replaced_is_told_before_the_work(tmp_path):
    (tmp_path / "full" / "of").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, error in (("full", OSError), ("file", NotADirectoryError)):
        with pytest.raises(error), made_whole(tmp_path / name):
            pytest.fail("the work was begun")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "of"]
