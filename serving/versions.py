"""Which versions of which models are served: polling, policies, labels, loading and unloading.

The rules are TensorFlow Serving's: versions are directories with a number for a name; a new version is loaded,
warmed up and published before an old one goes; an old one is unloaded when its last request has ended; a version
that cannot be loaded is retried, then kept in the status as END with its error, and never replaces a good one.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.metrics import Metrics
from serving.runner import LoadedModel, RunnerOptions, release_memory
from serving.status import Code, ServingError, from_exception, invalid

logger = logging.getLogger("serving")

# Ended versions stay visible in the status; a server that runs for months must not keep them all.
_MAX_ENDED = 100
_PLATFORM = "tensorflow"
_SAY_SECONDS = 10.0


class State(enum.IntEnum):
    """The states of GetModelStatus."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Policy:
    """Which of the versions found are wanted."""

    kind: str = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def choose(self, found: Mapping[int, str]) -> list[int]:
        """Return the wanted versions, newest first."""
        newest_first = sorted(found, reverse=True)
        if self.kind == "all":
            return newest_first
        if self.kind == "specific":
            return [number for number in newest_first if number in self.versions]
        return newest_first[: max(1, self.count)]


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve."""

    name: str
    base_path: str
    policy: Policy = Policy()
    labels: Mapping[str, int] = field(default_factory=dict)
    platform: str = _PLATFORM


def config_from_proto(config_list: Any) -> list[ModelConfig]:
    """Read and check a ModelConfigList.

    Args:
        config_list: The message.

    Returns:
        The models.

    Raises:
        ServingError: A name occurs twice, a path is relative, or a platform is missing or unknown.
    """
    models: dict[str, ModelConfig] = {}
    for entry in config_list.config:
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        models[entry.name] = _model_from_proto(entry)
    for entry in config_list.config:
        if not os.path.isabs(entry.base_path):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
    for entry in config_list.config:
        if entry.model_type and entry.model_platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {entry.name}"
            )
        if not models[entry.name].platform:
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {entry.name}"
            )
        if models[entry.name].platform != _PLATFORM:
            raise invalid(f"Model {entry.name} requests unsupported platform {models[entry.name].platform}")
    return list(models.values())


def _model_from_proto(entry: Any) -> ModelConfig:
    policy = Policy()
    choice = entry.model_version_policy.WhichOneof("policy_choice")
    if choice == "latest":
        policy = Policy("latest", entry.model_version_policy.latest.num_versions or 1)
    elif choice == "all":
        policy = Policy("all")
    elif choice == "specific":
        policy = Policy("specific", versions=tuple(entry.model_version_policy.specific.versions))
    platform = entry.model_platform
    if not platform and entry.model_type == 1:  # ModelType.TENSORFLOW, deprecated
        platform = _PLATFORM
    return ModelConfig(entry.name, entry.base_path, policy, dict(entry.version_labels), platform)


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are polled, loaded and retried; names and defaults are TensorFlow Serving's."""

    poll_wait_seconds: float = 1.0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 0
    allow_version_labels_for_unavailable_models: bool = False
    serve_newest_good: bool = True


class _Version:
    """One version the manager works on; all fields are guarded by the manager's lock."""

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

    def __init__(self, version: _Version) -> None:
        loaded = version.loaded
        if loaded is None:
            raise ServingError(Code.INTERNAL, "Manager returned a null handle with OK status.")
        self.name = version.model
        self.version = version.number
        self.loaded = loaded


