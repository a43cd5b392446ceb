"""Images and manifests: linted, valid by Kubernetes' own schemas, and of one mind with lock file, code and servers."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from pipeline.config import Config
from pipeline.runners import kubeflow_runner
from serving.configuration import files, settings
from serving.server import PROMETHEUS_PATH

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kubeflow"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
KUBERNETES = ("1.28", kubernetes_validate.latest_version())
BUILDABLE = ("storage", "serving/overlays/cpu", "serving/overlays/gpu", "serving/overlays/canary")
# Patches and kustomizations are no objects of their own.
OBJECTS = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name not in ("kustomization.yaml", "retries.yaml") and ("overlays" not in path.parts)
)


STACK = "current" if sys.version_info >= (3, 11) else "portable"


def locked(name, python=None):
    """The versions in a lock file, as they hold for a version of Python or for this one."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if "==" in line and line[0] not in "# "]
    environment = {"python_version": python, "python_full_version": f"{python}.0"} if python else {}
    chosen = [r for r in wanted if r.marker is None or r.marker.evaluate(environment)]
    return {r.name.lower().replace("_", "-").replace(".", "-"): str(r.specifier)[2:] for r in chosen}


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
    "path", [FOLDER / "Dockerfile", *sorted(settings.FOLDER.glob("Dockerfile.*"))], ids=lambda path: path.name
)
def test_hadolint_finds_nothing(path):
    # DL3008 wants versions of Debian's packages; Debian keeps one a release only.
    command = [str(Path(sys.executable).with_name("hadolint")), "--ignore", "DL3008", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_needed_is_in_the_lock_file():
    """Images install what setup.py needs, with the lock file as constraint: a name not in there would float."""
    assert (
        "UV_CONSTRAINT=/src/requirements/current.txt" in DOCKERFILE and "COPY requirements requirements" in DOCKERFILE
    )
    extras = re.findall(r"--extra (\w+)", DOCKERFILE)
    # Settings that need them are checked where the pipeline is compiled, not in the image.
    assert sorted(extras) == sorted(metadata.metadata("htr-pipeline").get_all("Provides-Extra"))
    versions, wanted = locked(STACK), needed("htr-pipeline", extras) - {"htr-client"}
    assert len(wanted) > 100 and not wanted - set(versions)
    different = {name for name in wanted if metadata.version(name) != versions[name]}
    assert not different, "the environment is not that of the lock file: run ./setup_env.sh"


@pytest.mark.parametrize(("stack", "python"), [("portable", "3.10"), ("current", "3.12")])
def test_setup_allows_what_is_locked(stack, python):
    versions = locked(stack, python)
    for requirement in map(Requirement, metadata.requires("htr-pipeline")):
        if requirement.name != "htr-client":
            assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement


def test_gpu_image_has_the_locked_tensorflow_and_cuda():
    assert "pip install --requirement requirements/current-cuda.txt" in DOCKERFILE
    # Without that link TensorFlow 2.21 does not find cuSOLVER, and uses no GPU.
    (python,) = set(re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.M))
    folder = f"/opt/htr/lib/python{python}/site-packages/nvidia/cusparse/lib/"
    assert f"ln -s ../../cusolver/lib/libcusolver.so.11 {folder}" in DOCKERFILE


@pytest.mark.parametrize(("stack", "python"), [("portable", "3.10"), ("current", "3.12"), ("current", "3.13")])
def test_cuda_adds_to_a_stack_and_changes_nothing_in_it(stack, python):
    cpu, gpu = locked(stack, python), locked(f"{stack}-cuda", python)
    cuda = {name for name in gpu if name.startswith("nvidia-")}
    assert "nvidia-cudnn-cu12" in cuda and set(gpu) - cuda <= set(cpu)
    assert {name: cpu[name] for name in set(gpu) - cuda} == {name: gpu[name] for name in set(gpu) - cuda}


