"""Moves the labels stable and canary from version to version, on running servers and for those that start later.

A model configuration file beside the model directory says which version bears which label; servers read it when they
start. Running servers are told through ModelService, in steps that leave no gap:

1. load the new version beside all that are served, and wait until it is AVAILABLE everywhere;
2. move the label, on all servers; write the file;
3. drop the versions that no label needs.

HandleReloadConfigRequest replaces the server's whole configuration and is no transaction, so every request carries
all of it, names only directories that exist, and what was served before is restored when a step fails. The policy is
always `specific`: with `latest` of two versions a broken push takes the place of a good version.

gRPC and the messages are imported when they are needed: `--help` stays quick.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htr_client.connection import Tls

LABELS = ("stable", "canary")
CONFIG_FILE = "models.config"
# Servers look at numeric names only, so what `htr rollback` has withdrawn lies beside the versions in service.
WITHDRAWN = ".withdrawn-"

_SERVICE = "/tensorflow.serving.ModelService/"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_AVAILABLE, _END = 30, 50
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", _AVAILABLE: "AVAILABLE", 40: "UNLOADING", _END: "END"}
_CALL_SECONDS = 30.0
_LOOK_SECONDS = 0.1
# A server looks for versions once a second: until then it may show the end of an earlier attempt to load.
_STALE_SECONDS = 5.0
# Requests that asked for a label just before it moved have long got hold of their version by then.
_SETTLE_SECONDS = 1.0
_HISTORY_MARK = "# earlier versions: "
_HISTORY_LENGTH = 20
_HEADER = (
    "# Which versions are served, under which labels. Read by model servers when they start\n"
    "# (--model_config_file, with --allow_version_labels_for_unavailable_models=true).\n"
    "# Written by `htr promote` and `htr rollback --label`.\n"
)


class RolloutError(RuntimeError):
    """A label could not be moved; the message says why and what is served now."""


class Refused(RolloutError):
    """The request makes no sense; no server was contacted and nothing has changed."""


class LoadFailed(RolloutError):
    """A server did not make the version AVAILABLE; what was served before still is."""


class ServerError(RolloutError):
    """A server cannot be reached or refused a call.

    Attributes:
        code: name of the gRPC status code.
    """

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


@functools.cache
def _messages() -> Any:
    from htr_client.messages import POOL
    from serving.protos import message_classes

    names = (
        "ModelServerConfig", "ReloadConfigRequest", "ReloadConfigResponse", "GetModelStatusRequest",
        "GetModelStatusResponse", "GetModelMetadataRequest", "GetModelMetadataResponse",
    )  # fmt: skip
    return SimpleNamespace(**message_classes(POOL, [f"tensorflow.serving.{name}" for name in names]))


# -- the model configuration file ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """What the model configuration file says.

    Attributes:
        path: of the file, which need not exist.
        name: of the model this is about.
        base_path: the model's directory as the servers see it; None if the file does not have the model.
        labels: version by label.
        histories: by model and label, the versions that bore it before, the latest last.
        config: the whole ModelServerConfig, other models included.
    """

    path: Path
    name: str
    base_path: str | None
    labels: dict[str, int]
    histories: dict[str, dict[str, list[int]]]
    config: Any = field(repr=False)

    @classmethod
    def read(cls, model_dir: str, name: str) -> Labels:
        """Reads the file beside a model directory.

        Args:
            model_dir: directory of the numbered versions.
            name: of the model.

        Returns:
            What it says; nothing if there is no file.

        Raises:
            RolloutError: the file cannot be read or understood.
        """
        path = config_path(model_dir)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, ValueError) as error:
            raise RolloutError(f"{path} is not a readable model configuration: {error}") from error
        return cls.parse(text, path, name)

    @classmethod
    def parse(cls, text: str, path: Path, name: str) -> Labels:
        """Understands the file's text.

        Args:
            text: content of the file; empty where there is none.
            path: of the file.
            name: of the model.

        Returns:
            What it says.

        Raises:
            RolloutError: it cannot be understood.
        """
        from google.protobuf import text_format

        config = _messages().ModelServerConfig()
        histories: dict[str, dict[str, list[int]]] = {}
        try:
            text_format.Parse(text, config)
            for line in text.splitlines():
                if line.startswith(_HISTORY_MARK):
                    histories = json.loads(line.removeprefix(_HISTORY_MARK))
        except (ValueError, text_format.ParseError) as error:
            raise RolloutError(f"{path} is not a readable model configuration: {error}") from error
        for entry in config.model_config_list.config:
            if entry.name == name:
                return cls(path, name, entry.base_path, dict(entry.version_labels), histories, config)
        return cls(path, name, None, {}, histories, config)

    @property
    def history(self) -> dict[str, list[int]]:
        """By label, the versions of this model that bore it before, the latest last."""
        return self.histories.get(self.name, {})

    def config_with(self, base_path: str, versions: Iterable[int], labels: Mapping[str, int]) -> Any:
        """A full configuration in which this model has these versions and labels."""
        config = _messages().ModelServerConfig()
        config.CopyFrom(self.config)
        entries = config.model_config_list.config
        entry = next((entry for entry in entries if entry.name == self.name), None) or entries.add(name=self.name)
        entry.base_path = base_path
        entry.model_platform = "tensorflow"
        entry.model_version_policy.specific.versions[:] = sorted(versions)
        entry.version_labels.clear()
        for label in sorted(labels):
            entry.version_labels[label] = labels[label]
        return config

    def write(self, config: Any, history: Mapping[str, list[int]]) -> None:
        """Replaces the file, all or nothing.

        Args:
            config: ModelServerConfig to write.
            history: by label, the versions that bore it before.
        """
        from google.protobuf import text_format

        kept = {label: versions[-_HISTORY_LENGTH:] for label, versions in history.items()}
        everything = {**self.histories, self.name: kept}
        text = f"{_HEADER}{_HISTORY_MARK}{json.dumps(everything)}\n{text_format.MessageToString(config)}"
        descriptor, temporary = tempfile.mkstemp(prefix=f".{CONFIG_FILE}-", dir=self.path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.chmod(temporary, 0o644)  # a server runs as another user
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def config_path(model_dir: str) -> Path:
    """The model configuration file that belongs to a model directory."""
    return Path(os.path.abspath(model_dir)).parent / CONFIG_FILE


def pinned_versions(model_dir: str) -> tuple[set[int], set[int]]:
    """Versions that must not be withdrawn or deleted.

    Args:
        model_dir: directory of the numbered versions.

    Returns:
        Versions that are served under a label, and those that a rollback of a label would bring back.

    Raises:
        RolloutError: the configuration file cannot be read.
    """
    if not config_path(model_dir).exists():
        return set(), set()
    found = Labels.read(model_dir, "")
    served = {n for entry in found.config.model_config_list.config for n in entry.version_labels.values()}
    earlier = {versions[-1] for history in found.histories.values() for versions in history.values() if versions}
    return served, earlier


# -- servers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VersionStatus:
    """A version as a server sees it.

    Attributes:
        number: of the version.
        state: name of its state, such as AVAILABLE.
        error: why it ended, or "".
        labels: that it bears.
    """

    number: int
    state: str
    error: str
    labels: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The error without the graph's nodes, which TensorFlow appends on lines of their own."""
        return self.error.partition("\n")[0]


