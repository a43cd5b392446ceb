"""Nothing is silent for a minute: what logs, CI and notebooks get while a training runs."""

import re
import time

import pytest

from components.common.console import announced, clock
from components.trainer import progress
from components.trainer.progress import Progress


@pytest.fixture
def talkative(monkeypatch):
    for name in ("_FIRST", "_EVERY", "_LONG"):
        monkeypatch.setattr(progress, name, 0.0)


def test_slow_work_is_announced_again_and_again_and_quick_work_is_not(capsys):
    with announced("Surveying", after=0.05, every=0.05):
        time.sleep(0.4)
    assert len(re.findall(r"  Surveying \(0:00 elapsed\)\n", capsys.readouterr().err)) > 1
    with announced("Surveying"):
        pass
    assert capsys.readouterr().err == ""


def test_an_announcement_ends_with_an_error(capsys):
    with pytest.raises(KeyError), announced("Exporting", after=0.02, every=0.02):
        raise KeyError
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_lines_within_an_epoch_where_there_is_no_terminal(talkative, capsys):
    with Progress(epochs=2, steps=10, images=160, done=0, seconds_before=3700.0) as shown:
        for done in range(1, 12):
            time.sleep(0.01)
            shown.batch(done, lambda: 23.456)
            if done == 10:
                shown.epoch(done, "loss  23.456  validation CER 0.5000", last=False)
    told = capsys.readouterr().err
    assert re.search(r"about 6\d minutes in all at \d+ images/s", told) and told.count("about") == 1
    line = r"  epoch   1/2  batch 6/10  loss  23\.456  \d+ images/s  1:0\d:\d\d elapsed, 0:\d\d remaining\n"
    assert re.search(line, told)
    assert re.search(r"epoch   1/2  loss  23\.456  validation CER 0\.5000  1:0\d:\d\d elapsed, 0:\d\d remaining", told)
    assert "epoch   2/2  batch 1/10" in told


def test_the_time_of_validations_is_told_after_the_first_epoch_where_it_is_much(talkative, capsys):
    with Progress(epochs=100, steps=6, images=96, done=0, seconds_before=0.0) as shown:
        for done in range(1, 13):
            time.sleep(0.005)
            shown.batch(done, lambda: 1.0)
            if done % 6 == 0:
                time.sleep(0.1)
                shown.epoch(done, "loss", last=False)
    told = re.findall(r"  about (\d+) seconds in all (.*), unless training stops early", capsys.readouterr().err)
    assert [text.split()[0] for _, text in told] == ["at", "with"] and int(told[1][0]) > 1.5 * int(told[0][0])


def test_the_first_line_comes_within_seconds_and_the_others_every_half_minute():
    assert progress._FIRST <= 10 and progress._EVERY <= 30


def test_a_resumed_training_reckons_with_its_own_batches(talkative, capsys):
    with Progress(epochs=1, steps=1000, images=16_000, done=990, seconds_before=5000.0) as shown:
        for done in range(991, 998):
            time.sleep(0.02)
            shown.batch(done, lambda: 1.0)
    assert re.search(r"batch 997/1000 .* 1:23:\d\d elapsed, 0:\d\d remaining", capsys.readouterr().err)


def test_many_short_epochs_do_not_get_a_line_each(capsys):
    with Progress(epochs=200, steps=1, images=8, done=0, seconds_before=0.0) as shown:
        for done in range(1, 201):
            shown.batch(done, lambda: 1.0)
            shown.epoch(done, "loss", last=done == 200)
    told = capsys.readouterr().err
    assert "epoch   1/200" in told and "epoch 200/200" in told and told.count("epoch ") < 10


def test_workers_but_the_first_are_silent(talkative, capsys):
    with Progress(epochs=1, steps=5, images=80, done=0, seconds_before=0.0, shown=False) as shown:
        for done in range(1, 6):
            shown.batch(done, lambda: 1.0)
        shown.epoch(5, "loss", last=True)
    assert capsys.readouterr().err == ""


def test_clock():
    assert [clock(s) for s in (0, 59.9, 61, 3599, 3600, 45_296)] == [
        "0:00",
        "0:59",
        "1:01",
        "59:59",
        "1:00:00",
        "12:34:56",
    ]
