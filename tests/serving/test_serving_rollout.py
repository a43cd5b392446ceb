"""Labels move between versions on running servers, through the command line, and no request fails."""

from __future__ import annotations

import collections
import contextlib
import shutil
import socket
import threading

import pytest
import serving_toy as toy
from serving_client import Client, Load
from serving_rollout import base, config_file, htr, labels, serve, written

from components.common.in_service import VersionError
from components.pusher import publishing
from pipeline import cli
from serving.rollout.change import Change, LoadFailed
from serving.rollout.labels import Labels, Refused, RolloutError
from serving.rollout.model_server import Server, ServerError
from serving.rollout.moving import Rollout

pytestmark = [pytest.mark.either_stack, pytest.mark.usefixtures("quick")]

END = 50
BUCKET = ["--set", "push.model_dir=gs://b/models/htr"]


def request(image, label=""):
    return toy.predict_request({"image_bytes": [image]}, "transcribe", label=label)


def answers(client, image, label) -> int:
    return client.predict(request(image, label)).model_spec.version.value


@pytest.mark.slow
def test_stable_canary_rollback_and_restart_without_a_failed_request(workspace, toy_model, image, capsys):
    with serve(workspace) as server, Client(server.address) as client:
        # The server came up with the newest version; both are there from the first step on.
        assert htr(workspace, "promote", 1, "--label", "stable", server=server.address) == 0
        assert labels(server.address) == {"stable": 1, "canary": None}
        client.wait_state(2, END)
        with Load(server.address, request(image, "stable")) as load:
            load.wait_version(1)
            assert htr(workspace, "promote", 2, "--label", "canary", server=server.address) == 0
            assert answers(client, image, "canary") == 2 and answers(client, image, "stable") == 1
            assert htr(workspace, "promote", 2, "--label", "stable", server=server.address) == 0
            load.wait_version(2)
            client.wait_state(1, END)  # no label needs it
            toy.push(toy_model, base(workspace), 3)
            assert htr(workspace, "promote", 3, "--label", "stable", server=server.address) == 0
            load.wait_version(3)
            capsys.readouterr()
            assert htr(workspace, "versions", server=server.address) == 0
            lines = [line.split() for line in capsys.readouterr().out.splitlines()]
            assert ["3", "AVAILABLE", "stable,", "canary"] in lines
            assert ["1", "END"] in lines and ["2", "END"] in lines
            assert htr(workspace, "rollback", "--label", "stable", server=server.address) == 0
            load.wait_version(2)
            assert htr(workspace, "rollback", "--label", "stable", server=server.address) == 0
            load.wait_version(1)
            assert htr(workspace, "promote", 2, "--label", "canary", server=server.address) == 0
        assert load.errors == [] and load.codes["OK"] > 200
        assert htr(workspace, "rollback", "--label", "stable", server=server.address) == cli.ERROR
        assert "no version before 1" in capsys.readouterr().err
        before = labels(server.address)
    with serve(workspace) as server, Client(server.address) as client:
        client.wait_state(1, 30)
        client.wait_state(2, 30)
        assert labels(server.address) == before == {"stable": 1, "canary": 2}
        assert htr(workspace, "promote", 3, "--label", "canary", server=server.address) == 0
        assert labels(server.address) == {"stable": 1, "canary": 3}


@pytest.mark.parametrize("damage", ["truncated_variables", "bad_warmup"])
def test_a_version_that_does_not_load_changes_nothing(workspace, toy_model, image, capsys, damage):
    toy.push(toy_model, base(workspace), 3, damage)
    assert htr(workspace, "promote", 1, "--label", "stable") == 0
    with serve(workspace) as server, Client(server.address) as client:
        assert htr(workspace, "promote", 2, "--label", "canary", server=server.address) == 0
        before = config_file(workspace).read_text()
        for _ in range(2):  # the failure of the first attempt is not taken for that of the second
            capsys.readouterr()
            for label in ("stable", "canary"):
                assert htr(workspace, "promote", 3, "--label", label, server=server.address) == cli.ERROR
                error = capsys.readouterr().err
                assert "Version 3 of htr does not load on" in error and "The labels stay where they were." in error
                reason = "Read less bytes" if damage == "truncated_variables" else "Unknown image file format"
                assert reason in error and len(error.strip().splitlines()) == 1
        assert labels(server.address) == {"stable": 1, "canary": 2}
        assert answers(client, image, "stable") == 1 and answers(client, image, "canary") == 2
        assert config_file(workspace).read_text() == before
        client.wait_state(3, END)
        # Mended, the same number loads.
        shutil.rmtree(base(workspace) / "3")
        toy.push(toy_model, base(workspace), 3)
        assert htr(workspace, "promote", 3, "--label", "stable", server=server.address) == 0
        assert answers(client, image, "stable") == 3


