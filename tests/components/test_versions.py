"""Pushed versions: complete or absent, the last few kept, and a way back."""

import threading
import time
import uuid

import pytest

from components import storage
from components.pusher import versions
from serving.rollout import Rollout


@pytest.fixture
def model(tmp_path):
    source = tmp_path / "export"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    (source / "variables" / "variables.index").write_bytes(b"index" * 200_000)
    return source


def test_push_copies_everything_and_numbers_rise(model, tmp_path):
    base = tmp_path / "serving" / "htr"
    first = versions.push(str(model), str(base), keep=5)
    second = versions.push(str(model), str(base), keep=5)
    assert abs(first - time.time()) < 60 and second > first
    assert (base / str(second) / "variables" / "variables.index").read_bytes() == b"index" * 200_000


def test_only_the_last_versions_are_kept(model, tmp_path):
    pushed = [versions.push(str(model), str(tmp_path / "m"), keep=2) for _ in range(4)]
    assert [v.number for v in versions.list_versions(str(tmp_path / "m"))] == pushed[-2:]


def test_numbers_rise_although_the_clock_goes_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    first = versions.push(str(model), str(tmp_path / "m"), keep=5)
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    assert versions.push(str(model), str(tmp_path / "m"), keep=5) == first + 1


def test_rollback_and_a_number_is_never_used_twice(model, tmp_path):
    base = str(tmp_path / "m")
    first, second = (versions.push(str(model), base, keep=5) for _ in range(2))
    assert versions.roll_back(base) == (second, first)
    assert [(v.number, v.withdrawn) for v in versions.list_versions(base)] == [(first, False), (second, True)]
    with pytest.raises(versions.VersionError, match="none to go back to"):
        versions.roll_back(base)
    assert versions.push(str(model), base, keep=5) > second


def test_leftovers_of_a_broken_push_disappear(model, tmp_path):
    base = tmp_path / "m"
    (base / ".incoming-17").mkdir(parents=True)
    versions.push(str(model), str(base), keep=5)
    assert not (base / ".incoming-17").exists()


@pytest.mark.parametrize("end", ["", "/"])
def test_labels_in_a_bucket_are_seen_however_its_folder_is_written(model, tmp_path, end):
    bucket = f"ram://{uuid.uuid4().hex}"  # TensorFlow's in-memory file system
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "models.config").write_text("model_config_list {}")
    storage.copy_tree(str(tmp_path / "labels"), f"{bucket}/serving")
    pushed = [versions.push(str(model), f"{bucket}/serving/htr{end}", keep=1) for _ in range(2)]
    assert [version.number for version in versions.in_service(f"{bucket}/serving/htr")] == pushed


def test_a_poller_never_sees_half_a_version(model, tmp_path):
    base = tmp_path / "m"
    base.mkdir()
    stop, seen, broken = threading.Event(), set(), []

    def poll():
        while not stop.is_set():
            for path in base.iterdir():
                if path.name.isdigit():
                    seen.add(path.name)
                    index = path / "variables" / "variables.index"
                    if not index.exists() or index.stat().st_size != 1_000_000:
                        broken.append(path.name)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for _ in range(20):
            versions.push(str(model), str(base), keep=50)
    finally:
        stop.set()
        poller.join()
    assert seen and not broken


def test_versions_under_a_label_are_neither_deleted_nor_withdrawn(model, tmp_path):
    base = str(tmp_path / "m")
    first, second, third = (versions.push(str(model), base, keep=5) for _ in range(3))
    rollout = Rollout(base, "m")
    rollout.promote(first, "stable")
    rollout.promote(third, "stable")
    with pytest.raises(versions.VersionError, match="served under a label"):
        versions.roll_back(base)
    newest = versions.push(str(model), base, keep=1)
    # The first would come back with `htr rollback --label stable`.
    assert [v.number for v in versions.list_versions(base)] == [first, third, newest]
    assert versions.roll_back(base) == (newest, third)
    assert second not in [v.number for v in versions.list_versions(base)]


def test_two_pushes_at_once_make_two_whole_versions(model, tmp_path, monkeypatch):
    """Without the lock the second would delete what the first has copied so far, and the first publish the rest."""
    copy, base, both = storage.copy_tree, tmp_path / "htr", []

    def slowly(source, target, last=""):
        copy(source, target, last)
        if not both:
            both.append(threading.Thread(target=versions.push, args=(str(model), str(base), 5)))
            both[0].start()
            time.sleep(0.5)

    monkeypatch.setattr(storage, "copy_tree", slowly)
    versions.push(str(model), str(base), 5)
    both[0].join()
    found = versions.list_versions(str(base))
    assert len(found) == 2 and all(versions.holds(version, str(model)) for version in found)
