"""The embedded server: a development stand-in for `tensorflow_model_server`, with the same flags and answers.

    python -m serving.server --port=8500 --model_name=htr --model_base_path=/abs/serving_model/htr

It serves a directory of numbered versions over TensorFlow Serving's gRPC and REST APIs on a machine that has no
TensorFlow Serving: laptops, CI, and the pipeline's serving check. Production uses the real one.

Heavy imports (TensorFlow, gRPC) happen in `run` and `EmbeddedServer.start` only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import ports
from serving.status import UNSUPPORTED, Code, ServingError, from_exception, invalid, unsupported

if TYPE_CHECKING:
    from serving.rest import RestServer
    from serving.service import Service
    from serving.ui import UiServer
    from serving.versions import ModelConfig, ModelManager

logger = logging.getLogger("serving")

DEFAULT_MAX_REQUEST_BYTES = 64 << 20
DEFAULT_MAX_ROWS = 256
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_HEALTH_NAMES = ("", "ModelService", "PredictionService")
_PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
_MODEL_SERVICE = "tensorflow.serving.ModelService"
_HEALTH_SERVICE = "grpc.health.v1.Health"
# A larger request would hold up the event loop while it is parsed.
_PARSE_ON_LOOP_BYTES = 256 << 10
_HEALTH_SERVING, _HEALTH_NOT_SERVING, _HEALTH_SERVICE_UNKNOWN = 1, 2, 3


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _model_threads() -> int:
    """Requests that run the model at once, without batching; more of them only take each other's time."""
    return 4 * _cpus()


@dataclass
class ServerOptions:
    """Everything the server can be told; the first part has TensorFlow Serving's flag names and defaults."""

    port: int = 8500
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = field(default_factory=lambda: 4 * _cpus())
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
    grpc_max_threads: int = field(default_factory=lambda: max(128, _model_threads()))
    grpc_channel_arguments: str = ""
    saved_model_tags: str = "serve"
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    enable_grpc_healthcheck_service: bool = True
    enable_serialization_as_tensor_content: bool = False

    host: str = "127.0.0.1"
    ui_port: int = 0
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    max_rows_per_request: int = DEFAULT_MAX_ROWS
    check_input_shapes: bool = True
    require_variables: bool = True
    serve_newest_good: bool = True
    isolate_batch_failures: bool = True
    drain_wait_seconds: float = 0.0
    drain_grace_seconds: float = 30.0


@dataclass(frozen=True)
class _Flag:
    name: str
    help: str
    own: bool = False  # not a flag of tensorflow_model_server


