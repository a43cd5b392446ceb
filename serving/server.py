"""The embedded server: a development stand-in for `tensorflow_model_server`, with the same flags and answers.

    python -m serving.server --port=8500 --model_name=htr --model_base_path=/abs/serving_model/htr

It serves a directory of numbered versions over TensorFlow Serving's gRPC and REST APIs on a machine that has no
TensorFlow Serving: laptops, CI, and the pipeline's serving check. Production uses the real one.

Heavy imports (TensorFlow, gRPC) happen in `run` and `EmbeddedServer.start` only.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving import ports
from serving.options import IGNORED_FLAGS, ServerOptions, add_arguments, options_from
from serving.precision import BFLOAT16, has_bfloat16
from serving.status import Code, ServingError, from_exception, invalid

if TYPE_CHECKING:
    from serving.grpc_front import GrpcFront
    from serving.model_config import ModelConfig
    from serving.model_manager import ModelManager
    from serving.rest import RestServer
    from serving.service import Service
    from serving.ui import UiServer

logger = logging.getLogger("serving")

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


class EmbeddedServer:
    """A server in this process: `start()` returns when the models answer, `stop()` drains.

    Example:
        with EmbeddedServer(model_name="htr", model_base_path="serving_model/htr", port=0) as server:
            print(server.address)
    """

    def __init__(self, options: ServerOptions | None = None, **settings: Any) -> None:
        """Prepares a server; nothing is imported, loaded or bound yet.

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
        self.front: GrpcFront | None = None
        self.rest: RestServer | None = None
        self._ui: UiServer | None = None
        self._batcher: Any = None
        self._interrupted = False
        self._stopped = threading.Event()
        self._at_rest = True
        self._config_text = ""
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
        """Loads the models, then listens.

        Returns:
            The server itself.

        Raises:
            ServingError: A bad option, no model became available, a port is taken, or `interrupt` was called.
        """
        options = self.options
        options.check()
        asked = {"port": options.port, "rest_api_port": options.rest_api_port or -1, "ui_port": options.ui_port or -1}
        ports.check(options.host, asked)
        ports.check_socket(options.grpc_socket_path)
        models = self._read_models()
        from serving.metrics import Metrics
        from serving.model_manager import ModelManager
        from serving.runner import RunnerOptions, import_tensorflow

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
            bfloat16=self._wants_bfloat16(),
            enable_warmup=options.enable_model_warmup,
            max_tensor_bytes=max(4 * options.max_request_bytes, 16 << 20),
        )
        self.manager = ModelManager(options, runner_options, metrics)
        try:
            if self._interrupted:  # while TensorFlow was imported, which takes seconds
                raise ServingError(Code.CANCELLED, "the server is shutting down")
            self.manager.apply(models)
            if batching is not None:
                from serving.batching import Batcher

                self._batcher = Batcher(batching, metrics)
            self.service = Service(
                self.manager,
                metrics,
                self._batcher,
                0 if batching is not None else options.max_rows_per_request,
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
            *self.options.channel_options(),
        ]
        from serving.grpc_front import GrpcFront

        front = GrpcFront(self.service, self.options, channel_options)
        self.front = front
        self.port = front.start(self._credentials(ssl_config))
        if self.options.rest_api_port:
            from serving.rest import RestServer

            self.rest = RestServer(self.service, self.options, monitoring_path)
            self.rest_port = self.rest.start()
        if self.options.ui_port:
            self._start_ui()

    def _start_ui(self) -> None:
        from serving.ui import UiServer

        self._ui = UiServer(self.address, self.options.model_name, self.options.host, max(0, self.options.ui_port))
        self._ui.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the server has been stopped.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it has been stopped.
        """
        return self._stopped.wait(timeout)

    def interrupt(self) -> None:
        """Makes a `start()` that imports or waits for a first version give up (safe in a signal handler)."""
        self._interrupted = True  # before the look at the manager: `start` makes it first and looks here then
        manager = self.manager
        if manager is not None:
            threading.Thread(target=manager.interrupt, daemon=True).start()

    def stop(self, grace: float | None = None) -> bool:
        """Drains and ends: health says NOT_SERVING, new requests are refused, running ones end.

        Args:
            grace: Seconds that running requests get, all of them together, before they are cancelled; None takes the
                option.

        Returns:
            Whether TensorFlow is at rest; False if a version was still loading ten seconds later.
        """
        if self._stopped.is_set():
            return self._at_rest
        grace = self.options.drain_grace_seconds if grace is None else grace
        if self.front is not None:
            self.front.set_not_serving()
            if grace and self.options.drain_wait_seconds:
                time.sleep(self.options.drain_wait_seconds)
        if self.manager is not None:
            self.manager.interrupt()  # or a reload that waits for a version would take all of the grace
        if self._ui is not None:
            started = time.monotonic()
            self._ui.stop(grace)  # first, since its requests ask this server
            grace = max(0.0, grace - (time.monotonic() - started))
        # Side by side: while one drained alone, the other would go on taking requests, and the grace would count twice.
        rest = None
        if self.rest is not None:
            rest = threading.Thread(target=self.rest.stop, args=(grace,), name="rest-stop")
            rest.start()
        if self.front is not None:
            self.front.stop(grace)
        if rest is not None:
            rest.join()
        if self.manager is not None:
            self.manager.unload()  # before the batches are waited for, which may be running for nobody
        if self._batcher is not None:
            self._batcher.stop()
        if self.manager is not None:
            self._at_rest = self.manager.stop()
        self._stopped.set()
        return self._at_rest

    # -- configuration files ---------------------------------------------------------------------------------

    def _read_models(self) -> list[ModelConfig]:
        from serving import model_config

        options = self.options
        if options.model_config_file:
            from serving import protos

            # Kept: what is written while the first versions load is a change that polling has to find.
            self._config_text = protos.read_text(options.model_config_file, "model_config_file")
            return self._parse_models(self._config_text)
        if not options.model_base_path:
            raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
        if not os.path.isabs(options.model_base_path):
            raise invalid(
                f"Expected model {options.model_name} to have an absolute path or URI; got "
                f"base_path()={options.model_base_path}"
            )
        fallback = options.fallback_base_path
        return [model_config.ModelConfig(options.model_name, options.model_base_path, fallback_path=fallback)]

    def _parse_models(self, text: str) -> list[ModelConfig]:
        from serving import model_config, protos
        from serving.runner import import_tensorflow

        import_tensorflow()  # quietly, before the API package does it
        from tensorflow_serving.config import model_server_config_pb2

        config = model_server_config_pb2.ModelServerConfig()
        protos.parse_text_proto(text, self.options.model_config_file, config)
        # At the start an empty file is one that is still to be written; later it would unload everything.
        if config.HasField("config") or self.manager is not None:
            model_config.check_list(config)
        return model_config.config_from_proto(config.model_config_list)

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
            protos.read_option(options, "batching_parameters_file", message)
        if message.pad_variable_length_inputs:
            logger.warning(
                "%s: pad_variable_length_inputs is without effect in the embedded server: requests of different shapes "
                "are never joined into one batch", options.batching_parameters_file,
            )  # fmt: skip
        return BatchingOptions.from_proto(message)

    def _read_monitoring(self) -> str:
        from serving import protos

        if not self.options.monitoring_config_file:
            return ""
        message = protos.read_option(self.options, "monitoring_config_file", protos.MonitoringConfig())
        if not message.prometheus_config.enable:
            return ""
        if not self.options.rest_api_port:
            logger.warning("--monitoring_config_file: metrics are served over REST; they need --rest_api_port too")
        return message.prometheus_config.path or PROMETHEUS_PATH

    def _read_ssl(self) -> Any:
        from serving import protos

        if not self.options.ssl_config_file:
            return None
        message = protos.read_option(self.options, "ssl_config_file", protos.SSLConfig())
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

    def _wants_bfloat16(self) -> bool:
        wanted = self.options.mixed_precision
        if wanted and wanted != BFLOAT16:
            logger.warning("%s auto mixed precision is not supported. Valid option: bfloat16", wanted)
        elif wanted and not has_bfloat16():
            logger.warning("--mixed_precision=bfloat16: this processor has neither AVX512_BF16 nor AMX; float32 it is")
        return wanted == BFLOAT16

    def _read_session_config(self, tensorflow: Any) -> Any:
        from serving import protos

        if not self.options.tensorflow_session_config_file:
            return None
        return protos.read_option(self.options, "tensorflow_session_config_file", tensorflow.compat.v1.ConfigProto())

    def _poll_config(self) -> None:
        from serving import protos

        last = self._config_text
        while not self._stopped.wait(self.options.model_config_file_poll_wait_seconds):
            try:
                text = protos.read_text(self.options.model_config_file)
                if text != last and self.manager is not None:
                    self.manager.apply(self._parse_models(text), time.monotonic() + 60)
                    last = text  # what could not be done yet, such as a label for a version to come, is tried again
            except Exception as error:
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", from_exception(error).message)


def run(args: argparse.Namespace) -> int:
    """Runs a server until SIGTERM or SIGINT.

    Args:
        args: Parsed arguments of `add_arguments`.

    Returns:
        The exit code after a drained stop.

    Raises:
        ServingError: The server could not start.
    """
    warnings.simplefilter("ignore")  # dependencies announce what a user of the server cannot change
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    ignored = [name for name in IGNORED_FLAGS if getattr(args, name, None) is not None]
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
    from serving.runner import release_memory, without_extras

    source = server.options.model_config_file or server.options.model_base_path
    logger.info("starting: TensorFlow is loaded first, then the models of %s; ready when this says so", source)
    gc.set_threshold(50_000)  # imports make many objects that stay: the collector would look at them again and again,
    atexit.register(gc.freeze)  # and for a second at the end
    try:
        with without_extras():
            server.start()
    except ServingError:
        if stopping.is_set():
            return _leave(server)
        raise
    gc.collect()
    release_memory()  # what imports and loading have left
    rest = f" rest={server.rest_address}" if server.rest_address else ""
    page = f" ui=http://{server.ui_address}" if server.ui_address else ""
    print(f"embedded server ready: grpc={server.address}{rest}{page} (for development)", flush=True)
    stopping.wait()
    logger.info("draining")
    return _leave(server)


def _leave(server: EmbeddedServer) -> int:
    """Drains a server and returns the exit code, or ends the process if it could not end otherwise."""
    if not server.stop():
        # A load cannot be cancelled, and TensorFlow aborts where Python ends under a thread that is in its code: the
        # drained server would look like one that crashed.
        logger.info("ending without waiting for a version that still loads")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m serving.server`; 255 if it cannot start, as tensorflow_model_server."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__.splitlines()[0])
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        return 255


if __name__ == "__main__":
    sys.exit(main())
