"""The pipeline on Kubeflow Pipelines: compiled to a pipeline spec (schema 2.1), uploaded, started."""

from __future__ import annotations

import datetime
import json
import math
import os
import tempfile
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from components.common.settings import ConfigError
from htr_client.network.reach import is_here
from htr_client.version import __version__
from pipeline import preflight
from pipeline.config import Config
from pipeline.runner_settings import KubeflowConfig

ENTRY_POINT = ("python", "-m", "pipeline.runners.kubeflow_step")
TRAINING = ("Trainer", "Tuner")
# What these find out must be found out in each run; what follows from it may be cached. The Pusher looks at what is in
# service and does nothing where that is the model already.
NEVER_CACHED = ("DataVersion", "Baseline", "Pusher", "BulkInferrer")
# Trying again would not change their verdict. Of other steps Kubeflow cannot tell: it knows no exit code that is final.
NEVER_RETRIED = ("ExampleValidator", "Gate")
# Argo's `maxDuration`, which ends all attempts of a task so long after the start of the first one, however long that
# one took. So it must be longer than any training; where it is missing, Kubeflow writes 0 and nothing is tried again.
_ALL_ATTEMPTS = 30 * 24 * 3600
_TIMEOUT = 60
_EXTRA = "Kubeflow needs packages that are not installed: pip install kfp-pipeline-spec kfp-server-api"


class KubeflowError(RuntimeError):
    """The API of Kubeflow Pipelines cannot be reached or refuses; the message says what to do."""


def compile_pipeline(config: Config) -> list[dict[str, Any]]:
    """Compiles the pipeline of a configuration.

    Args:
        config: All settings. `data.paths`, `push.model_dir` and `beam` are seen from inside the containers.

    Returns:
        The documents of the package: the pipeline spec, and the platform spec with what only Kubernetes knows.

    Raises:
        ConfigError: A setting has a value that cannot work on Kubeflow.
    """
    preflight.check_kubeflow(config)
    try:
        from kfp.pipeline_spec import pipeline_spec_pb2
    except ImportError as error:
        raise ConfigError(_EXTRA) from error
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner, pipeline_builder

    from pipeline.definition import create_pipeline

    settings = config.kubeflow
    # Where artifacts go Kubeflow says when it runs; below this root lie only the checkpoints.
    pipeline = create_pipeline(config, settings.scratch, looks_back=False, fails_unblessed=True)
    resources = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec
    for component in pipeline.components:
        component.with_platform_config(resources(**_resources(component.id, settings)))
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image={
                pipeline_builder.DEFAULT_IMAGE_PATH_KEY: settings.image,
                **dict.fromkeys(TRAINING, settings.trainer_image or settings.image),
            },
            default_commands=list(ENTRY_POINT),
            use_pipeline_spec_2_1=True,
        )
    )
    spec = runner.run(pipeline, write_out=False)["pipelineSpec"]
    if settings.pipeline_root:
        spec["defaultPipelineRoot"] = settings.pipeline_root
    titles = {
        channel.type.TYPE_NAME: f"{channel.type.__module__}.{channel.type.__qualname__}"
        for component in pipeline.components
        for channel in component.outputs.values()
    }
    for name, task in spec["root"]["dag"]["tasks"].items():
        _finish_types(spec["components"][name], titles)
        # Without a driver nobody notices other texts, or another version to start from.
        unnoticed = {"LanguageModel": bool(config.language.texts), **dict.fromkeys(TRAINING, config.train.names_start)}
        _finish_task(name, task, settings, not (unnoticed.get(name) or name in NEVER_CACHED))
        _finish_container(spec, name, settings)
    executors = {f"{name}_executor": _on_kubernetes(name, settings) for name in spec["components"]}
    return [spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}]


def _resources(name: str, settings: KubeflowConfig) -> dict[str, Any]:
    """Fields of a step's ResourceSpec."""
    trains = name in TRAINING
    cpu, cpu_request = settings.cpu, settings.cpu_request
    memory, memory_request = settings.memory, settings.memory_request
    if trains:
        cpu, cpu_request = settings.trainer_cpu, settings.trainer_cpu_request
        memory, memory_request = settings.trainer_memory, settings.trainer_memory_request
    result: dict[str, Any] = {
        "cpu_limit": cpu,
        "memory_limit": memory,
        # Without requests a node keeps the whole limits for the pod; with more than the limits there is no pod.
        "cpu_request": min(cpu, cpu_request),
        "memory_request": min(memory, memory_request),
    }
    if trains and settings.reserved:
        result["accelerator"] = {"type": settings.accelerator, "count": settings.reserved}
    return result