def test_several_servers_move_together_or_not_at_all(workspace, toy_model, tmp_path, image, capsys):
    other = tmp_path / "other"
    toy.push(toy_model, other / "serving_model" / "htr", 1)
    toy.push(toy_model, other / "serving_model" / "htr", 2, "truncated_variables")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serve(workspace))
        second = stack.enter_context(serve(other))
        both = f"{first.address},{second.address}"
        with Server(second.address) as server:
            server.reload(Labels.read(str(base(other)), "htr").config_with(str(base(other)), [1], {}))
        # The second server looks into a directory of its own, as on another machine.
        mount = tmp_path / "mount"
        mount.symlink_to(base(workspace))
        move = Rollout(str(base(workspace)), "htr", both.split(","), base_path=str(mount))
        move.promote(1, "stable")
        assert labels(first.address)["stable"] == labels(second.address)["stable"] == 1
        mount.unlink()
        mount.symlink_to(base(other))
        with pytest.raises(LoadFailed, match="Version 2 of htr does not load"):
            move.promote(2, "stable")
        for server in (first, second):
            assert labels(server.address)["stable"] == 1
            with Client(server.address) as client:
                assert answers(client, image, "stable") == 1
        assert written(workspace).version_labels["stable"] == 1


def test_a_name_stands_for_all_its_servers_and_only_a_rollback_does_without_one(workspace, monkeypatch, capsys):
    assert htr(workspace, "promote", 1, "--label", "stable") == 0
    with serve(workspace) as first, serve(workspace) as second:
        ports, known = (first.port, second.port), socket.getaddrinfo

        def lookup(host, port, *args, **kwargs):
            found = [known("127.0.0.1", each, *args, **kwargs)[0] for each in ports]
            return found if host == "servers" else known(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        assert htr(workspace, "promote", 2, "--label", "stable", server="servers:8500") == 0
        assert f"answers on {first.address}, {second.address}." in capsys.readouterr().out
        assert labels(first.address)["stable"] == labels(second.address)["stable"] == 2
        some = f"localhost:1,{first.address}"
        assert htr(workspace, "promote", 1, "--label", "stable", server=some) == cli.ERROR
        assert "Nobody answers at localhost:1. Nothing has changed. Leave a server that" in capsys.readouterr().err
        assert labels(first.address)["stable"] == written(workspace).version_labels["stable"] == 2
        assert htr(workspace, "rollback", "--label", "stable", server=f"{some},{second.address}") == cli.ERROR
        said = capsys.readouterr()
        assert f"answers on {first.address}, {second.address}." in said.out
        assert f"promote 1 --label stable --workspace {workspace} --server localhost:1\n" in said.err
        assert labels(first.address)["stable"] == labels(second.address)["stable"] == 1
        assert written(workspace).version_labels["stable"] == 1
        assert htr(workspace, "versions", server=some) == cli.ERROR
        said = capsys.readouterr()
        assert "1  AVAILABLE  stable" in said.out and "Nobody answers at localhost:1." in said.err
        # As after a promotion during which a server has started.
        assert htr(workspace, "promote", 2, "--label", "stable") == 0
        capsys.readouterr()
        assert htr(workspace, "versions", server=first.address) == cli.ERROR
        said = capsys.readouterr().err
        assert f"{first.address} has stable at 1, but {config_file(workspace)} says stable at 2." in said
        assert cli.main(said.strip().partition(": htr ")[2].split()) == 0
        assert htr(workspace, "versions", server=first.address) == 0


def test_a_rollback_goes_on_where_servers_die_on_the_way(workspace, monkeypatch, capsys):
    """One that crashes again and again under the bad version answers first and is gone a moment later."""
    assert htr(workspace, "promote", 1, "--label", "stable") == 0
    assert htr(workspace, "promote", 2, "--label", "stable") == 0
    with contextlib.ExitStack() as stack:
        *dying, last = [stack.enter_context(serve(workspace)) for _ in range(4)]
        dies = {server.address: (step, server) for step, server in enumerate(dying, 1)}
        told, reload = collections.Counter(), Server.reload

        def reload_or_die(self, config, *seconds):
            told[self.address] += 1
            step, server = dies.get(self.address, (0, None))
            if told[self.address] == step:
                server.stop(grace=0)
            reload(self, config, *seconds)

        monkeypatch.setattr(Server, "reload", reload_or_die)
        everywhere = ",".join([*dies, last.address])
        assert htr(workspace, "rollback", "--label", "stable", server=everywhere) == cli.ERROR
        said = capsys.readouterr()
        assert "stable is version 1 (before: 2)" in said.out and f"It answers on {last.address}.\n" in said.out
        assert f"Not on {', '.join(dies)}: Nobody answers at {dying[0].address}." in said.err
        assert labels(last.address)["stable"] == written(workspace).version_labels["stable"] == 1
        with Client(last.address) as client:
            client.wait_state(2, END)
        # The last one, too: the file stays, and what helps is said.
        assert htr(workspace, "promote", 2, "--label", "stable", server=last.address) == 0
        dies[last.address] = (told[last.address] + 2, last)
        assert htr(workspace, "rollback", "--label", "stable", server=last.address) == cli.ERROR
        assert "is as before. Without --server the label moves back in it" in capsys.readouterr().err
        assert written(workspace).version_labels["stable"] == 2


def test_a_promotion_drops_old_versions_where_it_can(workspace, monkeypatch):
    with serve(workspace) as first, serve(workspace) as second:
        move, drop = Rollout(str(base(workspace)), "htr", [first.address, second.address]), Change.drop
        move.promote(1, "stable")

        def drop_or_die(self):
            if self.server.address == first.address:
                first.stop(grace=0)
            drop(self)

        monkeypatch.setattr(Change, "drop", drop_or_die)
        with pytest.raises(ServerError, match=f"have moved, but .* still loaded: Nobody answers at {first.address}"):
            move.promote(2, "stable")
        with Client(second.address) as client:
            client.wait_state(1, END)


def test_this_machine_is_asked_without_a_proxy(workspace, monkeypatch, capsys):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serve(workspace) as server:
        assert htr(workspace, "versions", server=server.address) == 0
    assert "2  AVAILABLE" in capsys.readouterr().out


def test_a_failed_last_step_is_undone_everywhere(workspace, image, monkeypatch):
    with serve(workspace) as server, Client(server.address) as client:
        move = Rollout(str(base(workspace)), "htr", [server.address])
        move.promote(1, "stable")

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Labels, "write", full)
        with pytest.raises(RolloutError, match=r"No space left on device.*stay where they were"):
            move.promote(2, "stable")
        assert labels(server.address)["stable"] == 1 and answers(client, image, "stable") == 1


