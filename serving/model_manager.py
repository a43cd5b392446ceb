"""Which versions of which models are served: configuration, polling, policies and labels.

The rules are TensorFlow Serving's: versions are directories with a number for a name, and a version that cannot be
loaded never replaces a good one.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from serving.loaded_versions import Handle, State, Version, Versions
from serving.metrics import Metrics
from serving.model_config import ModelConfig, with_line_finder
from serving.options import ServerOptions
from serving.runner import RunnerOptions
from serving.status import Code, ServingError, deadline_exceeded, invalid
from serving.version_directory import find_versions

logger = logging.getLogger("serving")

_SAY_SECONDS = 10.0
_LOOK_SECONDS = 0.1


class ModelManager:
    """Keeps the versions that the configuration wants loaded, and hands them to requests."""

    def __init__(self, options: ServerOptions, runner_options: RunnerOptions, metrics: Metrics) -> None:
        self.options = options
        self.versions = Versions(options, runner_options, metrics)
        self._config_lock = threading.Lock()
        self._models: dict[str, ModelConfig] | None = None
        self._labels: dict[str, dict[str, int]] | None = None
        self._lacking: dict[str, str] = {}  # what the log last said of a model without versions
        self._missing: dict[str, list[int]] = {}  # what the log last said is missing
        self._pushed: set[str] = set()  # models that have served a version of their own
        self._poller: threading.Thread | None = None

    # -- configuration ---------------------------------------------------------------------------------------

    def apply(
        self, models: list[ModelConfig], deadline: float | None = None, check: Callable[[], None] | None = None
    ) -> None:
        """Makes this the configuration, and waits until models new in it can be used.

        As in TensorFlow Serving this is not a transaction: models missing from it are dropped at once, and a label
        must point to a version that is available already. The line finder of the server's options stays: the file of
        labels, which a promotion sends to the servers, holds the recogniser only.

        Args:
            models: All models to serve, but the line finder of the options.
            deadline: `time.monotonic()` value after which to stop waiting, also for an earlier change to end.
            check: Raises a ServingError once nobody waits any more; None where somebody always does.

        Raises:
            ServingError: A label points nowhere, a new model did not become available, the time is over, or what
                `check` raises. Nothing is changed when the time is over before the change is begun.
        """
        check = functools.partial(self._check_wanted, deadline, check)
        with self._changing(check):
            wanted = {model.name: model for model in with_line_finder(models, self.options)}
            with self.versions.changed:
                old = self._models or {}
                first = self._models is None
                self._update_labels(wanted)
                self._models = wanted
                for name in set(old) - set(wanted):
                    self.versions.aspire(name, {})
            if first:
                self._poller = threading.Thread(target=self._poll_forever, name="poll", daemon=True)
                self._poller.start()
            else:
                self.poll()
            self._wait_available([name for name in wanted if name not in old], check, first)

    def _check_wanted(self, deadline: float | None, check: Callable[[], None] | None) -> None:
        """Stops a change that nobody waits for."""
        if self.versions.stopping.is_set():
            raise ServingError(Code.CANCELLED, "the server is shutting down")
        if deadline is not None and time.monotonic() >= deadline:
            raise deadline_exceeded()
        if check is not None:
            check()

    @contextlib.contextmanager
    def _changing(self, check: Callable[[], None]) -> Iterator[None]:
        """Holds the lock of changes; one that was given up while it waited for the lock must not come after all."""
        while not self._config_lock.acquire(timeout=_LOOK_SECONDS):
            check()
        try:
            check()
            yield
        finally:
            self._config_lock.release()

    def _update_labels(self, wanted: Mapping[str, ModelConfig]) -> None:
        labels: dict[str, dict[str, int]] = {}
        for name, model in wanted.items():
            for label, number in model.labels.items():
                version = self.versions.serving.get(name, {}).get(number)
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

    def _progress(self, names: list[str]) -> tuple[list[Version], list[Version], bool]:
        """How far models are from being ready, which is when all versions wanted at the start answer.

        One that answers is enough, too, once each of the others has failed at least once.

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
            wanted = [version for version in self.versions.live.get(name, {}).values() if version.aspired]
            answering = bool(self.versions.serving.get(name))
            under_way += [
                version
                for version in wanted
                if version.state in (State.START, State.LOADING) and not (answering and version.failures)
            ]
            ended = [version for version in wanted if version.state == State.END]
            if ended and not answering:
                failed.append(max(ended, key=lambda version: version.number))
            empty = empty or not (wanted or answering)
        return failed, under_way, empty

    def _wait_available(self, names: list[str], check: Callable[[], None], first: bool) -> None:
        """Waits until each model is ready, or cannot be."""
        said = time.monotonic()
        with self.versions.changed:
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
                check()
                if under_way and time.monotonic() - said > _SAY_SECONDS:
                    said = time.monotonic()
                    which = ", ".join(f"{version.model} version {version.number}" for version in under_way)
                    logger.info("still loading %s", which)
                self.versions.changed.wait(_LOOK_SECONDS)

    # -- polling ---------------------------------------------------------------------------------------------

    def _poll_forever(self) -> None:
        while not self.versions.stopping.is_set():
            try:
                self.poll()
            except Exception:
                logger.exception("polling failed")
            if self.options.file_system_poll_wait_seconds == 0:
                return
            self.versions.stopping.wait(self.options.file_system_poll_wait_seconds)

    def poll(self) -> None:
        """Looks at the model directories once, and starts what has to be loaded or unloaded."""
        with self.versions.changed:
            models = list((self._models or {}).values())
        for model in models:
            found = self._find(model)
            self._say_lacking(model, found)
            if found is None:
                continue  # a file system that is away for a moment must not unload everything
            self._say_missing(model, found)
            with self.versions.changed:
                if self._models is None or self._models.get(model.name) != model:
                    continue  # reconfigured meanwhile
                chosen = self._choose(model, found)
                self.versions.aspire(model.name, {number: found[number] for number in chosen})

    def _say_lacking(self, model: ModelConfig, found: Mapping[int, str] | None) -> None:
        """Says once that there is nothing to serve."""
        text = ""
        if found is None:
            text = f"Could not find base path {model.base_path} for servable {model.name}"
        elif not found:
            text = (
                f"No versions (folders with a number for a name) under {model.base_path} for servable {model.name}; "
                "waiting"
            )
        if text and text != self._lacking.get(model.name):
            logger.log(logging.ERROR if found is None else logging.WARNING, text)
        self._lacking[model.name] = text

    def _say_missing(self, model: ModelConfig, found: Mapping[int, str]) -> None:
        """Says once which versions the configuration wants in vain."""
        wanted = {*model.policy.versions, *model.labels.values()}
        missing = sorted(wanted.difference(found))
        if missing and found and missing != self._missing.get(model.name):
            logger.warning(
                "Version %s of servable %s is wanted but not under %s, which has %s; waiting",
                ", ".join(map(str, missing)), model.name, model.base_path, ", ".join(map(str, found)),
            )  # fmt: skip
        self._missing[model.name] = missing

    def _find(self, model: ModelConfig) -> dict[int, str] | None:
        folder = os.path.dirname(os.path.join(model.base_path, ""))
        served = self.versions.serving.get(model.name, {}).values()
        # What never loaded, such as a copy that broke off, replaced nothing, and may be taken away again.
        if any(os.path.dirname(version.path) == folder for version in served):
            self._pushed.add(model.name)
        found = find_versions(model.base_path)
        if not found and model.fallback_path and model.name not in self._pushed:
            return find_versions(model.fallback_path)
        return found

    def _choose(self, model: ModelConfig, found: Mapping[int, str]) -> list[int]:
        chosen = model.policy.choose(found)
        if model.policy.kind != "latest" or self.versions.serving.get(model.name):
            return chosen
        live = self.versions.live.get(model.name, {})

        def failed(number: int) -> bool:
            version = live.get(number)
            return version is not None and version.path == found[number] and version.failures > 0

        # Where TensorFlow Serving would have nothing to serve: newest version broken, none loaded before it.
        older = [number for number in sorted(found, reverse=True) if number not in chosen]
        while older and all(failed(number) for number in chosen):
            chosen.append(older.pop(0))
        return chosen

    # -- requests --------------------------------------------------------------------------------------------

    def resolve(self, model_spec: Any) -> tuple[str, int | None]:
        """Returns name and version (None: the newest) that a ModelSpec asks for.

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
        """Holds a version for the time of one request.

        Args:
            model_spec: The request's ModelSpec.

        Yields:
            The version in use.

        Raises:
            ServingError: Nothing that fits is served.
        """
        name, number = self.resolve(model_spec)
        with self.versions.hold(name, number) as handle:
            yield handle

    # -- the end ---------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Makes everything that waits for a version give up."""
        self.versions.stopping.set()
        with self.versions.changed:
            self.versions.changed.notify_all()

    def unload(self, timeout: float = 10.0) -> None:
        """Stops polling, starts to unload everything, and cancels the requests that still run."""
        self.interrupt()
        if self._poller is not None:
            self._poller.join(timeout)
        self.versions.unload()

    def stop(self, timeout: float = 10.0) -> bool:
        """Stops polling and unloads everything.

        Args:
            timeout: Seconds to wait at most for what is under way.

        Returns:
            Whether everything has ended; a load cannot be cancelled.
        """
        self.unload(timeout)
        return self.versions.join(timeout)
