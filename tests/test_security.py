"""What SECURITY.md promises of the code, the images and the files that are made."""

import ast
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from google.protobuf.internal import api_implementation

from components.pusher import publishing
from components.tools.sample_data import generate
from pipeline import cli

ROOT = Path(__file__).parent.parent
PACKAGES = ("components", "pipeline", "serving", "client/htr_client", "benchmarks")

# Ways in which data becomes code, or a path becomes any path.
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile", "xml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "tempfile.mktemp", "os.chmod", "os.umask", "np.load", "numpy.load", "pd.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "importlib.import_module", "import_module",
    "saved_model.load", "models.load_model", "shutil.unpack_archive", "jinja2.Environment", "jinja2.Template",
    "ssl._create_unverified_context", "spec.loader.exec_module",
}  # fmt: skip
METHODS = {"extractall", "from_string"}
HARMLESS = {"np.load": ("allow_pickle", False)}  # a call with this argument is none of them
ESCAPES = ("jinja2.Environment", "autoescape")

ALLOWED = {
    "client/htr_client/__init__.py import_module": "its own modules, by names that stand in it",
    "client/htr_client/pages/xml_files.py xml.etree": "refuses a document type definition, and so all entities",
    "components/base_model/packing.py extractall": "files of this package",
    "components/recogniser/model.py saved_model.load": "the model that a run has trained, or one that was pushed",
    "client/htr_client/whole_files.py os.chmod": "0600 for TLS keys, or 0644 for a server that runs as another user",
    "pipeline/config.py yaml.load": "with a subclass of SafeLoader, which refuses what stands there twice",
    "pipeline/doctor/gpu_benchmark.py saved_model.load": "the model that it has just trained",
}


