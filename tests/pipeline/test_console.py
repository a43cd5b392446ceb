"""Whoever waits is told what for."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from components.common.console import announced, quiet_logs
from pipeline import cli
from tests.conftest import write_dataset


def test_what_takes_longer_is_said_again_and_again(capsys):
    said = []
    with announced(lambda: f"{len(said)} of 9 [files]", after=0.05, every=0.05):
        for _ in range(200):
            if len(said) > 1:
                break
            time.sleep(0.05)
            said += re.findall(r"^  (\d) of 9 \[files\] \(0:00 elapsed\)$", capsys.readouterr().err, re.M)
    assert len(said) > 1 and said[0] == "0"
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""  # nothing once it is done


def test_what_is_quick_is_not_mentioned(capsys):
    with announced("Reading"):
        pass
    with pytest.raises(ValueError), announced("Reading"):
        raise ValueError
    assert capsys.readouterr() == ("", "")


def test_people_are_told_what_the_log_is_not(tmp_path, capfd):
    with quiet_logs(str(tmp_path / "log")), announced("Loading", after=0.0):
        os.write(2, b"noise of a library\n")
        told, deadline = "", time.monotonic() + 30
        while "Loading" not in told and time.monotonic() < deadline:
            told += capfd.readouterr().err
            time.sleep(0.02)
    assert "Loading" in told and "noise" not in told
    assert (tmp_path / "log").read_text() == "noise of a library\n"


def without_reader(code, *arguments):
    """What a Python program with these arguments does, whose standard error nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write, text=True, timeout=300)
    os.close(write)
    return done


def test_work_goes_on_when_nobody_reads_its_progress(tmp_path):
    code = (
        "import sys\nfrom components.common.console import console, quiet_logs\n"
        "with quiet_logs(sys.argv[1]):\n    console().print('begun')\n    console().print('goes on')\n"
        "console().print('done')\nprint('the outcome')"
    )
    done = without_reader(code, tmp_path / "log")
    assert (done.returncode, done.stdout) == (0, "the outcome\n")


def test_a_run_whose_progress_nobody_reads_ends_as_it_would_have(tmp_path):
    rows = [{"filename": f"{i}.png", "text": "ab"} for i in range(30)]
    data, workspace = write_dataset(tmp_path / "names", rows), tmp_path / "workspace"
    code = (
        "import sys, types\nfrom components.example_gen.table import DatasetError\nfrom pipeline import cli\n"
        "def run(config): raise DatasetError('labels.csv is odd.')\n"
        "sys.modules['pipeline.runners.local_runner'] = types.SimpleNamespace(run=run)\n"  # instead of TFX
        "sys.exit(cli.main())"
    )
    done = without_reader(code, "run", "--json", "--data", data, "--workspace", workspace)
    assert json.loads(done.stdout) == {"blessed": False, "error": "labels.csv is odd.", "exit_code": cli.USAGE}
    assert done.returncode == cli.USAGE


@pytest.mark.parametrize(
    "command, said", [("check", "Looking at images: 0 of 40"), ("sample-data", "Rendering 300 images")]
)
def test_commands_that_take_long_say_so(tmp_path, capsys, monkeypatch, command, said):
    monkeypatch.setattr(announced.__wrapped__, "__defaults__", (0.0, 30.0))  # not only after some seconds
    rows = [{"filename": f"{i}.png", "text": f"word {i}", "writer": str(i % 8)} for i in range(40)]
    arguments = {
        "check": ["--data", str(write_dataset(tmp_path / "names", rows))],
        "sample-data": [str(tmp_path / "sample"), "--images", "300"],
    }  # fmt: skip
    assert cli.main([command, *arguments[command]]) == cli.OK
    assert f"  {said} (0:00 elapsed)" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_check_whose_output_has_another_encoding_is_written_to_its_end(tmp_path, encoding):
    """What is redirected is UTF-8, as that of the client: nothing that was looked at is lost over a character."""
    rows = [{"filename": f"{i}.png", "text": "\u0100bel" if i % 2 else "M\u00fcller"} for i in range(20)]
    data, page = write_dataset(tmp_path / "names", rows), tmp_path / "check.html"
    command = [sys.executable, "-m", "pipeline.cli", "check", "--data", str(data), "--html", str(page)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and "\u0100" in done.stdout.decode(), done.stderr
    assert page.exists()