def _give_way() -> None:
    """Lowers the priority of this thread, and of those that TensorFlow starts from it to run models.

    The threads that talk to callers then answer and refuse at once however much the model has to do: under overload a
    refusal costs less than waiting for a turn.
    """
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class ModelManager:
    """Keeps the versions that the configuration wants loaded, and hands them to requests."""

    def __init__(self, options: ManagerOptions, runner_options: RunnerOptions, metrics: Metrics) -> None:
        self.options = options
        self._runner_options = runner_options
        self._metrics = metrics
        self._changed = threading.Condition(threading.RLock())
        self._config_lock = threading.Lock()
        self._models: dict[str, ModelConfig] | None = None
        self._labels: dict[str, dict[str, int]] | None = None
        self._live: dict[str, dict[int, _Version]] = {}
        self._empty: set[str] = set()  # models of which the log says that there is no version
        self._ended: dict[str, dict[int, ServingError | None]] = {}
        self._serving: dict[str, dict[int, _Version]] = {}
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._threads: set[threading.Thread] = set()

    # -- configuration ---------------------------------------------------------------------------------------

    def apply(self, models: list[ModelConfig], deadline: float | None = None) -> None:
        """Make this the configuration, and wait until models new in it can be used.

        As in TensorFlow Serving this is not a transaction: models missing from it are dropped at once, and a label
        must point to a version that is available already.

        Args:
            models: All models to serve.
            deadline: `time.monotonic()` value after which to stop waiting.

        Raises:
            ServingError: A label points nowhere, a new model did not become available, or the time is over.
        """
        with self._config_lock:
            wanted = {model.name: model for model in models}
            with self._changed:
                old = self._models or {}
                first = self._models is None
                for name, model in wanted.items():
                    if name in old and old[name].platform != model.platform:
                        raise invalid(
                            f"Illegal to change a model's platform. For model {name} platform was "
                            f"{old[name].platform} and new platform requested is {model.platform}"
                        )
                self._update_labels(wanted)
                self._models = wanted
                for name in set(old) - set(wanted):
                    self._aspire(name, {})
            if first and self.options.poll_wait_seconds >= 0:
                self._poller = threading.Thread(target=self._poll_forever, name="poll", daemon=True)
                self._poller.start()
            elif not first:
                self.poll()
            self._wait_available([name for name in wanted if name not in old], deadline, first)

    def _update_labels(self, wanted: Mapping[str, ModelConfig]) -> None:
        labels: dict[str, dict[str, int]] = {}
        for name, model in wanted.items():
            for label, number in model.labels.items():
                version = self._serving.get(name, {}).get(number)
                if version is None and not self._may_label_unavailable(name, label, number):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {name}, which is not currently "
                        "available for inference",
                    )
                labels.setdefault(name, {})[label] = number
        self._labels = labels

    def _may_label_unavailable(self, name: str, label: str, number: int) -> bool:
        if not self.options.allow_version_labels_for_unavailable_models:
            return False
        current = (self._labels or {}).get(name, {}).get(label)
        return current is None or current == number

    def _progress(self, names: list[str]) -> tuple[list[_Version], list[_Version], bool]:
        """How far models are from being ready, which is when all versions wanted at the start answer.

        With `serve_newest_good` one that answers is enough once each of the others has failed at least once.

        Args:
            names: Models to look at.

        Returns:
            Versions that failed for good and must not be missing, versions under way, and whether a model has no
            version at all.
        """
        failed, under_way, empty = [], [], False
        for name in names:
            if self._models is None or name not in self._models:
                continue
            wanted = [version for version in self._live.get(name, {}).values() if version.aspired]
            answering = bool(self._serving.get(name))
            lenient = answering and self.options.serve_newest_good
            under_way += [
                version
                for version in wanted
                if version.state in (State.START, State.LOADING) and not (lenient and version.failures)
            ]
            ended = [version for version in wanted if version.state == State.END]
            if ended and not lenient:
                failed.append(max(ended, key=lambda version: version.number))
            empty = empty or not (wanted or answering)
        return failed, under_way, empty

    def _wait_available(self, names: list[str], deadline: float | None, first: bool) -> None:
        """Wait until each model is ready, or cannot be."""
        said = time.monotonic()
        with self._changed:
            while True:
                failed, under_way, empty = self._progress(names)
                if failed and not under_way and not empty:
                    self.poll()  # an older version may step in for a broken one
                    failed, under_way, empty = self._progress(names)
                waiting = bool(under_way) or empty
                if failed and not waiting:
                    noun = "servable" if first else "model"
                    details = "".join(
                        f"{{{{name: {version.model} version: {version.number}}} due to error: {version.error}}}, "
                        for version in failed
                    )
                    text = f"{len(failed)} {noun}(s) did not become available: {{{details}}}"
                    raise ServingError(Code.UNKNOWN, text)
                if not waiting:
                    return
                if self._stopping.is_set():
                    raise ServingError(Code.CANCELLED, "the server is shutting down")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
                if under_way and time.monotonic() - said > _SAY_SECONDS:
                    said = time.monotonic()
                    which = ", ".join(f"{version.model} version {version.number}" for version in under_way)
                    logger.info("still loading %s", which)
                self._changed.wait(min(left, 0.5) if left is not None else 0.5)

    # -- polling ---------------------------------------------------------------------------------------------

    def _poll_forever(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception:
                logger.exception("polling failed")
            if self.options.poll_wait_seconds == 0:
                return
            self._stopping.wait(self.options.poll_wait_seconds)

    def poll(self) -> None:
        """Look at the model directories once, and start what has to be loaded or unloaded."""
        with self._changed:
            models = list((self._models or {}).values())
        for model in models:
            found = find_versions(model.base_path)
            if found is None:
                # A file system that is away for a moment must not unload everything.
                logger.error("Could not find base path %s for servable %s", model.base_path, model.name)
                continue
            if found:
                self._empty.discard(model.name)
            elif model.name not in self._empty:
                self._empty.add(model.name)
                logger.warning(
                    "No versions (folders with a number for a name) under %s for servable %s; waiting",
                    model.base_path, model.name,
                )  # fmt: skip
            with self._changed:
                if self._models is None or self._models.get(model.name) != model:
                    continue  # reconfigured meanwhile
                chosen = self._choose(model, found)
                self._aspire(model.name, {number: found[number] for number in chosen})

    def _choose(self, model: ModelConfig, found: Mapping[int, str]) -> list[int]:
        chosen = model.policy.choose(found)
        if model.policy.kind != "latest" or not self.options.serve_newest_good or self._serving.get(model.name):
            return chosen
        live = self._live.get(model.name, {})

        def failed(number: int) -> bool:
            version = live.get(number)
            return version is not None and version.path == found[number] and version.failures > 0

        # Where TensorFlow Serving would have nothing to serve: newest version broken, none loaded before it.
        older = [number for number in sorted(found, reverse=True) if number not in chosen]
        while older and all(failed(number) for number in chosen):
            chosen.append(older.pop(0))
        return chosen

    def _aspire(self, name: str, wanted: Mapping[int, str]) -> None:
        live = self._live.setdefault(name, {})
        for number, version in list(live.items()):
            version.aspired = wanted.get(number) == version.path
            if not version.aspired and version.state in (State.START, State.END) and not version.busy:
                self._end(version, version.error)
        for number, path in wanted.items():
            if number not in live:
                live[number] = _Version(name, number, path)
        self._act(name)
        self._changed.notify_all()

    # -- loading and unloading -------------------------------------------------------------------------------

    def _act(self, name: str) -> None:
        """Take the steps that keep the model available, as AvailabilityPreservingPolicy does."""
        versions = self._live.get(name, {}).values()
        aspired = [version for version in versions if version.aspired]
        aspired_available = any(version.state == State.AVAILABLE for version in aspired)
        leftover = sorted(
            (version for version in versions if not version.aspired and version.state == State.AVAILABLE),
            key=lambda version: version.number,
        )
        while leftover and (not aspired or aspired_available or len(leftover) > 1):
            self._start_unload(leftover.pop(0))
        if self._stopping.is_set():
            return
        loading = sum(version.busy for live in self._live.values() for version in live.values())
        new = sorted((version for version in aspired if version.state == State.START), key=lambda item: -item.number)
        for version in new:
            if loading >= max(1, self.options.num_load_threads):
                break
            loading += 1
            version.state = State.LOADING
            version.busy = True
            self._start(self._load, version)

    def _start(self, target: Callable[[_Version], None], version: _Version) -> None:
        def work() -> None:
            _give_way()
            try:
                target(version)
            except Exception:
                logger.exception("version %s of %s", version.number, version.model)
            finally:
                with self._changed:
                    self._threads.discard(thread)
                    # A load slot may be free now, for whichever model waits for one.
                    for name in list(self._live):
                        self._act(name)
                    self._changed.notify_all()

        thread = threading.Thread(target=work, name=f"{version.model}-{version.number}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _load(self, version: _Version) -> None:
        attempts = max(0, self.options.max_num_load_retries) + 1
        for attempt in range(attempts):
            logger.info("Loading version %s of %s", version.number, version.model)
            error: ServingError
            try:
                loaded = self._load_once(version)
            except Exception as failure:
                error = from_exception(failure).bare()
                logger.error("Loading version %s of %s failed: %s", version.number, version.model, error)
            else:
                self._publish(version, loaded)
                return
            release_memory()
            with self._changed:
                version.failures += 1
                version.error = error
                last = attempt + 1 == attempts
                if last or not version.aspired or self._stopping.is_set():
                    version.busy = False
                    version.state = State.END
                    if not version.aspired:
                        self._end(version, error)
                    self._changed.notify_all()
                    return
                version.busy = False
                for name in list(self._live):
                    self._act(name)
                self._changed.notify_all()
                until = time.monotonic() + self.options.load_retry_interval_micros / 1e6
                while version.aspired and not self._stopping.is_set() and time.monotonic() < until:
                    self._changed.wait(max(0.0, min(1.0, until - time.monotonic())))
                if not version.aspired or self._stopping.is_set():
                    self._end(version, error)
                    return
                version.busy = True

    def _load_once(self, version: _Version) -> LoadedModel:
        status = "success"
        try:
            loaded = LoadedModel(version.path, self._runner_options)
            started = time.monotonic()
            warm_status = "OK"
            count = 0
            try:
                count = loaded.warm_up()
            except Exception as error:
                warm_status = from_exception(error).code.name
                loaded.close()
                raise
            finally:
                micros = (time.monotonic() - started) * 1e6
                self._metrics.warmup_latency.add(micros, version.path, warm_status)
                self._metrics.warmup_records.add(count, version.path, warm_status)
            return loaded
        except Exception:
            status = "fail"
            raise
        finally:
            self._metrics.load_attempts.add(1, version.path, status)

    def _publish(self, version: _Version, loaded: LoadedModel) -> None:
        with self._changed:
            version.busy = False
            version.loaded = loaded
            version.error = None
            version.failures = 0
            version.state = State.AVAILABLE
            self._ended.get(version.model, {}).pop(version.number, None)
            serving = dict(self._serving.get(version.model, {}))
            serving[version.number] = version
            self._serving[version.model] = serving
            logger.info("Successfully loaded version %s of %s", version.number, version.model)
            self._act(version.model)
            self._changed.notify_all()

    def _start_unload(self, version: _Version) -> None:
        version.state = State.UNLOADING
        serving = dict(self._serving.get(version.model, {}))
        serving.pop(version.number, None)
        self._serving[version.model] = serving
        self._start(self._unload, version)

    def _unload(self, version: _Version) -> None:
        with self._changed:
            while version.requests:
                self._changed.wait(1.0)
            loaded, version.loaded = version.loaded, None
        if loaded is not None:
            loaded.close()
            del loaded
            release_memory()
        with self._changed:
            logger.info("Unloaded version %s of %s", version.number, version.model)
            self._end(version, None)
            self._changed.notify_all()

    def _end(self, version: _Version, error: ServingError | None) -> None:
        """Forget a version, but for the status."""
        version.state = State.END
        live = self._live.get(version.model, {})
        if live.get(version.number) is version:
            del live[version.number]
        ended = self._ended.setdefault(version.model, {})
        ended.pop(version.number, None)
        ended[version.number] = error
        while len(ended) > _MAX_ENDED:
            del ended[next(iter(ended))]

    # -- requests --------------------------------------------------------------------------------------------

    def resolve(self, model_spec: Any) -> tuple[str, int | None]:
        """Return name and version (None: the newest) that a ModelSpec asks for.

        Raises:
            ServingError: No name, or an unknown label.
        """
        if not model_spec.name:
            raise invalid("ModelSpec has no name specified.")
        choice = model_spec.WhichOneof("version_choice")
        if choice == "version":
            return model_spec.name, model_spec.version.value
        if choice == "version_label":
            label = model_spec.version_label
            labels = self._labels
            if labels is None:
                raise ServingError(Code.UNAVAILABLE, f"Model labels does not init yet.{label}")
            number = labels.get(model_spec.name, {}).get(label)
            if number is None:
                raise invalid(f"Unrecognized servable version label: {label}")
            return model_spec.name, number
        return model_spec.name, None

    @contextlib.contextmanager
    def use(self, model_spec: Any) -> Iterator[Handle]:
        """Hold a version for the time of one request.

        Args:
            model_spec: The request's ModelSpec.

        Yields:
            The version in use.

        Raises:
            ServingError: Nothing that fits is served.
        """
        name, number = self.resolve(model_spec)
        with self._changed:
            serving = self._serving.get(name, {})
            version = serving.get(number if number is not None else max(serving, default=0))
            if version is None or version.loaded is None:
                what = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {what}")
            version.requests += 1
            handle = Handle(version)
        try:
            yield handle
        finally:
            with self._changed:
                version.requests -= 1
                if not version.requests and version.state == State.UNLOADING:
                    self._changed.notify_all()

    def status(self, name: str, number: int | None = None) -> list[tuple[int, State, ServingError | None]]:
        """Return version, state and error of a model's versions, newest first.

        Raises:
            ServingError: Nothing is known of that model or version.
        """
        with self._changed:
            rows: dict[int, tuple[int, State, ServingError | None]] = {
                ended: (ended, State.END, error) for ended, error in self._ended.get(name, {}).items()
            }
            for version in self._live.get(name, {}).values():
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
        """Return the versions of a model that answer, newest first."""
        return sorted(self._serving.get(name, {}), reverse=True)

    # -- the end ---------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make everything that waits for a version give up."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop polling and unload everything."""
        self.interrupt()
        with self._changed:
            for name in list(self._live):
                self._aspire(name, {})
        if self._poller is not None:
            self._poller.join(timeout)
        until = time.monotonic() + timeout
        while self._threads and time.monotonic() < until:
            thread = next(iter(self._threads), None)
            if thread is not None:
                thread.join(0.2)


def find_versions(base_path: str) -> dict[int, str] | None:
    """Return version number to directory of what lies under a base path, None if the path is not there."""
    try:
        entries = sorted(os.listdir(base_path))
    except OSError:
        return None
    found: dict[int, str] = {}
    for name in entries:
        if re.fullmatch(r"\d{1,18}", name) and Path(base_path, name).is_dir():
            found[int(name)] = os.path.join(base_path, name)
    return found
