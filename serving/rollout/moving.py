"""Moves the labels stable and canary from version to version, on running servers and for those that start later.

A model configuration file beside the model directory says which version has which label; servers read it when they
start. Running servers are told through ModelService, in steps that leave no gap:

1. load the new version beside all that are served, and wait until it is AVAILABLE everywhere;
2. move the label, on all servers; write the file;
3. drop the versions that no label needs.

HandleReloadConfigRequest replaces the server's whole configuration and is no transaction, so every request carries
all of it, names only directories that exist, and what was served before is restored when a step fails. Of other models
it carries what the server serves, not what the file has come to say of them since: a server refuses labels of versions
that it has not loaded, and waits for a model that it cannot find, with all later requests. The policy is `specific`:
with `latest` of two versions a broken push takes the place of a good version. Only a server that had no labels gets
`latest` back when a step fails, since it follows what is pushed. The base path of a model in the file is never changed
on running servers: one that holds no versions would unload all that they serve.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.file_lock import LockHeld
from serving.rollout.change import Change
from serving.rollout.labels import CONFIG_FILE, Labels, Refused, RolloutError, config_path, labels_locked
from serving.rollout.model_server import ServerError, servers_at
from serving.rollout.siblings import Sibling
from serving.version_directory import WITHDRAWN, find_versions, nothing_pushed

if TYPE_CHECKING:
    from htr_client.tls import Tls

# Requests that asked for a label just before it moved have long got hold of their version by then.
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Moved:
    """What a rollout did.

    Attributes:
        label: Label that was moved.
        version: Version that has it now.
        before: Version that had it, or None.
        next_older: Whether a rollback knew of no earlier version with the label, and took the next older one.
        along: Versions of the labels that moved with it, as they were before.
        path: The configuration file.
        servers: Addresses of the servers that follow.
        away: Why others do not follow, by address.
    """

    label: str
    version: int
    before: int | None
    next_older: bool
    along: Mapping[str, int]
    path: Path
    servers: tuple[str, ...]
    away: Mapping[str, str]


@dataclass(frozen=True)
class Rollout:
    """Moves labels of one model.

    Attributes:
        model_dir: Directory of the numbered versions, on this machine; labels in a bucket are refused.
        name: Name of the model.
        servers: Addresses of running servers, or names that stand for several each; without any, only the file is
            changed.
        tls: Encryption and identity for all servers.
        base_path: The model directory as the servers see it; as in the file, else `model_dir`. One that differs from
            the file's is refused for running servers.
        timeout: Seconds that the servers have for loading.
        options: What suggested `htr` commands need besides.
        sibling: Another model that the servers must not lose on the way.
    """

    model_dir: str
    name: str
    servers: Sequence[str] = ()
    tls: Tls | None = None
    base_path: str | None = None
    timeout: float = 300.0
    options: str = ""
    sibling: Sibling | None = None

    def promote(self, version: int, label: str) -> Moved:
        """Gives a label to a version.

        A canary that is older than the version that becomes stable moves along: nothing is left to try out with it.

        Args:
            version: Number of a pushed version.
            label: "stable" or "canary".

        Returns:
            What was done.

        Raises:
            Refused: There is no such version, canary comes before stable, the base path is not that of the file, or
                the model directory is in a bucket.
            LoadFailed: A server cannot load it; the label stays where it was.
            ServerError: A server cannot be reached or refused; the label stays where it was.
            RolloutError: The configuration file cannot be read or written, another rollout runs, or a server would
                unload the other model.
        """
        with self._locked():
            file = Labels.read(self.model_dir, self.name)
            before = file.labels.get(label)
            earlier = [number for number in file.history.get(label, []) if number != version]
            if before not in (None, version):
                earlier.append(before)
            older = file.labels.get("canary", version) < version
            return self._move(file, label, version, earlier, along=older)

    def roll_back(self, label: str) -> Moved:
        """Moves a label back to the version that had it before.

        Without one, a canary ends: it goes to the version that is stable, as it does in place of one that is older.
        Stable then goes to the next older version. A canary that is the version left moves along with stable.

        A server that cannot be reached, or that is lost on the way, is left out, since it may be the bad version that
        it cannot stand.

        Args:
            label: "stable" or "canary".

        Returns:
            What was done.

        Raises:
            RolloutError: There is no earlier version; or as `promote`.
            Refused: No version has the label, or the canary is stable's version; or as `promote`.
        """
        with self._locked():
            file = Labels.read(self.model_dir, self.name)
            current = file.labels.get(label)
            if current is None:
                raise Refused(f"No version has the label {label} in {file.path}.")
            earlier = list(file.history.get(label, []))
            stable = file.labels.get("stable") if label != "stable" else None
            same = file.labels.get("canary") == current
            while earlier:
                number = earlier.pop()
                if number != current and number > (stable or 0) and self._exists(number):
                    return self._move(file, label, number, earlier, along=same, back=True)
            if stable is not None:
                if current == stable:
                    raise Refused(f"{label} is version {current}, as stable is: there is none to take back.")
                return self._move(file, label, stable, [], along=False, back=True)
            older = [number for number in self._pushed() if number < current]
            if not older:
                raise RolloutError(f"There is no version before {current} in {self.model_dir} to go back to.")
            return self._move(file, label, older[-1], [], along=same, back=True, next_older=True)

    def _move(
        self,
        file: Labels,
        label: str,
        version: int,
        earlier: list[int],
        along: bool,
        back: bool = False,
        next_older: bool = False,
    ) -> Moved:
        """Moves a label, and with stable, if `along`, the canary."""
        labels = self._checked(file, label, version)
        history = {**file.history, label: earlier}
        with_it = {other: file.labels[other] for other in labels if along and label == "stable" and other == "canary"}
        for other in with_it:
            labels[other], history[other] = version, []
        self._check_base_path(file)
        base_path = self.base_path or file.base_path or os.path.abspath(self.model_dir)

        def write() -> None:
            try:
                file.write(file.config_with(base_path, set(labels.values()), labels), history)
            except OSError as error:
                raise RolloutError(f"{file.path} cannot be written: {error.strerror}.") from error

        if self.servers:
            moved, away = self._move_on_servers(file, base_path, labels, write, back)
        else:
            write()
            moved, away = [], {}
        before = file.labels.get(label)
        return Moved(label, version, before, next_older, with_it, file.path, tuple(moved), away)

    def _move_on_servers(
        self, file: Labels, base_path: str, labels: dict[str, int], write: Callable[[], None], back: bool
    ) -> tuple[list[str], dict[str, str]]:
        """Moves labels on the servers, and has the file written when they have moved.

        Returns:
            Addresses of the servers that followed, and why others did not, by address.
        """
        with contextlib.ExitStack() as stack:
            # Servers do not tell where they look: without the file it can only be the directory itself.
            old_path = file.base_path or os.path.abspath(self.model_dir)
            changes: list[Change] = []
            away: dict[str, str] = {}
            for server in [stack.enter_context(server) for server in servers_at(self.servers, self.tls)]:
                try:
                    change = Change(server, file, base_path, old_path, labels, self._pushed())
                    if self.sibling is not None:
                        self.sibling.check(server, file, base_path)
                except ServerError as error:
                    if not error.away:
                        raise
                    away[server.address] = str(error)
                else:
                    changes.append(change)
            if away and not (back and changes):
                raise ServerError(f"{' '.join(away.values())} {self._without(file, back)}", "UNAVAILABLE")
            until = time.monotonic() + self.timeout
            going, lost = changes, away if back else None
            try:
                for step in (lambda change: change.load(until), lambda change: change.wait(until), Change.move):
                    going = self._on_each(going, step, lost)
                if going:
                    write()
            except BaseException as error:
                left = self._undo(changes)
                if isinstance(error, RolloutError):
                    error.args = (f"{error} {left}",)
                raise
            if not going:
                raise ServerError(f"{' '.join(away.values())} {self._without(file, back)}", "UNAVAILABLE")
            time.sleep(_SETTLE_SECONDS)
            failures: list[ServerError] = []
            for change in going:
                try:
                    change.drop()
                except ServerError as error:
                    if back and error.away:
                        away[change.server.address] = str(error)
                    else:
                        failures.append(error)
            if failures:
                text = "The labels have moved, but versions that nothing needs are still loaded: "
                raise ServerError(text + " ".join(map(str, failures)), failures[0].code)
            return [change.server.address for change in going if change.server.address not in away], away

    @staticmethod
    def _on_each(changes: list[Change], step: Callable[[Change], None], lost: dict[str, str] | None) -> list[Change]:
        """Takes a step on all servers.

        Args:
            changes: Changes of the servers.
            step: What to do.
            lost: Takes the errors of servers that do not answer, by address; None where one that does not ends it all.

        Returns:
            Changes of the servers that answered.
        """
        answered = []
        for change in changes:
            try:
                step(change)
            except ServerError as error:
                if lost is None or not error.away:
                    raise
                lost[change.server.address] = str(error)
            else:
                answered.append(change)
        return answered

    @staticmethod
    def _without(file: Labels, back: bool) -> str:
        """What to do without a server, as the end of a message."""
        if back:
            return (
                f"No server answers, and {file.path} is as before. Without --server the label moves back in it, for "
                "servers that start later."
            )
        return (
            f"Nothing has changed. Leave a server that is down out of --server: it reads {file.path.name} when it "
            "starts."
        )

    @staticmethod
    def _undo(changes: list[Change]) -> str:
        failures, notes = [], ""
        for change in changes:
            try:
                notes += change.undo()
            except ServerError as error:
                failures.append(str(error))
        if failures:
            return f"What was served before could not be restored everywhere: {' '.join(failures)}"
        return f"The labels stay where they were.{notes}"

    def _checked(self, file: Labels, label: str, version: int) -> dict[str, int]:
        """All labels after the move; refuses before any server hears of it."""
        if os.path.isdir(os.path.join(self.model_dir, f"{WITHDRAWN}{version}")):
            restore = f"htr restore {version}{self.options}"
            raise Refused(f"Version {version} is withdrawn. Bring it back with `{restore}`, then promote it.")
        if not self._exists(version):
            pushed = ", ".join(map(str, self._pushed()))
            if not pushed:
                raise RolloutError(nothing_pushed(self.model_dir, self.options))
            raise Refused(f"There is no version {version} in {self.model_dir}; it has: {pushed}.")
        labels = {**file.labels, label: version}
        if "stable" not in labels:
            raise Refused("No version is stable yet: promote one to stable before a canary.")
        for other, number in file.labels.items():
            if other == label or self._exists(number):
                continue
            if other == "stable":
                raise Refused(f"Version {number}, which is stable, no longer exists: promote another to stable first.")
            del labels[other]
        return labels

    def _check_base_path(self, file: Labels) -> None:
        """Refuses to send running servers to another directory than the one they serve from."""
        if not (self.servers and self.base_path and file.base_path):
            return
        if os.path.normpath(self.base_path) != os.path.normpath(file.base_path):
            raise Refused(
                f"{file.path} says that servers see {self.name} in {file.base_path}, not in {self.base_path}; running "
                "servers sent to a wrong folder would unload all that they serve. Leave --base-path out. If the models "
                "have really moved, write the new path into the file with the same command without --server, then "
                "restart the servers."
            )

    def _exists(self, version: int) -> bool:
        return version in self._pushed()

    def _pushed(self) -> list[int]:
        return list(find_versions(self.model_dir) or ())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps a second rollout out: both would send a whole configuration."""
        if "://" in self.model_dir:
            raise Refused(
                f"{self.model_dir} is in a bucket, but labels need {CONFIG_FILE} beside models on a disk or volume. "
                "Push to a folder there (push.model_dir) that the servers see too (--base-path)."
            )
        folder = config_path(self.model_dir).parent
        if not folder.is_dir():
            raise RolloutError(nothing_pushed(self.model_dir, self.options))
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(labels_locked(self.model_dir))
            except LockHeld as error:
                raise RolloutError(
                    f"Another rollout in {folder} is under way. Try again when it has ended. {error}"
                ) from None
            except OSError as error:
                raise RolloutError(f"{error.filename}, which keeps a second rollout out: {error.strerror}.") from error
            yield