def test_versions_in_images_code_and_configuration_agree():
    script = (ROOT / "setup_env.sh").read_text()
    (python,) = set(re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.M))
    assert re.search(rf'^current_pythons="{re.escape(python)} ', script, re.M)
    assert re.search(rf"^{STACK}_pythons=.*\b{sys.version_info.major}\.{sys.version_info.minor}\b", script, re.M)
    assert locked("airflow", python)["apache-airflow"] == locked("airflow", "3.10")["apache-airflow"]
    (uv,) = set(re.findall(r'"(uv==\S+)"', DOCKERFILE))
    assert uv in script
    release = metadata.version("htr-pipeline")
    assert Config().kubeflow.image == f"htr-pipeline:{release}"
    assert re.findall(r"-t (htr-\w+:\S+)", DOCKERFILE) == [
        "htr-pipeline:$VERSION", "htr-trainer:$VERSION", "htr-airflow:$VERSION", "htr-airflow:$VERSION-gpu",
        "htr-beam:$VERSION",
    ]  # fmt: skip
    # The server is that of the older stack, since it must serve the models of both.
    served = {v.image.split(":")[1].removesuffix("-gpu") for v in settings.Settings.read().variants.values()}
    oldest = locked("portable", "3.10")["tensorflow"]
    assert {version.rpartition(".")[0] for version in served} == {oldest.rpartition(".")[0]}


def dockerfile_stages():
    return {text.split("\n")[0].split()[-1]: text for text in DOCKERFILE.split("\nFROM ")[1:]}


def test_image_has_the_packages_and_no_rights():
    stages = dockerfile_stages()
    assert list(stages) == [
        "build-cpu", "build-gpu", "build-airflow", "step", "cpu", "gpu", "beam", "airflow-base", "airflow-gpu",
        "airflow",
    ]  # fmt: skip
    assert re.findall(r"^USER (\S+)", stages["step"], re.M) == [files.USER]
    # One environment in each, which takes gigabytes.
    assert "/opt/htr /opt/htr" not in stages["step"] + stages["beam"] + stages["airflow-base"]
    for name, base, environment in (
        ("cpu", "step", "cpu"), ("gpu", "step", "gpu"), ("beam", "cpu", None),
        ("airflow", "airflow-base", "cpu"), ("airflow-gpu", "airflow-base", "gpu"),
    ):  # fmt: skip
        assert "USER" not in stages[name] and stages[name].startswith(f"{base} AS {name}\n")
        copied = re.findall(r"^COPY --from=build-(\w+) /opt/htr /opt/htr$", stages[name], re.M)
        assert copied == ([environment] if environment else [])
        assert ("NVIDIA_DRIVER_CAPABILITIES=compute,utility" in stages[name]) == (environment == "gpu")
    assert re.findall(r"^USER (\S+)", stages["airflow-base"], re.M) == ["50000:0"]
    copied = {name for name in re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.M)}
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    entry_point = kubeflow_runner.ENTRY_POINT
    assert entry_point[:2] == ("python", "-m") and entry_point[2].split(".")[0] in copied
    packages = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} - {"tests", "benchmarks"}
    assert packages <= copied and {f"!{name}" for name in copied} <= set(ignored)


def test_beams_engines_can_start_the_image_of_their_workers():
    """They start it with arguments for Beam's own program, which must be of the version that runs the pipeline."""
    image = dockerfile_stages()["beam"]
    (python,) = set(re.findall(r"^FROM python:([\d.]+)-", DOCKERFILE, re.M))
    version = locked("current", python)["apache-beam"]
    assert f"COPY --from=apache/beam_python{python}_sdk:{version} /opt/apache/beam /opt/apache/beam\n" in image
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]\n' in image
    assert "ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1\n" in image  # packages are in /opt/htr, which is read-only
    assert "registry.example.com/htr-beam:" in (ROOT / "docs/production.md").read_text()


