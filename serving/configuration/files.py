"""The files of serving/production: what they say, by name.

They are the images (GPU and CPU), batching and monitoring parameters, the compose file, the scrape configuration, the
alert rules and Grafana's dashboards. The model configuration is not among them: it says which version has which label,
lies beside the models and belongs to `serving.rollout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format

from serving import protos
from serving.configuration import dashboards, monitoring
from serving.configuration.settings import Batching, Settings, Variant
from serving.rollout.labels import CONFIG_FILE
from serving.server import PROMETHEUS_PATH

GRPC_PORT, REST_PORT = 8500, 8501
USER = "65532:65532"
MODELS_FOLDER, CONFIG_FOLDER, SSL_CONFIG = "/models", "/etc/htr", "/run/secrets/ssl.config"
_MADE = "# Made from settings.yaml by `python -m serving.configuration render`.\n"


def flags(settings: Settings, variant: str) -> list[str]:
    """Command line of tensorflow_model_server in the image of a variant."""
    chosen = settings.variants[variant]  # type: ignore[index]
    values: dict[str, Any] = {
        "port": GRPC_PORT,
        "rest_api_port": REST_PORT,
        "model_config_file": f"{MODELS_FOLDER}/{CONFIG_FILE}",
        # Nothing is loaded yet when the server starts with labels; without this it exits. Moving a label that exists
        # to a version that is not loaded stays forbidden.
        "allow_version_labels_for_unavailable_models": True,
        "enable_grpc_healthcheck_service": True,
        "monitoring_config_file": f"{CONFIG_FOLDER}/monitoring.config",
        "grpc_max_threads": chosen.grpc_max_threads,
        # By default a broken version is tried for five minutes, and a rollout waits for it.
        "max_num_load_retries": 2,
        "load_retry_interval_micros": 5_000_000,
        # Clients look a name up again when a connection ends: by then, servers that came since get requests, too.
        "grpc_channel_arguments": "grpc.max_connection_age_ms=60000",
    }
    if settings.tls != "none":
        values["ssl_config_file"] = SSL_CONFIG
    if chosen.batching is not None:
        values |= {"enable_batching": True, "batching_parameters_file": f"{CONFIG_FOLDER}/batching.config"}
    return [f"--{name}={str(value).lower() if value is True else value}" for name, value in values.items()]


def render(settings: Settings) -> dict[str, str]:
    """All files of the production folder but the settings.

    Args:
        settings: Settings that were chosen.

    Returns:
        Text by file name.
    """
    exporter = protos.MonitoringConfig()
    exporter.prometheus_config.enable = True
    exporter.prometheus_config.path = PROMETHEUS_PATH
    files = {
        "monitoring.config": _MADE + text_format.MessageToString(exporter),
        "docker-compose.yml": _yaml(_compose(settings)),
        "prometheus.yml": _yaml(monitoring.prometheus(REST_PORT, settings)),
        "prometheus.kubernetes.yml": _yaml(monitoring.kubernetes(REST_PORT)),
        "alerts.yml": _yaml(monitoring.rules(settings)),
        **{f"dashboard.{name}.json": text for name, text in dashboards.render(settings).items()},
    }
    for name, variant in settings.variants.items():
        files[f"Dockerfile.{name}"] = _dockerfile(settings, name, variant)
        if variant.batching is not None:
            files[_batching_file(name)] = _MADE + text_format.MessageToString(_batching(variant.batching))
    return files


def _batching_file(variant: str) -> str:
    return f"batching.{variant}.config"


def _batching(batching: Batching) -> Any:
    message = protos.BatchingParameters()
    for name, value in batching.model_dump().items():
        if name == "allowed_batch_sizes":
            message.allowed_batch_sizes.extend(value)
        else:
            getattr(message, name).value = value
    message.thread_pool_name.value = "batches"
    return message


def _dockerfile(settings: Settings, name: str, variant: Variant) -> str:
    arguments = ", \\\n     ".join(f'"{flag}"' for flag in flags(settings, name))
    lines = [
        _MADE.rstrip(),
        "# A static tini from elsewhere, so that nothing has to be installed into the server's image.",
        "FROM debian:bookworm-slim AS tini",
        "RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*",
        "",
        f"FROM {variant.image}",
        "COPY --from=tini /usr/bin/tini-static /usr/bin/tini",
        "# BuildKit since 0.21 gives this mode to the new folder too, which the server, as another user, must enter.",
        f"COPY --chmod=0755 monitoring.config {CONFIG_FOLDER}/monitoring.config",
    ]
    if variant.batching is not None:
        lines.append(f"COPY --chmod=0755 {_batching_file(name)} {CONFIG_FOLDER}/batching.config")
    if variant.gpu:
        lines += [
            "# By default TensorFlow takes all of the GPU's memory when it starts.",
            "ENV TF_FORCE_GPU_ALLOW_GROWTH=true",
            "# For compute capability 9.0 (H100) and later the image has no code but PTX, which the driver compiles",
            "# for minutes when the server starts, and keeps where it may write.",
            "ENV CUDA_CACHE_PATH=/tmp/cuda CUDA_CACHE_MAXSIZE=2147483648",
        ]
    lines += [
        f"USER {USER}",
        f"EXPOSE {GRPC_PORT} {REST_PORT}",
        "# As process 1 the server would ignore SIGTERM: tini is process 1 and passes it on. The server then ends at",
        "# once, without draining: take it out of the load balancer first; clients repeat what was cut off.",
        'ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/tensorflow_model_server"]',
        f"CMD [{arguments}]",
    ]
    return "\n".join(lines) + "\n"


def _compose(settings: Settings) -> dict[str, Any]:
    services: dict[str, Any] = {}
    for name, variant in settings.variants.items():
        service: dict[str, Any] = {
            "profiles": [name],
            "build": {"context": ".", "dockerfile": f"Dockerfile.{name}"},
            "image": f"{settings.model}-serving:{name}",
            "restart": "unless-stopped",
            "user": USER,
            "read_only": True,
            "tmpfs": ["/tmp"],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            # The folder and not the file in it: the file is replaced when a label moves.
            "volumes": [f"${{HTR_MODELS:?folder with {CONFIG_FILE} and the model folders}}:{MODELS_FOLDER}:ro"],
            # REST and metrics are plain HTTP and have no access control: only the compose network sees them.
            "ports": [f"{'127.0.0.1:' if settings.tls == 'none' else ''}{GRPC_PORT}:{GRPC_PORT}"],
            "networks": {"default": {"aliases": ["server"]}},
            "healthcheck": {
                "test": ["CMD", "bash", "-c", health_command(settings.model)],
                "interval": "10s",
                "timeout": "5s",
                "retries": 3,
                "start_period": "120s",
            },
        }
        if settings.tls != "none":
            service["secrets"] = [Path(SSL_CONFIG).name]
        if variant.gpu:
            device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
            service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
        services[f"server-{name}"] = service
    services["prometheus"] = {
        "image": "prom/prometheus:v2.53.2",
        "restart": "unless-stopped",
        "volumes": [
            "./prometheus.yml:/etc/prometheus/prometheus.yml:ro",
            "./alerts.yml:/etc/prometheus/alerts.yml:ro",
            "prometheus:/prometheus",
        ],
        "ports": ["127.0.0.1:9090:9090"],
    }
    services["containers"] = {
        # TensorFlow Serving does not export its memory. cAdvisor measures containers; it needs these rights. Versions
        # before 0.54 see no container of Docker 29.
        "profiles": ["memory"],
        "image": "ghcr.io/google/cadvisor:0.60.5",
        "restart": "unless-stopped",
        "privileged": True,
        "devices": ["/dev/kmsg"],
        "command": ["--docker_only", f"--port={monitoring.CONTAINERS_PORT}"],
        "volumes": [
            "/:/rootfs:ro",
            "/var/run:/var/run:ro",
            "/sys:/sys:ro",
            "/var/lib/docker:/var/lib/docker:ro",
            "/dev/disk:/dev/disk:ro",
        ],
    }
    compose: dict[str, Any] = {"name": settings.model, "services": services, "volumes": {"prometheus": {}}}
    if settings.tls != "none":
        file = "${HTR_SSL_CONFIG:?file made by python -m serving.configuration ssl-config}"
        compose["secrets"] = {Path(SSL_CONFIG).name: {"file": file}}
    return compose


def health_command(model: str, port: int = REST_PORT) -> str:
    """Bash that succeeds when the version under `stable` answers; the image has no curl, and gRPC may need TLS."""
    get = f"GET /v1/models/{model}/labels/stable/metadata HTTP/1.0\\r\\n\\r\\n"
    # The answer is read to its end, or the server logs a broken pipe.
    return (
        f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{get}' >&3 && read -r first <&3 && "
        'cat <&3 >/dev/null && [[ "$$first" == *" 200 "* ]]'
    )


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice: anchors would be unreadable."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never an alias."""
        return True


def _yaml(value: Mapping[str, Any]) -> str:
    return _MADE + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000)