def test_a_version_that_takes_too_long(workspace, tmp_path):
    with serve(workspace) as server:
        Rollout(str(base(workspace)), "htr", [server.address]).promote(1, "stable")
        config_file(workspace).unlink()  # nothing says where the servers look
        nowhere = Rollout(
            str(base(workspace)), "htr", [server.address], base_path=str(tmp_path / "nowhere"), timeout=0.3
        )
        with pytest.raises(LoadFailed, match=r"was not AVAILABLE on .* in time, but not even loading. Is .*/nowhere"):
            nowhere.promote(2, "stable")
        assert labels(server.address)["stable"] == 1


def test_a_base_path_that_differs_from_the_files_reaches_no_running_server(workspace, image, capsys):
    above, path = base(workspace).parent, base(workspace)
    with serve(workspace) as server, Client(server.address) as client:
        Rollout(str(path), "htr", [server.address]).promote(1, "stable")
        with Load(server.address, request(image, "stable"), threads=2) as load:
            arguments = ["promote", 2, "--label", "stable", "--base-path", above]
            assert htr(workspace, *arguments, server=server.address) == cli.USAGE
            error = capsys.readouterr().err
            assert f"in {path}, not in {above};" in error and "without --server, then restart" in error
            load.wait_version(1)
        assert load.errors == [] and labels(server.address)["stable"] == 1
        # The same folder written differently.
        Rollout(str(path), "htr", [server.address], base_path=f"{path}/").promote(2, "stable")
        assert answers(client, image, "stable") == 2
    assert htr(workspace, "promote", 1, "--label", "stable", "--base-path", above) == 0
    assert written(workspace).base_path == str(above)


