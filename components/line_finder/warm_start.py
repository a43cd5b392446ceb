"""Where the training of a line finder starts: the base line finder, another version, or random weights."""

from __future__ import annotations

import os

from components.base_model import packing
from components.common import version_settings
from components.common.versions import NoVersionError, named_version
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.trainer.settings import AUTO
from components.trainer.warm_start import Start, WarmStartError
from serving.version_directory import SETTINGS_FILE

_SETTING = "line_training.warm_start"


def find_start(train: LineTrainingConfig, config: LineFinderConfig) -> Start:
    """Decides what `line_training.warm_start` means here.

    Args:
        train: Section `line_training`.
        config: Sizes of the network.

    Returns:
        The version that the training starts from, if any, and what it is.

    Raises:
        WarmStartError: A directory is named that holds no line finder, or one of another network.
        BaseModelError: The base line finder is damaged.
        OSError: The base line finder cannot be unpacked.
    """
    if train.warm_start is None:
        return Start(None, "nothing")
    if train.warm_start != AUTO:
        try:
            version = named_version(train.warm_start, "line finder")
        except NoVersionError as error:
            raise WarmStartError(f"{_SETTING}: {error}") from error
        earlier = _filters(version)
        if earlier != config.filters:
            raise WarmStartError(
                f"{_SETTING}: {version} has another network: line_finder.filters is {config.filters} here. Train with "
                f"--set line_finder.filters='{earlier}'"
            )
        return Start(version, version)
    if not packing.is_shipped(packing.PAGES):
        return Start(None, "nothing: no base line finder is shipped")
    version = packing.unpack(packing.PAGES)
    name = f"the base line finder, version {os.path.basename(version)}"
    if _filters(version) != config.filters:
        return Start(None, f"nothing: {name}, has other line_finder.filters")
    return Start(version, name, is_base=True)


def _filters(version: str) -> list[int]:
    try:
        return LineFinderConfig.model_validate(version_settings.read(version)["line_finder"]).filters
    except (OSError, ValueError, KeyError) as error:
        path = os.path.join(version, SETTINGS_FILE)
        raise WarmStartError(f"{_SETTING}: {path} does not hold the settings of a line finder ({error!r})") from error
