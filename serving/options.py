"""What the embedded server can be told, with TensorFlow Serving's flag names; imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from typing import Any

from htr_client.cores import usable_cores
from serving.status import invalid

DEFAULT_MAX_REQUEST_BYTES = 64 << 20
_MOST = 2**31 - 1  # of a number that gRPC is given
DEFAULT_MAX_ROWS = 256


def model_threads() -> int:
    """Requests that run the model at once, without batching; more of them only take each other's time."""
    return 4 * usable_cores()


@dataclass
class ServerOptions:
    """Everything the server can be told; the first part has TensorFlow Serving's flag names.

    Its defaults, too, but for `grpc_max_threads` and the health service, which is on.
    """

    port: int = 8500
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = field(default_factory=lambda: 4 * usable_cores())
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: float = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 0
    allow_version_labels_for_unavailable_models: bool = False
    enable_batching: bool = False
    batching_parameters_file: str = ""
    monitoring_config_file: str = ""
    ssl_config_file: str = ""
    grpc_max_threads: int = field(default_factory=lambda: max(128, model_threads()))
    grpc_channel_arguments: str = ""
    saved_model_tags: str = "serve"
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    mixed_precision: str = ""
    tensorflow_session_config_file: str = ""
    enable_model_warmup: bool = True
    enable_grpc_healthcheck_service: bool = True

    host: str = "127.0.0.1"
    fallback_base_path: str = ""
    line_finder_base_path: str = ""
    line_finder_fallback_base_path: str = ""
    ui_port: int = 0
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    max_rows_per_request: int = DEFAULT_MAX_ROWS
    drain_wait_seconds: float = 0.0
    drain_grace_seconds: float = 30.0

    def check(self) -> None:
        """Refuses what could not work, before anything slow is begun.

        Raises:
            ServingError: INVALID_ARGUMENT, with the flag.
        """
        if self.file_system_poll_wait_seconds < 0:
            wait = f"{self.file_system_poll_wait_seconds:g}"
            raise invalid(f"--file_system_poll_wait_seconds={wait}: no version would ever be found; 0 looks once.")
        if self.ui_port and self.ssl_config_file:
            raise invalid("The page asks this server without TLS: --ui and --ssl_config_file exclude each other.")
        if not 1 <= self.max_request_bytes <= _MOST:
            raise invalid(f"--max_request_bytes={self.max_request_bytes}: the limit may be 1 to {_MOST} bytes.")
        self.channel_options()

    def channel_options(self) -> list[tuple[str, int | str]]:
        """Returns the options of the gRPC server that `grpc_channel_arguments` names.

        Raises:
            ServingError: A number is larger than gRPC takes.
        """
        found: list[tuple[str, int | str]] = []
        for argument in filter(None, self.grpc_channel_arguments.split(",")):
            key, _, value = argument.partition("=")
            number = int(value) if re.fullmatch(r"-?[0-9]{1,1000}", value) else None
            if number is not None and not -_MOST <= number <= _MOST:
                raise invalid(f"--grpc_channel_arguments={argument}: gRPC's numbers end at {_MOST}.")
            found.append((key, value if number is None else number))
        return found


@dataclass(frozen=True)
class _Flag:
    name: str
    help: str
    own: bool = False  # not a flag of tensorflow_model_server
    metavar: str = ""  # of a value whose name does not say what it is


