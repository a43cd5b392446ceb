"""The versions of a server: what state each is in, loading and unloading, and which one a request holds.

A new version is loaded, warmed up and published before an old one goes; an old one is unloaded when its last request
has ended; a version that cannot be loaded is retried, then kept in the status as END with its error. A version whose
number is wanted from another directory answers until that one can take its place.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from serving.metrics import Metrics
from serving.options import ServerOptions
from serving.runner import LoadedModel, RunnerOptions, release_memory
from serving.status import Code, ServingError, from_exception

logger = logging.getLogger("serving")

# Ended versions stay visible in the status; a server that runs for months must not keep them all.
_MAX_ENDED = 100


class State(enum.IntEnum):
    """The states of GetModelStatus."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Version:
    """One version; all fields are guarded by the lock of `Versions`."""

    def __init__(self, model: str, number: int, path: str) -> None:
        self.model = model
        self.number = number
        self.path = path
        self.state = State.START
        self.error: ServingError | None = None
        self.aspired = True
        self.loaded: LoadedModel | None = None
        self.requests = 0
        self.failures = 0
        self.busy = False  # a thread is loading it right now, not merely waiting to retry


class Handle:
    """A version in use by a request: it is not unloaded before the handle is released."""

    def __init__(self, version: Version) -> None:
        assert version.loaded is not None
        self.name = version.model
        self.version = version.number
        self.loaded = version.loaded


