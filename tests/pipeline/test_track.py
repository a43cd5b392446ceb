"""What people hear of a command that takes long."""

import io

from components.common import console


def test_a_log_hears_now_and_then_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(console, "_FIRST_WORD", 0.0)
    assert list(console.track(iter("abc"), "Looking at images", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "Looking at images: 1 of 3\n"  # the next line is due much later


def test_what_is_done_at_once_is_not_talked_about(capsys):
    assert list(console.track(range(3), "Looking at images", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    from rich.console import Console

    monkeypatch.setattr(console, "_console", Console(file=terminal, force_terminal=True, width=80))
    assert list(console.track(range(3), "Looking at images", 3)) == [0, 1, 2]
    assert "Looking at images" in terminal.getvalue()
