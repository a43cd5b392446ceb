"""Pushed versions: complete or absent, the last few kept, and a way back."""

import errno
import json
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from unittest.mock import Mock

import pytest

from components.common import storage
from components.common.in_service import VersionError, config_in_bucket
from components.common.versions import list_versions, offered
from components.pusher import publishing
from pipeline import cli
from serving.rollout.labels import RolloutError, labels_locked
from serving.rollout.moving import Rollout
from tests.conftest import until


def test_push_copies_everything_and_numbers_rise(model, tmp_path):
    base = tmp_path / "serving" / "htr"
    first = publishing.push(str(model), str(base), keep=5)
    second = publishing.push(str(model), str(base), keep=5)
    assert abs(first - time.time()) < 60 and second > first
    assert (base / str(second) / "variables" / "variables.index").read_bytes() == b"index" * 200_000


def test_only_the_last_versions_are_kept(model, tmp_path):
    pushed = [publishing.push(str(model), str(tmp_path / "m"), keep=2) for _ in range(4)]
    assert [v.number for v in list_versions(str(tmp_path / "m"))] == pushed[-2:]


def test_numbers_rise_although_the_clock_goes_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    first = publishing.push(str(model), str(tmp_path / "m"), keep=5)
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    assert publishing.push(str(model), str(tmp_path / "m"), keep=5) == first + 1


def test_rollback_and_a_number_is_never_used_twice(model, tmp_path):
    base = str(tmp_path / "m")
    first, second = (publishing.push(str(model), base, keep=5) for _ in range(2))
    assert publishing.roll_back(base) == (second, first)
    assert [(v.number, v.withdrawn) for v in list_versions(base)] == [(first, False), (second, True)]
    with pytest.raises(VersionError, match="none to go back to"):
        publishing.roll_back(base)
    assert publishing.push(str(model), base, keep=5) > second


def test_what_was_withdrawn_comes_back(model, tmp_path):
    base = str(tmp_path / "m")
    first, second, third = (publishing.push(str(model), base, keep=5) for _ in range(3))
    publishing.roll_back(base)
    publishing.roll_back(base)
    assert publishing.restore(base, second) == second
    assert publishing.restore(base, third) == third
    assert [(v.number, v.withdrawn) for v in list_versions(base)] == [
        (first, False), (second, False), (third, False)
    ]  # fmt: skip
    with pytest.raises(VersionError, match=f"Version {second} of .* is not withdrawn. Withdrawn are: none"):
        publishing.restore(base, second)
    publishing.roll_back(base)
    with pytest.raises(VersionError, match=f"no version 5 in .* Withdrawn are: {third}"):
        publishing.restore(base, 5)
    with pytest.raises(VersionError, match="in a bucket"):
        publishing.restore("gs://bucket/htr", 5)


