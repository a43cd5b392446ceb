"""`htr run` and `htr transcribe` with data, model directory and texts in a bucket of a real S3 server."""

import json
import subprocess
import sys

import pytest

from components.common import storage
from components.common.versions import offered
from pipeline import cli
from tests.end_to_end.conftest import FAST, run

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]


@pytest.fixture(scope="module")
def bucket(s3, data):
    address = s3.bucket()
    storage.copy_tree(str(data), f"{address}/names")
    return address


def test_a_killed_run_goes_on_and_pushes_into_the_bucket(bucket, tmp_path, capfd):
    settings = ["language.enabled=false", f"push.model_dir={bucket}/models/htr"]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--data", f"{bucket}/names", "--workspace", str(tmp_path)]
    command += ["--json", *(f"--set={setting}" for setting in [*FAST, *settings])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as killed:
        assert any("Training the network" in line for line in killed.stderr)
        killed.kill()
    assert not offered(f"{bucket}/models/htr")

    # Here from now on: each process would import for ten seconds.
    first = run(f"{bucket}/names", tmp_path, capfd, *settings)
    assert first.code == 0, first.err
    for step in ("Reading labels and images", "Computing statistics", "Resizing and normalising images"):
        assert "cached" in first.err.partition(step)[2].partition("\n[")[0], first.err
    (version,) = offered(f"{bucket}/models/htr")
    assert first.outcome["version"] == version.number
    assert storage.exists(f"{bucket}/models/htr/{version.number}.metrics.json")

    again = run(f"{bucket}/names", tmp_path, capfd, *settings)
    assert again.code == 0 and offered(f"{bucket}/models/htr") == [version]

    texts = ["transcribe", "--input", f"{bucket}/names", "--json", "--output", f"{bucket}/texts.jsonl"]
    assert cli.main([*texts, "--model", f"{bucket}/models/htr", "--workspace", str(tmp_path)]) == 0
    counts = json.loads(capfd.readouterr().out)
    rows = [json.loads(line) for line in storage.read(counts["example"]).splitlines()]
    assert 0 < counts["images"] == len(rows) + counts["errors"]
