"""A folder is there when it is whole, and not before."""

import pytest

from components.common.folders import made_whole


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), made_whole(folder) as target:
        target.mkdir()
        (target / "half").touch()
        raise KeyboardInterrupt
    assert not folder.exists()
    with made_whole(folder) as target:
        assert target.parent == tmp_path and not target.exists(), "what the interruption left is gone"
        target.mkdir()
        (target / "whole").touch()
        assert not folder.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "whole"]