def test_commands_about_versions(model, tmp_path, capsys):
    """The list shows CER and what is withdrawn; what is withdrawn is not promoted, and comes back."""
    base = tmp_path / "serving_model" / "htr"

    def htr(*arguments):
        code = cli.main([*map(str, arguments), "--workspace", str(tmp_path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    for command in (["versions"], ["rollback"], ["rollback", "--label=stable"], ["promote", 3, "--label=stable"]):
        code, _, said = htr(*command)
        assert (
            code == cli.ERROR
            and f"No version has been pushed to {base} yet: htr run --workspace {tmp_path} first." in said
        )
    first, second = (publishing.push(str(model), str(base), keep=5) for _ in range(2))
    (base / f"{first}.metrics.json").write_text('{"metrics": {"cer": 0.0491}}')
    code, listed, hint = htr("versions")
    assert code == 0 and hint == "" and [line.split()[0] for line in listed.splitlines()] == [str(first), str(second)]
    assert "CER   4.91%" in listed.splitlines()[0] and "CER unknown" in listed.splitlines()[1]
    said = htr("rollback")[1]
    assert f"Undo: htr restore {second}" in said and "The label" not in said
    code, listed, hint = htr("versions")
    assert listed.splitlines()[1].endswith("  withdrawn") and f"htr restore {second}" in hint
    code, _, said = htr("promote", second, "--label", "stable")
    assert (
        code == cli.USAGE
        and f"Version {second} is withdrawn. Bring it back with `htr restore {second} --workspace {tmp_path}`" in said
    )
    assert "servers without labels take it" in htr("restore", second)[1]
    htr("rollback")
    third = publishing.push(str(model), str(base), keep=5)
    assert f"Version {third} is newer and stays in service." in htr("restore", second)[1]
    shutil.rmtree(base / str(third))
    assert htr("promote", first, "--label", "stable")[0] == 0
    htr("rollback")
    assert f"stays with version {first}: htr promote {second} --label stable" in htr("restore", second)[1]
    assert htr("promote", second, "--label", "stable")[0] == 0
    for _ in range(2):
        publishing.push(str(model), str(base), keep=5)
    assert f"The label stable stays with version {second}, which answers as before" in htr("rollback")[1]
    code, _, said = htr("restore", 7)
    assert code == cli.ERROR and "no version 7" in said
    shutil.copytree(base / str(first), base / "20261128")  # as a base model is numbered
    assert "20261128" + " " * 23 + "CER unknown" in htr("versions")[1]


def test_leftovers_of_a_broken_push_disappear_once_it_cannot_be_under_way_any_more(model, tmp_path):
    base = tmp_path / "m"
    for name in (".incoming-17", ".incoming-young", ".outgoing-3"):
        (base / name / "variables").mkdir(parents=True)
    os.utime(base / ".incoming-17", (time.time() - 25 * 3600,) * 2)
    publishing.push(str(model), str(base), keep=5)
    assert [path.name for path in base.glob(".*going-*")] == []
    assert [path.name for path in base.glob(".incoming-*")] == [".incoming-young"]


@pytest.mark.parametrize("end", ["", "/"])
def test_labels_in_a_bucket_are_seen_however_its_folder_is_written(model, tmp_path, end):
    bucket = f"memory://{uuid.uuid4().hex}"  # fsspec's file system in memory
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "models.config").write_text("model_config_list {}")
    storage.copy_tree(str(tmp_path / "labels"), f"{bucket}/serving")
    pushed = [publishing.push(str(model), f"{bucket}/serving/htr{end}", keep=1) for _ in range(2)]
    assert [version.number for version in offered(f"{bucket}/serving/htr")] == pushed
    assert config_in_bucket("s3://whole-bucket") == "s3://whole-bucket/models.config", "not in another one's bucket"


def test_versions_of_a_bucket_are_listed_with_their_labels(model, tmp_path, capsys):
    bucket = f"memory://{uuid.uuid4().hex}/serving"
    pushed = [publishing.push(str(model), f"{bucket}/htr", keep=5) for _ in range(2)]
    labelled = f'config {{ name: "htr" version_labels {{ key: "stable" value: {pushed[0]} }} }}'
    storage.write(f"{bucket}/models.config", f"model_config_list {{ {labelled} }}".encode())
    assert cli.main(["versions", "--workspace", str(tmp_path), "--set", f"push.model_dir={bucket}/htr"]) == cli.OK
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("stable") and second.endswith("newest")


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
            publishing.push(str(model), str(base), keep=50)
    finally:
        stop.set()
        poller.join()
    assert seen and not broken


def test_versions_under_a_label_are_neither_deleted_nor_withdrawn(model, tmp_path):
    base = str(tmp_path / "m")
    first, second, third = (publishing.push(str(model), base, keep=5) for _ in range(3))
    rollout = Rollout(base, "m")
    rollout.promote(first, "stable")
    rollout.promote(third, "stable")
    with pytest.raises(VersionError, match="served under a label"):
        publishing.roll_back(base)
    newest = publishing.push(str(model), base, keep=1)
    # The first would come back with `htr rollback --label stable`.
    assert [v.number for v in list_versions(base)] == [first, third, newest]
    assert publishing.roll_back(base) == (newest, third)
    assert second not in [v.number for v in list_versions(base)]


def test_of_the_versions_that_had_a_label_only_the_last_is_kept(model, tmp_path):
    base = str(tmp_path / "m")
    first, second, third = (publishing.push(str(model), base, keep=5) for _ in range(3))
    rollout = Rollout(base, "m")
    for number in (first, second, third):
        rollout.promote(number, "stable")
    newest = publishing.push(str(model), base, keep=1)
    # `htr rollback --label stable` goes to the second, not to the first.
    assert [v.number for v in list_versions(base)] == [second, third, newest]


def test_a_version_that_gets_a_label_during_a_push_is_not_deleted_by_it(model, tmp_path, monkeypatch):
    base, copy = str(tmp_path / "m"), storage.copy_tree
    first, _second, third = (publishing.push(str(model), base, keep=3) for _ in range(3))
    rollout = Rollout(base, "m")
    rollout.promote(third, "stable")

    def interrupted(source, target, last=""):
        copy(source, target, last)
        rollout.promote(first, "stable")

    monkeypatch.setattr(storage, "copy_tree", interrupted)
    newest = publishing.push(str(model), base, keep=1)
    # The third would come back with `htr rollback --label stable`.
    assert [v.number for v in list_versions(base)] == [first, third, newest]


@pytest.mark.parametrize("act", ["push", "roll_back"])
def test_no_label_moves_while_a_version_is_deleted_or_withdrawn(model, tmp_path, monkeypatch, act):
    base, rename, refused = str(tmp_path / "m"), os.rename, []
    first, second = (publishing.push(str(model), base, keep=2) for _ in range(2))
    victim = first if act == "push" else second

    def interrupted(source, target):
        if os.path.basename(source) == str(victim):  # nothing has said so far that it must stay
            with pytest.raises(RolloutError, match="Another rollout"):
                Rollout(base, "m").promote(victim, "stable")
            refused.append(victim)
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    if act == "push":
        publishing.push(str(model), base, keep=2)
    else:
        assert publishing.roll_back(base) == (second, first)
    assert refused == [victim] and victim not in [v.number for v in offered(base)]
    with pytest.raises(RolloutError, match=r"There is no version|is withdrawn"):
        Rollout(base, "m").promote(victim, "stable")


def test_a_push_waits_for_a_rollout_and_a_rollback_refuses(model, tmp_path):
    base = str(tmp_path / "m")
    first, second = (publishing.push(str(model), base, keep=2) for _ in range(2))
    with labels_locked(base):
        with pytest.raises(VersionError, match=r"A label is being moved.*/\.models\.config\.lock"):
            publishing.roll_back(base)
        pushing = threading.Thread(target=publishing.push, args=(str(model), base, 2))
        pushing.start()
        found = until(lambda: len(versions := offered(base)) >= 3 and versions)
        pushing.join(0.2)
        assert pushing.is_alive() and [v.number for v in found[:2]] == [first, second], "servers see the new one"
    pushing.join()
    assert second == offered(base)[0].number


def test_a_rollback_that_has_waited_for_a_push_does_not_withdraw_what_that_has_brought(model, tmp_path, monkeypatch):
    base, waits, told, lock = str(tmp_path / "m"), threading.Event(), [], publishing.locked
    first, second = (publishing.push(str(model), base, keep=5) for _ in range(2))

    def noticed(path, wait=False):
        _ = wait and waits.set()
        return lock(path, wait=wait)

    def roll_back():
        try:
            told.append(publishing.roll_back(base))
        except VersionError as error:
            told.append(str(error))

    monkeypatch.setattr(publishing, "locked", noticed)
    rollback = threading.Thread(target=roll_back)
    with lock(Path(base, ".versions.lock")):
        rollback.start()
        assert waits.wait(60)
        shutil.copytree(model, Path(base, str(second + 1)))
    rollback.join()
    assert [v.number for v in offered(base)] == [first, second, second + 1]
    assert f"nothing is withdrawn. Look at htr versions. htr rollback withdraws version {second + 1} now" in told[0]


def test_a_push_into_a_folder_beside_which_it_may_not_write(model, tmp_path, monkeypatch):
    """Old versions go all the same: without the right to write there this user can have moved no label either."""
    base = tmp_path / "m"
    first = publishing.push(str(model), str(base), keep=1)
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".models.config.lock"))
    monkeypatch.setattr(publishing, "labels_locked", Mock(side_effect=refused))
    second = publishing.push(str(model), str(base), keep=1)
    assert [v.number for v in list_versions(str(base))] == [second] != [first]


