"""What `htr --help` and the help of each command say."""

import argparse
import re
import shlex

import pytest

from pipeline import cli

COMMANDS = [name for names in cli._GROUPS.values() for name in names]


def help_of(*command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def parsers():
    subcommands = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return subcommands.choices


def test_the_commands_are_shown_in_groups(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert sorted(COMMANDS) == sorted(parsers()), "a command in no group, or in two"
    shown = help_of(capsys=capsys)
    sections = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", shown, flags=re.M))
    listed = {
        title: tuple(re.findall(r"^  ([a-z][\w-]*) {2,}\S", sections[title], flags=re.M)) for title in cli._GROUPS
    }
    assert listed == cli._GROUPS
    assert shown.startswith("usage: htr [-h] [--debug] [--version] COMMAND ...")
    assert "positional arguments" not in shown and "htr COMMAND --help" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_with_an_example_that_it_takes(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    last = help_of(name, capsys=capsys).rstrip().splitlines()[-1]
    program, *arguments = shlex.split(last.removeprefix("Example: ").partition(" > ")[0])
    assert program == "htr" and arguments[0] == name and len(last) < 80
    assert cli._parse(arguments).command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained_with_its_default(name):
    for action in parsers()[name]._actions:
        assert action.help, f"{action.dest} of {name} has no help"
        if action.help != argparse.SUPPRESS and action.default not in (None, False, "", [], 0, "==SUPPRESS=="):
            assert "default" in action.help, f"--{action.dest} of {name} hides its default {action.default}"
        assert action.metavar != "VALUE", f"--{action.dest} of {name} does not say what it takes"


def test_what_options_mean_to_a_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name, *told in (
        ("run", "--data DIR           folder with labels and images (with --task pages: page images with XML)"),
        ("check", "--data DIR       folder with labels and images;"),
        ("drift", "folder with the new data or logs", "the data to compare with, instead of a run"),
        ("read", "folder of earlier runs, where models are found (default: workspace)", "--model DIR "),
        ("predict", "--model NAME ", "{best-path,beam}", "if it differs from the address"),
        ("transcribe", "{best-path}"),
        ("review", "collect answers less confident than C (default: 0.7)"),
        ("label", "keep texts at least as confident as C (default: 0.5)"),
        ("serve", "--port PORT ", "--model_base_path DIR", "--ssl_config_file FILE", "--drain_wait_seconds SECONDS"),
        ("import", "if run again, it continues where it stopped"),
    ):
        shown = help_of(name, capsys=capsys)
        assert not [text for text in told if text not in shown], name
