"""One version and one licence: what a release must have in agreement."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

import htr_client

ROOT = Path(__file__).parent.parent
VERSION = htr_client.__version__
NAMED = re.compile(r"\bhtr[-_](?:pipeline|trainer|airflow|client)[:=-]{1,2}(\d+\.\d+\.\d+\S*?)(?=\.tar|[\s\"'`\])]|$)")


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        # A copy of the tree without its history.
        return [path for pattern in patterns for path in ROOT.rglob(pattern) if ".venv" not in path.parts]
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_document_or_manifest_names_another_version():
    named = {
        (str(path.relative_to(ROOT)), version)
        for path in tracked("*.md", "*.yaml", "*.yml", "*Dockerfile*", "*.toml")
        for version in NAMED.findall(path.read_text("utf-8"))
    }
    assert {version for _, version in named} == {VERSION}, named
    assert {"docs/production.md", "kubeflow/storage/shell.yaml"} <= {path for path, _ in named}


def test_the_client_has_the_licence_of_the_whole():
    assert (ROOT / "client" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_both_distributions_have_the_version_and_the_licence(tmp_path):
    """Wheels are built from the source distributions, as Beam's workers and packagers do."""
    for folder, name in ((".", "htr_pipeline"), ("client", "htr_client")):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, folder]
        done = subprocess.run(command, cwd=_copy(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        with tarfile.open(tmp_path / f"{name}-{VERSION}.tar.gz") as archive:
            assert f"{name}-{VERSION}/LICENSE" in archive.getnames()
        with zipfile.ZipFile(tmp_path / f"{name}-{VERSION}-py3-none-any.whl") as wheel:
            info = f"{name}-{VERSION}.dist-info"
            assert f"{info}/licenses/LICENSE" in wheel.namelist()
            metadata = BytesParser().parsebytes(wheel.read(f"{info}/METADATA"))
            assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "Apache-2.0")
            if name == "htr_pipeline":
                assert f"htr-client=={VERSION}" in metadata.get_all("Requires-Dist")
                files = set(wheel.namelist())
                assert {"serving/ui.html", "components/example_validator/schema.pbtxt"} <= files
                assert b"htr = pipeline.cli:main" in wheel.read(f"{info}/entry_points.txt")


def _copy(folder):
    """The tracked tree in a folder of its own, since builds leave files behind."""
    target = folder / "tree"
    if not target.exists():
        for path in tracked("*"):
            if path.is_file() and "tests" not in path.relative_to(ROOT).parts:
                copy = target / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    return target