def test_a_wrong_base_path_of_a_first_promotion_is_undone(workspace, image):
    """The server unloads everything at once; its labels can come back only after the versions."""
    with serve(workspace) as server, Client(server.address) as client:
        Rollout(str(base(workspace)), "htr", [server.address]).promote(1, "stable")
        config_file(workspace).unlink()
        above = str(base(workspace).parent)
        wrong = Rollout(str(base(workspace)), "htr", [server.address], base_path=above, timeout=10)
        with pytest.raises(LoadFailed, match=r"found none of them under .*The labels stay where they were\.$"):
            wrong.promote(2, "stable")
        assert answers(client, image, "stable") == 1
        assert not config_file(workspace).exists()


@pytest.mark.parametrize("first", [1, 20261129])
def test_a_server_without_labels_follows_pushes_after_a_failed_promotion(tmp_path, toy_model, image, capsys, first):
    """What it served before may be the base model, which lies elsewhere."""
    fallback = {"fallback_base_path": str(tmp_path / "fallback")} if first > 1 else {}
    toy.push(toy_model, tmp_path / "fallback" if fallback else base(tmp_path), first)
    with serve(tmp_path, **fallback) as server, Client(server.address) as client:
        toy.push(toy_model, base(tmp_path), 2, "truncated_variables")
        client.wait_state(2, END)
        for told in (False, True) if fallback else (False,):
            if told:  # the file has come without the server, which cannot serve the base model from there
                assert htr(tmp_path, "promote", 2, "--label", "stable") == 0
            assert htr(tmp_path, "promote", 2, "--label", "stable", server=server.address) == cli.ERROR
            said = capsys.readouterr().err
            assert f"stay where they were. {server.address} serves the newest version under {base(tmp_path)} " in said
            assert answers(client, image, "") == first
        toy.push(toy_model, base(tmp_path), 3)
        client.wait_state(3, 30)
        assert answers(client, image, "") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["promote", 9, "--label", "stable", "--server", "localhost:1"], cli.USAGE, "no version 9 in"),
        (["promote", 2, "--label", "canary", "--server", "localhost:1"], cli.USAGE, "No version is stable yet"),
        (["promote", 2, "--label", "stable", "--server", "localhost"], cli.USAGE, "an address is HOST:PORT"),
        (["promote", 2, "--label", "stable", "--server", "localhost:1"], cli.ERROR, "Nobody answers at localhost:1."),
        (["promote", 2, "--label", "stable", "--tls-key", "k"], cli.USAGE, "belong together"),
        (["promote", 2, "--label", "stable", "--tls-ca", "/nowhere.pem"], cli.USAGE, "/nowhere.pem cannot be read"),
        (["rollback", "--label", "stable"], cli.USAGE, "No version has the label stable"),
        (["promote", 2, "--label", "stable", *BUCKET], cli.USAGE, "gs://b/models/htr is in a bucket, but labels need"),
        (["rollback", "--label", "stable", *BUCKET], cli.USAGE, "gs://b/models/htr is in a bucket, but labels need"),
        (["rollback", *BUCKET], cli.ERROR, "Move the folder of the newest version"),
        (["rollback", "--server", "localhost:1"], cli.USAGE, "--server goes with --label"),
        (["versions", "--server", "localhost"], cli.USAGE, "an address is HOST:PORT"),
        (["versions", "--server", "localhost:1"], cli.ERROR, "Nobody answers at localhost:1."),
        (["versions", "--server", "http://localhost:1"], cli.ERROR, "Nobody answers at localhost:1."),
        (["versions", "--server", "http://localhost:1", "--tls"], cli.USAGE, "the connection is not encrypted"),
    ],
)
def test_refusals(workspace, capsys, arguments, code, message):
    assert htr(workspace, *arguments) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not config_file(workspace).exists()


def test_the_file_alone(workspace, toy_model, capsys):
    assert htr(workspace, "promote", 1, "--label", "stable", "--base-path", "/models/htr") == 0
    assert "when they start" in capsys.readouterr().out
    assert htr(workspace, "promote", 2, "--label", "canary") == 0
    entry = written(workspace)
    assert (entry.name, entry.base_path, entry.model_platform) == ("htr", "/models/htr", "tensorflow")
    assert list(entry.model_version_policy.specific.versions) == [1, 2]
    assert dict(entry.version_labels) == {"stable": 1, "canary": 2}
    assert config_file(workspace).stat().st_mode & 0o777 == 0o644
    beside = {path.name for path in config_file(workspace).parent.iterdir()}
    assert beside == {"htr", "models.config", ".models.config.lock"}
    assert htr(workspace, "versions") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("stable") and lines[-1].endswith("newest, canary")
    # A path of other machines cannot be served here.
    assert htr(workspace, "serve") == cli.USAGE
    assert "in /models/htr, which is not a folder of this machine" in capsys.readouterr().err