@pytest.fixture
def pusher(model, tmp_path):
    """Runs Pusher without a cache, as Kubeflow does; returns what it says of a model, and where it pushes to."""
    from tfx.types import standard_artifacts
    from tfx.utils import path_utils

    from components.common.artifacts import Report
    from components.pusher.component import Executor
    from serving.version_directory import CARD_FILE, LEARNT_FILE, METRICS_FILE

    base = str(tmp_path / "htr")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / CARD_FILE).write_text("# Card\n")
    told = {"metrics": {"cer": 0.1}, "slices": {"writer = Zoë": {}, "source = names": {}}}
    (tmp_path / "report" / METRICS_FILE).write_text(json.dumps(told))
    (tmp_path / "report" / LEARNT_FILE).write_bytes(b"12345678")

    def push(graph):
        made, blessing, servable, report, pushed = (
            standard_artifacts.Model(), standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing(),
            Report(), standard_artifacts.PushedModel(),
        )  # fmt: skip
        made.uri, report.uri, pushed.uri = str(tmp_path / graph), str(tmp_path / "report"), str(tmp_path / "pushed")
        blessing.set_int_custom_property("blessed", 1)
        servable.set_string_custom_property("blessing_status", "INFRA_BLESSED")
        servable.set_int_custom_property("blessed", 1)
        source = path_utils.serving_model_dir(made.uri)
        shutil.copytree(model, source, dirs_exist_ok=True)
        Path(source, "saved_model.pb").write_text(graph)
        inputs = {"model": [made], "model_blessing": [blessing], "infra_blessing": [servable], "report": [report]}
        destination = {"filesystem": {"base_directory": base}}
        settings = {"name": "htr", "keep_versions": 5}
        properties = {"push_destination": json.dumps(destination), "custom_config": json.dumps(settings)}
        Executor().Do(inputs, {"pushed_model": [pushed]}, properties)
        return pushed

    return push, base