_FLAGS = (
    _Flag("port", "TCP port for gRPC; 0 picks a free one (TensorFlow Serving: 0 is off)"),
    _Flag("grpc_socket_path", "also listen for gRPC on this UNIX socket", metavar="FILE"),
    _Flag("rest_api_port", "TCP port for REST and metrics; 0 is off, -1 picks a free one"),
    _Flag("rest_api_num_threads", "REST requests worked on at once"),
    _Flag("rest_api_timeout_in_ms", "time limit of a REST request", metavar="MILLISECONDS"),
    _Flag("rest_api_enable_cors_support", "send CORS headers"),
    _Flag(
        "model_name",
        "name of the model (without --model_config_file); htr serve: that of the configuration",
        metavar="NAME",
    ),
    _Flag("model_base_path", "absolute path of the directory with the numbered versions; htr serve: the workspace's"),
    _Flag("model_config_file", "text file with a ModelServerConfig"),
    _Flag("model_config_file_poll_wait_seconds", "re-read --model_config_file this often; 0 is never"),
    _Flag("file_system_poll_wait_seconds", "look for new versions this often; 0 is once"),
    _Flag("max_num_load_retries", "how often a failed load is tried again"),
    _Flag("load_retry_interval_micros", "wait between two attempts to load", metavar="MICROSECONDS"),
    _Flag("num_load_threads", "versions loaded at once; 0 is one after the other"),
    _Flag("allow_version_labels_for_unavailable_models", "allow new labels on versions that are not loaded"),
    _Flag("enable_batching", "join concurrent requests into batches"),
    _Flag("batching_parameters_file", "text file with BatchingParameters"),
    _Flag("monitoring_config_file", "text file with a MonitoringConfig"),
    _Flag("ssl_config_file", "text file with an SSLConfig: TLS or mutual TLS for gRPC"),
    _Flag(
        "grpc_max_threads",
        "gRPC requests under way, 4 a CPU at work and the others waiting; more get "
        "RESOURCE_EXHAUSTED (TensorFlow Serving: 4 a CPU, none waits)",
    ),
    _Flag("grpc_channel_arguments", "comma-separated options of the gRPC server", metavar="NAME=VALUE,..."),
    _Flag("saved_model_tags", "comma-separated tags of the graph to load", metavar="TAG,..."),
    _Flag("tensorflow_session_parallelism", "threads of a session (intra and inter op)"),
    _Flag("tensorflow_intra_op_parallelism", "threads within an op"),
    _Flag("tensorflow_inter_op_parallelism", "ops run at once"),
    _Flag(
        "mixed_precision",
        "bfloat16: faster on processors with AVX512_BF16 or AMX, and as accurate; else float32",
        metavar="bfloat16",
    ),
    _Flag("tensorflow_session_config_file", "text file with a ConfigProto"),
    _Flag("enable_model_warmup", "answer a version's warm-up requests before it is served"),
    _Flag("enable_grpc_healthcheck_service", "serve grpc.health.v1.Health (TensorFlow Serving's default: off)"),
    _Flag("host", "address to bind; 0.0.0.0 is what TensorFlow Serving does", own=True, metavar="ADDRESS"),
    _Flag("fallback_base_path", "serve the versions in this directory until --model_base_path has one", own=True),
    _Flag("line_finder_base_path", "also serve the versions in this directory as htr-lines, for pages", own=True),
    _Flag("line_finder_fallback_base_path", "the same until --line_finder_base_path has a version", own=True),
    _Flag("ui_port", "TCP port for a page to try the model; 0 is off, -1 picks a free one", own=True),
    _Flag(
        "max_request_bytes", "largest request, gRPC or REST (TensorFlow Serving: 2147483647)", own=True, metavar="BYTES"
    ),
    _Flag("max_rows_per_request", "most rows in one request without batching; 0 is no limit", own=True),
    _Flag("drain_wait_seconds", "after SIGTERM, report NOT_SERVING but take requests this long", own=True),
    _Flag(
        "drain_grace_seconds", "after SIGTERM, let running requests end within this time, then cancel them", own=True
    ),
)
# Accepted so that a production command line fits; they change nothing here.
IGNORED_FLAGS = (
    "num_unload_threads",
    "flush_filesystem_caches",
    "num_request_iterations_for_warmup",
    "enable_serialization_as_tensor_content",
    "per_process_gpu_memory_fraction",
    "remove_unused_fields_from_bundle_metagraph",
    "enable_signature_method_name_check",
    "enable_profiler",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "skip_initialize_tpu",
    "prefer_tflite_model",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "thread_pool_factory_config_file",
)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "t", "yes"):
        return True
    if text.lower() in ("false", "0", "f", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _metavar(name: str) -> str:
    """What stands for the value of a flag in the help, by the end of its name; a number where that says nothing."""
    ends = {"port": "PORT", "base_path": "DIR", "_file": "FILE", "_seconds": "SECONDS"}
    return next((shown for end, shown in ends.items() if name.endswith(end)), "N")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the server's flags to a parser; imports nothing heavy.

    Args:
        parser: The parser, for instance that of a sub-command.
    """
    same = parser.add_argument_group("flags of tensorflow_model_server")
    own = parser.add_argument_group("flags of the embedded server only")
    defaults = ServerOptions()
    for flag in _FLAGS:
        default = getattr(defaults, flag.name)
        # As it is written on the command line; an empty one is none.
        text = str(default).lower() if isinstance(default, bool) else repr(default)
        shown = "" if default == "" else f" (default: {text})"
        extra: dict[str, Any] = {"default": default, "help": f"{flag.help}{shown}".replace("%", "%%")}
        if isinstance(default, bool):
            extra |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            kind = float if flag.name == "file_system_poll_wait_seconds" else type(default)
            extra |= {"type": kind, "metavar": flag.metavar or _metavar(flag.name)}
        (own if flag.own else same).add_argument(f"--{flag.name}", **extra)
    for name in IGNORED_FLAGS:
        parser.add_argument(f"--{name}", nargs="?", const="true", default=None, help=argparse.SUPPRESS)


def options_from(args: argparse.Namespace) -> ServerOptions:
    """Returns the options in parsed arguments (of `add_arguments`)."""
    return ServerOptions(**{flag.name: getattr(args, flag.name) for flag in _FLAGS})
