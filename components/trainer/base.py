"""The base of a warm start, as far as it can be known without TensorFlow: which version it is, whether it fits."""

from __future__ import annotations

import json
import os

from components.common import storage
from components.pusher.versions import in_service
from components.trainer.settings import ModelConfig
from serving.version_directory import SETTINGS_FILE

# Of the section `model`, those that give the weights their shapes.
_SHAPES = ("filters", "recurrent_units", "recurrent_layers")


class WarmStartError(ValueError):
    """The earlier model does not fit; the message says what differs and what to do."""


def find_base(directory: str) -> str:
    """The version that `train.warm_start` means.

    Args:
        directory: a version (it has `saved_model.pb`), or a directory of versions, of which the newest is taken.

    Raises:
        WarmStartError: no model there.
    """
    if storage.exists(os.path.join(directory, SETTINGS_FILE)):
        return directory
    versions = in_service(directory)
    if not versions:
        raise WarmStartError(
            f"train.warm_start: {directory} is neither a version of a model nor a directory with versions"
            f"{'' if storage.exists(directory) else ', and does not exist'}"
        )
    return versions[-1].path


def check_fits(version: str, model: ModelConfig) -> None:
    """Compares the sizes of the layers.

    Args:
        version: directory of the base.
        model: sizes of the new network.

    Raises:
        WarmStartError: other layers, or no settings that say so.
    """
    path = os.path.join(version, SETTINGS_FILE)
    try:
        earlier = ModelConfig.model_validate(json.loads(storage.read(path))["model"])
    except (OSError, ValueError, KeyError) as error:
        raise WarmStartError(f"train.warm_start: {path} does not hold the settings of a model ({error!r})") from error
    other = [name for name in _SHAPES if getattr(earlier, name) != getattr(model, name)]
    if other:
        listed = ", ".join(f"model.{name} is {getattr(model, name)} here" for name in other)
        needed = " ".join(f"--set model.{name}='{getattr(earlier, name)}'" for name in other)
        raise WarmStartError(f"train.warm_start: {version} has another network: {listed}. Train with {needed}")