def test_card_and_metrics_lie_beside_a_version_without_writers(pusher, tmp_path):
    push, base = pusher
    version = push("A").get_string_custom_property("pushed_version")
    assert Path(base, f"{version}.model_card.md").read_text() == "# Card\n"
    metrics = json.loads(Path(base, f"{version}.metrics.json").read_text())
    assert metrics == {"metrics": {"cer": 0.1}, "slices": {"source = names": {}}}
    assert Path(base, f"{version}.learnt_images").read_bytes() == b"12345678"
    (tmp_path / "report" / "learnt_images").unlink()  # as in the report of a line finder
    assert not Path(base, f"{push('B').get_string_custom_property('pushed_version')}.learnt_images").exists()


def test_a_model_that_is_in_service_or_the_newest_is_not_pushed_again(pusher):
    from components.pusher.component import MODEL_NAME

    run, base = pusher

    def push(graph):
        pushed = run(graph)
        assert pushed.get_string_custom_property(MODEL_NAME) == "htr"
        return int(pushed.get_string_custom_property("pushed_version"))

    first, second = push("a"), push("b")
    assert push("b") == second, "it may wait for its label"
    third = push("a")
    assert third > second, "without labels the newest is in service"
    Rollout(base, "htr").promote(second, "stable")
    assert push("b") == second and push("a") == third
    assert [version.number for version in offered(base)] == [first, second, third]


def test_a_model_that_was_withdrawn_is_not_pushed_again_until_it_is_restored(pusher, capsys):
    push, base = pusher

    def version(pushed):
        assert pushed.get_int_custom_property("pushed") == 1
        return int(pushed.get_string_custom_property("pushed_version"))

    first, second = version(push("a")), version(push("b"))
    publishing.roll_back(base)
    capsys.readouterr()
    refused = push("b")
    assert refused.get_int_custom_property("pushed") == 0 and not refused.get_string_custom_property("pushed_version")
    assert [(v.number, v.withdrawn) for v in list_versions(base)] == [(first, False), (second, True)]
    said = " ".join(capsys.readouterr().err.split())
    assert f"Not pushed: this model is version {second}, which `htr rollback` has withdrawn" in said
    assert f"`htr restore {second}` brings it back, for the settings whose versions are in {base}" in said
    # Other models are pushed, and after them the withdrawn one still is not.
    third = version(push("c"))
    assert push("b").get_int_custom_property("pushed") == 0 and version(push("c")) == third
    # Restored, it is a model like any other: without labels the newest is in service.
    publishing.restore(base, second)
    fourth = version(push("b"))
    assert [v.number for v in offered(base)] == [first, second, third, fourth]
    publishing.roll_back(base)
    assert push("b").get_int_custom_property("pushed") == 0, "the last that was said of it counts"


def test_what_is_suggested_for_a_line_finder_is_about_line_finders(model, tmp_path, capsys):
    base = tmp_path / "serving_model" / "htr-lines"

    def htr(*arguments, code=cli.OK):
        assert cli.main([*map(str, arguments), "--task", "pages", "--workspace", str(tmp_path)]) == code
        return "".join(capsys.readouterr())

    for command in (["versions"], ["rollback"], ["rollback", "--label=stable"], ["promote", 3, "--label=stable"]):
        assert f"pushed to {base} yet: htr run --task pages --workspace {tmp_path} first." in htr(
            *command, code=cli.ERROR
        )
    first, second = (publishing.push(str(model), str(base), keep=5) for _ in range(2))
    assert f"Undo: htr restore {second} --task pages" in htr("rollback")
    assert f"htr restore {second} --task pages" in htr("versions")
    refused = htr("promote", second, "--label", "stable", code=cli.USAGE)
    assert f"Bring it back with `htr restore {second} --task pages --workspace {tmp_path}`" in refused
    htr("promote", first, "--label", "stable")
    assert f"htr promote {second} --label stable --task pages" in htr("restore", second)
    htr("promote", second, "--label", "stable")
    assert f"htr rollback --task pages --workspace {tmp_path} --label LABEL --server HOST:PORT" in htr(
        "rollback", code=cli.ERROR
    )
