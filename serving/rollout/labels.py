"""The model configuration file beside a model directory: which versions are served, under which labels.

Servers read it when they start. gRPC's messages are imported when they are needed: `--help` stays quick.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from htr_client.whole_files import write_whole
from serving.file_lock import locked

LABELS = ("stable", "canary")
CONFIG_FILE = "models.config"
_LOCK_FILE = f".{CONFIG_FILE}.lock"

_HISTORY_MARK = "# earlier versions: "
_HISTORY_LENGTH = 20
_HEADER = (
    "# Which versions are served, under which labels. Read by model servers when they start\n"
    "# (--model_config_file, with --allow_version_labels_for_unavailable_models=true).\n"
    "# Written by `htr promote` and `htr rollback --label`: other models stay, comments do not.\n"
)


class RolloutError(RuntimeError):
    """A label could not be moved; the message says why and what is served now."""


class Refused(RolloutError):
    """The request makes no sense; no server was contacted and nothing has changed."""


@functools.cache
def messages() -> Any:
    """The messages of model configurations and of ModelService, by their names; loaded when they are needed."""
    from htr_client.messages import message_class

    names = (
        "ModelServerConfig", "ReloadConfigRequest", "ReloadConfigResponse", "GetModelStatusRequest",
        "GetModelStatusResponse", "GetModelMetadataRequest", "GetModelMetadataResponse",
    )  # fmt: skip
    return SimpleNamespace(**{name: message_class(f"tensorflow.serving.{name}") for name in names})


@dataclass(frozen=True)
class Served:
    """What a server serves of a model.

    Attributes:
        versions: Versions that are loaded or being loaded.
        labels: Version by label.
    """

    versions: frozenset[int]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Labels:
    """What the model configuration file says.

    Attributes:
        path: Path of the file, which need not exist.
        name: Name of the model this is about.
        base_path: The model's directory as the servers see it; None if the file does not have the model.
        labels: Version by label.
        histories: Versions that had each label before, the latest last, by model and label.
        config: The whole ModelServerConfig, other models included.
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
            model_dir: Directory of the numbered versions.
            name: Name of the model.

        Returns:
            What it says; nothing if there is no file.

        Raises:
            RolloutError: The file cannot be read or understood.
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
            text: Content of the file; empty where there is none.
            path: Path of the file.
            name: Name of the model.

        Returns:
            What it says.

        Raises:
            RolloutError: It cannot be understood.
        """
        from google.protobuf import text_format

        config = messages().ModelServerConfig()
        histories: dict[str, dict[str, list[int]]] = {}
        try:
            text_format.Parse(text, config)
            for line in text.splitlines():
                if line.startswith(_HISTORY_MARK):
                    histories = _histories(line.removeprefix(_HISTORY_MARK))
        except (ValueError, text_format.ParseError) as error:
            raise RolloutError(f"{path} is not a readable model configuration: {error}") from error
        for entry in config.model_config_list.config:
            if entry.name == name:
                return cls(path, name, entry.base_path, dict(entry.version_labels), histories, config)
        return cls(path, name, None, {}, histories, config)

    @property
    def history(self) -> dict[str, list[int]]:
        """By label, the versions of this model that had it before, the latest last."""
        return self.histories.get(self.name, {})

    @property
    def others(self) -> dict[str, dict[str, int]]:
        """Version by label of each other model in the file."""
        entries = self.config.model_config_list.config
        return {entry.name: dict(entry.version_labels) for entry in entries if entry.name != self.name}

    def config_with(
        self,
        base_path: str,
        versions: Iterable[int],
        labels: Mapping[str, int],
        others: Mapping[str, Served] | None = None,
        follow: bool = False,
    ) -> Any:
        """A full configuration in which this model has these versions and labels.

        Args:
            base_path: The model's directory as the servers see it.
            versions: Versions of the model; without any it is left out.
            labels: Version by label.
            others: What a server serves of the other models, which it goes on with; it is sent no model that it does
                not serve. None: the other models as the file has them.
            follow: Whether the newest version is served, whatever is pushed, instead of exactly these.

        Returns:
            A ModelServerConfig.
        """
        config = messages().ModelServerConfig()
        entries = config.model_config_list.config
        served = dict(others or {})
        if own := frozenset(versions):
            served[self.name] = Served(own, labels)
        for entry in self.config.model_config_list.config:
            if entry.name in served or (others is None and entry.name != self.name):
                entries.add().CopyFrom(entry)
        if self.name in served and self.name not in [entry.name for entry in entries]:
            entries.add(name=self.name)
        for entry in entries:
            policy = entry.model_version_policy
            if entry.name == self.name:
                entry.base_path, entry.model_platform = base_path, "tensorflow"
                if follow:
                    policy.latest.num_versions = 1
                else:
                    policy.specific.SetInParent()
            if entry.name not in served:
                continue
            if policy.WhichOneof("policy_choice") == "specific":  # others may follow what is pushed
                policy.specific.versions[:] = sorted(served[entry.name].versions)
            entry.version_labels.clear()
            for label, number in sorted(served[entry.name].labels.items()):
                entry.version_labels[label] = number
        return config

    def write(self, config: Any, history: Mapping[str, list[int]]) -> None:
        """Replaces the file, all or nothing.

        Args:
            config: ModelServerConfig to write.
            history: Versions that had each label before, by label.
        """
        from google.protobuf import text_format

        kept = {label: versions[-_HISTORY_LENGTH:] for label, versions in history.items()}
        everything = {**self.histories, self.name: kept}
        text = f"{_HEADER}{_HISTORY_MARK}{json.dumps(everything)}\n{text_format.MessageToString(config)}"
        write_whole(self.path, text.encode(), mode=0o644)  # a server runs as another user
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _histories(text: str) -> dict[str, dict[str, list[int]]]:
    """What the file's line of earlier versions says.

    Raises:
        ValueError: Somebody has written something else there.
    """
    found = json.loads(text)
    models = found.values() if isinstance(found, dict) else [None]
    lists = [each for labels in models for each in (labels.values() if isinstance(labels, dict) else [None])]
    if not all(isinstance(each, list) and all(type(number) is int for number in each) for each in lists):
        raise ValueError(f"the line {_HISTORY_MARK.strip()!r} holds {text}, not lists of versions by model and label")
    return found


def config_path(model_dir: str) -> Path:
    """The model configuration file that belongs to a model directory."""
    return Path(os.path.abspath(model_dir)).parent / CONFIG_FILE


def labels_locked(model_dir: str, wait: bool = False) -> AbstractContextManager[None]:
    """Keeps other processes from moving labels, those of the models beside this one included.

    Args:
        model_dir: Directory of the numbered versions.
        wait: Whether to wait while a label is being moved.

    Returns:
        A context; entering it raises what `serving.file_lock.locked` raises.
    """
    return locked(str(config_path(model_dir).with_name(_LOCK_FILE)), wait)


def pinned_versions(model_dir: str) -> tuple[set[int], set[int]]:
    """Versions that must not be withdrawn or deleted.

    Args:
        model_dir: Directory of the numbered versions.

    Returns:
        Versions that are served under a label, and those that a rollback of a label would bring back.

    Raises:
        RolloutError: The configuration file cannot be read.
    """
    if not config_path(model_dir).exists():
        return set(), set()
    found = Labels.read(model_dir, "")
    served = {n for entry in found.config.model_config_list.config for n in entry.version_labels.values()}
    earlier = {versions[-1] for history in found.histories.values() for versions in history.values() if versions}
    return served, earlier