def test_airflows_helm_chart_can_start_the_image(tmp_path):
    """Airflow asks for the user's name, and the chart's probes run `exec /entrypoint airflow jobs check`.

    Beside each service it runs `bash /clean-logs`, which must stay; it sets FAB's auth manager and StatsD.
    """
    image = dockerfile_stages()["airflow-base"].replace("\\\n", "")
    (created,) = re.findall(r"useradd .*?(?= &&)", image)
    made = argparse.ArgumentParser()
    for option in ("--uid", "--gid", "--home-dir", "name"):
        made.add_argument(option)
    user, _ = made.parse_known_args(created.split()[1:])
    (home,) = re.findall(r" HOME=(\S+)", image)
    assert re.findall(r"^USER (\S+)", image, re.M) == [f"{user.uid}:{user.gid}"]
    assert (user.name, user.home_dir) == ("airflow", home) and "--create-home" in created
    assert image.index("useradd") < image.index("USER ")

    (written,) = re.findall(r"printf .*>/entrypoint && chmod \d+ /entrypoint", image)
    subprocess.run(written.replace("/entrypoint", str(tmp_path / "entrypoint")), shell=True, check=True)
    done = subprocess.run([tmp_path / "entrypoint", "sh", "-c", 'echo "$1"; exit 7', "sh", "two words"],
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "two words\n")
    assert 'ENTRYPOINT ["/entrypoint"]' in image
    assert "COPY --chmod=755 kubeflow/clean-logs /clean-logs\n" in image
    assert "!kubeflow/clean-logs" in (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert {"apache-airflow-providers-fab", "statsd"} <= set(locked("airflow", "3.12"))


def test_old_logs_of_airflow_are_deleted_until_the_chart_ends_the_container(tmp_path):
    days = {"old/gone.log": 4, "old/kept.txt": 4, "new/kept.log": 2, "empty/gone.log": 4}
    for name, age in days.items():
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        for touched in (path, path.parent):
            os.utime(touched, (time.time() - age * 86400,) * 2)
    (tmp_path / "logs" / "just_made").mkdir()
    environment = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__LOG_RETENTION_DAYS": "3",
                   "AIRFLOW__LOG_CLEANUP_FREQUENCY_MINUTES": "0.002"}  # fmt: skip
    cleaning = subprocess.Popen(["bash", FOLDER / "clean-logs"], env=os.environ | environment)
    try:
        deadline = time.monotonic() + 30
        while sorted(tmp_path.rglob("*.log")) != [tmp_path / "logs/new/kept.log"]:
            assert cleaning.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.utime(tmp_path / "logs/empty", (time.time() - 86400,) * 2)
        while (tmp_path / "logs/empty").exists():  # it looks again
            assert cleaning.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert (tmp_path / "logs/old/kept.txt").exists() and (tmp_path / "logs/just_made").exists()
        cleaning.terminate()
        cleaning.wait(10)
    finally:
        cleaning.kill()


