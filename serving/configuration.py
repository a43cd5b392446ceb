"""The production configuration: TensorFlow Serving on one machine, with Prometheus, made from one file of settings.

    python -m serving.configuration render                 # writes serving/production/ again from its settings.yaml
    python -m serving.configuration ssl-config KEY CERT --ca CA > ssl.config

Made are the images (GPU and CPU), batching and monitoring parameters, the compose file, the scrape configuration, the
alert rules and Grafana's dashboards. The model configuration is not among them: it says which version has which label,
lies beside the models and belongs to `serving.rollout`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving import dashboards, monitoring, protos
from serving.labels import CONFIG_FILE
from serving.server import PROMETHEUS_PATH

FOLDER = Path(__file__).parent / "production"
GRPC_PORT, REST_PORT = 8500, 8501
USER = "65532:65532"
MODELS_FOLDER, CONFIG_FOLDER, SSL_CONFIG = "/models", "/etc/htr", "/run/secrets/ssl.config"
_MADE = "# Made from settings.yaml by `python -m serving.configuration render`.\n"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Batching(_Section):
    """Parameters of TensorFlow Serving's batching; they are counted in images."""

    max_batch_size: int = Field(ge=1, description="also the most images that one request may have")
    batch_timeout_micros: int = Field(ge=0, le=50_000, description="how long the first request waits for others")
    max_enqueued_batches: int = Field(ge=1, description="full batches that may wait; more is UNAVAILABLE at once")
    num_batch_threads: int = Field(ge=1, description="batches that run at once")
    allowed_batch_sizes: list[int] = Field(
        min_length=1, description="to which batches are padded: few shapes for cuDNN"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Batching:
        sizes = self.allowed_batch_sizes
        if sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("allowed_batch_sizes must increase")
        if sizes[-1] != self.max_batch_size:
            raise ValueError("the last of allowed_batch_sizes must be max_batch_size")
        if self.max_enqueued_batches < self.num_batch_threads:
            raise ValueError("max_enqueued_batches below num_batch_threads leaves threads without work")
        return self


class Variant(_Section):
    """One image."""

    image: str = Field(pattern=r"^[\w./-]+:[\w.-]+$", description="image it is made from, with a tag")
    gpu: bool
    batching: Batching | None = Field(description="null switches batching off")
    grpc_max_threads: int = Field(ge=8, description="requests at once; more get RESOURCE_EXHAUSTED")

    @model_validator(mode="after")
    def _enough_threads(self) -> Variant:
        if self.batching is not None:
            # Every request holds a thread while it waits: single images must be able to fill the batches that run
            # and those that wait, or the threads are exhausted before a batch is full.
            b = self.batching
            needed = b.max_batch_size * (b.num_batch_threads + b.max_enqueued_batches)
            if self.grpc_max_threads < needed:
                raise ValueError(f"grpc_max_threads must be at least {needed} for these batches")
        return self


class Alerts(_Section):
    """Bounds of the alert rules, over five minutes where nothing else is said."""

    failed_share: float = Field(gt=0, lt=1, description="of requests that fail through no fault of the caller")
    rejected_share: float = Field(gt=0, lt=1, description="of requests that are refused by a full server")
    p95_latency_ms: float = Field(gt=0, description="of a request, in the server")
    p95_queueing_ms: float = Field(gt=0, description="of waiting for a batch")
    memory_growth: float = Field(gt=1, description="times the memory of a day or a week before, after pushes")


class Settings(_Section):
    """Everything that can be chosen."""

    model: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    tls: Literal["mutual", "server", "none"]
    variants: dict[Literal["gpu", "cpu"], Variant]
    alerts: Alerts

    @classmethod
    def read(cls, path: Path = FOLDER / "settings.yaml") -> Settings:
        """Reads and checks the settings.

        Args:
            path: YAML file.

        Returns:
            The settings.

        Raises:
            ValueError: something is unknown, missing or contradicts something else (pydantic's ValidationError).
        """
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


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
    }
    if settings.tls != "none":
        values["ssl_config_file"] = SSL_CONFIG
    if chosen.batching is not None:
        values |= {"enable_batching": True, "batching_parameters_file": f"{CONFIG_FOLDER}/batching.config"}
    return [f"--{name}={str(value).lower() if value is True else value}" for name, value in values.items()]


def ssl_config(key: str, certificate: str, ca: str = "") -> str:
    """TensorFlow Serving's --ssl_config_file.

    Args:
        key: the server's private key (PEM).
        certificate: its certificate chain (PEM).
        ca: certificates that clients' must be signed by (PEM): mutual TLS. Without, any client may call.

    Returns:
        The file's text. It holds the key.
    """
    message = protos.SSLConfig(server_key=key, server_cert=certificate, custom_ca=ca, client_verify=bool(ca))
    return text_format.MessageToString(message)


def render(settings: Settings) -> dict[str, str]:
    """All files of the production folder but the settings.

    Args:
        settings: what was chosen.

    Returns:
        Text by file name.
    """
    exporter = protos.MonitoringConfig()
    exporter.prometheus_config.enable = True
    exporter.prometheus_config.path = PROMETHEUS_PATH
    files = {
        "monitoring.config": _MADE + text_format.MessageToString(exporter),
        "docker-compose.yml": _yaml(_compose(settings)),
        "prometheus.yml": _yaml(monitoring.prometheus(REST_PORT)),
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
        f"COPY --chmod=0644 monitoring.config {CONFIG_FOLDER}/monitoring.config",
    ]
    if variant.batching is not None:
        lines.append(f"COPY --chmod=0644 {_batching_file(name)} {CONFIG_FOLDER}/batching.config")
    if variant.gpu:
        lines += [
            "# By default TensorFlow takes all of the GPU's memory when it starts.",
            "ENV TF_FORCE_GPU_ALLOW_GROWTH=true",
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
        # TensorFlow Serving does not export its memory. cAdvisor measures containers; it needs these rights.
        "profiles": ["memory"],
        "image": "gcr.io/cadvisor/cadvisor:v0.49.1",
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
    return _MADE + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m serving.configuration`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.configuration", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", help="make all files from settings.yaml again")
    command.add_argument("--folder", type=Path, default=FOLDER, help="with settings.yaml (default: %(default)s)")
    command = commands.add_parser("ssl-config", help="print the server's TLS configuration; it holds the private key")
    command.add_argument("key", type=Path, help="the server's private key, PEM")
    command.add_argument("certificate", type=Path, help="its certificate chain, PEM")
    command.add_argument("--ca", type=Path, help="demand client certificates signed by these (mutual TLS), PEM")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "ssl-config":
            mutual = Settings.read().tls == "mutual"
            if mutual != bool(arguments.ca):
                raise ValueError(
                    f"settings.yaml asks for {'mutual TLS: give' if mutual else 'no mutual TLS: omit'} --ca"
                )
            paths = [arguments.key, arguments.certificate, *([arguments.ca] if arguments.ca else [])]
            print(ssl_config(*(path.read_text(encoding="ascii") for path in paths)), end="")
            return 0
        for name, text in render(Settings.read(arguments.folder / "settings.yaml")).items():
            (arguments.folder / name).write_text(text, encoding="utf-8")
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        print(f"error: settings.yaml: {'; '.join(problems)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
