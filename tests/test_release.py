"""One version and one licence: what a release must have in agreement."""

import re
import shutil
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
NAMED = re.compile(
    r"(?:\bhtr[-_][a-z]+[:=-]{1,2}|\bnewTag: )"
    r"(\d+\.\d+\.\d+\S*?)(?=\.tar|-[cg]pu|[\s\"'`\])]|$)"
)
BUILT_FROM = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "pipeline", "components", "serving",
              "client")  # fmt: skip
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")


def documents():
    """All files that may name a version, but for what tools make, and for the changelog, which names earlier ones."""
    for top in ROOT.iterdir():
        if not top.name.startswith((".", "demo", "workspace", "CHANGELOG")):
            for path in top.rglob("*") if top.is_dir() else [top]:
                if path.suffix in (".md", ".yaml", ".yml", ".toml") or "Dockerfile" in path.name:
                    yield path


def test_no_document_or_manifest_names_another_version():
    named = {
        (str(path.relative_to(ROOT)), version)
        for path in documents()
        for version in NAMED.findall(path.read_text("utf-8"))
    }
    assert {version for _, version in named} == {VERSION}, named
    tags = {f"kubeflow/serving/overlays/{name}/kustomization.yaml" for name in ("cpu", "gpu", "canary")}
    assert {"docs/production.md", "kubeflow/storage/shell.yaml", *tags} <= {path for path, _ in named}


@pytest.mark.parametrize("text", [
    "htr-beam:1.2.3 .", "`htr-serving:1.2.3-gpu`", "htr-client==1.2.3", "htr_client-1.2.3.tar.gz", "newTag: 1.2.3-cpu",
])  # fmt: skip
def test_a_version_is_found_wherever_one_is_named(text):
    assert NAMED.findall(text) == ["1.2.3"]


def test_the_client_has_the_licence_of_the_whole():
    assert (ROOT / "client" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.either_stack
@pytest.mark.slow
def test_both_distributions_have_the_version_and_the_licence(tmp_path):
    """Wheels are built from the source distributions, as Beam's workers and packagers do."""
    tree = tmp_path / "tree"  # builds leave files behind
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=MADE)
        else:
            tree.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    base = "components/base_model/files/any"
    (tree / base).mkdir(parents=True)
    for name in ("base.json", "model_card.md", "weights.npz"):
        (tree / base / name).write_text("{}")
    for folder, name in ((".", "htr_pipeline"), ("client", "htr_client")):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, folder]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
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
                assert {f"{base}/base.json", f"{base}/model_card.md", f"{base}/weights.npz"} <= files
                assert b"htr = pipeline.cli:main" in wheel.read(f"{info}/entry_points.txt")