def _finish_task(name: str, task: dict[str, Any], settings: KubeflowConfig, may_be_cached: bool) -> None:
    """What TFX's compiler leaves out of a task, or writes for Vertex AI only."""
    task["cachingOptions"] = {"enableCache": settings.cache and may_be_cached}
    if settings.retries and name not in NEVER_RETRIED:
        task["retryPolicy"] = {
            "maxRetryCount": settings.retries,
            "backoffDuration": f"{math.ceil(settings.retry_delay)}s",  # Kubeflow reads whole seconds only
            "backoffFactor": 2.0,
            "backoffMaxDuration": f"{_ALL_ATTEMPTS}s",
        }
    for parameter in task.get("inputs", {}).get("parameters", {}).values():
        if source := parameter.get("taskOutputParameter"):
            source["producerTask"] = source["producerTask"].removesuffix("_task")


def _finish_types(component: dict[str, Any], titles: dict[str, str]) -> None:
    """Types that are not TFX's are imported by their title, where the compiler writes their name."""
    for side in ("inputDefinitions", "outputDefinitions"):
        for artifact in component.get(side, {}).get("artifacts", {}).values():
            schema = yaml.safe_load(artifact["artifactType"]["instanceSchema"])
            if path := titles.get(schema["title"]):
                schema["title"] = path
                artifact["artifactType"]["instanceSchema"] = yaml.safe_dump(schema, sort_keys=False)


def _finish_container(spec: dict[str, Any], name: str, settings: KubeflowConfig) -> None:
    container = spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]
    component = spec["components"][name]
    # The compiler wrote it before the types were finished.
    place = container["args"].index("--json_serialized_inputs_spec_args") + 1
    container["args"][place] = json.dumps(component.get("inputDefinitions", {}), sort_keys=True)
    container["args"] += ["--release", __version__]
    # TensorFlow does not see a container's limit: with a thread for each core of the node it would stand still for most
    # of each tenth of a second.
    threads = str(math.ceil(settings.trainer_cpu if name in TRAINING else settings.cpu))
    env = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), threads) | settings.env
    container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    if settings.stage_artifacts:
        for side in ("input", "output"):
            for key in sorted(component.get(f"{side}Definitions", {}).get("artifacts", {})):
                placeholder = f"{{{{$.{side}s.artifacts['{key}'].path}}}}"
                container["args"] += ["--local", f"{side}s/{key}={placeholder}"]


def _on_kubernetes(name: str, settings: KubeflowConfig) -> dict[str, Any]:
    """KubernetesExecutorConfig of a step: where its pod may run, for how long, and what is mounted."""
    trains = name in TRAINING
    accelerated = trains and settings.reserved > 0
    result: dict[str, Any] = {
        "secretAsVolume": [
            {"secretName": secret, "mountPath": path} for secret, path in settings.secret_volumes.items()
        ],
        "secretAsEnv": [
            {
                "secretName": secret,
                "keyToEnv": [{"secretKey": key, "envVar": variable} for key, variable in keys.items()],
            }
            for secret, keys in settings.secret_env.items()
        ],
        "pvcMount": [{"constant": claim, "mountPath": path} for claim, path in settings.volumes.items()],
        "imagePullSecret": [{"secretName": secret} for secret in settings.image_pull_secrets],
        "tolerations": settings.tolerations + (settings.trainer_tolerations if accelerated else []),
    }
    if labels := settings.node_selector | (settings.trainer_node_selector if trains else {}):
        result["nodeSelector"] = {"labels": labels}
    if settings.timeout:
        result["activeDeadlineSeconds"] = math.ceil(settings.timeout)
    return {key: value for key, value in result.items() if value}


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """The package as Kubeflow's interface, SDK and API take it."""
    return yaml.safe_dump_all(documents, sort_keys=True, allow_unicode=True, width=10_000)


