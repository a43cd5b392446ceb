"""`make demo` at a small size: what it prints holds, and the commands that it proposes name what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import FAST

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]


def test_demo_ends_with_texts_from_a_server(tmp_path):
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "pipeline.demo", "--folder", str(folder), "--images", "120"]
    settings = [argument for setting in FAST for argument in ("--set", setting)]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "Rendering 120 images" in done.stderr and re.search(r"\[(\d+)/\1\] Pushing the model", done.stderr)
    texts = re.findall(r"^[ x] (.{18}) (.{18}) +([01]\.\d\d)$", done.stderr, re.M)
    right = sum(written == read for written, read, _ in texts)
    assert len(texts) >= 5 and f"{right} of {len(texts)} exactly right" in done.stderr
    named = re.findall(rf"{re.escape(str(folder))}\S*", done.stderr.partition("The model ")[2])
    assert len(named) >= 8 and all(Path(path).exists() for path in named)
    assert "--set train.epochs=1 " in done.stderr and done.stderr.count("gate.max_cer=") == 1
