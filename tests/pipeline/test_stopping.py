"""Commands that a signal ends: their exit codes, and what they leave."""

import os
import signal
import subprocess
import sys

import pytest

from htr_client.testing import FakeServer, png
from tests.conftest import drawn_image, encode, until

HTR = [sys.executable, "-m", "pipeline.cli"]
SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@SIGNALS
def test_predict_ends_with_the_code_of_the_signal(tmp_path, number, code):
    (tmp_path / "a.png").write_bytes(png("a"))
    with FakeServer() as server:
        server.model.delay = 30.0
        command = [*HTR, "predict", str(tmp_path / "a.png"), "--server", server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            until(lambda: server.model.batches)
            running.send_signal(number)
            assert running.communicate(timeout=20) == ("", "Interrupted.\n")
        assert running.returncode == code


@SIGNALS
def test_a_stopped_command_deletes_its_copy_of_the_base_model(tmp_path, number, code):
    """It is in a temporary folder where the user's cache cannot be written, as in many a container."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "scans").mkdir()
    for image in range(3000):
        (tmp_path / "scans" / f"{image}.png").write_bytes(encode(drawn_image(60, 30, image)))
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "XDG_CACHE_HOME": "/dev/null"}
    command = [*HTR, "label", str(tmp_path / "scans"), "--base", "word", "--output", str(tmp_path / "read")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: list(tmp_path.glob("read.unfinished/read/images/*")), 60)
        assert list((tmp_path / "temporary").glob("htr-*"))
        running.send_signal(number)
        told = running.communicate(timeout=20)[1]
    assert running.returncode == code and told.endswith("\nInterrupted.\n")
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scans", "temporary"]
