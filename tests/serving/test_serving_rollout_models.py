"""Labels of one model move on servers that serve others too."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import serving_toy as toy
from serving_rollout import base, config_file, htr, labels, serve
from tensorflow_serving.config import model_server_config_pb2

from pipeline import cli
from serving import protos
from serving.rollout.change import LoadFailed
from serving.rollout.labels import Labels
from serving.rollout.model_server import Server
from serving.rollout.moving import Rollout

pytestmark = [pytest.mark.either_stack, pytest.mark.usefixtures("quick")]


def test_other_models_in_the_file_stay(workspace):
    config_file(workspace).write_text(
        'model_config_list { config { name: "other" base_path: "/models/other" model_platform: "tensorflow" } }'
    )
    move = Rollout(str(base(workspace)), "htr")
    move.promote(1, "stable")
    move.promote(2, "stable")
    assert move.roll_back("stable").version == 1
    config = model_server_config_pb2.ModelServerConfig()
    protos.read_text_proto(config_file(workspace), config)
    assert [entry.name for entry in config.model_config_list.config] == ["other", "htr"]
    assert "other models stay, comments do not" in config_file(workspace).read_text()


def test_other_models_go_on_as_the_server_serves_them(workspace, toy_model, capsys):
    """The file may say more: a label that the server would refuse, a model that it would wait for."""
    lines = base(workspace).with_name("htr-lines")
    for number in (1, 2):
        toy.push(toy_model, lines, number)
    assert htr(workspace, "promote", 1, "--label", "stable") == 0
    assert htr(workspace, "promote", 1, "--label", "stable", "--task", "pages") == 0
    with serve(workspace) as server:
        assert htr(workspace, "promote", 2, "--label", "stable", "--task", "pages") == 0
        toy.push(toy_model, base(workspace).with_name("late"), 1)
        Rollout(str(base(workspace).with_name("late")), "late", base_path="/nowhere/late").promote(1, "stable")
        assert htr(workspace, "promote", 2, "--label", "stable", server=server.address) == 0
        assert htr(workspace, "rollback", "--label", "stable", server=server.address) == 0
        assert labels(server.address)["stable"] == labels(server.address, "htr-lines")["stable"] == 1
        assert labels(server.address, "late") == {"stable": None, "canary": None}
        late = Rollout(str(base(workspace).with_name("late")), "late", [server.address], timeout=0.2)
        with pytest.raises(LoadFailed, match=r"late, which .* did not serve so far, was not AVAILABLE .* Is /nowhere"):
            late.promote(1, "stable")
        file = Labels.read(str(base(workspace)), "htr")
        assert file.labels == {"stable": 1} and file.others == {"htr-lines": {"stable": 2}, "late": {"stable": 1}}
        assert htr(workspace, "promote", 2, "--label", "stable", "--task", "pages", server=server.address) == 0
        assert labels(server.address, "htr-lines")["stable"] == 2
        # A model can be added to a running server.
        config_file(workspace).write_text(config_file(workspace).read_text().replace("/nowhere", str(lines.parent)))
        assert replace(late, timeout=30).promote(1, "stable").servers == (server.address,)
        assert labels(server.address, "late")["stable"] == 1
        # What the server refuses is refused again when what was served is to be restored, but nothing has changed.
        config_file(workspace).write_text(config_file(workspace).read_text().replace(f'"{lines}"', '"here"'))
        assert htr(workspace, "promote", 2, "--label", "stable", server=server.address) == cli.ERROR
        assert "got base_path()=here. The labels stay where they were." in capsys.readouterr().err


def test_no_server_loses_the_line_finder(workspace, toy_model, capsys):
    """What a request does not name is unloaded at once."""
    lines = base(workspace).with_name("htr-lines")
    toy.push(toy_model, lines, 7)
    options = {"model_base_path": str(base(workspace)), "line_finder_base_path": str(lines)}
    with serve(workspace, **options) as server:  # this one keeps it by itself
        assert htr(workspace, "promote", 1, "--label", "stable", server=server.address) == 0
        assert labels(server.address)["stable"] == 1
    config_file(workspace).unlink()
    text = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    both = workspace / "both.config"
    both.write_text(f"model_config_list {{{''.join(text.format(n, lines.parent) for n in ('htr', 'htr-lines'))}}}")
    with serve(workspace, model_base_path="", model_config_file=str(both)) as server:
        capsys.readouterr()
        assert htr(workspace, "promote", 1, "--label", "stable", server=server.address) == cli.ERROR
        said = capsys.readouterr().err
        assert "also serves version 7 of htr-lines, which" in said and "Nothing has changed." in said
        apart = ["--set", f"push.model_dir={base(workspace)}", "--set", f"pages.model_dir={workspace}/l/htr-lines"]
        assert htr(workspace, "promote", 1, "--label", "stable", *apart, server=server.address) == cli.ERROR
        assert f"Its versions are in {workspace}/l/htr-lines, and servers read one file" in capsys.readouterr().err
        first = re.search("htr (promote 7 .*?)[.] Or leave", said)[1]
        assert cli.main(first.split()) == 0
        assert htr(workspace, "promote", 1, "--label", "stable", server=server.address) == 0
        with Server(server.address) as asked:
            assert asked.served("htr-lines").versions == {7}
    shutil.copytree(lines, workspace / "l" / "htr-lines")
    assert htr(workspace, "promote", 7, "--label", "stable", "--task", "pages", *apart) == 0
    assert f"note: htr has its labels in another file, {config_file(workspace)}" in capsys.readouterr().err