def submit(config: Config, token: str | None = None) -> str:
    """Uploads the pipeline, as a new version where it exists, and starts a run of it.

    Args:
        config: All settings; `kubeflow.host` must be set.
        token: Bearer token of the API; None where it asks for none.

    Returns:
        Address of the run's page.

    Raises:
        ConfigError: `kubeflow.host` is not set, or a setting has a value that cannot work on Kubeflow.
        KubeflowError: The API cannot be reached or refuses.
    """
    host = (config.kubeflow.host or "").rstrip("/")
    if not host:
        raise ConfigError("kubeflow.host: name the address of Kubeflow Pipelines, e.g. http://localhost:8080")
    package = as_yaml(compile_pipeline(config))

    try:
        import kfp_server_api
    except ImportError as error:
        raise ConfigError(_EXTRA) from error
    import urllib3

    # urllib3 would otherwise try three times more, without saying so.
    connection = kfp_server_api.Configuration(host=host)
    connection.retries = urllib3.Retry(0)
    # kfp_server_api takes neither from the environment, as other programs do.
    authorities = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    connection.ssl_ca_cert = authorities
    if proxy := _proxy(host):
        connection.proxy = proxy
        if login := urlsplit(proxy).netloc.rpartition("@")[0]:
            connection.proxy_headers = urllib3.make_headers(proxy_basic_auth=unquote(login))
    if token:
        connection.api_key["authorization"] = token
        connection.api_key_prefix["authorization"] = "Bearer"
    try:
        with kfp_server_api.ApiClient(connection) as client:
            run_id = _start(client, config, package)
    except kfp_server_api.ApiException as error:
        hint = {401: " Give a token: HTR_KUBEFLOW_TOKEN.", 403: " Check kubeflow.namespace and the token's rights."}
        body = _message(error.body)
        raise KubeflowError(
            f"{host} answered {error.status} {error.reason}: {body}.{hint.get(error.status, '')}"
        ) from None
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        reason = getattr(error, "reason", error)
        trusted = f" Trusted are the authorities in {authorities or 'certifi'} (SSL_CERT_FILE)."
        raise KubeflowError(
            f"No Kubeflow Pipelines API answers at {host} (kubeflow.host): {reason}."
            f"{trusted if host.startswith('https:') else ''}"
        ) from None
    return f"{host}/#/runs/details/{run_id}"


def _proxy(host: str) -> str | None:
    """The proxy that the environment names for an address; none for this machine, where `kubectl port-forward` is."""
    url = urlsplit(host)
    if is_here(url.hostname or "") or urllib.request.proxy_bypass(url.netloc):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _message(body: Any) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        answer = json.loads(text)
    except ValueError:
        return text[:500]
    return str(answer.get("error") or answer.get("message") or answer)[:500] if isinstance(answer, dict) else text[:500]


def _start(client: Any, config: Config, package: str) -> str:
    """Returns the id of the run."""
    import kfp_server_api as api

    settings, now = config.kubeflow, f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    pipelines, uploads = api.PipelineServiceApi(client), api.PipelineUploadServiceApi(client)
    experiments, runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
    scope = {"namespace": settings.namespace} if settings.namespace else {}

    def named(name: str) -> str:
        return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})

    found = pipelines.pipeline_service_list_pipelines(filter=named(config.name), _request_timeout=_TIMEOUT, **scope)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"{config.name}.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(package)
        if found.pipelines:
            pipeline_id = found.pipelines[0].pipeline_id
            version = uploads.upload_pipeline_version(
                path, name=f"{config.name}-{now}", pipelineid=pipeline_id, _request_timeout=_TIMEOUT
            )
        else:
            pipeline_id = uploads.upload_pipeline(
                path, name=config.name, _request_timeout=_TIMEOUT, **scope
            ).pipeline_id
            version = pipelines.pipeline_service_list_pipeline_versions(
                pipeline_id, page_size=1, sort_by="created_at desc", _request_timeout=_TIMEOUT
            ).pipeline_versions[0]
    listed = experiments.experiment_service_list_experiments(
        filter=named(settings.experiment), _request_timeout=_TIMEOUT, **scope
    )
    experiment = (
        listed.experiments[0]
        if listed.experiments
        else experiments.experiment_service_create_experiment(
            api.V2beta1Experiment(display_name=settings.experiment, **scope), _request_timeout=_TIMEOUT
        )
    )
    run = runs.run_service_create_run(
        api.V2beta1Run(
            display_name=f"{config.name}-{now}",
            experiment_id=experiment.experiment_id,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version.pipeline_version_id
            ),
            runtime_config=api.V2beta1RuntimeConfig(pipeline_root=settings.pipeline_root),
            service_account=settings.service_account,
        ),
        _request_timeout=_TIMEOUT,
    )
    return run.run_id
