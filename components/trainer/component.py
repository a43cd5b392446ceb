"""TFX's Trainer and Tuner, with a driver that notices when a warm start would begin from another version."""

from __future__ import annotations

import json
from typing import Any

from tfx.components import Trainer as TfxTrainer
from tfx.components import Tuner as TfxTuner
from tfx.utils import json_utils

from components.common import storage
from components.common.fingerprint_driver import NotingDriver
from components.common.versions import model_at
from components.trainer.settings import AUTO

_CONFIG = "custom_config"
# Sections of `custom_config` with a setting `warm_start`: of a recogniser, of a line finder.
_SECTIONS = ("train", "line_training")


class Driver(NotingDriver):
    """Names the version that a directory of versions stands for, and what it holds, before TFX looks into its cache.

    The name of the directory stays the same when a version is pushed into it, that of a version when it is made anew.
    """

    def noted(self, execution_info: Any) -> dict[str, str]:
        """The settings of the training, with the newest version as `warm_start` and a digest of it as `start_digest`.

        Raises:
            OSError: The version cannot be read.
        """
        config = json_utils.loads(execution_info.exec_properties[_CONFIG])
        for name in _SECTIONS:
            section = json.loads(config.get(name, "{}"))
            directory = section.get("warm_start")
            # Where there is none, the training says what is wrong.
            if directory not in (None, AUTO) and (version := model_at(directory)):
                config[name] = json.dumps({**section, "warm_start": version})
                config["start_digest"] = storage.digest(version)
        return {_CONFIG: json_utils.dumps(config)}


class Trainer(TfxTrainer):
    """TFX's Trainer; a new version to start from is a changed input."""

    DRIVER_CLASS = Driver


class Tuner(TfxTuner):
    """TFX's Tuner, likewise."""

    DRIVER_CLASS = Driver
