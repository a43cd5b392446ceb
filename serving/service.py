"""What the server does with a request, whichever way it came: the methods of PredictionService and ModelService.

Protocol buffers in, protocol buffers out; errors are ServingErrors. gRPC (grpc_front.py) and REST (rest.py) are thin
layers above.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving import tensors
from serving.batching import Batcher
from serving.loaded_versions import Handle
from serving.metrics import Metrics
from serving.model_config import config_from_proto
from serving.model_manager import ModelManager
from serving.signatures import DEFAULT_SIGNATURE, Signature
from serving.status import Code, ServingError, deadline_exceeded, from_exception, invalid

_SIGNATURE_FIELD = "signature_def"


@dataclass
class Call:
    """What the transport knows about one request.

    Attributes:
        deadline: `time.monotonic()` value after which nobody waits any more.
        entrypoint: GRPC or REST.
        expired: Set once the transport has answered DEADLINE_EXCEEDED, which it does a moment before the deadline.
        abandoned: Set once the caller has gone before that.
    """

    deadline: float | None = None
    entrypoint: str = "GRPC"
    expired: threading.Event = field(default_factory=threading.Event)
    abandoned: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def within(cls, seconds: float | None, entrypoint: str = "GRPC") -> Call:
        """Returns a call that has this many seconds left."""
        return cls(None if seconds is None else time.monotonic() + seconds, entrypoint)

    def check(self) -> None:
        """Stops work that nobody waits for.

        Raises:
            ServingError: The caller has gone or the deadline has passed.
        """
        if self.late:
            raise deadline_exceeded()
        if self.abandoned.is_set():
            raise ServingError(Code.CANCELLED, "the caller has gone")

    @property
    def late(self) -> bool:
        """Whether the caller has been told, or has seen, that its time is over."""
        return self.expired.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)

    def unwanted(self) -> bool:
        """Returns whether nobody waits for the answer, whatever the clock says."""
        return self.expired.is_set() or self.abandoned.is_set()


@dataclass
class Prediction:
    """The outputs of a Predict call, not yet in any wire format."""

    name: str
    version: int
    signature: str
    outputs: dict[str, np.ndarray]


class Service:
    """Answers requests with the versions the manager holds."""

    def __init__(
        self,
        manager: ModelManager,
        metrics: Metrics,
        batcher: Batcher | None = None,
        max_rows: int = 0,
    ) -> None:
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_management_pb2,
            predict_pb2,
        )

        self.manager = manager
        self.metrics = metrics
        self._batcher = batcher
        self._max_rows = max_rows
        self._predict_pb2: Any = predict_pb2
        self._metadata_pb2: Any = get_model_metadata_pb2
        self._status_pb2: Any = get_model_status_pb2
        self._management_pb2: Any = model_management_pb2
        self.request_types: dict[str, Any] = {
            "Predict": predict_pb2.PredictRequest,
            "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
            "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
            "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
        }

    @contextmanager
    def counted(self, name: str, api: str, call: Call) -> Iterator[None]:
        """Counts a request and its time under TensorFlow Serving's metrics.

        Args:
            name: The model asked for.
            api: The method.
            call: The request's transport facts.

        Raises:
            ServingError: A gRPC call has ended late, whatever came of the work: what is counted is what is told.
        """
        started = time.monotonic()
        try:
            yield
        except Exception as failure:
            # No local variable may hold it beyond this: its traceback names this frame, which holds the request.
            if self._count(name, api, call, time.monotonic() - started, from_exception(failure).code):
                raise deadline_exceeded() from failure
            raise
        if self._count(name, api, call, time.monotonic() - started, Code.OK):
            raise deadline_exceeded()

    def _count(self, name: str, api: str, call: Call, seconds: float, code: Code) -> bool:
        """Counts a request, and returns whether it has ended late, whatever came of the work."""
        late = call.late and call.entrypoint == "GRPC"
        if late:
            code = Code.DEADLINE_EXCEEDED
        self.metrics.request_count.add(1, name, code.name)
        if code == Code.OK:
            self.metrics.request_latency.add(seconds * 1e6, name, api, call.entrypoint)
        return late

    # -- prediction ------------------------------------------------------------------------------------------

    def predict_arrays(self, request: Any, call: Call) -> Prediction:
        """Answers a PredictRequest with arrays.

        Args:
            request: The PredictRequest.
            call: The request's transport facts.

        Returns:
            The outputs.

        Raises:
            ServingError: With TensorFlow Serving's code and text.
        """
        with ExitStack() as held:
            handle, signature, feeds, fetches = self._prepare(request, call, held)
            names = list(fetches.values())
            started = time.monotonic()
            if self._batcher is None:
                results = handle.loaded.run(feeds, names, call.deadline)
            else:
                run = handle.loaded.run
                results = self._batcher.run(handle.loaded, run, feeds, names, call.deadline, call.unwanted)
            self.metrics.runtime_latency.add((time.monotonic() - started) * 1e6, handle.name, "Predict", "TF1")
            return Prediction(handle.name, handle.version, signature.name, dict(zip(fetches, results, strict=True)))

    def _prepare(
        self, request: Any, call: Call, held: ExitStack
    ) -> tuple[Handle, Signature, dict[str, np.ndarray], dict[str, str]]:
        call.check()
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        handle = held.enter_context(self.manager.use(request.model_spec))
        signature, feeds, fetches = handle.loaded.predict_feeds(request)
        if self._max_rows:
            rows = max((array.shape[0] for array in feeds.values() if array.ndim), default=0)
            if rows > self._max_rows:
                raise invalid(f"Task size {rows} is larger than maximum input batch size {self._max_rows}")
        return handle, signature, feeds, fetches

    @property
    def batching(self) -> bool:
        """Whether requests are joined into batches."""
        return self._batcher is not None

    def submit_predict(self, request: Any, call: Call, done: Callable[[Any, ServingError | None], None]) -> None:
        """Answers a PredictRequest as part of a batch, without a thread that waits for it.

        Args:
            request: The PredictRequest.
            call: The request's transport facts.
            done: Called once, in any thread, with the PredictResponse or an error.
        """
        held = ExitStack()
        started = time.monotonic()

        def finish(results: Sequence[list[np.ndarray]], failure: BaseException | None) -> None:
            response = None
            error = None if failure is None else from_exception(failure)
            try:
                if error is None:
                    micros = (time.monotonic() - started) * 1e6
                    self.metrics.runtime_latency.add(micros, handle.name, "Predict", "TF1")
                    arrays = Batcher.join(results, list(fetches.values()))
                    outputs = dict(zip(fetches, arrays, strict=True))
                    response = self._response(Prediction(handle.name, handle.version, signature.name, outputs))
            except Exception as problem:
                error = from_exception(problem)
            held.close()
            code = Code.OK if error is None else error.code
            if self._count(request.model_spec.name, "Predict", call, time.monotonic() - started, code):
                error = deadline_exceeded()
            done(response, error)

        try:
            handle, signature, feeds, fetches = self._prepare(request, call, held)
            assert self._batcher is not None
            futures = self._batcher.submit(
                handle.loaded,
                handle.loaded.run,
                feeds,
                list(fetches.values()),
                call.deadline,
                call.unwanted,
            )
        except Exception as problem:
            finish([], problem)
            return
        left = [len(futures)]
        lock = threading.Lock()

        def piece(_: Any) -> None:
            with lock:
                left[0] -= 1
                if left[0]:
                    return
            failure = next((future.exception() for future in futures if future.exception() is not None), None)
            results = [] if failure is not None else [future.result() for future in futures]
            futures.clear()  # they keep this function, and it the request, until the collector finds the cycle
            finish(results, failure)

        for future in futures:
            future.add_done_callback(piece)

    def predict(self, request: Any, call: Call) -> Any:
        """Answers a PredictRequest with a PredictResponse."""
        with self.counted(request.model_spec.name, "Predict", call):
            return self._response(self.predict_arrays(request, call))

    def _response(self, result: Prediction) -> Any:
        response = self._predict_pb2.PredictResponse()
        response.model_spec.name = result.name
        response.model_spec.version.value = result.version
        response.model_spec.signature_name = result.signature
        for alias, array in result.outputs.items():
            try:
                tensors.to_proto(array, response.outputs[alias])
            except tensors.TensorError as error:
                raise ServingError(Code.UNIMPLEMENTED, f"output {alias}: {error}") from error
        return response

    def input_types(self, model_spec: Any, signature_name: str) -> dict[str, int]:
        """Returns alias to DataType of a signature's inputs, for REST.

        Raises:
            ServingError: No such model or signature.
        """
        with self.manager.use(model_spec) as handle:
            name = signature_name or DEFAULT_SIGNATURE
            found = handle.loaded.signatures.get(name)
            if found is None:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            return {entry.alias: entry.dtype for entry in found.inputs}

    # -- metadata and status ---------------------------------------------------------------------------------

    def get_model_metadata(self, request: Any, call: Call) -> Any:
        """Answers a GetModelMetadataRequest."""
        call.check()
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != _SIGNATURE_FIELD:
                raise invalid(f"Metadata field {name} is not supported")
        response = self._metadata_pb2.GetModelMetadataResponse()
        signatures = self._metadata_pb2.SignatureDefMap()
        with self.manager.use(request.model_spec) as handle:
            for name, definition in handle.loaded.meta_graph.signature_def.items():
                signatures.signature_def[name].CopyFrom(definition)
            response.model_spec.name = handle.name
            response.model_spec.version.value = handle.version
        response.metadata[_SIGNATURE_FIELD].Pack(signatures)
        return response

    def get_model_status(self, request: Any, call: Call) -> Any:
        """Answers a GetModelStatusRequest."""
        call.check()
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        response = self._status_pb2.GetModelStatusResponse()
        for version, state, error in self.manager.versions.status(spec.name, number):
            row = response.model_version_status.add(version=version, state=int(state))
            row.status.SetInParent()
            if error is not None:
                row.status.error_code = int(error.code)
                row.status.error_message = error.message
        return response

    def handle_reload_config(self, request: Any, call: Call) -> Any:
        """Answers a ReloadConfigRequest."""
        call.check()
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        models = config_from_proto(request.config.model_config_list)
        self.manager.apply(models, call.deadline, call.check)
        response = self._management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response
