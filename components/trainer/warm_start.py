"""Where the training of a recogniser starts: the base model, another version, or random weights. No TensorFlow here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

from components.base_model import packing
from components.common import version_settings
from components.common.calibration import ENOUGH
from components.common.versions import NoVersionError, named_version
from components.trainer.settings import AUTO, ModelConfig, TrainConfig
from components.transform.settings import TransformConfig
from serving.version_directory import SETTINGS_FILE

Kind = TypeVar("Kind", ModelConfig, TransformConfig)

# Of the section `model`, those that give the weights their shapes.
_SHAPES = ("filters", "recurrent_units", "recurrent_layers")
# Of the section `transform`, those that cost the weights most of what they know: they start with many times the errors,
# though they still beat random ones. A network takes any width.
_IMAGES = ("height", "resize", "contrast")


class WarmStartError(ValueError):
    """The earlier model does not fit; the message says what differs and what to do."""


def find_start(directory: str) -> str:
    """The version that `train.warm_start` means.

    Args:
        directory: A version, or a directory of versions.

    Raises:
        WarmStartError: No model there.
    """
    try:
        return named_version(directory, "recogniser")
    except NoVersionError as error:
        raise WarmStartError(f"train.warm_start: {error}") from error


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        version: Directory of the version whose weights it takes; None for random ones.
        name: What that is, for people; of random weights also why.
        is_base: Whether it is the base model that is shipped.
    """

    version: str | None
    name: str
    is_base: bool = False

    def noted(self, preset: str) -> dict[str, Any]:
        """What the settings of a version say about it.

        Args:
            preset: Preset of the training.

        Returns:
            Its name and characters, whether it is the base model, and the preset of the base model that it goes back
            to, if any. Of a version also the section `transform` and the `softening` that it serves with.
        """
        root = preset if self.is_base else _root_base(self.version) if self.version else None
        alphabet = alphabet_of(self.version) if self.version else []
        noted = {"name": self.name, "base_model": self.is_base, "root_base": root, "alphabet": alphabet}
        if self.version:
            noted["transform"] = _section(self.version, "transform", TransformConfig).model_dump()
            noted["softening"] = _section(self.version, "model", ModelConfig).softening or 0.0
        return noted


def settled(
    train: TrainConfig, transform: TransformConfig, model: ModelConfig
) -> tuple[TrainConfig, ModelConfig, Start]:
    """Decides what `train.warm_start: auto` means here, and what is left to the start.

    Args:
        train: Section `train`.
        transform: Section `transform`; its preset says which base model.
        model: Sizes of the network's layers.

    Returns:
        The section `train` with the directory of a version as `warm_start`, or None to start from nothing; the
        section `model` with a number as `softening`; and what the start is.

    Raises:
        WarmStartError: A directory is named, and there is no model that fits; or layers of a new network would be
            frozen.
        BaseModelError: The base model is damaged.
        OSError: The base model cannot be unpacked.
    """
    start = _start(train.warm_start, transform, model)
    if start.version is None and train.freeze:
        raise WarmStartError(
            f"train.freeze: {', '.join(train.freeze)} would keep the random weights of a new network, which starts "
            f"from {start.name}; it goes with train.warm_start"
        )
    if model.softening is None:
        earlier = _section(start.version, "model", ModelConfig).softening if start.version else None
        model = model.model_copy(update={"softening": earlier or 0.0})
    return train.model_copy(update={"warm_start": start.version}), model, start


def _start(warm_start: str | None, transform: TransformConfig, model: ModelConfig) -> Start:
    if warm_start is None:
        return Start(None, "nothing")
    if warm_start != AUTO:
        version = find_start(warm_start)
        check_fits(version, model, transform)
        return Start(version, version)
    preset = transform.preset
    if preset not in packing.presets():
        others = ", ".join(packing.presets())
        there = f" (there is one for {others})" if others else ""
        return Start(None, f"nothing: no base model is shipped for transform.preset={preset}{there}")
    version = packing.unpack(preset)
    name = f"the base model for transform.preset={preset}, version {os.path.basename(version)}"
    if other := _other_layers(version, model):
        return Start(None, f"nothing: {name}, has another {', '.join(f'model.{setting}' for setting in other)}")
    if images := _other_images(version, transform):
        learnt = ", ".join(f"transform.{setting}={value}" for setting, value in images.items())
        name += f" (it has learnt with {learnt}, so it starts worse here)"
    return Start(version, name, is_base=True)


def _root_base(version: str) -> str | None:
    """The preset of the base model from which a version was trained, or the versions before it."""
    return version_settings.read(version).get("start", {}).get("root_base")


def alphabet_of(version: str) -> list[str]:
    """The characters of a version's classes, without the blank."""
    return list(version_settings.read(version)["alphabet"])


def temperature_of(version: str) -> float:
    """The temperature of a version's network; 1 where too few validation images have told it."""
    settings = version_settings.read(version)
    images = settings.get("training", {}).get("validation_images", 0)
    return float(settings["temperature"]) if images >= ENOUGH else 1.0


def check_fits(version: str, model: ModelConfig, transform: TransformConfig) -> None:
    """Compares the sizes of the layers, and how images become tensors.

    Args:
        version: Directory of the start.
        model: Sizes of the new network.
        transform: Geometry and contrast of its images.

    Raises:
        WarmStartError: Other layers, other images, or no settings that say so.
    """
    if other := _other_layers(version, model):
        listed = ", ".join(f"model.{name} is {getattr(model, name)} here" for name in other)
        needed = " ".join(f"--set model.{name}='{value}'" for name, value in other.items())
        raise WarmStartError(f"train.warm_start: {version} has another network: {listed}. Train with {needed}")
    if images := _other_images(version, transform):
        listed = ", ".join(f"transform.{name} is {getattr(transform, name)} here" for name in images)
        images = {"preset": _section(version, "transform", TransformConfig).preset, **images}
        needed = " ".join(f"--set transform.{name}={value}" for name, value in images.items())
        raise WarmStartError(
            f"train.warm_start: {version} has learnt from other images: {listed}. Leave train.warm_start out, which "
            f"takes the base model of transform.preset={transform.preset}, or train with {needed}"
        )


def _other_layers(version: str, model: ModelConfig) -> dict[str, object]:
    """The sizes of a version's layers that differ from those of a network."""
    earlier = _section(version, "model", ModelConfig)
    return {name: getattr(earlier, name) for name in _SHAPES if getattr(earlier, name) != getattr(model, name)}


def _other_images(version: str, transform: TransformConfig) -> dict[str, object]:
    """What a version has learnt with, of `_IMAGES`, where that differs."""
    earlier = _section(version, "transform", TransformConfig)
    return {name: getattr(earlier, name) for name in _IMAGES if getattr(earlier, name) != getattr(transform, name)}


def _section(version: str, name: str, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate(version_settings.read(version)[name])
    except (OSError, ValueError, KeyError) as error:
        path = os.path.join(version, SETTINGS_FILE)
        raise WarmStartError(f"train.warm_start: {path} does not hold the settings of a model ({error!r})") from error