def dangers(code: str) -> Iterator[str]:
    """Names of what a module's code imports and calls that must not meet input."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                yield node.module or ""
        elif isinstance(node, ast.Call):
            given = {word.arg: word.value for word in node.keywords}
            name = ast.unparse(node.func)
            last = ".".join(name.split(".")[-2:])
            shell = given.get("shell")
            if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                yield "shell"
            if name in BUILTINS or name.rpartition(".")[2] in METHODS:
                yield name.rpartition(".")[2]
            for found in {name, last} & CALLS:
                argument, value = HARMLESS.get(found, ("", None))
                harmless = isinstance(word := given.get(argument), ast.Constant) and word.value is value
                if not harmless and not (found == ESCAPES[0] and ESCAPES[1] in given):
                    yield found
                    break


def test_nothing_makes_code_of_data_but_where_it_is_explained():
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 80
    found = {f"{path.relative_to(ROOT)} {danger}" for path in modules for danger in dangers(path.read_text("utf-8"))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from xml.etree import ElementTree", "import tarfile as t", "eval(x)", "exec(x)",
        "yaml.load(x, Loader=yaml.Loader)", "np.load(x)", "np.load(x, allow_pickle=True)", "os.system(x)",
        "subprocess.run(x, shell=True)", "Popen(x, shell=flag)", "archive.extractall(x)", "os.chmod(x, 0o777)",
        "tf.saved_model.load(x)", "keras.models.load_model(x)", "jinja2.Environment(loader=x)",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(code):
    assert list(dangers(code))


def test_what_is_harmless_is_not_found():
    code = "yaml.safe_load(x); np.load(x, allow_pickle=False); subprocess.run([x]); re.compile(x); json.load(x)"
    assert not list(dangers(code))


def test_calls_that_change_what_is_served_are_named():
    known = set(re.findall(r"_MODEL_SERVICE, \"(\w+)\"", (ROOT / "serving" / "grpc_front.py").read_text()))
    promised = (ROOT / "SECURITY.md").read_text()
    assert known == {"GetModelStatus", "HandleReloadConfigRequest"}
    assert re.search(r"^\| `HandleReloadConfigRequest`.*\*\*changes what is served\*\*", promised, re.M)


def writable_by_others(folder: Path) -> list[str]:
    paths = [folder, *folder.rglob("*")]
    return [
        str(path) for path in paths if not path.is_symlink() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ]


def test_files_are_writable_by_their_owner_only(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").write_bytes(b"graph")
    os.chmod(tmp_path / "export" / "saved_model.pb", 0o666)
    before = os.umask(0o022)
    try:
        generate(tmp_path / "made" / "data", images=20, writers=4)
        model_dir = tmp_path / "made" / "serving_model" / "htr"
        version = publishing.push(str(tmp_path / "export"), str(model_dir), keep=2)
        assert cli.main(["promote", str(version), "--label", "stable", "--workspace", str(tmp_path / "made")]) == 0
        rejects = ["--rejects", str(tmp_path / "made" / "rejects.csv"), "--html", str(tmp_path / "made" / "check.html")]
        cli.main(["check", "--data", str(tmp_path / "made" / "data"), *rejects])
    finally:
        os.umask(before)
    assert (model_dir.parent / "models.config").exists() and (tmp_path / "made" / "rejects.csv").exists()
    assert not writable_by_others(tmp_path / "made")


DOCKERFILES = [path for path in ROOT.glob("[!.]*/**/Dockerfile*") if path.suffix != ".dockerignore"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_do_not_run_as_root(path):
    """The stages that are run, which are those that no later stage only copies from, end as a numbered user."""
    stages: dict[str, tuple[str, list[str]]] = {}
    for text in re.split(r"^FROM ", path.read_text(), flags=re.M)[1:]:
        base, _, name = text.split("\n")[0].partition(" AS ")
        stages[name or "last"] = (base, re.findall(r"^USER (\S+)", text, re.M))
    copied_from = set(re.findall(r"--from=(\S+)", path.read_text()))
    run = set(stages) - copied_from
    assert run
    for name in run:
        users: list[str] = []
        while not users and name in stages:
            name, users = stages[name]
        assert users and re.fullmatch(r"[1-9]\d*:\d+", users[-1])


def pods(value: object) -> Iterator[dict]:
    """Pod specifications in a Kubernetes document."""
    if isinstance(value, dict):
        if any(isinstance(c, dict) and "image" in c for c in value.get("containers") or ()):
            yield value
        for inner in value.values():
            yield from pods(inner)


def test_pods_have_no_rights():
    paths = {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in (ROOT / "kubeflow").rglob("*.yaml")}
    found = {path: [pod for d in yaml.safe_load_all(text) for pod in pods(d)] for path, text in paths.items()}
    (owner,) = found.pop("kubeflow/storage/owner.yaml")  # applied by hand, once, where storage belongs to root
    assert "`kubeflow/storage/owner.yaml`" in (ROOT / "SECURITY.md").read_text()
    kept = {"drop": ["ALL"]}
    allowed = [(container, kept | {"add": ["CHOWN"]}) for container in owner["containers"]]
    for pod in (pod for several in found.values() for pod in several):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        allowed += [(container, kept) for container in pod["containers"]]
    assert len(allowed) >= 3
    for container, capabilities in allowed:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == capabilities


def test_exceptions_of_the_audit_are_for_packages_as_they_are_locked():
    locks = [path.read_text() for path in (ROOT / "requirements").glob("*.txt")]
    locked = {found for text in locks for found in re.findall(r"^[a-z0-9-]+==\S+", text, re.M)}
    exceptions = ROOT / "requirements" / "audit-exceptions.txt"
    lines = [x for x in exceptions.read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    for line in lines:
        advisory, package, reason = line.split(maxsplit=2)
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-\S+", advisory) and package in locked and len(reason) > 20


def test_messages_are_not_parsed_by_pure_python():
    """protobuf's pure-Python parser recurses without bound (CVE-2025-4565); see requirements/audit-exceptions.txt."""
    assert api_implementation.Type() != "python"
