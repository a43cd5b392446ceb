"""The gRPC services of the embedded server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from htr_client.model_facts import LINE_FINDER
from serving import ports, protos
from serving.model_config import KEPT_MODEL
from serving.options import ServerOptions, model_threads
from serving.service import Call, Service
from serving.status import UNSUPPORTED, Code, ServingError, deadline_exceeded, from_exception, invalid, unsupported

logger = logging.getLogger("serving")

_HEALTH_NAMES = ("", "ModelService", "PredictionService")
_PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
_MODEL_SERVICE = "tensorflow.serving.ModelService"
_HEALTH_SERVICE = "grpc.health.v1.Health"
# A larger request would hold up the event loop while it is parsed.
_PARSE_ON_LOOP_BYTES = 256 << 10
_EARLY_SECONDS = 0.05
_HEALTH_SERVING, _HEALTH_NOT_SERVING, _HEALTH_SERVICE_UNKNOWN = 1, 2, 3
# What a call comes to. An error in it is not raised: its traceback would name frames that hold the request.
_Reply: TypeAlias = tuple[bytes, ServingError | None]
_Answer: TypeAlias = "asyncio.Future[_Reply]"


class _Lane:
    """Threads for one kind of request, so that no kind waits for another."""

    def __init__(self, name: str, threads: int, limit: int) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.limit = limit
        self.active = 0  # requests that wait or are worked on; only the event loop counts

    @property
    def full(self) -> bool:
        return self.active >= self.limit


class GrpcFront:
    """The gRPC services, on an event loop of their own: a slow or idle client costs no thread."""

    def __init__(self, service: Service, options: ServerOptions, server_options: Sequence[tuple[str, Any]]) -> None:
        self._service = service
        self._options = options
        self._server_options = list(server_options)
        limit = max(1, options.grpc_max_threads)
        self.predictions = _Lane("grpc", min(limit, model_threads()), limit)
        # Whoever asks for the state of a busy server, a rollout for instance, does not queue behind its work.
        self._lookups = _Lane("lookup", 2, limit)
        self.reloads = _Lane("reload", 2, 2)  # each may block until its deadline
        self._answers: deque[tuple[_Answer, _Lane, bytes, ServingError | None]] = deque()
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
        """Binds and starts; returns the port."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(credentials), self.loop).result()

    async def _start(self, credentials: Any) -> int:
        self._health_changed = asyncio.Event()
        most = max(512, 8 * self.predictions.limit)
        self.server = grpc.aio.server(options=self._server_options, maximum_concurrent_rpcs=most)
        self.server.add_generic_rpc_handlers((_Router(self._handlers()),))
        address = f"{self._options.host}:{self._options.port}"
        if ":" in self._options.host:
            address = f"[{self._options.host}]:{self._options.port}"
        targets = [address]
        if self._options.grpc_socket_path:
            targets.append("unix:" + self._options.grpc_socket_path)
        ports.check_socket(self._options.grpc_socket_path)
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
            reason = "no place for a socket" if os.path.isdir(folder) else f"there is no folder {folder}"
        else:
            ports.check(self._options.host, {"port": self._options.port})
            reason = "certificate and key in --ssl_config_file do not fit" if secure else "in use a moment ago"
        return ServingError(Code.UNAVAILABLE, f"cannot listen on {target}: {reason}")

    def _handlers(self) -> dict[str, Any]:
        service = self._service
        handlers = {}

        def unary(find: Callable[[bytes, Any], Awaitable[_Reply]]) -> Any:
            return grpc.unary_unary_rpc_method_handler(functools.partial(self._reply, find))

        predict, lookup, reload = self.predictions, self._lookups, self.reloads
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
            handlers[f"/{_HEALTH_SERVICE}/Watch"] = grpc.unary_stream_rpc_method_handler(self._health_watch)
        return handlers

    async def _abort(self, context: Any, error: ServingError) -> None:
        """Ends a call with nothing but a status.

        A code set beside a returned message, however empty, would commit the call: the caller's gRPC would not retry
        what a full or a stopping server refuses.
        """
        await context.abort(grpc.StatusCode[error.code.name], error.wire_message)

    async def _reply(self, find: Callable[[bytes, Any], Awaitable[_Reply]], data: bytes, context: Any) -> bytes:
        """Ends a call with what `find` makes of its request.

        gRPC keeps the frames of an aborted call until Python's collector finds the cycle: none may hold the request.
        """
        finding = find(data, context)
        del data
        result, error = await finding
        if error is not None:
            await self._abort(context, error)
        return result

    async def _unsupported(self, name: str, data: bytes, context: Any) -> _Reply:
        return b"", unsupported(name)

    async def _unary(
        self, name: str, lane: _Lane, method: Callable[[Any, Any], Any], data: bytes, context: Any
    ) -> _Reply:
        if lane.full:
            return b"", ServingError(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        left = context.time_remaining()
        call = Call.within(left)
        answer: _Answer = self.loop.create_future()

        def done(result: bytes, error: ServingError | None) -> None:
            self._post(answer, lane, result, error)

        lane.active += 1  # until the work has really ended, which may be long after the caller has gone
        if name == "Predict" and self._service.batching and len(data) <= _PARSE_ON_LOOP_BYTES:
            self._submit(data, call, done)
        else:
            lane.pool.submit(self._work, name, method, data, call, done)
        if name == "GetModelStatus" and self._options.line_finder_base_path:
            context.set_trailing_metadata(((KEPT_MODEL, LINE_FINDER),))
        timer = None
        if left is not None and not answer.done():
            # Just before gRPC itself would, which calls it CANCELLED if it comes first.
            timer = self.loop.call_later(left - min(0.01 * left, _EARLY_SECONDS), self._expire, answer, call)
        try:
            return await answer
        except asyncio.CancelledError:
            call.abandoned.set()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    @staticmethod
    def _expire(answer: _Answer, call: Any) -> None:
        if not answer.done():
            call.expired.set()
            answer.set_result((b"", deadline_exceeded()))

    def _post(self, answer: _Answer, lane: _Lane, result: bytes, error: ServingError | None) -> None:
        """Hands an answer to the event loop, from any thread; answers of one batch share one wake-up."""
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
            if not answer.done():
                answer.set_result((result, error))

    def _parse(self, name: str, data: bytes) -> Any:
        try:
            return self._service.request_types[name].FromString(data)
        except Exception as error:
            raise ServingError(Code.INTERNAL, "") from error

    def _submit(self, data: bytes, call: Any, done: Callable[[bytes, ServingError | None], None]) -> None:
        def finish(response: Any, error: ServingError | None) -> None:
            result = b""
            if error is None:
                try:
                    result = response.SerializeToString()
                except Exception as failure:  # protobuf has a greatest size; nobody else would hear of it
                    error = from_exception(failure)
                    logger.exception("Predict failed")
            done(result, error)

        try:
            request = self._parse("Predict", data)
        except ServingError as error:
            done(b"", from_exception(error))
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
            # It may have waited too long. The method looks first of all, and counts a prediction that has.
            result = method(self._parse(name, data), call).SerializeToString()
        except Exception as error:
            failure = from_exception(error)
            if failure.code == Code.INTERNAL and not isinstance(error, ServingError):
                logger.exception("%s failed", name)
        done(result, failure)

    # -- health ----------------------------------------------------------------------------------------------

    async def _health_check(self, data: bytes, context: Any) -> _Reply:
        name = self._health_name(data)
        if name is None:
            return b"", invalid("could not parse request")
        if name not in _HEALTH_NAMES:
            return b"", ServingError(Code.NOT_FOUND, "service name unknown")
        return self._health_bytes(self._health), None

    async def _health_watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        name = self._health_name(data)
        del data
        if name is None:
            await self._abort(context, invalid("could not parse request"))
        yield self._health_bytes(self._health if name in _HEALTH_NAMES else _HEALTH_SERVICE_UNKNOWN)
        assert self._health_changed is not None
        if self._health == _HEALTH_SERVING:
            await self._health_changed.wait()
            if name in _HEALTH_NAMES:
                yield self._health_bytes(self._health)

    @staticmethod
    def _health_name(data: bytes) -> str | None:
        """The service asked for; None for what cannot be parsed."""
        try:
            return str(protos.HealthCheckRequest.FromString(data).service)
        except Exception:
            return None

    @staticmethod
    def _health_bytes(status: int) -> bytes:
        result: bytes = protos.HealthCheckResponse(status=status).SerializeToString()
        return result

    # -- the end ---------------------------------------------------------------------------------------------

    def set_not_serving(self) -> None:
        """Tells health checks, at once, that this server will go."""

        def change() -> None:
            self._health = _HEALTH_NOT_SERVING
            if self._health_changed is not None:
                self._health_changed.set()

        self.loop.call_soon_threadsafe(change)

    def stop(self, grace: float) -> None:
        """Refuses new requests, waits for the running ones, and ends the loop."""
        if self.server is not None:
            asyncio.run_coroutine_threadsafe(self.server.stop(grace), self.loop).result(grace + 10)
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5)
        for lane in (self.predictions, self._lookups, self.reloads):
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Router:
    """Finds the handler of a method; unknown ones get TensorFlow Serving's bare UNIMPLEMENTED."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers
        self._unknown = grpc.stream_stream_rpc_method_handler(self._refuse)

    def service(self, details: Any) -> Any:
        """Returns the handler of a call, as gRPC's GenericRpcHandler does."""
        return self._handlers.get(details.method, self._unknown)

    async def _refuse(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        yield b""
