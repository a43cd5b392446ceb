"""Data and models in a bucket: fsspec's file system in memory stands in for gs://, through the same calls."""

import os
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.batch_transcriber.listing import list_images
from components.common import storage
from components.common.in_service import VersionError, holds
from components.common.versions import offered
from components.example_gen import dataset
from components.example_gen.fingerprint import fingerprint
from components.example_gen.folders import find_tables
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.pusher import publishing
from components.transform.settings import TransformConfig
from tests.conftest import write_dataset


@pytest.fixture
def bucket():
    return f"memory://{uuid.uuid4().hex}"


def test_a_package_that_is_missing_is_named_as_it_is_published():
    """Our own distributions are not on PyPI, where anybody may take their names."""
    code = """
import sys
from components.common import storage
sys.modules.update(dict.fromkeys(("s3fs", "gcsfs", "adlfs")))
for scheme in ("s3", "gs", "az"):
    try:
        storage.is_dir(f"{scheme}://bucket/names")
    except OSError as error:
        print(scheme, str(error).rpartition("is not installed: ")[2])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["s3 pip install s3fs", "gs pip install gcsfs", "az pip install adlfs"]


@pytest.fixture
def model(tmp_path):
    source = tmp_path / "export"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    (source / "variables" / "variables.index").write_bytes(b"index")
    return str(source)


def test_paths_and_addresses():
    assert storage.absolute("gs://bucket/a/../b/./c") == "gs://bucket/b/c"
    assert storage.is_inside("gs://bucket/data/a.png", "gs://bucket/data")
    assert not storage.is_inside("gs://bucket/data2/a.png", "gs://bucket/data")
    assert not storage.is_inside("gs://bucket/data/../a.png", "gs://bucket/data")


def test_a_file_is_whole_whoever_writes_it_too(tmp_path):
    contents = [bytes([number]) * 300_000 for number in range(8)]
    path = str(tmp_path / "file")
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            list(threads.map(storage.write, [path] * 8, contents))
            assert storage.read(path) in contents and os.listdir(tmp_path) == ["file"]


def test_a_link_out_of_the_folder_is_not_inside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "secret.png")
    assert not storage.is_inside(str(tmp_path / "data" / "a.png"), str(tmp_path / "data"))


def test_files_are_read_whole_or_as_far_as_asked(bucket, tmp_path):
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    storage.copy_tree(str(tmp_path), bucket)
    for path in (str(tmp_path / "file"), f"{bucket}/file"):
        assert storage.read(path) == content
        for most in (0, 1, 65_536, 100_000, 256_000, 300_000):
            assert storage.read(path, most) == content[:most]
    (tmp_path / "empty").touch()
    assert storage.read(str(tmp_path / "empty")) == b""
    with pytest.raises(OSError, match="not a regular file"):
        storage.read(str(tmp_path))


def test_copies_are_equal_wherever_they_are(model, bucket, tmp_path):
    storage.copy_tree(model, f"{bucket}/copy")
    storage.copy_tree(f"{bucket}/copy", str(tmp_path / "back"))
    assert storage.digest(model) == storage.digest(f"{bucket}/copy") == storage.digest(str(tmp_path / "back"))
    (tmp_path / "back" / "saved_model.pb").write_bytes(b"other")
    assert storage.digest(str(tmp_path / "back")) != storage.digest(model)


def test_a_slash_at_the_end_of_a_folder_changes_nothing(model, bucket, tmp_path):
    storage.copy_tree(f"{model}/", f"{bucket}/copy/")
    storage.copy_tree(f"{bucket}/copy/", str(tmp_path / "back"))
    assert storage.digest(model) == storage.digest(f"{bucket}/copy/") == storage.digest(f"{tmp_path}/back/")
    storage.write(f"{bucket}/images/new/a.png", b"image")
    assert [image.path for image in list_images(f"{bucket}/images/").images] == ["new/a.png"]


def test_the_named_file_is_copied_last(model, bucket, monkeypatch):
    order = []
    copy = storage.copy_file
    monkeypatch.setattr(storage, "copy_file", lambda *paths: order.append(os.path.basename(paths[0])) or copy(*paths))
    storage.copy_tree(model, f"{bucket}/copy", last="saved_model.pb")
    assert order == ["variables.index", "saved_model.pb"]


def test_runs_that_check_one_folder_at_once_are_not_in_each_others_way(bucket, tmp_path, monkeypatch):
    """The other one ends between the writing and the removing of this one."""
    remove = storage.remove

    def later(path):
        monkeypatch.setattr(storage, "remove", remove)
        storage.check_writable(os.path.dirname(path))
        remove(path)

    for folder in (f"{bucket}/models", str(tmp_path)):
        storage.write(f"{folder}/kept", b"")
        monkeypatch.setattr(storage, "remove", later)
        storage.check_writable(folder)
        assert storage.entries(folder) == ([], ["kept"])


def test_what_is_missing_is_an_os_error(bucket):
    with pytest.raises(OSError, match=r"none\.csv"):
        storage.read(f"{bucket}/none.csv")
    with pytest.raises(OSError, match="nosuch"):
        storage.exists("nosuch://bucket/data")


def test_a_dataset_in_a_bucket_is_read_as_one_here(tmp_path, bucket):
    rows = [{"filename": f"images/{i}.png", "text": f"word {i}", "writer": str(i % 5)} for i in range(12)]
    rows[3]["filename"] = "moved/3.png"
    rows += [{"filename": f"images/{name}.png", "text": "lost", "writer": "1"} for name in ("none", "more")]
    folder = write_dataset(tmp_path / "names", rows)
    (folder / "images" / "none.png").unlink()
    shutil.move(folder / "images" / "more.png", folder / "more.png")  # another image, it may be
    # By base name too, where the folder that the row names is not there.
    shutil.move(folder / "moved" / "3.png", folder / "images" / "3.png")
    (folder / "moved").rmdir()
    storage.copy_tree(str(folder), f"{bucket}/names")

    def read(place):
        config = DataConfig(paths=[place])
        tables, notes = find_tables(config)
        assert not notes
        return list(dataset.examine_all(config, TransformConfig())), fingerprint(tables)

    here, _ = read(str(folder))
    there, before = read(f"{bucket}/names")
    assert [s for s in there if isinstance(s, dataset.Sample)] == [s for s in here if isinstance(s, dataset.Sample)]
    assert sum(isinstance(s, dataset.Sample) for s in there) == 12
    assert [r.reason for r in there if isinstance(r, Reject)] == ["missing_file"] * 2
    storage.copy_tree(str(folder / "images"), f"{bucket}/names/more")
    assert read(f"{bucket}/names")[1] != before


def test_versions_in_a_bucket(model, bucket):
    base = f"{bucket}/serving/htr"
    pushed = [publishing.push(model, base, keep=2) for _ in range(3)]
    assert [v.number for v in offered(base)] == pushed[-2:]
    assert holds(offered(base)[-1], model)
    with pytest.raises(VersionError, match="in a bucket"):
        publishing.roll_back(base)


def test_nothing_is_deleted_from_a_bucket_with_labels(model, bucket, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "models.config").write_text("model_config_list {}")
    storage.copy_tree(str(tmp_path / "labels"), f"{bucket}/serving")
    for _ in range(3):
        publishing.push(model, f"{bucket}/serving/htr", keep=1)
    assert len(offered(f"{bucket}/serving/htr")) == 3
