"""Images and manifests: linted, valid by Kubernetes' own schemas, and of one mind with lock file, code and servers."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from pipeline import kubeflow_runner
from pipeline.config import Config
from serving import production

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kubeflow"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
KUBERNETES = ("1.28", kubernetes_validate.latest_version())
BUILDABLE = ("storage", "serving/overlays/cpu", "serving/overlays/gpu", "serving/overlays/canary")
# Patches and kustomizations are no objects of their own.
OBJECTS = sorted(
    path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml" and ("overlays" not in path.parts)
)


def locked():
    text = (ROOT / "requirements.txt").read_text()
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def needed(name, extras=()):
    """Names of the distributions that one needs here, with all that they need."""
    found, waiting = set(), [(name, frozenset(extras))]
    while waiting:
        name, extras = waiting.pop()
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            key = requirement.name.lower().replace("_", "-").replace(".", "-")
            if key not in found:
                found.add(key)
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


# -- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [FOLDER / "Dockerfile", *sorted(production.FOLDER.glob("Dockerfile.*"))], ids=lambda path: path.name
)
def test_hadolint_finds_nothing(path):
    # DL3008 wants versions of Debian's packages; Debian keeps one a release only.
    command = [str(Path(sys.executable).with_name("hadolint")), "--ignore", "DL3008", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_in_the_image_is_in_the_lock_file():
    """The image installs what setup.py needs, with the lock file as constraint: a name not in there would float."""
    assert "UV_CONSTRAINT=/src/requirements.txt" in DOCKERFILE and "COPY requirements.txt" in DOCKERFILE
    versions, wanted = locked(), needed("htr-pipeline", ["kubeflow"]) - {"htr-client"}
    assert len(wanted) > 100 and not wanted - set(versions)
    different = {name for name in wanted if metadata.version(name) != versions[name]}
    assert not different, "the environment is not that of the lock file: run ./setup_env.sh"


def test_gpu_image_has_the_locked_tensorflow_and_cuda_in_one_version():
    (version,) = re.findall(r'"tensorflow\[and-cuda\]==([\d.]+)"', DOCKERFILE)
    assert version == locked()["tensorflow"] == metadata.version("tensorflow")
    cuda = [text for text in metadata.requires("tensorflow") if "and-cuda" in text]
    assert cuda and all(re.search(r"==\s*[\d.]+\s*;", text) for text in cuda)
    # The folders that hold libraries, one for each package.
    folders = {re.match(r"nvidia-(.+)-cu12", text)[1].replace("-", "_") for text in cuda}
    assert set(re.findall(r"\$CUDA/(\w+)/lib", DOCKERFILE)) == folders - {"cuda_nvcc"}


def test_versions_in_image_code_and_configuration_agree():
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert set(re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.M)) == {python}
    assert f"\nwanted={python}\n" in (ROOT / "setup_env.sh").read_text()
    assert f"python{python}/site-packages" in DOCKERFILE
    (uv,) = re.findall(r'"(uv==\S+)"', DOCKERFILE)
    assert uv in (ROOT / "setup_env.sh").read_text()
    release = metadata.version("htr-pipeline")
    assert Config().kubeflow.image == f"htr-pipeline:{release}"
    assert re.findall(r"-t (htr-\w+):(\S+)", DOCKERFILE) == [("htr-pipeline", release), ("htr-trainer", release)]
    # TensorFlow Serving has no patch releases of its own for each of TensorFlow's.
    served = {v.image.split(":")[1].removesuffix("-gpu") for v in production.Settings.read().variants.values()}
    assert {version.rpartition(".")[0] for version in served} == {locked()["tensorflow"].rpartition(".")[0]}


def test_image_has_the_packages_and_no_rights():
    stages = DOCKERFILE.split("\nFROM ")
    assert [stage.split("\n")[0].split()[-1] for stage in stages[1:]] == ["build-cpu", "build-gpu", "cpu", "gpu"]
    final = stages[3]
    assert re.findall(r"^USER (\S+)", final, re.M) == [production.USER]
    assert "USER" not in stages[4] and stages[4].startswith("cpu AS gpu")
    copied = {name for name in re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M)}
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    entry_point = kubeflow_runner.ENTRY_POINT
    assert entry_point[:2] == ("python", "-m") and entry_point[2].split(".")[0] in copied
    packages = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} - {"tests", "benchmarks"}
    assert packages <= copied and {f"!{name}" for name in copied} <= set(ignored)


# -- manifests -------------------------------------------------------------------------------------------------


def validate(text, version):
    objects = [document for document in yaml.safe_load_all(text) if document]
    for document in objects:
        kubernetes_validate.validate(document, version, strict=True)
    return objects


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_manifests_are_valid(path, version):
    assert validate(path.read_text(), version)


def test_validation_is_strict():
    deployment = next(path for path in OBJECTS if path.name == "deployment.yaml").read_text()
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment.replace("readinessProbe:", "readynessProbe:"), KUBERNETES[-1])


@pytest.fixture(scope="module")
def build():
    tool = next(
        (command for command in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(command[0])), None
    )
    if tool is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    built = {}
    for name in BUILDABLE:
        done = subprocess.run([*tool, str(FOLDER / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        built[name] = done.stdout
    return built


@pytest.mark.parametrize("version", KUBERNETES)
def test_overlays_are_valid(build, version):
    kinds = {name: sorted(o["kind"] for o in validate(text, version)) for name, text in build.items()}
    server = ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"]
    assert kinds["serving/overlays/cpu"] == kinds["serving/overlays/gpu"] == server
    assert kinds["serving/overlays/canary"] == ["Deployment"]
    assert kinds["storage"] == ["PersistentVolumeClaim"] * 2


def of_kind(text, kind):
    (found,) = [document for document in yaml.safe_load_all(text) if document["kind"] == kind]
    return found


def matches(selector, labels):
    return selector.items() <= labels.items()


def test_parts_of_an_overlay_fit_together(build):
    claims = {o["metadata"]["name"] for o in yaml.safe_load_all(build["storage"])}
    for name in ("cpu", "gpu"):
        text = build[f"serving/overlays/{name}"]
        deployment, service = of_kind(text, "Deployment"), of_kind(text, "Service")
        pod = deployment["spec"]["template"]
        labels = pod["metadata"]["labels"]
        (container,) = pod["spec"]["containers"]
        assert container["image"] == f"htr-serving:{name}"
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            service["spec"]["selector"],
            of_kind(text, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            of_kind(text, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ):
            assert matches(selector, labels)
        target = of_kind(text, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        assert "replicas" not in deployment["spec"]
        volumes = {v["name"] for v in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        used = {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v}
        assert used <= claims
        assert container["resources"]["limits"].get("nvidia.com/gpu") == ({"gpu": 1}.get(name))


def test_canary_stands_behind_the_service_but_is_no_part_of_the_other_deployment(build):
    canary = of_kind(build["serving/overlays/canary"], "Deployment")
    labels = canary["spec"]["template"]["metadata"]["labels"]
    stable = build["serving/overlays/cpu"]
    assert matches(of_kind(stable, "Service")["spec"]["selector"], labels)
    assert matches(of_kind(stable, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], labels)
    assert matches(canary["spec"]["selector"]["matchLabels"], labels)
    assert not matches(of_kind(stable, "Deployment")["spec"]["selector"]["matchLabels"], labels)
    stable_labels = of_kind(stable, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not matches(canary["spec"]["selector"]["matchLabels"], stable_labels)
    assert canary["metadata"]["name"] != of_kind(stable, "Deployment")["metadata"]["name"]
    assert canary["spec"]["replicas"] == 1


def test_pods_suit_the_server_in_the_image():
    """Ports, folders, user and probes are those of serving/production."""
    (deployment,) = yaml.safe_load_all((FOLDER / "serving/server/deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": production.GRPC_PORT, "http": production.REST_PORT}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[production.MODELS_FOLDER]["readOnly"] and production.SSL_CONFIG in mounts
    security = spec["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == production.USER and security["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == production.PROMETHEUS_PATH
    assert annotations["prometheus.io/port"] == str(production.REST_PORT)
    model = production.Settings.read().model
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{model}/labels/stable/metadata"
    assert container["readinessProbe"]["httpGet"]["path"] in production.health_command(model)
    # preStop must end before the pod is killed.
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) < spec["terminationGracePeriodSeconds"]
    (policy,) = yaml.safe_load_all((FOLDER / "serving/base/networkpolicy.yaml").read_text())
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == {production.GRPC_PORT, production.REST_PORT}