_FLAGS = (
    _Flag("port", "TCP port for gRPC; 0 picks a free one (TensorFlow Serving: 0 is off)"),
    _Flag("grpc_socket_path", "also listen for gRPC on this UNIX socket"),
    _Flag("rest_api_port", "TCP port for REST and metrics; 0 is off, -1 picks a free one"),
    _Flag("rest_api_num_threads", "REST requests worked on at once"),
    _Flag("rest_api_timeout_in_ms", "time limit of a REST request"),
    _Flag("rest_api_enable_cors_support", "send CORS headers"),
    _Flag("model_name", "name of the model (without --model_config_file)"),
    _Flag("model_base_path", "absolute path of the directory with the numbered versions"),
    _Flag("model_config_file", "text file with a ModelServerConfig"),
    _Flag("model_config_file_poll_wait_seconds", "re-read --model_config_file this often; 0 is never"),
    _Flag("file_system_poll_wait_seconds", "look for new versions this often; 0 is once"),
    _Flag("max_num_load_retries", "how often a failed load is tried again"),
    _Flag("load_retry_interval_micros", "wait between two attempts to load"),
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
    _Flag("grpc_channel_arguments", "comma-separated name=value options of the gRPC server"),
    _Flag("saved_model_tags", "comma-separated tags of the graph to load"),
    _Flag("tensorflow_session_parallelism", "threads of a session (intra and inter op)"),
    _Flag("tensorflow_intra_op_parallelism", "threads within an op"),
    _Flag("tensorflow_inter_op_parallelism", "ops run at once"),
    _Flag("tensorflow_session_config_file", "text file with a ConfigProto"),
    _Flag("enable_model_warmup", "answer a version's warm-up requests before it is served"),
    _Flag("num_request_iterations_for_warmup", "how often each warm-up request is sent"),
    _Flag("enable_grpc_healthcheck_service", "serve grpc.health.v1.Health (TensorFlow Serving's default: off)"),
    _Flag("enable_serialization_as_tensor_content", "answer with tensor_content instead of typed values"),
    _Flag("host", "address to bind; 0.0.0.0 is what TensorFlow Serving does", own=True),
    _Flag("ui_port", "TCP port for a page to try the model; 0 is off, -1 picks a free one", own=True),
    _Flag("max_request_bytes", "largest request, gRPC or REST (TensorFlow Serving: 2 GiB)", own=True),
    _Flag("max_rows_per_request", "most rows in one request without batching; 0 is no limit", own=True),
    _Flag("check_input_shapes", "refuse shapes the signature excludes; some abort TensorFlow Serving", own=True),
    _Flag("require_variables", "refuse a version whose variables are missing", own=True),
    _Flag("serve_newest_good", "if the newest version fails and nothing is served yet, use an older one", own=True),
    _Flag("isolate_batch_failures", "try each request of a failed batch alone", own=True),
    _Flag("drain_wait_seconds", "after SIGTERM, report NOT_SERVING but take requests this long", own=True),
    _Flag("drain_grace_seconds", "after SIGTERM, let running requests end within this time", own=True),
)
# Accepted so that a production command line fits; they change nothing here.
_IGNORED_FLAGS = (
    "num_unload_threads",
    "flush_filesystem_caches",
    "per_process_gpu_memory_fraction",
    "remove_unused_fields_from_bundle_metagraph",
    "enable_signature_method_name_check",
    "enable_profiler",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "mixed_precision",
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's flags to a parser; imports nothing heavy.

    Args:
        parser: The parser, for instance that of a sub-command.
    """
    same = parser.add_argument_group("flags of tensorflow_model_server")
    own = parser.add_argument_group("flags of the embedded server only")
    defaults = ServerOptions()
    for flag in _FLAGS:
        default = getattr(defaults, flag.name)
        extra: dict[str, Any] = {"default": default, "help": f"{flag.help} (default: {default!r})".replace("%", "%%")}
        if isinstance(default, bool):
            extra |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            kind = float if flag.name == "file_system_poll_wait_seconds" else type(default)
            extra |= {"type": kind, "metavar": "VALUE"}
        (own if flag.own else same).add_argument(f"--{flag.name}", **extra)
    for name in _IGNORED_FLAGS:
        parser.add_argument(f"--{name}", nargs="?", const="true", default=None, help=argparse.SUPPRESS)


def options_from(args: argparse.Namespace) -> ServerOptions:
    """Return the options in parsed arguments (of `add_arguments`)."""
    return ServerOptions(**{flag.name: getattr(args, flag.name) for flag in _FLAGS})


# -- gRPC ----------------------------------------------------------------------------------------------------


class _Lane:
    """Threads for one kind of request, so that no kind waits for another."""

    def __init__(self, name: str, threads: int, limit: int) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.limit = limit
        self.active = 0  # requests that wait or are worked on; only the event loop counts

    @property
    def full(self) -> bool:
        return self.active >= self.limit


class _GrpcFront:
    """The gRPC services, on an event loop of their own: a slow or idle client costs no thread."""

    def __init__(self, service: Service, options: ServerOptions, server_options: Sequence[tuple[str, Any]]) -> None:
        import grpc

        self._grpc = grpc
        self._service = service
        self._options = options
        self._server_options = list(server_options)
        self._codes = {code.value[0]: code for code in grpc.StatusCode}
        limit = max(1, options.grpc_max_threads)
        self.predictions = _Lane("grpc", min(limit, _model_threads()), limit)
        # Whoever asks for the state of a busy server, a rollout for instance, does not queue behind its work.
        self._lookups = _Lane("lookup", 2, limit)
        self._reloads = _Lane("reload", 2, 2)  # each may block until its deadline
        self._answers: deque[tuple[asyncio.Future[bytes], _Lane, bytes, ServingError | None]] = deque()
        self._waking = False
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._loop_error)
        self._health = _HEALTH_SERVING
        self._health_changed: asyncio.Event | None = None
        self.server: Any = None
        self.port = 0
        self._thread = threading.Thread(target=self._run_loop, name="grpc-loop", daemon=True)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @staticmethod
    def _loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # gRPC's loops in one process share a wake-up socket; the one that comes late finds it empty.
        if not isinstance(context.get("exception"), BlockingIOError):
            logger.error("event loop: %s %r", context.get("message"), context.get("exception"))

    def start(self, credentials: Any) -> int:
        """Bind and start; returns the port."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(credentials), self.loop).result()

    async def _start(self, credentials: Any) -> int:
        grpc = self._grpc
        self._health_changed = asyncio.Event()
        most = max(512, 8 * self.predictions.limit)
        self.server = grpc.aio.server(options=self._server_options, maximum_concurrent_rpcs=most)
        self.server.add_generic_rpc_handlers((_Router(grpc, self._handlers()),))
        address = f"{self._options.host}:{self._options.port}"
        if ":" in self._options.host:
            address = f"[{self._options.host}]:{self._options.port}"
        targets = [address]
        if self._options.grpc_socket_path:
            targets.append("unix:" + self._options.grpc_socket_path)
        for target in targets:
            port = 0
            with contextlib.suppress(RuntimeError):  # or it returns 0, depending on its version
                if credentials is None:
                    port = self.server.add_insecure_port(target)
                else:
                    port = self.server.add_secure_port(target, credentials)
            if not port:
                raise self._why_not(target, credentials is not None)
            self.port = self.port or port
        await self.server.start()
        return self.port

    def _why_not(self, target: str, secure: bool) -> ServingError:
        """Why nothing can listen there, which gRPC writes to its own log only."""
        if target.startswith("unix:"):
            folder = os.path.dirname(target.removeprefix("unix:")) or "."
            reason = "in use, or no place for a socket" if os.path.isdir(folder) else f"there is no folder {folder}"
        else:
            ports.check(self._options.host, {"port": self._options.port})
            reason = "certificate and key in --ssl_config_file do not fit" if secure else "in use a moment ago"
        return ServingError(Code.UNAVAILABLE, f"cannot listen on {target}: {reason}")

    def _handlers(self) -> dict[str, Any]:
        service = self._service
        unary = self._grpc.unary_unary_rpc_method_handler
        handlers = {}
        predict, lookup, reload = self.predictions, self._lookups, self._reloads
        methods: list[tuple[str, str, _Lane, Callable[[Any, Any], Any]]] = [
            (_PREDICTION_SERVICE, "Predict", predict, service.predict),
            (_PREDICTION_SERVICE, "GetModelMetadata", lookup, service.get_model_metadata),
            (_MODEL_SERVICE, "GetModelStatus", lookup, service.get_model_status),
            (_MODEL_SERVICE, "HandleReloadConfigRequest", reload, service.handle_reload_config),
        ]
        for group, name, lane, method in methods:
            handlers[f"/{group}/{name}"] = unary(functools.partial(self._unary, name, lane, method))
        for name in UNSUPPORTED:
            handlers[f"/{_PREDICTION_SERVICE}/{name}"] = unary(functools.partial(self._unsupported, name))
        if self._options.enable_grpc_healthcheck_service:
            handlers[f"/{_HEALTH_SERVICE}/Check"] = unary(self._health_check)
            handlers[f"/{_HEALTH_SERVICE}/Watch"] = self._grpc.unary_stream_rpc_method_handler(self._health_watch)
        return handlers

    async def _abort(self, context: Any, error: ServingError) -> None:
        """End a call with nothing but a status.

        A code set beside a returned message, however empty, would commit the call: the caller's gRPC would not retry
        what a full or a stopping server refuses.
        """
        await context.abort(self._codes[int(error.code)], error.wire_message)

    async def _unsupported(self, name: str, data: bytes, context: Any) -> bytes:
        await self._abort(context, unsupported(name))
        return b""

    async def _unary(
        self, name: str, lane: _Lane, method: Callable[[Any, Any], Any], data: bytes, context: Any
    ) -> bytes:
        from serving.service import Call

        if lane.full:
            await self._abort(context, ServingError(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"))
        left = context.time_remaining()
        call = Call.within(left)
        answer: asyncio.Future[bytes] = self.loop.create_future()

        def done(result: bytes, error: ServingError | None) -> None:
            self._post(answer, lane, result, error)

        lane.active += 1  # until the work has really ended, which may be long after the caller has gone
        if name == "Predict" and self._service.batching and len(data) <= _PARSE_ON_LOOP_BYTES:
            self._submit(data, call, done)
        else:
            lane.pool.submit(self._work, name, method, data, call, done)
        # Just before gRPC itself would, which calls it CANCELLED if it comes first.
        timer = None if left is None or answer.done() else self.loop.call_later(0.99 * left, self._expire, answer, call)
        try:
            return await answer
        except asyncio.CancelledError:
            call.abandoned.set()
            raise
        except ServingError as error:
            await self._abort(context, error)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _expire(answer: asyncio.Future[bytes], call: Any) -> None:
        if not answer.done():
            call.abandoned.set()
            answer.set_exception(ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _post(self, answer: asyncio.Future[bytes], lane: _Lane, result: bytes, error: ServingError | None) -> None:
        """Hand an answer to the event loop, from any thread; answers of one batch share one wake-up."""
        self._answers.append((answer, lane, result, error))
        if threading.current_thread() is self._thread:
            self._deliver()
        elif not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # before the queue is emptied: what comes after that wakes the loop again
        while self._answers:
            answer, lane, result, error = self._answers.popleft()
            lane.active -= 1
            if answer.done():
                continue
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _parse(self, name: str, data: bytes) -> Any:
        try:
            return self._service.request_types[name].FromString(data)
        except Exception as error:
            raise ServingError(Code.INTERNAL, "") from error

    def _submit(self, data: bytes, call: Any, done: Callable[[bytes, ServingError | None], None]) -> None:
        def finish(response: Any, error: ServingError | None) -> None:
            done(response.SerializeToString() if error is None else b"", error)

        try:
            request = self._parse("Predict", data)
        except ServingError as error:
            done(b"", error)
            return
        self._service.submit_predict(request, call, finish)

    def _work(
        self,
        name: str,
        method: Callable[[Any, Any], Any],
        data: bytes,
        call: Any,
        done: Callable[[bytes, ServingError | None], None],
    ) -> None:
        result, failure = b"", None
        try:
            call.check()  # it may have waited long
            result = method(self._parse(name, data), call).SerializeToString()
        except Exception as error:
            failure = from_exception(error)
            if failure.code == Code.INTERNAL and failure is not error:
                logger.exception("%s failed", name)
        done(result, failure)

    # -- health ----------------------------------------------------------------------------------------------

    async def _health_check(self, data: bytes, context: Any) -> bytes:
        name = await self._health_name(data, context)
        if name not in _HEALTH_NAMES:
            await self._abort(context, ServingError(Code.NOT_FOUND, "service name unknown"))
        return self._health_bytes(self._health)

    async def _health_watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        name = await self._health_name(data, context)
        yield self._health_bytes(self._health if name in _HEALTH_NAMES else _HEALTH_SERVICE_UNKNOWN)
        assert self._health_changed is not None
        if self._health == _HEALTH_SERVING:
            await self._health_changed.wait()
            if name in _HEALTH_NAMES:
                yield self._health_bytes(self._health)

    async def _health_name(self, data: bytes, context: Any) -> str:
        from serving import protos

        try:
            return str(protos.HealthCheckRequest.FromString(data).service)
        except Exception:
            await self._abort(context, invalid("could not parse request"))
            raise

    @staticmethod
    def _health_bytes(status: int) -> bytes:
        from serving import protos

        result: bytes = protos.HealthCheckResponse(status=status).SerializeToString()
        return result

    # -- the end ---------------------------------------------------------------------------------------------

    def set_not_serving(self) -> None:
        """Tell health checks, at once, that this server will go."""

        def change() -> None:
            self._health = _HEALTH_NOT_SERVING
            if self._health_changed is not None:
                self._health_changed.set()

        self.loop.call_soon_threadsafe(change)

    def stop(self, grace: float) -> None:
        """Refuse new requests, wait for the running ones, and end the loop."""
        if self.server is not None:
            asyncio.run_coroutine_threadsafe(self.server.stop(grace), self.loop).result(grace + 10)
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5)
        for lane in (self.predictions, self._lookups, self._reloads):
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Router:
    """Finds the handler of a method; unknown ones get TensorFlow Serving's bare UNIMPLEMENTED."""

    def __init__(self, grpc: Any, handlers: dict[str, Any]) -> None:
        self._handlers = handlers
        self._unknown = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._code = grpc.StatusCode.UNIMPLEMENTED

    def service(self, details: Any) -> Any:
        """Return the handler of a call, as gRPC's GenericRpcHandler does."""
        return self._handlers.get(details.method, self._unknown)

    async def _refuse(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        await context.abort(self._code, "")
        yield b""


# -- the server ----------------------------------------------------------------------------------------------


class EmbeddedServer:
    """A server in this process: `start()` returns when the models answer, `stop()` drains.

    Example:
        with EmbeddedServer(model_name="htr", model_base_path="serving_model/htr", port=0) as server:
            print(server.address)
    """

    def __init__(self, options: ServerOptions | None = None, **settings: Any) -> None:
        """Prepare a server; nothing is imported, loaded or bound yet.

        Args:
            options: All options, or None for the defaults.
            **settings: Single options by name, which win over `options`.
        """
        base = dict(vars(options)) if options is not None else {}
        self.options = ServerOptions(**{**base, **settings})
        if options is None and self.options.model_base_path:
            self.options.model_base_path = os.path.abspath(self.options.model_base_path)
        self.port = 0
        self.rest_port = 0
        self.manager: ModelManager | None = None
        self.service: Service | None = None
        self._front: _GrpcFront | None = None
        self._rest: RestServer | None = None
        self._ui: UiServer | None = None
        self._batcher: Any = None
        self._stopped = threading.Event()
        self._config_poller: threading.Thread | None = None

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port` of the gRPC service."""
        host = "127.0.0.1" if self.options.host in ("0.0.0.0", "::") else self.options.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def rest_address(self) -> str:
        """`host:port` of the REST API, empty if it is off."""
        return f"{self.address.rsplit(':', 1)[0]}:{self.rest_port}" if self.rest_port else ""

    @property
    def ui_address(self) -> str:
        """`host:port` of the page to try the model, empty if it is off."""
        return self._ui.address if self._ui is not None else ""

    def start(self) -> EmbeddedServer:
        """Load the models, then listen.

        Returns:
            The server itself.

        Raises:
            ServingError: A bad option, no model became available, or a port is taken.
        """
        options = self.options
        asked = {"port": options.port, "rest_api_port": options.rest_api_port or -1, "ui_port": options.ui_port or -1}
        ports.check(options.host, asked)
        models = self._read_models()
        from serving.metrics import Metrics
        from serving.runner import RunnerOptions, import_tensorflow
        from serving.versions import ManagerOptions, ModelManager

        batching = self._read_batching()
        monitoring_path = self._read_monitoring()
        ssl_config = self._read_ssl()
        tensorflow = import_tensorflow()
        from serving.service import Service

        metrics = Metrics()
        parallelism = options.tensorflow_session_parallelism
        runner_options = RunnerOptions(
            tags=tuple(options.saved_model_tags.split(",")),
            session_config=self._read_session_config(tensorflow),
            intra_op_parallelism=options.tensorflow_intra_op_parallelism or parallelism,
            inter_op_parallelism=options.tensorflow_inter_op_parallelism or parallelism,
            enable_warmup=options.enable_model_warmup,
            warmup_iterations=max(1, options.num_request_iterations_for_warmup),
            check_input_shapes=options.check_input_shapes,
            require_variables=options.require_variables,
            max_tensor_bytes=max(4 * options.max_request_bytes, 16 << 20),
        )
        manager_options = ManagerOptions(
            poll_wait_seconds=options.file_system_poll_wait_seconds,
            max_num_load_retries=options.max_num_load_retries,
            load_retry_interval_micros=options.load_retry_interval_micros,
            num_load_threads=options.num_load_threads,
            allow_version_labels_for_unavailable_models=options.allow_version_labels_for_unavailable_models,
            serve_newest_good=options.serve_newest_good,
        )
        self.manager = ModelManager(manager_options, runner_options, metrics)
        try:
            self.manager.apply(models)
            if batching is not None:
                from serving.batching import Batcher

                self._batcher = Batcher(batching, metrics)
            self.service = Service(
                self.manager,
                metrics,
                self._batcher,
                0 if batching is not None else options.max_rows_per_request,
                options.enable_serialization_as_tensor_content,
            )
            self._listen(ssl_config, monitoring_path)
        except BaseException:
            self.stop(grace=0)
            raise
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            self._config_poller = threading.Thread(target=self._poll_config, name="config-poll", daemon=True)
            self._config_poller.start()
        return self

    def _listen(self, ssl_config: Any, monitoring_path: str) -> None:
        assert self.service is not None
        # On both sides, as production has it: the real server takes and sends up to 2 GiB.
        channel_options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", self.options.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        for argument in filter(None, self.options.grpc_channel_arguments.split(",")):
            key, _, value = argument.partition("=")
            channel_options.append((key, int(value) if value.lstrip("-").isdigit() else value))
        front = _GrpcFront(self.service, self.options, channel_options)
        self._front = front
        self.port = front.start(self._credentials(ssl_config))
        if self.options.rest_api_port:
            from serving.rest import RestServer

            self._rest = RestServer(self.service, self.options, monitoring_path)
            self.rest_port = self._rest.start()
        if self.options.ui_port:
            self._start_ui(ssl_config)

    def _start_ui(self, ssl_config: Any) -> None:
        from serving.ui import UiServer

        if ssl_config is not None:
            raise invalid("The page asks this server without TLS: --ui and --ssl_config_file exclude each other.")
        self._ui = UiServer(self.address, self.options.model_name, self.options.host, max(0, self.options.ui_port))
        self._ui.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has been stopped.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it has been stopped.
        """
        return self._stopped.wait(timeout)

    def interrupt(self) -> None:
        """Make a `start()` that waits for a first version give up (safe in a signal handler)."""
        manager = self.manager
        if manager is not None:
            threading.Thread(target=manager.interrupt, daemon=True).start()

    def stop(self, grace: float | None = None) -> None:
        """Drain and end: health says NOT_SERVING, new requests are refused, running ones end.

        Args:
            grace: Seconds that running requests get; None takes the option.
        """
        if self._stopped.is_set():
            return
        grace = self.options.drain_grace_seconds if grace is None else grace
        if self._front is not None:
            self._front.set_not_serving()
            if grace and self.options.drain_wait_seconds:
                time.sleep(self.options.drain_wait_seconds)
        if self._ui is not None:
            self._ui.stop()
        if self._rest is not None:
            self._rest.stop(grace)
        if self._front is not None:
            self._front.stop(grace)
        if self._batcher is not None:
            self._batcher.stop()
        if self.manager is not None:
            self.manager.stop()
        self._stopped.set()

    # -- configuration files ---------------------------------------------------------------------------------

    def _read_models(self) -> list[ModelConfig]:
        from serving import versions

        options = self.options
        if options.model_config_file:
            from serving import protos
            from serving.runner import import_tensorflow

            import_tensorflow()  # quietly, before the API package does it
            from tensorflow_serving.config import model_server_config_pb2

            config = protos.read_text_proto(options.model_config_file, model_server_config_pb2.ModelServerConfig())
            return versions.config_from_proto(config.model_config_list)
        if not options.model_base_path:
            raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
        if not os.path.isabs(options.model_base_path):
            raise invalid(
                f"Expected model {options.model_name} to have an absolute path or URI; got "
                f"base_path()={options.model_base_path}"
            )
        return [versions.ModelConfig(options.model_name, options.model_base_path)]

    def _read_batching(self) -> Any:
        from serving import protos
        from serving.batching import BatchingOptions

        options = self.options
        if not options.enable_batching:
            if options.batching_parameters_file:
                raise invalid(
                    "server_options.batching_parameters_file is set without setting "
                    "server_options.enable_batching to true."
                )
            return None
        message = protos.BatchingParameters()
        if options.batching_parameters_file:
            protos.read_text_proto(options.batching_parameters_file, message)
        return BatchingOptions.from_proto(message, options.isolate_batch_failures)

    def _read_monitoring(self) -> str:
        from serving import protos

        if not self.options.monitoring_config_file:
            return ""
        message = protos.read_text_proto(self.options.monitoring_config_file, protos.MonitoringConfig())
        if not message.prometheus_config.enable:
            return ""
        return message.prometheus_config.path or PROMETHEUS_PATH

    def _read_ssl(self) -> Any:
        from serving import protos

        if not self.options.ssl_config_file:
            return None
        message = protos.read_text_proto(self.options.ssl_config_file, protos.SSLConfig())
        if not (message.server_key and message.server_cert):
            raise invalid(f"{self.options.ssl_config_file} needs server_key and server_cert, in PEM.")
        return message

    @staticmethod
    def _credentials(ssl_config: Any) -> Any:
        if ssl_config is None:
            return None
        import grpc

        try:
            return grpc.ssl_server_credentials(
                [(ssl_config.server_key.encode(), ssl_config.server_cert.encode())],
                ssl_config.custom_ca.encode() or None,
                ssl_config.client_verify,
            )
        except ValueError as error:
            raise invalid(f"SSLConfig: {error}") from error

    def _read_session_config(self, tensorflow: Any) -> Any:
        from serving import protos

        if not self.options.tensorflow_session_config_file:
            return None
        return protos.read_text_proto(self.options.tensorflow_session_config_file, tensorflow.compat.v1.ConfigProto())

    def _poll_config(self) -> None:
        last = ""
        with contextlib.suppress(OSError):
            last = Path(self.options.model_config_file).read_text(encoding="utf-8")
        while not self._stopped.wait(self.options.model_config_file_poll_wait_seconds):
            try:
                text = Path(self.options.model_config_file).read_text(encoding="utf-8")
                if text != last and self.manager is not None:
                    last = text
                    self.manager.apply(self._read_models(), time.monotonic() + 60)
            except Exception as error:
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", from_exception(error).message)


def run(args: argparse.Namespace) -> int:
    """Run a server until SIGTERM or SIGINT.

    Args:
        args: Parsed arguments of `add_arguments`.

    Returns:
        The exit code: 0 after a drained stop, 255 if the server could not start (as tensorflow_model_server).
    """
    warnings.simplefilter("ignore")  # dependencies announce what a user of the server cannot change
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    ignored = [name for name in _IGNORED_FLAGS if getattr(args, name, None) is not None]
    if ignored:
        logger.info("without effect in the embedded server: %s", ", ".join(ignored))
    server = EmbeddedServer(options_from(args))
    stopping = threading.Event()

    def on_signal(number: int, _: Any) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # asked twice: do not wait any longer
        stopping.set()
        if not server.port:
            server.interrupt()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    source = server.options.model_config_file or server.options.model_base_path
    logger.info("starting: TensorFlow is loaded first, then the models of %s; ready when this says so", source)
    try:
        server.start()
    except ServingError as error:
        if stopping.is_set():
            return 0
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        return 255
    rest = f" rest={server.rest_address}" if server.rest_address else ""
    page = f" ui=http://{server.ui_address}" if server.ui_address else ""
    print(f"embedded server ready: grpc={server.address}{rest}{page} (for development)", flush=True)
    stopping.wait()
    logger.info("draining")
    server.stop()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m serving.server`."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