def test_a_pipeline_of_another_name_is_served_with_its_labels(workspace, monkeypatch):
    base(workspace).rename(workspace / "serving_model" / "words")
    served = []
    monkeypatch.setattr("serving.server.run", lambda arguments: served.append(arguments) or 0)
    assert htr(workspace, "promote", 1, "--label", "stable", "--set", "name=words") == 0
    assert htr(workspace, "serve", "--set", "name=words") == 0
    assert [found.model_config_file for found in served] == [str(config_file(workspace))]


def test_a_canary_whose_directory_is_gone_does_not_block_stable(workspace):
    move = Rollout(str(base(workspace)), "htr")
    move.promote(1, "stable")
    move.promote(2, "canary")
    (base(workspace) / "2").rename(base(workspace) / "away")
    move.promote(1, "stable")
    assert dict(written(workspace).version_labels) == {"stable": 1}
    (base(workspace) / "1").rename(base(workspace) / "gone")
    (base(workspace) / "away").rename(base(workspace) / "2")
    with pytest.raises(Refused, match="promote another to stable first"):
        move.promote(2, "canary")


def test_a_canary_ends_at_stable_and_never_stays_behind_it(tmp_path, capsys):
    for number in range(1, 6):
        (base(tmp_path) / str(number)).mkdir(parents=True)

    def told(*arguments, code=0) -> str:
        assert htr(tmp_path, *arguments) == code
        said = capsys.readouterr()
        return said.out + said.err

    told("promote", 3, "--label", "stable")
    told("promote", 5, "--label", "canary")
    assert "canary is version 3 (before: 5)" in told("rollback", "--label", "canary")  # 4 never had a label
    assert "canary is version 3, as stable is" in told("rollback", "--label", "canary", code=cli.USAGE)
    assert "moved along" not in told("promote", 3, "--label", "stable")
    assert "canary has moved along (before: 3)" in told("promote", 4, "--label", "stable")
    assert dict(written(tmp_path).version_labels) == {"stable": 4, "canary": 4}
    told("promote", 5, "--label", "canary")
    told("promote", 1, "--label", "stable")
    assert dict(written(tmp_path).version_labels) == {"stable": 1, "canary": 5}
    told("promote", 2, "--label", "canary")
    assert "canary is version 5" in told("rollback", "--label", "canary")  # it had the label before
    assert "stable is version 4" in told("rollback", "--label", "stable")
    assert "stable is version 3" in told("rollback", "--label", "stable")
    assert "No earlier version with this label is known: this is" in told("rollback", "--label", "stable")
    assert dict(written(tmp_path).version_labels) == {"stable": 2, "canary": 5}
    told("promote", 5, "--label", "stable")
    assert "canary has moved along (before: 5)" in told("rollback", "--label", "stable")  # it is not tried out any more
    assert dict(written(tmp_path).version_labels) == {"stable": 2, "canary": 2}


def test_one_rollout_at_a_time(workspace):
    move = Rollout(str(base(workspace)), "htr")
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with move._locked():
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    try:
        with pytest.raises(RolloutError, match=r"Another rollout in .* has locked .*/\.models\.config\.lock"):
            move.promote(1, "stable")
    finally:
        leave.set()
        holder.join()
    move.promote(1, "stable")


@pytest.mark.parametrize(
    "text", ["not a configuration", "# earlier versions: [1]", '# earlier versions: {"htr": {"stable": 1}}']
)
def test_an_unreadable_file_is_named_and_nothing_is_deleted(workspace, toy_model, capsys, text):
    config_file(workspace).write_text(text)
    assert htr(workspace, "promote", 1, "--label", "stable") == cli.ERROR
    assert "models.config is not a readable model configuration" in capsys.readouterr().err
    assert htr(workspace, "rollback") == cli.ERROR
    with pytest.raises(VersionError, match="not a readable"):
        publishing.push(str(toy_model), str(base(workspace)), keep=1)
    assert sorted(path.name for path in base(workspace).iterdir()) == [".versions.lock", "1", "2"]
