"""What is compiled: valid by Kubeflow's schema, with the resources, nodes, secrets and volumes of the configuration."""

import errno
import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from kubeflow_launcher import OF_2_17, PATCHED, UP_TO_2_16, Attempts
from tfx.types.artifact import Artifact
from tfx.utils import import_utils

from components.common.settings import ConfigError
from htr_client.version import __version__
from pipeline import cli
from pipeline.config import load
from pipeline.runners import kubeflow_runner, kubeflow_step

KUBERNETES = ("1.28", kubernetes_validate.latest_version())
SETTINGS = [
    "data.paths=[/data/names]",
    "push.model_dir=/models/htr",
    "tune.trials=2",
    "kubeflow.trainer_image=registry.example/htr-trainer:0.1.0",
    "kubeflow.accelerators=2",
    "kubeflow.accelerator=amd.com/gpu",
    "kubeflow.memory=6",
    "kubeflow.cpu_request=9",
    "kubeflow.trainer_memory_request=24",
    "kubeflow.node_selector={disk: ssd}",
    "kubeflow.trainer_node_selector={gpu: l4}",
    "kubeflow.tolerations=[{key: batch, operator: Equal, value: 'yes', effect: NoSchedule}]",
    "kubeflow.volumes={htr-data: /data, htr-models: /models}",
    "kubeflow.secret_env={s3: {accesskey: AWS_ACCESS_KEY_ID}}",
    "kubeflow.secret_volumes={gcs: /secrets}",
    "kubeflow.image_pull_secrets=[registry]",
    "kubeflow.cpu=3.5",
    "kubeflow.env={TZ: UTC, TF_NUM_INTEROP_THREADS: '2'}",
    "kubeflow.pipeline_root=s3://bucket/htr",
]


@pytest.fixture(scope="module")
def package():
    return kubeflow_runner.compile_pipeline(load(overrides=SETTINGS))


def executors(package):
    spec, platform = yaml.safe_load_all(kubeflow_runner.as_yaml(package))
    on_kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(on_kubernetes) == set(spec["deploymentSpec"]["executors"])
    return {
        name.removesuffix("_executor"): (executor["container"], on_kubernetes[name])
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }


def pod(container, config):
    """The pod as Kubeflow's driver makes it of both documents."""
    limits, requests = (
        {"cpu": f"{container['resources'][f'cpu{kind}']}", "memory": f"{container['resources'][f'memory{kind}']}G"}
        for kind in ("Limit", "Request")
    )
    if accelerator := container["resources"].get("accelerator"):
        limits[accelerator["type"]] = accelerator["count"]
    env = container.get("env", []) + [
        {"name": k["envVar"], "valueFrom": {"secretKeyRef": {"name": s["secretName"], "key": k["secretKey"]}}}
        for s in config.get("secretAsEnv", [])
        for k in s["keyToEnv"]
    ]
    volumes = [
        {"name": v["constant"], "persistentVolumeClaim": {"claimName": v["constant"]}}
        for v in config.get("pvcMount", [])
    ] + [{"name": v["secretName"], "secret": {"secretName": v["secretName"]}} for v in config.get("secretAsVolume", [])]
    mounts = [{"name": v["constant"], "mountPath": v["mountPath"]} for v in config.get("pvcMount", [])] + [
        {"name": v["secretName"], "mountPath": v["mountPath"]} for v in config.get("secretAsVolume", [])
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": container["image"],
                    "command": container["command"],
                    "args": container["args"],
                    "resources": {"limits": limits, "requests": requests},
                    "env": env,
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
            "nodeSelector": config.get("nodeSelector", {}).get("labels", {}),
            "tolerations": config.get("tolerations", []),
            "activeDeadlineSeconds": config.get("activeDeadlineSeconds"),
            "imagePullSecrets": [{"name": s["secretName"]} for s in config.get("imagePullSecret", [])],
        },
    }


def test_both_documents_are_valid_by_kubeflows_schema(package):
    spec, platform = yaml.safe_load_all(kubeflow_runner.as_yaml(package))
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.schema_version == "2.1.0" and parsed.default_pipeline_root == "s3://bucket/htr"
    deployment = json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    # The open-source backend runs containers and importers only.
    assert {executor.WhichOneof("spec") for executor in deployment.executors.values()} == {"container"}
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())


