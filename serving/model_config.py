"""Which models a server is to serve: ModelServerConfig's entries, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from htr_client.model_facts import LINE_FINDER
from serving.options import ServerOptions
from serving.status import Code, ServingError, invalid

KEPT_MODEL = "htr-kept-model"
"""Metadata of answers to GetModelStatus: the model of the server's own options, which stays whatever it is told."""
_PLATFORM = "tensorflow"
_TENSORFLOW = 1  # of the deprecated ModelType


@dataclass(frozen=True)
class Policy:
    """Which of the versions found are wanted."""

    kind: str = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def choose(self, found: Mapping[int, str]) -> list[int]:
        """Returns the wanted versions, newest first."""
        newest_first = sorted(found, reverse=True)
        if self.kind == "all":
            return newest_first
        if self.kind == "specific":
            return [number for number in newest_first if number in self.versions]
        return newest_first[: max(1, self.count)]


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: How requests name it.
        base_path: The directory of its versions.
        policy: Policy that chooses those that are served.
        labels: Version by label.
        fallback_path: A directory of versions that are served until there is one under `base_path`; "" for none.
    """

    name: str
    base_path: str
    policy: Policy = Policy()
    labels: Mapping[str, int] = field(default_factory=dict)
    fallback_path: str = ""


def with_line_finder(models: list[ModelConfig], options: ServerOptions) -> list[ModelConfig]:
    """Returns the models, and the line finder of the options where the models hold none of that name."""
    if not options.line_finder_base_path:
        return models
    if any(model.name == LINE_FINDER for model in models):
        return models
    fallback = options.line_finder_fallback_base_path
    return [*models, ModelConfig(LINE_FINDER, options.line_finder_base_path, fallback_path=fallback)]


def check_list(config: Any) -> None:
    """Refuses a ModelServerConfig without a list of models, in TensorFlow Serving's words.

    Raises:
        ServingError: FAILED_PRECONDITION: whoever empties or replaces the list by mistake loses no model.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ServingError(
            Code.FAILED_PRECONDITION,
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
            "another.",
        )


def config_from_proto(config_list: Any) -> list[ModelConfig]:
    """Reads and checks a ModelConfigList.

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
        platform = entry.model_platform or (_PLATFORM if entry.model_type == _TENSORFLOW else "")
        if not platform:
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {entry.name}"
            )
        if platform != _PLATFORM:
            raise invalid(f"Model {entry.name} requests unsupported platform {platform}")
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
    return ModelConfig(entry.name, entry.base_path, policy, dict(entry.version_labels))
