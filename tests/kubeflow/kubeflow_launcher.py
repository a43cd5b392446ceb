"""A small stand-in for Kubeflow Pipelines: runs a compiled package here, one process a container.

It does what the backend's driver and launcher do with container executors (kubeflow/pipelines, backend/src/v2):
order by `dependentTasks` alone; inputs as an ExecutorInput whose artifacts have an id for a name, an address, metadata
and an empty type; caching by command, image, parameters and input ids; a pod sees nothing but the copies of its inputs
that were made for it; files (no empty folders) go back to the object store; metadata is merged, and null refused.
A task that fails is tried again as Argo does it, by a clock that nobody waits for.
"""

import json
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import yaml

# Imported once; each container is forked from there. TensorFlow's runtime starts in the containers only.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tfx.components",
        "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
        "components.report.component",
        "components.serving_check.component",
        "components.trainer.training",
        "components.transform.preprocessing",
    ]
)


@dataclass
class Run:
    """What became of a run: state of each task ("Succeeded", "Cached", "Failed", "Omitted"), log and attempts."""

    states: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)


# `templateDefaults.retryStrategy` of Kubeflow Pipelines as it is installed, by version; and with the patch for it.
UP_TO_2_16: dict = {}
OF_2_17 = {"limit": "2", "retryPolicy": "OnError"}
_PATCH = yaml.safe_load((Path(__file__).parents[2] / "kubeflow" / "retries.yaml").read_text())
PATCHED = yaml.safe_load(_PATCH["data"]["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]


class Attempts:
    """When Argo tries a task again (argoproj/argo-workflows, workflow/controller/operator.go, processNodeRetries).

    Its `maxDuration` counts from the start of the first attempt: none begins after it, and all but the first are killed
    by it. Kubeflow (backend/src/v2/compiler/argocompiler) hands over whole seconds, and 0 for what is missing, but no
    policy, which comes from the defaults of the installation.
    """

    def __init__(self, policy: dict | None, defaults: dict = PATCHED):
        """`policy`: retryPolicy of the task; `defaults`: what Argo merges into it."""
        self.number, self.now, self.on = 1, 0.0, defaults.get("retryPolicy", "OnFailure")
        policy = policy or {"maxRetryCount": int(defaults.get("limit", 0)), "backoffMaxDuration": "1e9s"}
        self.retries = policy.get("maxRetryCount", 0)
        self.factor = policy.get("backoffFactor", 0) or 1
        self.delay, self.deadline = (
            int(float(policy.get(name, "0s").removesuffix("s"))) for name in ("backoffDuration", "backoffMaxDuration")
        )

    def ends_in_time(self, seconds: float) -> bool:
        """Whether the attempt under way may take so long; the clock goes on by that."""
        self.now += seconds
        return self.number == 1 or self.now <= self.deadline

    def begin_another(self, lost: bool = False) -> bool:
        """Whether there is another attempt; the clock goes on by what is waited.

        `lost`: the pod is gone, by which Argo calls the step an error, not failed.
        """
        wait = self.delay * self.factor ** (self.number - 1)
        if self.on == ("OnFailure" if lost else "OnError"):
            return False
        if self.number > self.retries or self.now + wait > self.deadline:
            return False
        self.now += wait
        self.number += 1
        return True


class Cluster:
    """Object store, metadata and cache of all runs."""

    def __init__(
        self, folder: Path, in_processes: tuple[str, ...] = (), durations: dict[str, list[float]] | None = None
    ):
        """Creates an empty one.

        `in_processes`: tasks whose command is started as it stands, without the preloaded process.
        `durations`: seconds by the clock of `Attempts` that the next attempts of a task take; all but the last one die.
        """
        self.folder, self.in_processes, self.durations = folder, in_processes, durations or {}
        self.artifacts: dict[str, dict] = {}
        self.cache: dict[str, dict] = {}

    def run(self, package: str) -> Run:
        spec, platform = yaml.safe_load_all(package)
        assert spec["schemaVersion"] == "2.1.0"
        executors = spec["deploymentSpec"]["executors"]
        assert set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == set(executors)
        # A query names the store's endpoint, for the launcher alone.
        root = f"{spec['defaultPipelineRoot'].partition('?')[0]}/{spec['pipelineInfo']['name']}/{uuid.uuid4()}"
        tasks, run = spec["root"]["dag"]["tasks"], Run()
        while len(run.states) < len(tasks):
            ready = [
                name
                for name, task in tasks.items()
                if name not in run.states and all(d in run.states for d in task.get("dependentTasks", []))
            ]
            assert ready, "the tasks wait for each other"
            for name in sorted(ready):
                task = tasks[name]
                component = spec["components"][task["componentRef"]["name"]]
                container = executors[component["executorLabel"]]["container"]
                if any(run.states[d] in ("Failed", "Omitted") for d in task.get("dependentTasks", [])):
                    run.states[name] = "Omitted"
                else:
                    self._run_task(name, task, component, container, root, run)
        return run

    def _run_task(self, name, task, component, container, root, run):
        wanted = task.get("inputs", {})
        parameters, inputs = {}, {}
        for key, value in wanted.get("parameters", {}).items():
            if "runtimeValue" in value:
                parameters[key] = value["runtimeValue"]["constant"]
            else:
                source = value["taskOutputParameter"]
                parameters[key] = run.outputs[source["producerTask"]]["parameters"][source["outputParameterKey"]]
        for key, value in wanted.get("artifacts", {}).items():
            source = value["taskOutputArtifact"]
            inputs[key] = run.outputs[source["producerTask"]]["artifacts"][source["outputArtifactKey"]]
        cache_key = json.dumps([container["image"], container["command"], container["args"], parameters, inputs])
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        if cached and cache_key in self.cache:
            run.states[name], run.outputs[name] = "Cached", self.cache[cache_key]
            return
        pod = self.folder / "pods" / f"{name}-{uuid.uuid4().hex[:8]}"
        outputs = component.get("outputDefinitions", {})
        task_root = f"{root}/{name}/{uuid.uuid4()}"
        invocation = {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {
                    key: {"artifacts": [{**self.artifacts[number], "type": {"instanceSchema": ""}}]}
                    for key, number in inputs.items()
                },
            },
            "outputs": {
                "artifacts": {
                    key: {"artifacts": [{"name": key, "uri": f"{task_root}/{key}", "type": value["artifactType"]}]}
                    for key, value in outputs.get("artifacts", {}).items()
                },
                "parameters": {key: {"outputFile": f"{pod}/{key}"} for key in outputs.get("parameters", {})},
                "outputFile": str(self._local(pod, f"{task_root}/output_metadata.json")),
            },
        }
        replacements = {"{{$}}": json.dumps(invocation)}
        for side in ("inputs", "outputs"):
            for key, entry in invocation[side]["artifacts"].items():
                address = entry["artifacts"][0]["uri"]
                replacements[f"{{{{$.{side}.artifacts['{key}'].path}}}}"] = str(self._local(pod, address))
                if side == "inputs":
                    self._download(pod, address)
                self._local(pod, address).parent.mkdir(parents=True, exist_ok=True)
        arguments = container["args"]
        for placeholder, value in replacements.items():
            arguments = [argument.replace(placeholder, value) for argument in arguments]
        pod.mkdir(parents=True, exist_ok=True)
        attempts = Attempts(task.get("retryPolicy"))
        code = self._attempt(name, [*container["command"], *arguments], pod, attempts)
        while code and attempts.begin_another():
            for entry in invocation["outputs"]["artifacts"].values():  # the next pod finds nothing of this one
                shutil.rmtree(self._local(pod, entry["artifacts"][0]["uri"]), ignore_errors=True)
            code = self._attempt(name, [*container["command"], *arguments], pod, attempts)
        run.attempts[name] = attempts.number
        run.logs[name] = (pod / "log").read_text(errors="replace")
        run.states[name] = "Failed" if code else "Succeeded"
        if code:
            return
        report = json.loads(Path(invocation["outputs"]["outputFile"]).read_text())
        result = {"artifacts": {}, "parameters": report.get("parameterValues", {})}
        for key, entry in invocation["outputs"]["artifacts"].items():
            (artifact,) = entry["artifacts"]
            (reported,) = report.get("artifacts", {}).get(key, {}).get("artifacts", [{}])
            self._upload(pod, reported.get("uri") or artifact["uri"])
            number = str(len(self.artifacts) + 1)
            self.artifacts[number] = {
                "name": number,
                "uri": reported.get("uri") or artifact["uri"],
                "metadata": {"display_name": key, **{k: _stored(v) for k, v in reported.get("metadata", {}).items()}},
            }
            result["artifacts"][key] = number
        assert set(result["parameters"]) == set(outputs.get("parameters", {}))
        run.outputs[name] = result
        if cached:
            self.cache[cache_key] = result
        shutil.rmtree(pod)

    def _attempt(self, name, command, pod, attempts):
        durations = self.durations.get(name) or [0]
        seconds, dies = durations[0], len(durations) > 1
        del durations[0]
        if not attempts.ends_in_time(seconds) or dies:
            (pod / "log").write_text(f"killed after {seconds} s")
            return 137
        return self._execute(name, command, pod)

    def _execute(self, name, command, pod):
        assert command[0] == "python"
        # From a folder of its own: the package must be installed, not found by luck.
        if name in self.in_processes:
            with open(pod / "log", "wb") as log:
                return subprocess.run([sys.executable, *command[1:]], cwd=pod, stdout=log, stderr=log).returncode
        process = _CONTEXT.Process(target=_container, args=(command, str(pod)))
        process.start()
        process.join()
        return process.exitcode

    def _local(self, pod, address):
        scheme, _, path = address.partition("://")
        assert scheme in ("gs", "s3", "minio"), f"the launcher knows no storage {address}"
        return pod / scheme / path

    def _object(self, address):
        return self.folder / "objects" / address.replace("://", "/")

    def _download(self, pod, address):
        stored = self._object(address)
        if stored.is_dir():
            shutil.copytree(stored, self._local(pod, address))
        elif stored.exists():
            self._local(pod, address).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(stored, self._local(pod, address))

    def _upload(self, pod, address):
        local = self._local(pod, address)
        for path in [local] if local.is_file() else local.rglob("*"):
            if path.is_file():
                stored = self._object(address) / path.relative_to(local)
                stored.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, stored)


def _stored(value):
    """A metadata value as it comes back from the metadata store."""
    assert value is not None, "the launcher refuses null in metadata"
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, dict | list):
        return {"struct" if isinstance(value, dict) else "list": value}
    return value


def _container(command: list[str], folder: str) -> None:
    """Runs `python -m MODULE ARGUMENTS` in this process, with its output in a file."""
    python, dash_m, module, *arguments = command
    assert (python, dash_m) == ("python", "-m")
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