def test_every_type_can_be_imported_in_the_containers(package):
    definitions = list(package[0]["components"].values())
    for container, _ in executors(package).values():
        place = container["args"].index("--json_serialized_inputs_spec_args") + 1
        definitions.append({"inputDefinitions": json.loads(container["args"][place])})
    titles = {
        yaml.safe_load(artifact["artifactType"]["instanceSchema"])["title"]
        for definition in definitions
        for side in ("inputDefinitions", "outputDefinitions")
        for artifact in definition.get(side, {}).get("artifacts", {}).values()
    }
    ours = {title for title in titles if not title.startswith("tfx.")}
    assert ours and all(issubclass(import_utils.import_class_by_path(title), Artifact) for title in ours)


def test_every_input_comes_from_a_task_that_is_waited_for(package):
    spec = package[0]
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["HandwritingExampleGen"]["inputs"]["parameters"]["input_fingerprint"] == {
        "taskOutputParameter": {"producerTask": "DataVersion", "outputParameterKey": "fingerprint"}
    }
    for task in tasks.values():
        for kind, key in (("artifacts", "taskOutputArtifact"), ("parameters", "taskOutputParameter")):
            for value in task.get("inputs", {}).get(kind, {}).values():
                if source := value.get(key):
                    assert source["producerTask"] in task["dependentTasks"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_steps_become_valid_pods(package, version):
    for container, config in executors(package).values():
        kubernetes_validate.validate(pod(container, config), version, strict=True)


def test_a_node_keeps_less_for_a_step_than_its_limits(package):
    kept = {
        name: pod(container, config)["spec"]["containers"][0]["resources"]["requests"]
        for name, (container, config) in executors(package).items()
    }
    assert kept["Trainer"] == kept["Tuner"] == {"cpu": "2.0", "memory": "24.0G"}
    assert kept["Gate"] == {"cpu": "3.5", "memory": "2.0G"}  # more than its limit no pod can ask for


def test_tensorflow_has_no_more_threads_than_the_limit_lets_it_use(package):
    """It sees all cores of the node. What the settings name stays."""
    for name, (container, _) in executors(package).items():
        assert {variable["name"]: variable["value"] for variable in container["env"]} == {
            "TF_NUM_INTRAOP_THREADS": "8" if name in ("Trainer", "Tuner") else "4",
            "TF_NUM_INTEROP_THREADS": "2",
            "TZ": "UTC",
        }


def test_a_try_of_a_step_ends_in_time(package):
    assert {config["activeDeadlineSeconds"] for _, config in executors(package).values()} == {86400}
    unlimited = kubeflow_runner.compile_pipeline(load(overrides=[*SETTINGS, "kubeflow.timeout=null"]))
    assert not any("activeDeadlineSeconds" in config for _, config in executors(unlimited).values())


def test_only_training_gets_accelerators_and_their_nodes(package):
    assert {"Trainer", "Tuner"} <= set(executors(package))
    for name, (container, config) in executors(package).items():
        spec = pod(container, config)["spec"]
        limits = spec["containers"][0]["resources"]["limits"]
        tolerated = [toleration["key"] for toleration in spec["tolerations"]]
        if name in ("Trainer", "Tuner"):
            assert container["image"] == "registry.example/htr-trainer:0.1.0"
            assert limits == {"cpu": "8.0", "memory": "32.0G", "amd.com/gpu": "2"}
            assert spec["nodeSelector"] == {"disk": "ssd", "gpu": "l4"} and tolerated == ["batch", "nvidia.com/gpu"]
        else:
            assert container["image"] == f"htr-pipeline:{__version__}" and limits == {"cpu": "3.5", "memory": "6.0G"}
            assert spec["nodeSelector"] == {"disk": "ssd"} and tolerated == ["batch"]
        (main,) = spec["containers"]
        assert main["env"][-1]["name"] == "AWS_ACCESS_KEY_ID"
        assert {mount["mountPath"] for mount in main["volumeMounts"]} == {"/data", "/models", "/secrets"}


@pytest.mark.parametrize(("image", "count"), [("null", None), ("registry.example/htr-trainer:0.1.0", "1")])
def test_accelerators_come_with_the_image_that_can_use_them(image, count):
    package = kubeflow_runner.compile_pipeline(
        load(overrides=[*SETTINGS, f"kubeflow.trainer_image={image}", "kubeflow.accelerators=null"])
    )
    container, config = executors(package)["Trainer"]
    assert container["resources"].get("accelerator", {}).get("count") == count
    assert ("nvidia.com/gpu" in [toleration["key"] for toleration in config["tolerations"]]) == bool(count)


def test_caching_and_retries(package):
    tasks = package[0]["root"]["dag"]["tasks"]
    assert {n for n, task in tasks.items() if not task["cachingOptions"]["enableCache"]} == {
        "DataVersion",
        "Baseline",
        "Pusher",
    }
    warm = load(overrides=[*SETTINGS, "train.warm_start=/models/htr", "tune.trials=2"])
    tasks_of_warm = kubeflow_runner.compile_pipeline(warm)[0]["root"]["dag"]["tasks"]
    for name in ("Trainer", "Tuner"):  # the directory may hold a newer version, which no driver notices
        assert not tasks_of_warm[name]["cachingOptions"]["enableCache"]
    assert {n for n, task in tasks.items() if "retryPolicy" not in task} == {"ExampleValidator", "Gate"}
    retry = {"maxRetryCount": 2, "backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "2592000s"}
    assert tasks["Trainer"]["retryPolicy"] == retry
    eager = load(overrides=[*SETTINGS, "kubeflow.retry_delay=0.5"])
    retry = kubeflow_runner.compile_pipeline(eager)[0]["root"]["dag"]["tasks"]["Trainer"]["retryPolicy"]
    assert retry["backoffDuration"] == "1s"  # of "0.5s" Kubeflow would read 0


def test_a_training_is_tried_again_however_long_it_took(package):
    """By Argo's clock, which counts from the start of the first attempt."""
    day = 24 * 3600
    attempts = Attempts(package[0]["root"]["dag"]["tasks"]["Trainer"]["retryPolicy"])
    assert attempts.ends_in_time(3600) and attempts.begin_another() and attempts.now == 3660
    assert attempts.ends_in_time(7 * day) and attempts.begin_another() and attempts.now == 3660 + 7 * day + 120
    assert attempts.ends_in_time(7 * day) and not attempts.begin_another() and attempts.number == 3


@pytest.mark.parametrize(
    ("installed", "failed", "lost"), [(UP_TO_2_16, True, False), (OF_2_17, False, True), (PATCHED, True, True)]
)
def test_what_is_tried_again_depends_on_the_installation(package, installed, failed, lost):
    told = (Path(kubeflow_runner.__file__).parents[2] / "docs" / "production.md").read_text()
    assert "patch configmap workflow-controller-configmap --type merge --patch-file kubeflow/retries.yaml\n" in told
    words = " | ".join("tried again" if again else "ends the run" for again in (failed, lost))
    assert re.search(rf"^ +\| .*{re.escape(words)} \|$", told, re.MULTILINE)
    tasks = package[0]["root"]["dag"]["tasks"]
    assert Attempts(tasks["Trainer"]["retryPolicy"], installed).begin_another() == failed
    assert Attempts(tasks["Trainer"]["retryPolicy"], installed).begin_another(lost=True) == lost
    # Nor does a verdict begin the pipeline again, whose template has no limit of its own, too.
    assert not Attempts(tasks["Gate"].get("retryPolicy"), installed).begin_another()


def test_steps_can_work_on_addresses_without_cache_retries_and_accelerator():
    changes = ["stage_artifacts=false", "pipeline_root=gs://bucket/htr", "cache=false", "retries=0", "accelerators=0"]
    settings = [*SETTINGS, *(f"kubeflow.{change}" for change in changes)]
    package = kubeflow_runner.compile_pipeline(load(overrides=settings))
    for task in package[0]["root"]["dag"]["tasks"].values():
        assert "retryPolicy" not in task and not task["cachingOptions"]["enableCache"]
    for container, config in executors(package).values():
        assert "--local" not in container["args"] and "accelerator" not in container["resources"]
        assert [toleration["key"] for toleration in config["tolerations"]] == ["batch"]


def test_a_step_that_works_on_addresses(package, tmp_path):
    """Without `--local` nothing is copied; here the address is a folder."""
    spec = package[0]
    container, _ = executors(package)["SchemaGen"]
    place = tmp_path / "root" / "schema"
    definition = spec["components"]["SchemaGen"]["outputDefinitions"]["artifacts"]["schema"]
    artifact = {"name": "schema", "uri": str(place), "type": definition["artifactType"]}
    parameters = spec["root"]["dag"]["tasks"]["SchemaGen"]["inputs"]["parameters"]
    invocation = {
        "inputs": {"parameterValues": {k: v["runtimeValue"]["constant"] for k, v in parameters.items()}},
        "outputs": {"artifacts": {"schema": {"artifacts": [artifact]}}, "outputFile": str(tmp_path / "out.json")},
    }
    arguments = container["args"][: container["args"].index("--local")]
    kubeflow_step.main([argument.replace("{{$}}", json.dumps(invocation)) for argument in arguments])
    assert (place / "schema.pbtxt").read_text() == parameters["text"]["runtimeValue"]["constant"]
    (reported,) = json.loads((tmp_path / "out.json").read_text())["artifacts"]["schema"]["artifacts"]
    assert reported["uri"] == str(place) and None not in reported["metadata"].values()


@pytest.mark.parametrize("release", ["0.0.9", None])
def test_a_step_of_another_release_is_refused_in_one_sentence(package, release, capfd):
    container, _ = executors(package)["SchemaGen"]
    arguments = container["args"][: container["args"].index("--release")]
    arguments += ["--release", release] if release else []
    assert kubeflow_step.run([argument.replace("{{$}}", "{}") for argument in arguments]) == cli.USAGE
    reason = capfd.readouterr().out.splitlines()[-1]
    by = f"htr {release}" if release else "an earlier release of htr"
    assert f"compiled by {by}, and htr {__version__} is installed here: build images of that release" in reason


def test_nothing_of_this_machine_is_in_the_package(package):
    text = kubeflow_runner.as_yaml(package)
    assert str(Path(kubeflow_runner.__file__).parents[2]) not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name=my_htr", "name: Kubeflow allows no underscore"),
        ("push.model_dir=null", "push.model_dir: name the folder"),
        ("data.paths=[]", "data.paths: name the data"),
        ("push.model_dir=~/models", "push.model_dir: ~/models is relative; name it as the containers see it"),
        ("drift.fail=true", r"drift\.fail: .*`htr drift --fail`"),
        ("kubeflow.trainer_image=null", r"kubeflow\.accelerators: 2 would .* for kubeflow\.image, .*trainer_image"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        kubeflow_runner.compile_pipeline(load(overrides=[*SETTINGS, change]))


def test_unknown_key_of_a_toleration_is_refused():
    with pytest.raises(ConfigError, match=r"kubeflow\.tolerations: .*not taint"):
        load(overrides=["kubeflow.tolerations=[{taint: x}]"])


def test_a_failure_to_read_is_not_told_as_one_to_write(tmp_path, capsys, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error", "version.zip")

    monkeypatch.setattr(kubeflow_runner, "compile_pipeline", failing)
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = ["compile", "kubeflow", str(tmp_path / "htr.yaml"), "--workspace", str(tmp_path), *settings]
    assert cli.main(command) == cli.ERROR
    error = capsys.readouterr().err
    assert "version.zip" in error and "cannot write" not in error


def test_command_writes_what_is_compiled(tmp_path, capsys, package):
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    out = tmp_path / "htr.yaml"
    assert cli.main(["compile", "kubeflow", str(out), "--workspace", str(tmp_path), *settings]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    written = list(yaml.safe_load_all(out.read_text()))
    assert json.dumps(written, sort_keys=True) == json.dumps(package, sort_keys=True)
    assert (
        cli.main(["compile", "kubeflow", str(tmp_path / "no" / "x.yaml"), "--workspace", str(tmp_path), *settings]) == 2
    )
