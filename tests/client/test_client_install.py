"""The distribution as others install it: small, without TensorFlow, on the Python at hand."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import htr_client
from htr_client.testing import png

CLIENT = Path(__file__).parents[2] / "client"


def test_imports_no_tensorflow():
    code = (
        "import sys, htr_client\n"
        "from htr_client import HtrClient, AsyncHtrClient, Tls, BestPath\n"
        "import htr_client.beam, htr_client.cli, htr_client.kenlm, htr_client.pages\n"
        "found = [m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'tensorflow_serving', 'tfx', 'keras')]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    import htr_client

    for name in htr_client.__all__:
        assert getattr(htr_client, name) is not None
    assert htr_client.PictureError is htr_client.ImageError  # services of version 0.1 catch it by that name
    with pytest.raises(AttributeError):
        htr_client.nothing  # noqa: B018


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_after_a_fork(server):
    """As in a pre-forking web server: the client is made, and used, before its workers are forked."""
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from htr_client import HtrClient
image = {png("forked")!r}
client = HtrClient({server.address!r})
if sys.argv[1] == "used":
    assert client.transcribe(image).text == "forked"
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        ok = [r.text for r in client.transcribe_many([image] * 50)] == ["forked"] * 50
        os._exit(0 if ok and client.transcribe(image).text == "forked" else 1)
    children.append(pid)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
assert client.transcribe(image).text == "forked"
"""
    for mode in ("unused", "used"):
        environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
        subprocess.run([sys.executable, "-c", code, mode], check=True, timeout=60, env=environment)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new environment with the wheel in it."""
    uv = shutil.which("uv")
    folder = tmp_path_factory.mktemp("fresh")
    source = folder / "client"  # building leaves files behind, and the checkout may be read-only
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    python = folder / "env" / "bin" / "python"

    def step(*command):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    # Asked for by itself, so that no mistake in what is tested looks like a missing network.
    probe = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "packaging"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index is reachable: {done.stderr.strip().splitlines()[-1]}")
    if uv:
        step(uv, "build", "--wheel", "--python", sys.executable, "--out-dir", folder, source)
        step(uv, "venv", "--python", sys.executable, folder / "env")
        [wheel] = folder.glob("*.whl")
        step(uv, "pip", "install", "--python", python, wheel)
    else:
        step(sys.executable, "-m", "venv", folder / "env")
        step(python, "-m", "pip", "wheel", "--no-deps", "-w", folder, source)
        [wheel] = folder.glob("*.whl")
        step(python, "-m", "pip", "install", wheel)
    return folder, wheel


@pytest.mark.either_stack
@pytest.mark.slow
def test_wheel_in_a_new_environment(fresh, server):
    folder, wheel = fresh
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "htr_client/descriptors.pb.z",
        "htr_client/py.typed",
        "htr_client/cli.py",
        "htr_client/pages/alto.py",
    } <= set(names)
    assert not [name for name in names if not name.startswith(("htr_client/", "htr_client-"))]
    assert [name for name in names if name.endswith("LICENSE")] == [
        f"htr_client-{htr_client.__version__}.dist-info/licenses/LICENSE"
    ]
    assert wheel.stat().st_size < 200_000
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    installed = {path.name.split("-")[0].lower() for path in folder.glob("env/lib/python3*/site-packages/*.dist-info")}
    assert not [name for name in installed if "tensorflow" in name or "tfx" in name]
    assert {"grpcio", "protobuf", "numpy", "opencv_python_headless", "htr_client"} <= installed
    (folder / "word.png").write_bytes(png("wheel"))
    done = subprocess.run(
        [folder / "env/bin/htr-client", "--server", server.address, folder / "word.png"],
        capture_output=True,
        text=True,
        env=clean,
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "") and "\twheel\t" in done.stdout
    # CPU time of the import is reported, and only bounded far above what it takes: machines differ.
    code = "import time; import htr_client.client; print(time.process_time())"
    done = subprocess.run(
        [folder / "env/bin/python", "-c", code], capture_output=True, text=True, env=clean, check=True
    )
    print(f"CPU seconds to start Python and import the client: {done.stdout}")
