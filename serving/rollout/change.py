"""One server's way from one set of labels to another, and back where a step fails."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

from serving.rollout.labels import LABELS, Labels, RolloutError
from serving.rollout.model_server import Server, ServerError, VersionStatus

_LOOK_SECONDS = 0.1
# A server looks for versions once a second: until then it may show the end of an earlier attempt to load.
_STALE_SECONDS = 5.0
# What was served before has that long to load again, however little time the new version had.
_RESTORE_SECONDS = 120.0


class LoadFailed(RolloutError):
    """A server did not make the version AVAILABLE; what was served before still is."""


class Change:
    """The way of one server from one set of labels to another."""

    def __init__(
        self, server: Server, file: Labels, base_path: str, old_path: str, labels: dict[str, int], pushed: list[int]
    ) -> None:
        self.server = server
        self._name = file.name
        self._base_path, self._old_path = base_path, old_path
        # The file may say more than this server has been told: of other models it goes on with what it serves.
        others = {name: server.served(name, labels) for name, labels in file.others.items()}
        others = {name: served for name, served in others.items() if served.versions}
        self._make = functools.partial(file.config_with, base_path, others=others)
        self._make_old = functools.partial(file.config_with, old_path, others=others)
        self._labels = labels
        self._before = server.known(file.name)
        present = {label: server.label(file.name, label) for label in {*LABELS, *file.labels}}
        self._present = {label: number for label, number in present.items() if number is not None}
        self._available = _available(self._before)
        self._served = self._available | set(self._present.values())
        # Without labels it takes what is pushed, and one that is held to its versions would never do so again. What it
        # serves from elsewhere, as a base model until there is a push, it would even unload.
        held = file.base_path is not None and not self._served.isdisjoint(pushed)
        self._follows = bool(self._served) and not self._present and not held
        self._touched = False

    def load(self, until: float) -> None:
        """Asks for the new versions beside all that are served."""
        self._touched = True
        config = self._make(self._served | set(self._labels.values()), self._present)
        if self._served:
            self.server.reload(config)
            return
        try:
            self.server.reload(config, max(_LOOK_SECONDS, until - time.monotonic()))
        except ServerError as error:
            if error.code != "DEADLINE_EXCEEDED":
                raise
            raise LoadFailed(
                f"{self._name}, which {self.server.address} did not serve so far, was not AVAILABLE there in time. Is "
                f"{self._base_path} the model directory as that server sees it? A TensorFlow Serving that finds no "
                "version there goes on waiting for one, and moves no label until it is started again."
            ) from None

    def wait(self, until: float) -> None:
        """Waits until every labelled version is AVAILABLE."""
        stale_until = time.monotonic() + _STALE_SECONDS
        fresh: set[int] = set()  # seen in another state than the one that an earlier attempt left
        while True:
            rows = self.server.known(self._name)
            waiting = []
            for number in sorted(set(self._labels.values())):
                row = rows.get(number)
                if row is not None and row.state == "AVAILABLE":
                    continue
                waiting.append(number)
                if row is None or row.state != "END":
                    fresh.add(number)
                elif row.error and (number in fresh or number not in self._before or time.monotonic() > stale_until):
                    raise LoadFailed(
                        f"Version {number} of {self._name} does not load on {self.server.address}: {row.reason}."
                    )
            if not waiting:
                return
            if self._available and not self._available & _available(rows):
                raise LoadFailed(
                    f"{self.server.address} has unloaded all versions of {self._name} that it served: it found none of "
                    f"them under {self._base_path}, which is not the model directory as that server sees it."
                )
            if time.monotonic() > until:
                row = rows.get(waiting[0])
                state = row.state if row is not None and row.state != "END" else "not even loading"
                raise LoadFailed(
                    f"Version {waiting[0]} of {self._name} was not AVAILABLE on {self.server.address} in time, but "
                    f"{state}. Is {self._base_path} the model directory as that server sees it?"
                )
            time.sleep(_LOOK_SECONDS)

    def move(self) -> None:
        """Moves the labels; everything stays loaded."""
        self.server.reload(self._make(self._served | set(self._labels.values()), self._labels))
        for label, number in self._labels.items():
            seen = self.server.label(self._name, label)
            if seen != number:
                raise ServerError(f"{self.server.address} has {label} at {seen} instead of {number}.", "ABORTED")

    def drop(self) -> None:
        """Unloads what no label needs."""
        self.server.reload(self._make(set(self._labels.values()), self._labels))

    def undo(self) -> str:
        """Restores what was served before; where it has been unloaded, labels follow once it is loaded again.

        Returns:
            What may not be as before, as the end of a message; "" for nothing.
        """
        if self._touched and self._follows:
            return self._follow_again()
        restored = self._make_old(self._served, self._present)
        if not (self._touched and restored.model_config_list.config):
            return ""
        try:
            self.server.reload(restored)
        except ServerError as error:
            if self._is_as_before():  # it takes no configuration, and took none
                return ""
            if error.code != "FAILED_PRECONDITION":  # a label on a version that is not AVAILABLE
                raise
            self.server.reload(self._make_old(self._served, {}))
            self._wait_restored()
            self.server.reload(restored)
        return ""

    def _follow_again(self) -> str:
        # A base path from which the server has lost all that it served is the wrong one.
        lost = not self._available & _available(self.server.known(self._name))
        make, path = (self._make_old, self._old_path) if lost else (self._make, self._base_path)
        try:
            self.server.reload(make(self._served, {}, follow=True))
        except ServerError:
            if self._is_as_before():  # as in `undo`
                return ""
            raise
        return (
            f" {self.server.address} serves the newest version under {path} again, without labels; if it was started "
            "in another way, restart it."
        )

    def _is_as_before(self) -> bool:
        """Whether the server serves all that it did, under the labels of before."""
        rows, labels = self.server.known(self._name), {*self._present, *self._labels}
        present = {label: self.server.label(self._name, label) for label in labels}
        return self._available <= _available(rows) and present == {label: self._present.get(label) for label in labels}

    def _wait_restored(self) -> None:
        labelled = set(self._present.values())
        until = time.monotonic() + _RESTORE_SECONDS
        while missing := labelled - _available(self.server.versions(self._name)):
            if time.monotonic() > until:
                which = ", ".join(map(str, sorted(missing)))
                text = f"{self.server.address} has not loaded version {which} of {self._name} again."
                raise ServerError(text, "DEADLINE_EXCEEDED")
            time.sleep(_LOOK_SECONDS)


def _available(rows: Mapping[int, VersionStatus]) -> set[int]:
    return {number for number, row in rows.items() if row.state == "AVAILABLE"}