class Server:
    """One model server, embedded or TensorFlow Serving."""

    def __init__(self, address: str, tls: Tls | None = None):
        """Opens a connection when the first call is made.

        Args:
            address: host:port.
            tls: encryption and identity; None for plain text.
        """
        import grpc

        self.address = address
        # Not shared with other channels of the process, whose connection may be in a back-off.
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        if tls is not None and tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._channel = (
            grpc.insecure_channel(address, options)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), options)
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._channel.close()

    def _call(self, method: str, request: Any, response: Any) -> Any:
        import grpc

        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            return call(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            code = error.code().name
            details = f": {error.details()}" if error.details() else ""
            raise ServerError(f"{self.address} answered {code} to {method.rpartition('/')[2]}{details}", code) from None

    def reload(self, config: Any) -> None:
        """Makes this the server's whole configuration.

        Raises:
            ServerError: the server cannot be reached or refused.
        """
        request = _messages().ReloadConfigRequest()
        # The two sides may have loaded the descriptors apart.
        request.config.MergeFromString(config.SerializeToString())
        answer = self._call(_SERVICE + "HandleReloadConfigRequest", request, _messages().ReloadConfigResponse)
        if answer.status.error_code:
            raise ServerError(f"{self.address} refused: {answer.status.error_message}", str(answer.status.error_code))

    def versions(self, name: str) -> dict[int, VersionStatus]:
        """The versions of a model that the server knows, without labels.

        Raises:
            ServerError: the server cannot be reached or does not serve the model.
        """
        request = _messages().GetModelStatusRequest()
        request.model_spec.name = name
        answer = self._call(_SERVICE + "GetModelStatus", request, _messages().GetModelStatusResponse)
        return {
            row.version: VersionStatus(
                row.version, STATES.get(row.state, str(row.state)), row.status.error_message or _code_text(row)
            )
            for row in answer.model_version_status
        }

    def label(self, name: str, label: str) -> int | None:
        """The version that answers to a label; None if none does."""
        request = _messages().GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        request.model_spec.version_label = label
        try:
            answer = self._call(_METADATA, request, _messages().GetModelMetadataResponse)
        except ServerError as error:
            # Unknown label, its version is unloaded, or no label has been given yet.
            if error.code in ("INVALID_ARGUMENT", "NOT_FOUND") or "labels does not init" in str(error):
                return None
            raise
        return int(answer.model_spec.version.value)

    def labelled(self, name: str) -> list[VersionStatus]:
        """The versions of a model with their labels, oldest first."""
        labels = {label: self.label(name, label) for label in LABELS}
        return [
            VersionStatus(row.number, row.state, row.error, tuple(label for label in LABELS if labels[label] == number))
            for number, row in sorted(self.versions(name).items())
        ]


def _code_text(row: Any) -> str:
    return f"error {row.status.error_code}" if row.status.error_code else ""


class _Change:
    """The way of one server from one set of labels to another."""

    def __init__(self, server: Server, file: Labels, base_path: str, labels: dict[str, int]) -> None:
        self.server = server
        self._name = file.name
        self._base_path = base_path
        self._make = functools.partial(file.config_with, base_path)
        self._labels = labels
        self._before = server.versions(file.name)
        present = {label: server.label(file.name, label) for label in {*LABELS, *file.labels}}
        self._present = {label: number for label, number in present.items() if number is not None}
        available = {number for number, row in self._before.items() if row.state == "AVAILABLE"}
        self._served = available | set(self._present.values())
        self._touched = False

    def load(self) -> None:
        """Asks for the new versions beside all that are served."""
        self._touched = True
        self.server.reload(self._make(self._served | set(self._labels.values()), self._present))

    def wait(self, until: float) -> None:
        """Waits until every labelled version is AVAILABLE."""
        stale_until = time.monotonic() + _STALE_SECONDS
        fresh: set[int] = set()  # seen in another state than the one that an earlier attempt left
        while True:
            rows = self.server.versions(self._name)
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
                raise ServerError(f"{self.server.address} has {label} at {seen} instead of {number}", "ABORTED")

    def drop(self) -> None:
        """Unloads what no label needs."""
        self.server.reload(self._make(set(self._labels.values()), self._labels))

    def undo(self) -> None:
        """Restores what was served before."""
        if self._touched and self._served:
            self.server.reload(self._make(self._served, self._present))


# -- moving labels ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    """What a rollout did.

    Attributes:
        label: that was moved.
        version: that bears it now.
        before: version that bore it, or None.
        path: the configuration file.
        servers: that follow.
    """

    label: str
    version: int
    before: int | None
    path: Path
    servers: tuple[str, ...]


@dataclass(frozen=True)
class Rollout:
    """Moves labels of one model.

    Attributes:
        model_dir: directory of the numbered versions, on this machine; labels in a bucket are refused.
        name: of the model.
        servers: addresses of running servers; without any, only the file is changed.
        tls: for all servers.
        base_path: the model directory as the servers see it; as in the file, else `model_dir`.
        timeout: seconds that the servers have for loading.
    """

    model_dir: str
    name: str
    servers: Sequence[str] = ()
    tls: Tls | None = None
    base_path: str | None = None
    timeout: float = 300.0

    def promote(self, version: int, label: str) -> Moved:
        """Gives a label to a version.

        Args:
            version: number of a pushed version.
            label: stable or canary.

        Returns:
            What was done.

        Raises:
            Refused: there is no such version, canary comes before stable, or the model directory is in a bucket.
            LoadFailed: a server cannot load it; the label stays where it was.
            ServerError: a server cannot be reached or refused; the label stays where it was.
            RolloutError: the configuration file cannot be read or written, or another rollout runs.
        """
        with self._locked():
            file = Labels.read(self.model_dir, self.name)
            before = file.labels.get(label)
            earlier = [number for number in file.history.get(label, []) if number != version]
            if before not in (None, version):
                earlier.append(before)
            return self._move(file, label, version, earlier)

    def roll_back(self, label: str) -> Moved:
        """Gives a label back to the version that bore it before, or else to the next older one.

        Args:
            label: stable or canary.

        Returns:
            What was done.

        Raises:
            RolloutError: there is no earlier version; or as `promote`.
        """
        with self._locked():
            file = Labels.read(self.model_dir, self.name)
            current = file.labels.get(label)
            if current is None:
                raise Refused(f"No version bears the label {label} in {file.path}.")
            earlier = list(file.history.get(label, []))
            while earlier:
                number = earlier.pop()
                if number != current and self._exists(number):
                    return self._move(file, label, number, earlier)
            older = [number for number in self._pushed() if number < current]
            if not older:
                raise RolloutError(f"There is no version before {current} in {self.model_dir} to go back to.")
            return self._move(file, label, older[-1], [])

    def _move(self, file: Labels, label: str, version: int, earlier: list[int]) -> Moved:
        labels = self._checked(file, label, version)
        base_path = self.base_path or file.base_path or os.path.abspath(self.model_dir)
        history = {**file.history, label: earlier}

        def write() -> None:
            try:
                file.write(file.config_with(base_path, set(labels.values()), labels), history)
            except OSError as error:
                raise RolloutError(f"{file.path} cannot be written: {error.strerror}.") from error

        if self.servers:
            self._move_on_servers(file, base_path, labels, write)
        else:
            write()
        return Moved(label, version, file.labels.get(label), file.path, tuple(self.servers))

    def _move_on_servers(self, file: Labels, base_path: str, labels: dict[str, int], write: Callable[[], None]) -> None:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(address, self.tls)) for address in self.servers]
            changes = [_Change(server, file, base_path, labels) for server in servers]
            try:
                for change in changes:
                    change.load()
                until = time.monotonic() + self.timeout
                for change in changes:
                    change.wait(until)
                for change in changes:
                    change.move()
                write()
            except BaseException as error:
                left = self._undo(changes)
                if isinstance(error, RolloutError):
                    error.args = (f"{error} {left}",)
                raise
            time.sleep(_SETTLE_SECONDS)
            for change in changes:
                try:
                    change.drop()
                except ServerError as error:
                    text = f"The labels have moved, but versions that nothing needs are still loaded: {error}"
                    raise ServerError(text, error.code) from None

    @staticmethod
    def _undo(changes: list[_Change]) -> str:
        failures = []
        for change in changes:
            try:
                change.undo()
            except ServerError as error:
                failures.append(str(error))
        if failures:
            return f"What was served before could not be restored everywhere: {'; '.join(failures)}."
        return "The labels stay where they were."

    def _checked(self, file: Labels, label: str, version: int) -> dict[str, int]:
        """All labels after the move; refuses before any server hears of it."""
        if os.path.isdir(os.path.join(self.model_dir, f"{WITHDRAWN}{version}")):
            raise Refused(
                f"Version {version} is withdrawn. Bring it back with `htr restore {version}`, then promote it."
            )
        if not self._exists(version):
            pushed = ", ".join(map(str, self._pushed())) or "none"
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

    def _exists(self, version: int) -> bool:
        return os.path.isdir(os.path.join(self.model_dir, str(version)))

    def _pushed(self) -> list[int]:
        names = os.listdir(self.model_dir) if os.path.isdir(self.model_dir) else []
        return sorted(int(name) for name in names if name.isdigit() and self._exists(int(name)))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps a second rollout out: both would send a whole configuration."""
        import fcntl

        if "://" in self.model_dir:
            raise Refused(
                f"{self.model_dir} is in a bucket, but labels need {CONFIG_FILE} beside models on a disk or volume. "
                "Push to a folder there (push.model_dir) that the servers see too (--base-path)."
            )
        folder = config_path(self.model_dir).parent
        if not folder.is_dir():
            raise Refused(f"{folder} does not exist: no version has been pushed yet.")
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RolloutError(f"Another rollout in {folder} is under way.") from None
            yield
        finally:
            os.close(descriptor)


# -- arguments -------------------------------------------------------------------------------------------------


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names running servers: addresses and TLS.

    Args:
        parser: of a sub-command.
    """
    group = parser.add_argument_group("running servers")
    group.add_argument("--server", metavar="HOST:PORT", help="gRPC address; several with commas")
    group.add_argument("--tls", action="store_true", help="encrypt, and trust the usual public certificates")
    group.add_argument("--tls-ca", metavar="PEM", help="encrypt, and trust what these certificates signed")
    group.add_argument("--tls-certificate", metavar="PEM", help="this client's certificate (mutual TLS)")
    group.add_argument("--tls-key", metavar="PEM", help="its private key")
    group.add_argument("--tls-server-name", metavar="NAME", help="in the servers' certificate, if not the address")


def add_move_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a move of a label can be told besides.

    Args:
        parser: of a sub-command.
    """
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for loading the version")
    parser.add_argument(
        "--base-path", metavar="DIR", help="the model directory as the servers see it (default: as before, or as here)"
    )


def servers_from(arguments: argparse.Namespace) -> list[str]:
    """The addresses in parsed arguments (of `add_server_arguments`).

    Raises:
        Refused: one is not host:port.
    """
    addresses = [address.strip() for address in (arguments.server or "").split(",") if address.strip()]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise Refused(f"An address is HOST:PORT, with a port from 1 to 65535, not {address!r}.")
    return addresses


def tls_from(arguments: argparse.Namespace) -> Tls | None:
    """The TLS settings in parsed arguments (of `add_server_arguments`); None for plain text.

    Raises:
        Refused: certificate without key or the other way round, or a file cannot be read.
    """
    if bool(arguments.tls_certificate) != bool(arguments.tls_key):
        raise Refused("--tls-certificate and --tls-key belong together.")
    if not (arguments.tls or arguments.tls_ca or arguments.tls_certificate or arguments.tls_server_name):
        return None
    from htr_client.connection import Tls

    tls = Tls(arguments.tls_ca, arguments.tls_certificate, arguments.tls_key, arguments.tls_server_name)
    try:
        tls.credentials()
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read: {error.strerror}.") from error
    return tls
