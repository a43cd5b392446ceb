"""`htr run` and `htr transcribe` with data, model directory and texts in a bucket of a real S3 server."""

import json
import subprocess
import sys

import pytest

from components.common import storage
from components.common.versions import offered
from tests.end_to_end.conftest import FAST

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]


@pytest.fixture(scope="module")
def bucket(s3, data):
    address = s3.bucket()
    storage.copy_tree(str(data), f"{address}/names")
    return address


def test_a_killed_run_goes_on_and_pushes_into_the_bucket(bucket, tmp_path):
    settings = [*FAST, "language.enabled=false", f"push.model_dir={bucket}/models/htr"]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--data", f"{bucket}/names", "--workspace", str(tmp_path)]
    command += ["--json", *(f"--set={setting}" for setting in settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as killed:
        assert any("Training the network" in line for line in killed.stderr)
        killed.kill()
    assert not offered(f"{bucket}/models/htr")

    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    for step in ("Reading labels and images", "Computing statistics", "Resizing and normalising images"):
        assert "cached" in first.stderr.partition(step)[2].partition("\n[")[0], first.stderr
    (version,) = offered(f"{bucket}/models/htr")
    assert json.loads(first.stdout)["version"] == version.number
    assert storage.exists(f"{bucket}/models/htr/{version.number}.metrics.json")

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and offered(f"{bucket}/models/htr") == [version]

    texts = [sys.executable, "-m", "pipeline.cli", "transcribe", "--input", f"{bucket}/names", "--json"]
    texts += ["--output", f"{bucket}/texts.jsonl", "--model", f"{bucket}/models/htr", "--workspace", str(tmp_path)]
    done = subprocess.run(texts, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    rows = [json.loads(line) for line in storage.read(counts["example"]).splitlines()]
    assert 0 < counts["images"] == len(rows) + counts["errors"]