def _give_way() -> None:
    """Lowers the priority of this thread, and of those that TensorFlow starts from it to run models.

    The threads that talk to callers then answer and refuse at once however much the model has to do: under overload a
    refusal costs less than waiting for a turn.
    """
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Versions:
    """Keeps the versions that are wanted loaded; all fields are guarded by `changed`.

    Attributes:
        changed: Notified whenever a version changes its state.
        live: Versions that are wanted or not gone yet, by model and number.
        serving: Those that answer, by model and number.
        stopping: Set when everything that waits for a version is to give up.
    """

    def __init__(self, options: ServerOptions, runner_options: RunnerOptions, metrics: Metrics) -> None:
        self.options = options
        self.changed = threading.Condition(threading.RLock())
        self.live: dict[str, dict[int, Version]] = {}
        self.serving: dict[str, dict[int, Version]] = {}
        self.stopping = threading.Event()
        self._runner_options = runner_options
        self._metrics = metrics
        self._ended: dict[str, dict[int, ServingError | None]] = {}
        # By model and number, what is loaded from another directory to take the place of one that answers.
        self._successors: dict[str, dict[int, Version]] = {}
        self._threads: set[threading.Thread] = set()
        self._cancelling = False

    def aspire(self, name: str, wanted: Mapping[int, str]) -> None:
        """Makes these the wanted versions of a model.

        Args:
            name: The model.
            wanted: Number to directory.
        """
        live = self.live.setdefault(name, {})
        moved: dict[int, str] = {}
        for number, version in list(live.items()):
            path = wanted.get(number)
            if path is not None and path != version.path and version.state == State.AVAILABLE:
                if os.path.realpath(path) == os.path.realpath(version.path):
                    version.path = path  # the same directory under another name
                else:
                    moved[number] = path
            version.aspired = path == version.path or number in moved
            if not version.aspired and version.state in (State.START, State.END) and not version.busy:
                self._end(version, version.error)
        for number, path in wanted.items():
            if number not in live:
                live[number] = Version(name, number, path)
        successors = self._successors.setdefault(name, {})
        for number, version in list(successors.items()):
            version.aspired = moved.get(number) == version.path
            if not version.aspired:
                del successors[number]
        for number, path in moved.items():
            if number not in successors:
                successors[number] = Version(name, number, path)
        self._act(name)
        self.changed.notify_all()

    # -- loading and unloading -------------------------------------------------------------------------------

    def _act(self, name: str) -> None:
        """Takes the steps that keep the model available, as AvailabilityPreservingPolicy does."""
        versions = self.live.get(name, {}).values()
        aspired = [version for version in versions if version.aspired]
        aspired_available = any(version.state == State.AVAILABLE for version in aspired)
        leftover = sorted(
            (version for version in versions if not version.aspired and version.state == State.AVAILABLE),
            key=lambda version: version.number,
        )
        while leftover and (not aspired or aspired_available or len(leftover) > 1):
            self._start_unload(leftover.pop(0))
        if self.stopping.is_set():
            return
        every = [*self.live.values(), *self._successors.values()]
        loading = sum(version.busy for group in every for version in group.values())
        candidates = [*aspired, *self._successors.get(name, {}).values()]
        new = [version for version in candidates if version.state == State.START]
        for version in sorted(new, key=lambda item: -item.number):
            if loading >= max(1, self.options.num_load_threads):
                break
            loading += 1
            version.state = State.LOADING
            version.busy = True
            self._start(self._load, version)

    def _start(self, target: Callable[[Version], None], version: Version) -> None:
        def work() -> None:
            _give_way()
            try:
                target(version)
            except Exception:
                logger.exception("version %s of %s", version.number, version.model)
            finally:
                with self.changed:
                    self._threads.discard(thread)
                    # A load slot may be free now, for whichever model waits for one.
                    for name in list(self.live):
                        self._act(name)
                    self.changed.notify_all()

        thread = threading.Thread(target=work, name=f"{version.model}-{version.number}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _load(self, version: Version) -> None:
        attempts = max(0, self.options.max_num_load_retries) + 1
        for attempt in range(attempts):
            logger.info("Loading version %s of %s", version.number, version.model)
            error: ServingError
            try:
                loaded = self._load_once(version)
            except Exception as failure:
                error = from_exception(failure)
                logger.error("Loading version %s of %s failed: %s", version.number, version.model, error)
            else:
                self._publish(version, loaded)
                return
            release_memory()
            with self.changed:
                version.failures += 1
                version.error = error
                last = attempt + 1 == attempts
                if last or not version.aspired or self.stopping.is_set():
                    version.busy = False
                    version.state = State.END
                    if not version.aspired:
                        self._end(version, error)
                    self.changed.notify_all()
                    return
                version.busy = False
                for name in list(self.live):
                    self._act(name)
                self.changed.notify_all()
                until = time.monotonic() + self.options.load_retry_interval_micros / 1e6
                while version.aspired and not self.stopping.is_set() and time.monotonic() < until:
                    self.changed.wait(max(0.0, min(1.0, until - time.monotonic())))
                if not version.aspired or self.stopping.is_set():
                    self._end(version, error)
                    return
                version.busy = True

    def _load_once(self, version: Version) -> LoadedModel:
        status = "success"
        try:
            loaded = LoadedModel(version.path, self._runner_options)
            started = time.monotonic()
            warm_status = "OK"
            try:
                loaded.warm_up()
            except Exception as error:
                warm_status = from_exception(error).code.name
                loaded.close()
                raise
            finally:
                micros = (time.monotonic() - started) * 1e6
                self._metrics.warmup_latency.add(micros, version.path, warm_status)
            return loaded
        except Exception:
            status = "fail"
            raise
        finally:
            self._metrics.load_attempts.add(1, version.path, status)

    def _publish(self, version: Version, loaded: LoadedModel) -> None:
        with self.changed:
            version.busy = False
            version.loaded = loaded
            version.error = None
            version.failures = 0
            live = self.live.get(version.model, {})
            old = live.get(version.number)
            if old is not version:
                if self._successors.get(version.model, {}).get(version.number) is not version:
                    version.state = State.UNLOADING  # no longer wanted
                    self._start(self._unload, version)
                    return
                del self._successors[version.model][version.number]
                live[version.number] = version
            version.state = State.AVAILABLE
            self._ended.get(version.model, {}).pop(version.number, None)
            serving = dict(self.serving.get(version.model, {}))
            serving[version.number] = version
            self.serving[version.model] = serving
            logger.info("Successfully loaded version %s of %s", version.number, version.model)
            if old is not None and old is not version:
                old.aspired = False
                self._start_unload(old)
            self._act(version.model)
            self.changed.notify_all()

    def _start_unload(self, version: Version) -> None:
        version.state = State.UNLOADING
        serving = dict(self.serving.get(version.model, {}))
        if serving.get(version.number) is version:  # and not one from another directory already
            del serving[version.number]
            self.serving[version.model] = serving
        self._start(self._unload, version)

    def _unload(self, version: Version) -> None:
        with self.changed:
            while version.requests:
                if self._cancelling and version.loaded is not None:
                    version.loaded.cancel()
                self.changed.wait(1.0)
            loaded, version.loaded = version.loaded, None
        if loaded is not None:
            loaded.close()
            del loaded
            release_memory()
        with self.changed:
            logger.info("Unloaded version %s of %s", version.number, version.model)
            self._end(version, None)
            if version.aspired:  # again, meanwhile: without it the version that answers now would have no successor
                self.live[version.model][version.number] = Version(version.model, version.number, version.path)
            self.changed.notify_all()

    def _end(self, version: Version, error: ServingError | None) -> None:
        """Forgets a version, but for the status."""
        version.state = State.END
        live = self.live.get(version.model, {})
        if live.get(version.number) is version:
            del live[version.number]
        ended = self._ended.setdefault(version.model, {})
        ended.pop(version.number, None)
        ended[version.number] = error
        while len(ended) > _MAX_ENDED:
            del ended[next(iter(ended))]

    # -- requests --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, name: str, number: int | None) -> Iterator[Handle]:
        """Holds a version for the time of one request.

        Args:
            name: The model.
            number: Number of the version; None is the newest that answers.

        Yields:
            The version in use.

        Raises:
            ServingError: Nothing that fits is served.
        """
        with self.changed:
            serving = self.serving.get(name, {})
            version = serving.get(number if number is not None else max(serving, default=0))
            if version is None or version.loaded is None:
                what = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {what}")
            version.requests += 1
            handle = Handle(version)
        try:
            yield handle
        finally:
            with self.changed:
                version.requests -= 1
                if not version.requests and version.state == State.UNLOADING:
                    self.changed.notify_all()

    def status(self, name: str, number: int | None = None) -> list[tuple[int, State, ServingError | None]]:
        """Returns version, state and error of a model's versions, newest first.

        Raises:
            ServingError: Nothing is known of that model or version.
        """
        with self.changed:
            rows: dict[int, tuple[int, State, ServingError | None]] = {
                ended: (ended, State.END, error) for ended, error in self._ended.get(name, {}).items()
            }
            for version in self.live.get(name, {}).values():
                error = version.error if version.state == State.END else None
                rows[version.number] = (version.number, version.state, error)
        if number is not None:
            if number not in rows:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")
            return [rows[number]]
        if not rows:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return [rows[key] for key in sorted(rows, reverse=True)]

    def available(self, name: str) -> list[int]:
        """Returns the versions of a model that answer, newest first."""
        return sorted(self.serving.get(name, {}), reverse=True)

    # -- the end ---------------------------------------------------------------------------------------------

    def unload(self) -> None:
        """Starts to unload everything, and cancels the requests that still run: nobody waits for them any more."""
        with self.changed:
            self._cancelling = True
            for name in list(self.live):
                self.aspire(name, {})
            self.changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Waits until nothing is loaded, unloaded or run.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything has ended.
        """
        until = time.monotonic() + timeout
        while self._threads and time.monotonic() < until:
            thread = next(iter(self._threads), None)
            if thread is not None:
                thread.join(0.2)
        return not self._threads
