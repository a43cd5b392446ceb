"""The version manager alone, with a model that only pretends to load."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from google.protobuf import text_format

from serving import loaded_versions, model_manager
from serving.loaded_versions import State
from serving.metrics import Metrics
from serving.model_config import ModelConfig, Policy, config_from_proto
from serving.model_manager import ModelManager
from serving.options import ServerOptions
from serving.rollout.labels import messages
from serving.runner import RunnerOptions
from serving.status import Code, ServingError
from serving.version_directory import find_versions
from tests.conftest import until


class FakeModel:
    """Loads unless its directory holds a file named `broken` (or `cold`, or `slow`); notes what is open."""

    open: ClassVar[set[int]] = set()
    loads: ClassVar[list[int]] = []

    def __init__(self, path, options) -> None:
        self.number = int(path.rsplit("/", 1)[1])
        FakeModel.loads.append(self.number)
        with_file = {entry.name for entry in Path(path).iterdir()}
        if "slow" in with_file:
            time.sleep(0.2)
        if "broken" in with_file:
            raise ServingError(Code.DATA_LOSS, "broken")
        self.is_cold = "cold" in with_file
        FakeModel.open.add(self.number)

    def warm_up(self) -> int:
        if self.is_cold:
            raise ServingError(Code.DATA_LOSS, "cold")
        return 0

    closed = False

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        FakeModel.open.discard(self.number)


class Spec:
    """Stands in for a ModelSpec."""

    def __init__(self, name="m", number=None, label=None) -> None:
        self.name, self.version_label = name, label
        self.version = type("Value", (), {"value": number})
        self._choice = "version" if number is not None else "version_label" if label is not None else None

    def WhichOneof(self, _):
        return self._choice


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(loaded_versions, "LoadedModel", FakeModel)
    FakeModel.open, FakeModel.loads = set(), []
    return tmp_path / "m"


@pytest.fixture
def make(base):
    managers = []

    def build(policy=None, wait=True, **options) -> ModelManager:
        defaults = {"file_system_poll_wait_seconds": 0.02, "max_num_load_retries": 0}
        manager = ModelManager(ServerOptions(**{**defaults, **options}), RunnerOptions(), Metrics())
        managers.append(manager)
        if wait:
            manager.apply([ModelConfig("m", str(base), policy or Policy())], time.monotonic() + 5)
        return manager

    yield build
    for manager in managers:
        manager.stop(2)


def push(base, number, *files):
    folder = base / f".{number}"
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    folder.rename(base / str(number))


def answers(manager, **spec) -> int:
    with manager.use(Spec(**spec)) as handle:
        return handle.version


def test_only_numbered_directories_count(base, make):
    push(base, 3)
    for name in ("4.tmp", "temp", ".5", "-6", "1e3"):
        (base / name).mkdir()
    (base / "9").touch()
    manager = make()
    assert manager.versions.available("m") == [3]


def test_a_directory_that_goes_away_while_it_is_looked_at_is_not_an_empty_one(base, monkeypatch):
    push(base, 7)
    listed = os.listdir

    def listdir(path):
        names = listed(path)
        base.rename(base.with_name("away"))
        return names

    monkeypatch.setattr(os, "listdir", listdir)
    assert find_versions(str(base)) is None


def test_policies(base, make):
    for number in (1, 2, 3):
        push(base, number)
    latest = make(Policy("latest", 2))
    until(lambda: latest.versions.available("m") == [3, 2])
    every = make(Policy("all"))
    until(lambda: every.versions.available("m") == [3, 2, 1])
    push(base, 4)
    until(lambda: every.versions.available("m") == [4, 3, 2, 1])
    assert answers(every) == 4, "the newest, not the one that was loaded first"
    specific = make(Policy("specific", versions=(1, 3)))
    until(lambda: specific.versions.available("m") == [3, 1])
    assert answers(specific, number=1) == 1 and answers(specific) == 3
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 2\)"):
        answers(specific, number=2)


def test_as_many_versions_load_at_a_time_as_there_are_threads_for_it(base, make, monkeypatch):
    loading, at_a_time = set(), []

    class Noted(FakeModel):
        def __init__(self, path, options) -> None:
            loading.add(path)
            at_a_time.append(len(loading))
            super().__init__(path, options)
            loading.discard(path)

    monkeypatch.setattr(loaded_versions, "LoadedModel", Noted)
    for number in (1, 2, 3):
        push(base, number, "slow")
    manager = make(Policy("all"), num_load_threads=1)
    until(lambda: manager.versions.available("m") == [3, 2, 1])
    assert at_a_time == [1, 1, 1]


def test_a_fallback_is_served_until_there_is_a_version_of_its_own(base, make):
    fallback = base.with_name("fallback")
    push(fallback, 5)
    manager = make(wait=False)
    manager.apply([ModelConfig("m", str(base), fallback_path=str(fallback))], time.monotonic() + 5)
    assert not base.exists() and answers(manager) == 5
    push(base, 3, "broken")
    until(lambda: (3, State.END) in [row[:2] for row in manager.versions.status("m")])
    assert manager.versions.available("m") == [5], "what cannot be loaded replaces nothing"
    shutil.rmtree(base / "3")
    manager.poll()
    assert manager.versions.live["m"].keys() == {5} and answers(manager) == 5, "also when it is taken away"
    push(base, 7, "slow")
    while manager.versions.available("m") != [7]:
        assert answers(manager) in (5, 7)  # never a gap
    until(lambda: FakeModel.open == {7})
    base.rename(base.with_name("away"))  # a file system that is away for a moment
    time.sleep(0.2)
    assert manager.versions.available("m") == [7]
    base.mkdir()
    until(lambda: manager.versions.available("m") == [])
    assert FakeModel.loads == [5, 3, 7]


def test_new_before_old_goes_and_old_only_after_its_last_request(base, make):
    push(base, 1)
    manager = make()
    with manager.use(Spec()) as handle:
        push(base, 2, "slow")
        while (answered := answers(manager)) != 2:
            assert answered == 1  # never a gap
        until(lambda: manager.versions.status("m", 1)[0][1] != State.AVAILABLE)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            assert manager.versions.status("m", 1)[0][1] == State.UNLOADING and FakeModel.open == {1, 2}
            time.sleep(0.01)
        assert handle.version == 1
    until(lambda: manager.versions.status("m", 1)[0][1] == State.END)
    assert FakeModel.open == {2}


def test_a_version_that_is_wanted_again_while_it_is_unloaded_leaves_no_gap(base, make):
    push(base, 1)
    manager = make()
    with manager.use(Spec()) as handle:
        push(base, 2)
        until(lambda: manager.versions.available("m") == [2])
        assert handle.version == 1 and manager.versions.status("m", 1)[0][1] == State.UNLOADING
        shutil.rmtree(base / "2")
        until(lambda: not manager.versions.live["m"][2].aspired)
    while manager.versions.available("m") != [1]:
        assert answers(manager) in (1, 2)  # never a gap
    until(lambda: FakeModel.open == {1})


def test_the_same_number_in_another_directory_takes_over_without_a_gap(base, make):
    push(base, 1)
    other = base.with_name("other")
    push(other, 1, "slow")
    manager = make()
    old = manager.versions.live["m"][1].loaded
    with manager.use(Spec()) as handle:
        manager.apply([ModelConfig("m", str(other))])
        until(lambda: manager.versions.serving["m"][1].path == str(other / "1") or answers(manager, number=1) != 1)
        assert handle.loaded is old and manager.versions.status("m") == [(1, State.AVAILABLE, None)]
    assert answers(manager) == 1 and FakeModel.loads == [1, 1]
    until(lambda: len(manager.versions._threads) == 0)
    assert manager.versions.serving["m"][1].loaded is not old and old.closed
    link = base.with_name("link")
    link.symlink_to(other)
    manager.apply([ModelConfig("m", str(link))])
    time.sleep(0.1)
    assert FakeModel.loads == [1, 1], "the same directory under another name"
    shutil.rmtree(other / "1")
    until(lambda: manager.versions.available("m") == [])


def test_another_directory_whose_version_is_broken_or_no_longer_wanted_replaces_nothing(base, make):
    push(base, 1)
    other, third = base.with_name("other"), base.with_name("third")
    push(other, 1, "broken")
    push(third, 1, "slow")
    manager = make()
    served = manager.versions.serving["m"][1]
    manager.apply([ModelConfig("m", str(other))])
    time.sleep(0.2)
    assert FakeModel.loads == [1, 1] and answers(manager) == 1
    manager.apply([ModelConfig("m", str(third))])
    until(lambda: FakeModel.loads == [1, 1, 1])
    manager.apply([ModelConfig("m", str(base))])  # while it loads
    until(lambda: len(manager.versions._threads) == 0)
    assert manager.versions.serving["m"] == {1: served} and not served.loaded.closed


@pytest.mark.parametrize("fault", ["broken", "cold"])
def test_a_broken_version_is_tried_as_often_as_said_and_kept_in_the_status(base, make, fault):
    push(base, 1)
    manager = make(max_num_load_retries=2, load_retry_interval_micros=20_000)
    push(base, 2, fault)
    until(lambda: FakeModel.loads.count(2) == 1 and manager.versions.status("m", 2)[0][1] == State.LOADING)
    until(lambda: manager.versions.status("m", 2)[0][1] == State.END)
    time.sleep(0.1)
    assert FakeModel.loads.count(2) == 3 and FakeModel.open == {1}
    number, _, error = manager.versions.status("m")[0]
    assert number == 2 and str(error) == f"DATA_LOSS: {fault}"
    assert answers(manager) == 1
    shutil.rmtree(base / "2")
    time.sleep(0.1)  # a version replaced between two polls is not noticed, there or here
    push(base, 2)
    until(lambda: answers(manager) == 2)


def test_a_waiting_retry_does_not_hold_up_a_good_version(base, make):
    push(base, 1)
    manager = make(max_num_load_retries=5, load_retry_interval_micros=60_000_000)
    push(base, 2, "broken")
    until(lambda: 2 in FakeModel.loads)
    push(base, 3)
    until(lambda: answers(manager) == 3)
    until(lambda: manager.versions.status("m", 2)[0][1] == State.END)


def test_a_bad_push_takes_a_slot_of_latest_but_not_of_specific(base, make):
    """As measured on the real server: the reason to serve labels with `specific`."""
    for number in (1, 2):
        push(base, number)
    manager = make(Policy("latest", 2))
    until(lambda: manager.versions.available("m") == [2, 1])
    push(base, 3, "broken")
    until(lambda: manager.versions.available("m") == [2])


def test_rollback_by_deletion_and_an_empty_directory(base, make):
    for number in (1, 2):
        push(base, number)
    manager = make()
    assert answers(manager) == 2
    shutil.rmtree(base / "2")
    until(lambda: answers(manager) == 1)
    shutil.rmtree(base / "1")
    until(lambda: not manager.versions.available("m"))  # as the real server: nothing wanted, nothing served


def test_a_vanished_base_path_unloads_nothing_and_is_said_once(base, make, caplog):
    push(base, 1)
    manager = make(file_system_poll_wait_seconds=0)
    for _ in range(2):
        base.rename(base.parent / "away")
        manager.poll()
        manager.poll()
        assert answers(manager) == 1
        (base.parent / "away").rename(base)
        manager.poll()
    assert caplog.text.count(f"Could not find base path {base} for servable m") == 2


def test_polling_goes_on_after_a_defect(base, make, monkeypatch):
    push(base, 1)
    manager = make()
    failed = []

    def defect(path):
        failed.append(path)
        raise ValueError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(model_manager, "find_versions", defect)
        until(lambda: failed)
    push(base, 2)
    until(lambda: manager.versions.available("m") == [2])


def test_fall_back_only_when_nothing_is_served(base, make):
    push(base, 1)
    push(base, 2)
    push(base, 3, "broken")
    manager = make()
    assert answers(manager) == 2
    push(base, 4, "broken")
    until(lambda: 4 in FakeModel.loads)
    time.sleep(0.1)
    assert answers(manager) == 2 and 1 not in FakeModel.loads and FakeModel.loads.count(3) == 1


@pytest.mark.parametrize(("entry", "message"), [
    ("name: 'm' base_path: '/m' model_platform: 'caffe'", "Model m requests unsupported platform caffe"),
    ("name: 'm' base_path: '/m' model_type: TENSORFLOW model_platform: 'tensorflow'", "Illegal setting both"),
    ("name: 'm' base_path: '/m' model_type: OTHER", "Illegal setting neither"),
])  # fmt: skip
def test_models_of_other_kinds_are_refused(entry, message):
    config = text_format.Parse(f"model_config_list {{ config {{ {entry} }} }}", messages().ModelServerConfig())
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: {message}"):
        config_from_proto(config.model_config_list)


def test_labels(base, make):
    push(base, 1)
    push(base, 2)
    config = ModelConfig("m", str(base), Policy("specific", versions=(1, 2)))
    manager = make(Policy("specific", versions=(1, 2)))
    until(lambda: manager.versions.available("m") == [2, 1])
    manager.apply([ModelConfig(config.name, config.base_path, config.policy, {"stable": 1})])
    assert answers(manager, label="stable") == 1
    with pytest.raises(ServingError, match="which is not currently available for inference"):
        manager.apply([ModelConfig(config.name, config.base_path, config.policy, {"stable": 7})])
    assert answers(manager, label="stable") == 1
    loose = make(wait=False, allow_version_labels_for_unavailable_models=True)
    with pytest.raises(ServingError, match=r"^UNAVAILABLE: Model labels does not init yet"):
        answers(loose, label="next")
    loose.apply([ModelConfig("m", str(base), labels={"next": 9})])
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 9\)"):
        answers(loose, label="next")


def test_a_label_in_use_moves_only_to_a_version_that_answers(base, make):
    """Also where labels may be given to versions that are not loaded yet, as at the start."""
    push(base, 1)
    manager = make(wait=False, allow_version_labels_for_unavailable_models=True)

    def assign(**labels) -> None:
        manager.apply([ModelConfig("m", str(base), labels=labels)], time.monotonic() + 5)

    assign(stable=1)
    with pytest.raises(ServingError, match="assign label to version 9 of model m, which is not currently available"):
        assign(stable=9)
    assert answers(manager, label="stable") == 1
    assign(stable=1, canary=9)  # a new one
    assign(stable=1, canary=9)  # stays where it is


def test_of_versions_no_longer_wanted_only_the_newest_waits_for_a_successor(base, make):
    """As AvailabilityPreservingPolicy: one is enough to answer until the version that is wanted does."""
    for number in (1, 2):
        push(base, number)
    manager = make(Policy("latest", 2))
    until(lambda: manager.versions.available("m") == [2, 1])
    push(base, 3, "broken")
    manager.apply([ModelConfig("m", str(base), Policy("specific", versions=(3,)))])
    until(lambda: FakeModel.open == {2})
    until(lambda: manager.versions.status("m", 3)[0][1] == State.END)
    assert manager.versions.available("m") == [2] and answers(manager) == 2


def test_waiting_for_a_first_version_can_be_interrupted(base, make):
    base.mkdir()
    manager = make(wait=False)
    errors = []

    def wait() -> None:
        try:
            manager.apply([ModelConfig("m", str(base))])
        except ServingError as error:
            errors.append(error.code)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    manager.interrupt()
    thread.join(3)
    assert errors == [Code.CANCELLED]


def test_ended_versions_do_not_pile_up(base, make):
    push(base, 1)
    manager = make()
    for number in range(2, 130):
        manager.versions._end(loaded_versions.Version("m", number, "x"), None)
    assert len(manager.versions.status("m")) <= 101


def test_a_folder_without_versions_is_said_once(base, make, caplog):
    base.mkdir()
    manager = make(wait=False)
    with pytest.raises(ServingError, match="Deadline"):
        manager.apply([ModelConfig("m", str(base), Policy())], time.monotonic() + 0.3)
    said = [record.getMessage() for record in caplog.records if "No versions" in record.getMessage()]
    assert len(said) == 1 and str(base) in said[0] and "waiting" in said[0]


@pytest.mark.parametrize(("policy", "labels"), [
    (Policy("specific", versions=(9,)), {}),
    (Policy("specific", versions=(1, 9)), {"stable": 1, "canary": 9}),
    (Policy(), {"canary": 9}),
])  # fmt: skip
def test_a_wanted_version_that_is_not_there_is_said_once(base, make, caplog, policy, labels):
    push(base, 1)
    push(base, 2)
    manager = make(wait=False, allow_version_labels_for_unavailable_models=True)
    config = ModelConfig("m", str(base), policy, labels)
    with contextlib.suppress(ServingError):
        manager.apply([config], time.monotonic() + 0.3)
    said = [record.getMessage() for record in caplog.records if "is wanted" in record.getMessage()]
    assert said == [f"Version 9 of servable m is wanted but not under {base}, which has 1, 2; waiting"]
    push(base, 9)
    manager.poll()
    shutil.rmtree(base / "9")
    until(lambda: caplog.text.count("is wanted") >= 2)