def test_values_for_airflows_helm_chart_fit_image_lock_file_and_settings():
    guide = (ROOT / "docs" / "production.md").read_text()
    (text,) = [block for block in re.findall(r"^```yaml\n(.*?)^```", guide, re.M | re.S) if "airflowVersion" in block]
    values = yaml.safe_load(text)
    assert values["airflowVersion"] == locked("airflow", "3.12")["apache-airflow"]
    image = values["images"]["airflow"]
    name = f"{image['repository'].split('/')[-1]}:{image['tag']}"
    assert name.replace(metadata.version("htr-pipeline"), "$VERSION") in DOCKERFILE
    assert [v["name"] for v in values["volumes"]] == [m["name"] for m in values["volumeMounts"]]
    (mount,) = values["volumeMounts"]
    (dags,) = re.findall(r" (\S+/dags) ", dockerfile_stages()["airflow-base"])
    (compiled,) = re.findall(r"-- htr compile airflow ((?:.*\\\n)*.*)\n", guide)
    assert compiled.split()[0] == dags and compiled.count(f" {mount['mountPath']}/") == 3
    (workers,) = values["workers"]["celery"]["sets"]
    assert f"queues: {{Trainer: {workers['queue']}}}" in guide and image["tag"].endswith("-gpu")


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
        # Nodes do not pull a tag again that they have, so it changes with what is in the image.
        assert container["image"] == f"htr-serving:{metadata.version('htr-pipeline')}-{name}"
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            service["spec"]["selector"],
            of_kind(text, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            of_kind(text, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ):
            assert matches(selector, labels)
        guide, name_in_cluster = (
            (ROOT / "docs" / "production.md").read_text(),
            f"{service['metadata']['name']}.kubeflow",
        )
        assert f"`{name_in_cluster}:8500`" in guide and f"`DNS:{name_in_cluster}`" in guide
        target = of_kind(text, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        assert "replicas" not in deployment["spec"]
        volumes = {v["name"] for v in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        used = {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v}
        assert used <= claims
        assert container["resources"]["limits"].get("nvidia.com/gpu") == ({"gpu": 1}.get(name))


def test_the_gpu_overlay_needs_one_gpu_and_waits_for_cuda(build):
    """A pod that waits for a GPU would end each rollout; what is compiled in minutes must outlive the container."""
    text = build["serving/overlays/gpu"]
    scaling, deployment = of_kind(text, "HorizontalPodAutoscaler")["spec"], of_kind(text, "Deployment")["spec"]
    assert (scaling["minReplicas"], scaling["maxReplicas"]) == (1, 1)
    pod = deployment["template"]
    (container,) = pod["spec"]["containers"]
    probe = container["startupProbe"]
    starting = probe["periodSeconds"] * probe["failureThreshold"]
    assert probe["httpGet"] and deployment["progressDeadlineSeconds"] > starting >= 20 * 60
    (cache,) = re.findall(r" CUDA_CACHE_PATH=(\S+)", (settings.FOLDER / "Dockerfile.gpu").read_text())
    kept = {v["name"] for v in pod["spec"]["volumes"] if "emptyDir" in v}
    assert any(cache.startswith(m["mountPath"] + "/") for m in container["volumeMounts"] if m["name"] in kept)


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


def test_istio_leaves_the_pods_alone(build):
    """Its sidecar, which Kubeflow's profiles add, is never ready where a policy allows no egress."""
    pods = [of_kind(build[f"serving/overlays/{name}"], "Deployment")["spec"]["template"] for name in ("cpu", "canary")]
    by_hand = [yaml.safe_load((FOLDER / "storage" / name).read_text()) for name in ("shell.yaml", "owner.yaml")]
    for pod in pods + by_hand:
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"


def test_data_is_copied_to_volumes_of_the_user_of_the_steps():
    claims, mounts = {}, {}
    for name in ("shell", "owner"):
        spec = yaml.safe_load((FOLDER / "storage" / f"{name}.yaml").read_text())["spec"]
        (container,) = spec["containers"]
        assert container["image"] == Config().kubeflow.image
        claims[name] = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"]}
        mounts[name] = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert claims["shell"] == claims["owner"] and mounts["shell"] == mounts["owner"]
    assert container["command"] == ["chown", files.USER, *mounts["owner"].values()]
    guide = (ROOT / "docs" / "production.md").read_text()
    (steps,) = re.findall(r"shell.yaml\n(   kubectl wait (?:.*\n)*?)   ```", guide)
    (tried,) = re.findall(r"htr-shell -- touch (.*?)  ", steps)
    assert tried.split() == list(mounts["shell"].values())
    # Into a folder that is always there: the first copy to a new name would become that folder, the next go below it.
    ((source, target),) = re.findall(r"cp (\S+) htr-shell:(\S+)", steps)
    assert target in mounts["shell"].values() and f"--data {target}/{source}\n" in steps


def test_new_certificates_reach_every_deployment_of_the_overlays(build):
    """Pods never see a new Secret: the command that restarts them finds all that mount it."""
    readme = (settings.FOLDER.parent / "README.md").read_text()
    ((key, value),) = re.findall(r"^kubectl rollout restart deployment -l ([\w./-]+)=([\w-]+)", readme, re.M)
    for name in ("cpu", "gpu", "canary"):
        assert of_kind(build[f"serving/overlays/{name}"], "Deployment")["metadata"]["labels"][key] == value


def test_pods_suit_the_server_in_the_image():
    """Ports, folders, user and probes are those of serving/production."""
    (deployment,) = yaml.safe_load_all((FOLDER / "serving/server/deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": files.GRPC_PORT, "http": files.REST_PORT}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[files.MODELS_FOLDER]["readOnly"]
    security = spec["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == files.USER and security["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    chosen = settings.Settings.read()
    # TensorFlow sees all cores of the node, and reads these where the image's command line names no number.
    threads = {variable["name"]: variable["valueFrom"] for variable in container["env"]}
    own_limit = {"resourceFieldRef": {"resource": "limits.cpu"}}
    assert threads == {"TF_NUM_INTRAOP_THREADS": own_limit, "TF_NUM_INTEROP_THREADS": own_limit}
    assert container["resources"]["limits"]["cpu"] and not any(
        "parallelism" in flag for name in chosen.variants for flag in files.flags(chosen, name)
    )
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == PROMETHEUS_PATH
    assert annotations["prometheus.io/port"] == str(files.REST_PORT)
    path = f"/v1/models/{chosen.model}/labels/stable/metadata"
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == path
    assert path in files.health_command(chosen.model)
    # Both must be changed by hand where the settings are others: the guide says so.
    assert (chosen.tls != "none") == (files.SSL_CONFIG in mounts) == any(v["name"] == "tls" for v in spec["volumes"])
    guide = (ROOT / "docs" / "production.md").read_text()
    assert f"The manifests are for the model `{chosen.model}` and for TLS." in guide
    # preStop must end before the pod is killed.
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) < spec["terminationGracePeriodSeconds"]
    (policy,) = yaml.safe_load_all((FOLDER / "serving/base/networkpolicy.yaml").read_text())
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == {files.GRPC_PORT, files.REST_PORT}
